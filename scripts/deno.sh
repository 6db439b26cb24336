#!/bin/sh
# Runs Deno with the arguments given: the one on PATH where it is new enough, else one from npm.

# Text imports, by which kernels are read, came with 2.8.
needed=2.8
from_npm=2.9.6

new_enough() {
  command -v deno >/dev/null 2>&1 || return 1
  version=$(deno --version 2>/dev/null | sed -n '1s/^deno \([0-9][0-9]*\.[0-9][0-9]*\).*/\1/p')
  [ -n "$version" ] || return 1
  major=${version%.*} minor=${version#*.}
  [ "$major" -gt "${needed%.*}" ] || { [ "$major" -eq "${needed%.*}" ] && [ "$minor" -ge "${needed#*.}" ]; }
}

# Mesa's drivers call it an error, on every start, that a machine without a desktop has none.
: "${XDG_RUNTIME_DIR:=${TMPDIR:-/tmp}}"
export XDG_RUNTIME_DIR

if new_enough; then
  exec deno "$@"
elif command -v npx >/dev/null 2>&1; then
  exec npx --yes "deno@$from_npm" "$@"
fi
echo "Deno $needed or newer is needed and was not found: install it from https://deno.com, or Node.js, whose npx fetches it" >&2
exit 1
