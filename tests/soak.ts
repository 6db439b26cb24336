/**
 * What stays behind when models are loaded and given up many times, and when many steps are taken: on the engine, on its device and
 * in this process's memory.
 *
 * @module
 */
import { type Engine, EngineError } from "../kernels/engine.ts";
import { Model } from "../rwkv/model.ts";
import type { TrainOptions } from "../training/options.ts";
import { train } from "../training/trainer.ts";
import type { Watched } from "./watched_gpu.ts";

/** What is held at one moment, in bytes. */
export interface Held {
  /** By the engine, as it counts itself. */
  readonly engine: number;
  /** By buffers of WebGPU, as they are made and destroyed. */
  readonly device: number;
  /** By JavaScript objects, garbage included unless it can be collected first. */
  readonly heap: number;
  /** By the process. */
  readonly resident: number;
}

/** What is held now, where the engine says that it holds `engine` bytes. */
export function held(engine: number, device: number): Held {
  (globalThis as { gc?: () => void }).gc?.();
  const { rss, heapUsed, external } = Deno.memoryUsage();
  return {
    engine,
    device,
    heap: heapUsed + external,
    resident: rss,
  };
}

/** Loads a model, reads a text with it and gives it up, `count` times. @param seen called after each */
export async function loadAndUnload(
  path: string,
  count: number,
  open: () => Engine | Promise<Engine>,
  options: { keepEngine: boolean; watched?: Watched | undefined },
  seen: (done: number, held: Held) => void,
): Promise<void> {
  let engine: Engine | undefined;
  for (let done = 1; done <= count; done++) {
    engine ??= await open();
    {
      using model = Model.load(path, engine);
      await model.forward([65, 66, 67, 68]);
    }
    seen(done, held(engine.allocatedBytes, options.watched?.bytes ?? 0));
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
  watched: Watched | undefined,
  seen: (step: number, held: Held) => void,
): Promise<void> {
  await train({ ...options, maxSteps: steps, epochCount: 1_000_000 }, {
    onStep: ({ step, memoryBytes }) => step % 100 === 0 && seen(step, held(memoryBytes, watched?.bytes ?? 0)),
  });
}

/** How a run went whose device was taken away. */
export interface Loss {
  /** What the person is told. */
  readonly message: string;
  /** The step that was offered to go on from. */
  readonly savedStep: number | undefined;
  /** Whether it went on to the bits of a run that kept its device. */
  readonly same: boolean;
}

/** Trains, destroys the device half-way through, goes on, and compares with a run that was left alone. */
export async function loseDevice(
  options: TrainOptions & { projDir: string },
  steps: number,
  watched: Watched,
): Promise<Loss> {
  const settings = { ...options, maxSteps: steps, epochCount: 1_000_000, saveSteps: 1 };
  const adapter = (run: string) => Deno.readFileSync(`${run}/adapter.pth`).toBase64();
  const untouched = await train({ ...settings, projDir: `${options.projDir}-untouched` });
  let message = "nothing failed", savedStep: number | undefined;
  try {
    await train(settings, {
      onStep: ({ step }) => step === Math.ceil(steps / 2) && watched.device!.destroy(),
      onFailure: ({ step }) => savedStep = step,
    });
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    message = error.message;
  }
  const resumed = await train({ resume: options.projDir });
  return { message, savedStep, same: adapter(resumed.projDir) === adapter(untouched.projDir) };
}
