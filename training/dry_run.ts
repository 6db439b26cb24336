/**
 * A dry run: everything that a run would do up to its first step, and that step, with nothing written.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { EngineError } from "../kernels/engine.ts";
import { resumePoint } from "./checkpoint.ts";
import type { Text } from "./data/text.ts";
import { freeFolder } from "./free_folder.ts";
import type { Learner } from "./learner.ts";
import type { TrainListeners } from "./listeners.ts";
import { optimizerSettings, stepCounts } from "./loop.ts";
import { advice, fits, type MemoryPlan, planMemory } from "./memory.ts";
import { OptionError, settle, type TrainOptions } from "./options.ts";
import { setUp } from "./setup.ts";
import { readRun, resumedSettings } from "./run_folder.ts";

/** What a run would be. */
export interface TrainingPlan {
  /** Every option in effect. */
  readonly settings: TrainOptions;
  /** Steps of the whole run. */
  readonly steps: number;
  /** What it takes of the engine's memory. */
  readonly memory: MemoryPlan;
  /** Seconds of a step, from one that was taken; undefined where none could be. */
  readonly secondsPerStep: number | undefined;
  /** Targets of a step, on average. */
  readonly tokensPerStep: number;
  /** What to change where it does not fit; undefined where it does. */
  readonly advice: string | undefined;
}

/** A step that takes longer than this, in seconds, is not taken a second time to measure it without its preparations. */
const LONG_STEP = 5;

/**
 * Plans a run and takes one step of it to see how long it takes. Writes nothing.
 * @throws as {@link train} would before its first step, but for a step that does not fit
 */
export async function planTraining(
  options: TrainOptions = {},
  listeners: TrainListeners = {},
): Promise<TrainingPlan> {
  const from = options.resume === undefined ? undefined : resumePoint(options.resume);
  const settings = from ? resumedSettings(readRun(from.run).settings, options) : settle(options, freeFolder);
  if (!from && existsSync(settings.projDir) && !options.force) {
    throw new OptionError(
      `The run folder ${settings.projDir} exists: name another with --proj_dir, or replace it with --force`,
    );
  }
  using setup = await setUp(settings, listeners, { goesOn: from?.run, isPlan: true });
  const { learner, text } = setup;
  const memory = planMemory(learner, text.heldOut !== undefined);
  const { planned } = stepCounts(settings, text.batches);
  const plan = {
    settings,
    memory,
    steps: settings.maxSteps ?? planned,
    tokensPerStep: text.batches.tokensPerEpoch / text.batches.batchesPerEpoch *
      settings.accumulateGradBatches,
  };
  if (!fits(memory)) return { ...plan, secondsPerStep: undefined, advice: advice(learner, memory) };
  listeners.onPhase?.("preparing the programs");
  try {
    return { ...plan, secondsPerStep: await probe(learner, text), advice: undefined };
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    return { ...plan, secondsPerStep: undefined, advice: error.message };
  }
}

/** Seconds of a step. */
async function probe(learner: Learner, { batches }: Text): Promise<number> {
  using programs = await learner.programs.load();
  const { settings } = learner;
  const step = async () => {
    const started = performance.now();
    const micro = Array.from({ length: settings.accumulateGradBatches }, (_, i) => batches.at(i));
    const total = micro.reduce((sum, { counted }) => sum + counted, 0);
    micro.forEach((batch, i) => programs.accumulate(batch, total, i));
    await programs.update(optimizerSettings(settings, 0, 1));
    return (performance.now() - started) / 1000;
  };
  const first = await step();
  return first > LONG_STEP ? first : await step();
}
