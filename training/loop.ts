/**
 * The steps of a run, one after the other: gradients, update, report; looks and checkpoints when they are due.
 *
 * A device is given the next step before the report of the last one has been read, so that it never waits for JavaScript.
 * Whatever needs to know where the run is, a look, a checkpoint, an end, waits for every report first: what is in files is
 * the same as if steps had been waited for one by one.
 *
 * @module
 */
import { join } from "node:path";
import { makeFolder } from "../formats/atomic.ts";
import { listCheckpoints, saveCheckpoint } from "./checkpoint.ts";
import type { Batches } from "./data/batches.ts";
import type { Learner } from "./learner.ts";
import type { StepReport, TrainListeners } from "./listeners.ts";
import { writeLowerings } from "./lowerings.ts";
import type { Metrics } from "./metrics.ts";
import type { TrainSettings } from "./options.ts";
import type { LoadedPrograms } from "./programs.ts";
import { requireThere } from "./run_folder.ts";
import { learningRate } from "./schedule.ts";
import type { Validation } from "./validation.ts";

/** What the loop is given. */
export interface LoopOptions {
  readonly learner: Learner;
  readonly programs: LoadedPrograms;
  readonly batches: Batches;
  readonly projDir: string;
  readonly metrics: Metrics;
  readonly validation: Validation;
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
  /** Whether held-out text was no longer learnt better. */
  readonly stoppedEarly: boolean;
}

/** A step that an engine was given and whose report is still to be read. */
interface Submitted {
  readonly step: number;
  readonly tokens: number;
  readonly rate: number;
  readonly report: Promise<{ loss: number; norm: number }>;
}

/** Reports of a device that may be outstanding. The processor is done with a step when it has been given it. */
const IN_FLIGHT = { webgpu: 2, cpu: 0 } as const;

/** Share of the newest loss in the smoothed one. */
const SMOOTHING = 0.05;

/** A file of this name in the run folder asks for a checkpoint. */
const WISH = "save";

/** Takes steps until the last, or until it is asked to stop. @throws Error at a loss that is no number */
export async function trainSteps(options: LoopOptions): Promise<LoopResult> {
  const { learner, programs, batches, projDir, metrics, validation, listeners, first } = options;
  const { settings, trainables, engine } = learner;
  const { onStep, onPhase, shouldStop, onMessage } = listeners;
  const { accumulateGradBatches: many, epochSave, saveSteps } = settings;
  const { planned, anEpoch } = stepCounts(settings, batches);
  const steps = settings.maxSteps ?? planned;
  let time = 0, seconds = 0, tokensSoFar = 0, loss = NaN;
  let smoothed = metrics.kept.findLast((line) => "smoothedLoss" in line)?.smoothedLoss as number | undefined;
  const inFlight: Submitted[] = [];

  const submit = (index: number): Submitted => {
    const micro = Array.from({ length: many }, (_, i) => batches.at(index * many + i));
    const tokens = micro.reduce((sum, { counted }) => sum + counted, 0);
    micro.forEach((batch, i) => programs.accumulate(batch, tokens, index * many + i));
    const rate = learningRate(settings, index, planned);
    const report = programs.update(optimizerSettings(settings, index, rate));
    // Whoever awaits it hears of a failure; nobody may yet.
    report.catch(() => {});
    return { step: index + 1, tokens, rate, report };
  };

  const hear = async ({ step, tokens, rate, report }: Submitted) => {
    const { loss: newest, norm } = await report;
    loss = newest;
    requireFinite("loss", loss, step, many, projDir);
    requireFinite("gradient norm", norm, step, many, projDir);
    smoothed = smoothed === undefined ? loss : smoothed + Math.max(SMOOTHING, 1 / step) * (loss - smoothed);
    tokensSoFar += tokens;
    const now = performance.now(), taken = (now - time) / 1000;
    seconds += taken;
    time = now;
    const line: StepReport = {
      step,
      steps,
      loss,
      smoothedLoss: smoothed,
      learningRate: rate,
      gradientNorm: norm,
      tokens,
      tokensPerSecond: tokens / taken,
      secondsLeft: seconds / (step - first) * (steps - step),
      memoryBytes: engine.allocatedBytes,
    };
    metrics.write({ ...line });
    onStep?.(line);
  };
  const hearUpTo = async (outstanding: number) => {
    while (inFlight.length > outstanding) await hear(inFlight.shift()!);
  };

  let step = first, stopped = false;
  const save = async () => {
    onPhase?.("saving");
    requireThere(projDir);
    await saveCheckpoint(projDir, step, trainables, settings.keep);
    const last = join(projDir, "last");
    makeFolder(last);
    await learner.save(last);
    // Looks load programs of their own.
    writeLowerings(projDir, engine);
    onPhase?.("training");
  };
  const look = async () => {
    await validation.look(step);
    onPhase?.("training");
  };
  const inVain = () => settings.earlyStop !== undefined && validation.inVain >= settings.earlyStop;
  // A stop may have come between a step and its look.
  if (step > 0 && validation.due(step) && validation.last?.step !== step) await look();
  let stoppedEarly = inVain();
  onPhase?.("training");
  time = performance.now();
  while (step < steps && !stopped && !stoppedEarly) {
    inFlight.push(submit(step++));
    await hearUpTo(IN_FLIGHT[engine.name]);
    stopped = shouldStop?.() ?? false;
    const wished = takeWish(projDir);
    const due = step % (anEpoch * epochSave) === 0 || (saveSteps !== undefined && step % saveSteps === 0);
    const saves = due || wished || stopped || step === steps, looks = !stopped && validation.due(step);
    if (!saves && !looks) continue;
    await hearUpTo(0);
    if (saves) await save();
    if (wished) onMessage(`Saved step ${step}, as the file "${WISH}" asked`);
    if (looks) await look();
    stoppedEarly = looks && inVain();
    // A look takes long enough for somebody to change their mind.
    if (looks) stopped = shouldStop?.() ?? false;
    if ((stopped || stoppedEarly) && !saves) await save();
    // Neither is training: the next step's speed does not know of it.
    time = performance.now();
  }
  if (stoppedEarly) {
    const { step: at, heldOutLoss } = validation.best ?? { step: 0, heldOutLoss: NaN };
    onMessage(
      `Ended at step ${step}: ${validation.inVain} measurements in a row were not better than ` +
        `${heldOutLoss.toFixed(4)} at step ${at}`,
    );
  }
  if (step > first) {
    const rate = Math.round(tokensSoFar / seconds);
    onMessage(`Trained ${step - first} steps in ${seconds.toFixed(1)} s, ${rate} tokens/s`);
  }
  return { loss, step, stopped, stoppedEarly };
}

/** What AdamW is told for a step, from 0. */
export function optimizerSettings(
  { beta1, beta2, adamEps, weightDecay, gradientClipVal }: TrainSettings,
  index: number,
  learningRate: number,
): Parameters<LoadedPrograms["update"]>[0] {
  return {
    learningRate,
    beta1,
    beta2,
    eps: adamEps,
    weightDecay,
    biasCorrection1: 1 - beta1 ** (index + 1),
    biasCorrection2: 1 - beta2 ** (index + 1),
    clip: gradientClipVal,
  };
}

/** Steps of all epochs, which the schedule spans, and of one. */
export function stepCounts(
  { accumulateGradBatches: many, epochSteps, epochCount }: TrainSettings,
  { batchesPerEpoch }: Batches,
): { planned: number; anEpoch: number } {
  const micro = epochSteps ?? batchesPerEpoch;
  return { planned: Math.ceil(micro * epochCount / many), anEpoch: Math.max(1, Math.round(micro / many)) };
}

/** @throws Error that says where the run went wrong and from where it can go on */
function requireFinite(what: string, value: number, step: number, many: number, projDir: string): void {
  if (Number.isFinite(value)) return;
  const from = (step - 1) * many, to = step * many - 1;
  const batch = many === 1 ? `micro-batch ${from}` : `micro-batches ${from} to ${to}`;
  throw new Error(
    `The ${what} is ${value} at step ${step} (${batch}): lower --lr_init; the last good checkpoint is ` +
      `${listCheckpoints(projDir)[0]?.path ?? "none"}`,
  );
}

/** Whether somebody asked for a checkpoint; the wish is then granted once. */
function takeWish(projDir: string): boolean {
  const path = join(projDir, WISH);
  try {
    // A link is not followed: one that leads in a circle would end the run.
    if (!Deno.lstatSync(path).isFile) return false;
    Deno.removeSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
