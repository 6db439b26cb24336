/**
 * The same seed gives the same bits: twice in a row, with any number of workers, and wherever the engine lives.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { EXAMPLE, type TrainOptions } from "../training/options.ts";
import { openWebGpu, withoutGpu } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";
import { type BitsRequest, trainingBits } from "./training_bits.ts";

/** Odd sizes, so that no number of workers divides them. */
const TINY: TrainOptions = {
  loadModel: writeTinyModel(newPath("model.safetensors"), { layers: 3, channels: 24, headSize: 8 }),
  dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(20, 60)),
  ctxLen: 19,
  microBsz: 5,
  boneConfig: { bone_r: 5 },
};
/** The bundled model, cut short: sizes at which work is really shared out. */
const BUNDLED: TrainOptions = {
  ...EXAMPLE,
  loadModel: EXAMPLE.model,
  dataFile: EXAMPLE.data,
  ctxLen: 33,
  microBsz: 3,
};

for (
  const [name, options, recomputed] of [["TINY", TINY, [false, true]], ["BUNDLED", BUNDLED, [false]]] as const
) {
  for (const gradCp of recomputed) {
    Deno.test(`CpuEngine + 1, 2, 3 and 7 workers, twice, ${name}, gradCp ${gradCp}: the same bits after two steps`, async () => {
      const wanted = await trainingBits({ ...options, gradCp }, new CpuEngine({ workers: 1 }));
      for (const workers of [1, 2, 3, 7]) {
        assert.equal(
          await trainingBits({ ...options, gradCp }, new CpuEngine({ workers })),
          wanted,
          `${workers} workers`,
        );
      }
    });
  }
}

Deno.test("CpuEngine + in a worker, whose own workers learn late that memory has grown: the same bits", async () => {
  // Values enough that memory grows after the workers have begun, and copies among them.
  const options = { ...BUNDLED, ctxLen: 128, microBsz: 8, gradCp: false };
  const wanted = await trainingBits(options, new CpuEngine({ workers: 2 }));
  const worker = new Worker(new URL("./training_bits.ts", import.meta.url), { type: "module" });
  const answer = new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = (event) => (event.preventDefault(), reject(new Error(event.message)));
  });
  worker.postMessage({ options, workers: 2 } satisfies BitsRequest);
  assert.equal(await answer, wanted);
  worker.terminate();
});

Deno.test({
  name: "WebGpuEngine + twice: the same bits after two steps, on webgpu",
  ignore: withoutGpu,
  async fn() {
    const wanted = await trainingBits(TINY, await openWebGpu());
    assert.equal(await trainingBits(TINY, await openWebGpu()), wanted);
  },
});
