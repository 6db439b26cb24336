/**
 * Nothing stays behind. `deno task bench:soak` does the same for longer and looks at the process's memory as well.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { openWebGpu, withoutGpu } from "./engines.ts";
import { loadAndUnload } from "./soak.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const model = writeTinyModel(newPath("model.safetensors"));

for (
  const { name, open, ignore } of [
    { name: "one thread", open: () => new CpuEngine({ workers: 1 }), ignore: false },
    { name: "two threads", open: () => new CpuEngine({ workers: 2 }), ignore: false },
    { name: "webgpu", open: () => openWebGpu(), ignore: withoutGpu },
  ]
) {
  Deno.test({
    name:
      `Model.load + a dozen times, on ${name}: the engine holds after the last what it held after the first`,
    ignore,
    async fn() {
      const bytes: number[] = [];
      await loadAndUnload(model, 12, open, { keepEngine: true }, (_, { engine }) => bytes.push(engine));
      assert.equal(new Set(bytes).size, 1, `${bytes}`);
    },
  });
}
