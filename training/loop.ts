/**
 * The steps of a run, one after the other: gradients, update, report, and checkpoints when they are due.
 *
 * @module
 */
import { listCheckpoints, saveCheckpoint } from "./checkpoint.ts";
import type { Batches } from "./data/batches.ts";
import type { Learner } from "./learner.ts";
import type { TrainListeners } from "./listeners.ts";
import type { Metrics } from "./metrics.ts";
import type { LoadedPrograms } from "./programs.ts";
import { requireThere } from "./run_folder.ts";
import { learningRate } from "./schedule.ts";

/** What the loop is given. */
export interface LoopOptions {
  readonly learner: Learner;
  readonly programs: LoadedPrograms;
  readonly batches: Batches;
  readonly projDir: string;
  readonly metrics: Metrics;
  readonly listeners: TrainListeners & { onMessage: (message: string) => void };
  /** Steps that were taken before. */
  readonly first: number;
}

/** What the loop came to. */
export interface LoopResult {
  /** Of the last step; NaN where none was taken. */
  readonly loss: number;
  readonly step: number;
  /** Whether it was asked to stop. */
  readonly stopped: boolean;
}

/** Takes steps until the last, or until it is asked to stop. @throws Error at a loss that is no number */
export async function trainSteps(options: LoopOptions): Promise<LoopResult> {
  const { learner: { settings, trainables }, programs, batches, projDir, metrics, listeners, first } =
    options;
  const { onStep, shouldStop, onMessage } = listeners;
  const { accumulateGradBatches: many, epochSteps = batches.batchesPerEpoch, epochCount, epochSave } =
    settings;
  const planned = Math.ceil(epochSteps * epochCount / many);
  const steps = settings.maxSteps ?? planned;
  const stepsAnEpoch = Math.max(1, Math.round(epochSteps / many));
  const started = performance.now();
  let loss = NaN, step = first, tokensSoFar = 0, stopped = false;
  let time = started;
  while (step < steps && !stopped) {
    const micro = Array.from({ length: many }, (_, i) => batches.at(step * many + i));
    const tokens = micro.reduce((sum, { counted }) => sum + counted, 0);
    micro.forEach((batch) => programs.accumulate(batch, tokens));
    const rate = learningRate(settings, step, planned);
    const report = await programs.update({
      learningRate: rate,
      beta1: settings.beta1,
      beta2: settings.beta2,
      eps: settings.adamEps,
      weightDecay: settings.weightDecay,
      biasCorrection1: 1 - settings.beta1 ** (step + 1),
      biasCorrection2: 1 - settings.beta2 ** (step + 1),
      clip: settings.gradientClipVal,
    });
    step++;
    tokensSoFar += tokens;
    loss = report.loss;
    if (!Number.isFinite(loss)) {
      throw new Error(
        `The loss is ${loss} at step ${step} (micro-batch ${(step - 1) * many}): lower --lr_init; the last ` +
          `good checkpoint is ${listCheckpoints(projDir)[0]?.path ?? "none"}`,
      );
    }
    const now = performance.now();
    const seconds = (now - started) / 1000;
    const line = {
      step,
      steps,
      loss,
      learningRate: rate,
      gradientNorm: report.norm,
      tokens,
      tokensPerSecond: tokens / ((now - time) / 1000),
      secondsLeft: seconds / (step - first) * (steps - step),
    };
    time = now;
    metrics.write(line);
    onStep?.(line);
    stopped = shouldStop?.() ?? false;
    const due = step % (stepsAnEpoch * epochSave) === 0 ||
      (settings.saveSteps !== undefined && step % settings.saveSteps === 0);
    if (due || stopped || step === steps) {
      requireThere(projDir);
      await saveCheckpoint(projDir, step, trainables, settings.keep);
    }
  }
  const seconds = (performance.now() - started) / 1000;
  if (step > first) {
    const rate = Math.round(tokensSoFar / seconds);
    onMessage(`Trained ${step - first} steps in ${seconds.toFixed(1)} s, ${rate} tokens/s`);
  }
  return { loss, step, stopped };
}
