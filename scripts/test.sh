#!/bin/sh
# Checks and tests everything that can be tested here, says what cannot, and ends with "N passed, N failed".
scripts=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd) || exit 1
cd "$scripts/.." || exit 1
export NO_COLOR=1

# WebGPU can be tested without a GPU where there is a Vulkan driver that computes on the processor.
has_vulkan() {
  for driver in /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json; do
    [ -e "$driver" ] && return 0
  done
  return 1
}
if [ "$(uname -s)" = Linux ] && ! has_vulkan && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  echo "Installing Mesa's Vulkan driver, to test WebGPU with"
  { apt-get update && DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends mesa-vulkan-drivers libvulkan1; } >/dev/null 2>&1 ||
    echo "It could not be installed"
fi

log=$(mktemp) && trap 'rm -f "$log"' EXIT || exit 1
passed=0 failed=0

sh "$scripts/deno.sh" --version || exit 1
if sh "$scripts/deno.sh" task --quiet check; then
  passed=$((passed + 1))
else
  failed=$((failed + 1))
  echo "deno task check failed"
fi

{ sh "$scripts/deno.sh" task --quiet test 2>&1; echo "exit code $?"; } | tee "$log" | sed '$d'

# The runner's last line, such as "ok | 12 passed (3 steps) | 0 failed | 2 ignored (4s)".
counts=$(sed -nE 's/^(ok|FAILED) \| ([0-9]+) passed.* \| ([0-9]+) failed.*/\2 \3/p' "$log" | tail -n 1)
passed=$((passed + ${counts% *} + 0))
test_failures=${counts#* }
# An end without that line, or with an error besides the tests, is a failure too. Not so a signal after that line: every test
# has passed by then. With Mesa's software driver loaded, the process was seen to abort while it was ending, in one run of ten.
if [ -z "$counts" ]; then
  test_failures=1
elif [ "$test_failures" = 0 ]; then
  case $(tail -n 1 "$log") in
    "exit code 0") ;;
    "exit code 134" | "exit code 139")
      echo "After the last test, which passed like all others, the process was ended by a signal"
      ;;
    *) test_failures=1 ;;
  esac
fi
failed=$((failed + test_failures))

on_webgpu=$(grep -c ', on webgpu \.\.\. ignored' "$log")
[ "$on_webgpu" = 0 ] || echo "Not tested: WebGPU ($on_webgpu tests), as there is no adapter here"
grep ' \.\.\. ignored' "$log" | grep -v ', on webgpu \.\.\. ' | sed 's/^/Not tested: /; s/ \.\.\. ignored.*//'

echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
