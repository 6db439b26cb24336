/**
 * What stays behind when models are loaded and given up many times, and when many steps are taken: on the engine and
 * in this process's memory.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import { Model } from "../rwkv/model.ts";
import type { TrainOptions } from "../training/options.ts";
import { train } from "../training/trainer.ts";

/** What is held at one moment, in bytes. */
export interface Held {
  /** By the engine, as it counts itself. */
  readonly engine: number;
  /** By JavaScript objects, garbage included unless it can be collected first. */
  readonly heap: number;
  /** By the process. */
  readonly resident: number;
}

/** What is held now. */
export function held(engine?: Engine): Held {
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed, external } = Deno.memoryUsage();
  return {
    engine: engine?.allocatedBytes ?? 0,
    heap: heapUsed + external,
    resident: rss,
  };
}

/** Loads a model, reads a text with it and gives it up, `count` times. @param seen called after each */
export async function loadAndUnload(
  path: string,
  count: number,
  open: () => Engine | Promise<Engine>,
  options: { keepEngine: boolean },
  seen: (done: number, held: Held) => void,
): Promise<void> {
  let engine: Engine | undefined;
  for (let done = 1; done <= count; done++) {
    engine ??= await open();
    {
      using model = Model.load(path, engine);
      await model.forward([65, 66, 67, 68]);
    }
    seen(done, held(engine));
    if (options.keepEngine) continue;
    engine.dispose();
    engine = undefined;
  }
  engine?.dispose();
}

/** Takes `steps` steps. @param seen called after every hundredth */
export async function takeSteps(
  options: TrainOptions,
  steps: number,
  seen: (step: number, held: Held) => void,
): Promise<void> {
  await train({ ...options, maxSteps: steps, epochCount: 1_000_000 }, {
    onStep: ({ step }) => step % 100 === 0 && seen(step, held()),
  });
}
