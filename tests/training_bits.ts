/**
 * What two steps of training come to, to the last bit: as a function for the tests, and as a worker, which answers with it.
 *
 * @module
 */
import { createHash } from "node:crypto";
import type { Engine } from "../kernels/engine.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import "../mod.ts";
import { Model } from "../rwkv/model.ts";
import { readText } from "../training/data/text.ts";
import { Learner } from "../training/learner.ts";
import { settle, type TrainOptions } from "../training/options.ts";
import { startingTensors } from "../training/start.ts";
import { KINDS } from "../training/trainables.ts";

/** Two steps of training on an engine, which is disposed of. @returns a hash of loss, norm, parameters and moments */
export async function trainingBits(options: TrainOptions, engine: Engine): Promise<string> {
  const settings = settle({ heldOut: 0, samplePrompt: "", ...options }, () => "");
  const start = startingTensors(settings);
  const { batches } = await readText(settings, start.config.vocabulary, () => {});
  const hash = createHash("sha256");
  try {
    using model = Model.load(settings.loadModel, engine, {
      elsewhere: (name) => start.tensors.tensors.has(name),
    });
    const learner = new Learner(model, start, settings);
    using programs = await learner.programs.load();
    for (const step of [0, 1]) {
      const batch = batches.at(step);
      programs.accumulate(batch, batch.counted, step);
      const { loss, norm } = await programs.update({
        learningRate: 1e-2,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weightDecay: 0.1,
        biasCorrection1: 1 - 0.9 ** (step + 1),
        biasCorrection2: 1 - 0.99 ** (step + 1),
        clip: 1,
      });
      hash.update(new Float64Array([loss, norm]));
    }
    for (const kind of KINDS) {
      for (const { data } of (await learner.trainables.read(kind)).values()) {
        hash.update(new Uint8Array(data.buffer));
      }
    }
  } finally {
    engine.dispose();
  }
  return hash.digest("hex");
}

/** What the worker is asked. */
export interface BitsRequest {
  readonly options: TrainOptions;
  /** Threads of its engine. */
  readonly workers: number;
}

if ("DedicatedWorkerGlobalScope" in globalThis) {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<BitsRequest>) => void;
    postMessage: (bits: string) => void;
  };
  scope.onmessage = async ({ data: { options, workers } }) => {
    scope.postMessage(await trainingBits(options, new CpuEngine({ workers })));
  };
}
