import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";

Deno.test("build.ts + the committed kernels: current with their sources", async () => {
  const script = fileURLToPath(new URL("../kernels/engines/cpu/wasm/build.ts", import.meta.url));
  // Without the lock file, which is not to name the compiler: see the script.
  const { code, stderr } = await new Deno.Command("deno", {
    args: ["run", "--no-prompt", "--no-lock", "--allow-read", "--allow-env=CI", script, "--check"],
    stdout: "null",
    stderr: "piped",
  }).output();
  assert.equal(code, 0, new TextDecoder().decode(stderr));
});
