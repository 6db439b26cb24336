/**
 * A command that waits for a device as Deno's own provider does, without letting anything else happen, for ever.
 *
 * @module
 */
import { tellWaiting } from "../kernels/engines/webgpu/waiting.ts";
import { runCommand } from "../scripts/command.ts";

await runCommand(() => {
  tellWaiting("reading loss, after running first to second (dispatches 1 to 2 of 2)");
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  return Promise.resolve(0);
}, {
  confine: (args) => ({ args, folders: ["inside"], reads: [], patience: 200, goOn: () => "Step 3 is saved" }),
});
