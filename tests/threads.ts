/**
 * A stress of the cpu engine's threads: engines of one to seven threads, on which gradients of several models and sizes are loaded
 * side by side while memory grows between them, with weights within the memory or outside of it; each result is compared with one
 * thread's by its bits.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Variable } from "../kernels/graph.ts";
import { Model } from "../rwkv/model.ts";
import { computeGradients } from "../training/gradients.ts";
import { draws } from "./fuzz/mutate.ts";
import { BF16_PATH } from "./small_model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** Batches [B, T] of each model: some large enough to be shared out, some not. */
const BATCHES = [[2, 40], [1, 65], [3, 17], [4, 96], [1, 3]] as const;
/** Bytes by which memory grows at most between two loads. */
const GROWTH = 6e6;

/** What a stress came to. */
export interface Stress {
  /** Engines that were opened. */
  engines: number;
  /** Results that were compared. */
  compared: number;
  /** What was not as with one thread. */
  differing: string[];
}

/** A model's gradients for one batch, as a hash. */
async function bits(model: Model, [B, T]: readonly [number, number], recompute: boolean): Promise<string> {
  const tokens = Array.from(
    { length: B },
    (_, b) => Array.from({ length: T + 1 }, (_, t) => (b * 29 + t * t * 7 + t * 31) % 97),
  );
  const { loss, gradients } = await computeGradients(model, { tokens, recompute });
  const hash = createHash("sha256").update(new Float64Array([loss]));
  for (const values of gradients.values()) hash.update(new Uint8Array(values.buffer));
  return hash.digest("hex");
}

/**
 * Opens engine after engine until `until` says that it is enough.
 * @param report called after each
 */
export async function stressThreads(
  until: (stress: Stress) => boolean,
  seed: number,
  report: (stress: Stress) => void = () => {},
): Promise<Stress> {
  const odd = writeTinyModel(newPath("odd.safetensors"), { layers: 3, channels: 24, headSize: 8 });
  const paths = [BF16_PATH, odd], draw = draws(seed);
  const jobs = paths.flatMap((path) =>
    BATCHES.flatMap((batch) => [false, true].map((recompute) => ({ path, batch, recompute })))
  );
  const wanted = new Map<typeof jobs[number], string>();
  {
    const engine = new CpuEngine({ workers: 1 });
    const models = new Map(paths.map((path) => [path, Model.load(path, engine)]));
    for (const job of jobs) wanted.set(job, await bits(models.get(job.path)!, job.batch, job.recompute));
    engine.dispose();
  }
  const stress: Stress = { engines: 0, compared: 0, differing: [] };
  while (!until(stress)) {
    const workers = 1 + draw(7), weightsInside = draw(2) ? 2 ** 30 : 0;
    const engine = new CpuEngine({ workers, weightsInside, ...(draw(2) ? { windowBytes: 8192 } : {}) });
    try {
      const models = new Map(paths.map((path) => [path, Model.load(path, engine)]));
      const grown: Variable[] = [];
      const work = Array.from({ length: 6 }, async () => {
        const job = jobs[draw(jobs.length)]!;
        if (draw(3)) await new Promise((resolve) => setTimeout(resolve, draw(12)));
        if (draw(2)) {
          const filler = new Variable("filler", [draw(GROWTH / 4)]);
          engine.allocate(filler);
          grown.push(filler);
        }
        const got = await bits(models.get(job.path)!, job.batch, job.recompute).catch(String);
        if (draw(2)) grown.splice(0, 1).forEach((filler) => engine.free(filler));
        stress.compared++;
        if (got !== wanted.get(job)) {
          stress.differing.push(`${workers} threads, ${JSON.stringify(job)}: ${got}`);
        }
      });
      await Promise.all(work);
    } finally {
      engine.dispose();
    }
    stress.engines++;
    report(stress);
  }
  return stress;
}
