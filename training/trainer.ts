/**
 * A training run, from options to a folder: read, plan, measure, train, save, measure again.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic.ts";
import { listCheckpoints, loadNewest, resumePoint } from "./checkpoint.ts";
import { dataDigest, dataStamp } from "./data/files.ts";
import type { Text } from "./data/text.ts";
import { freeFolder } from "./free_folder.ts";
import type { Learner } from "./learner.ts";
import type { TrainListeners, TrainResult } from "./listeners.ts";
import { keepLowerings, writeLowerings } from "./lowerings.ts";
import { LOG_FILE, RunLog } from "./log.ts";
import { stepCounts, trainSteps } from "./loop.ts";
import { megabytes, planMemory, requireMemory } from "./memory.ts";
import { Metrics } from "./metrics.ts";
import { OptionError, settle, type TrainOptions, type TrainSettings } from "./options.ts";
import { setUp } from "./setup.ts";
import type { LoadedPrograms } from "./programs.ts";
import {
  emptyRun,
  holdRun,
  isEmptyRun,
  placed,
  readRun,
  requireReplaceable,
  requireSameInputs,
  requireThere,
  resumedSettings,
  RUN_VERSION,
  type RunConfig,
} from "./run_folder.ts";
import { writeReport } from "./report.ts";
import { Validation } from "./validation.ts";

/** Trains an adapter, or a whole model, and leaves everything in the run folder. */
export async function train(
  options: TrainOptions = {},
  told: TrainListeners = {},
): Promise<TrainResult> {
  using log = new RunLog();
  const listeners = log.logged(told);
  const { onMessage, onPhase } = listeners;
  const from = options.resume === undefined ? undefined : resumePoint(options.resume);
  const previous = from && readRun(from.run);
  const settings = previous ? resumedSettings(previous.settings, options) : settle(options, freeFolder);
  const projDir = from?.run ?? settings.projDir;
  const isThere = existsSync(projDir);
  if (isThere && !previous) requireReplaceable(projDir, options.force);
  using held = new DisposableStack();
  const hold = () => void held.use(holdRun(projDir));
  if (isThere) hold();

  const before = stampsOf(settings);
  using setup = await setUp(settings, listeners, { goesOn: from?.run });
  const { learner, text } = setup;
  const config: RunConfig = {
    version: RUN_VERSION,
    settings: placed(settings),
    model: learner.model.fingerprint,
    data: dataDigest(settings.dataFile, settings.dataType),
    ...(settings.evalFile === undefined ? {} : { evalData: dataDigest(settings.evalFile) }),
  };
  // What is written down of the text has to be of what was read.
  stampsOf(settings).forEach(([path, stamp], i) => {
    if (stamp === before[i]![1]) return;
    throw new OptionError(`The text ${path} was changed while the run was made ready: start it again`);
  });
  if (previous) requireSameInputs(previous, config, projDir);
  onMessage(requireMemory(learner, planMemory(learner, text.heldOut !== undefined)));
  onPhase("preparing the programs");
  if (from) keepLowerings(projDir, learner.engine, onMessage);
  using programs = await learner.programs.load();
  const make = isThere ? undefined : () => {
    Deno.mkdirSync(projDir, { recursive: true });
    hold();
    // Another run may have begun here, and ended, while this one was made ready.
    if (!isEmptyRun(projDir)) requireReplaceable(projDir, options.force);
  };
  const first = openRun(projDir, config, learner, { from, make, onMessage });
  log.open(join(projDir, LOG_FILE));
  return await runIn(projDir, first, learner, programs, text, listeners).catch((error) => {
    log.end(error);
    throw error;
  });
}

/** The texts that settings name, with what they are by then; see `dataStamp`. */
function stampsOf({ dataFile, dataType, evalFile }: TrainSettings): [path: string, stamp: string][] {
  const texts: [string, string][] = [[dataFile, dataStamp(dataFile, dataType)]];
  return evalFile === undefined ? texts : [...texts, [evalFile, dataStamp(evalFile)]];
}

/** Makes the run folder ready, or goes on in it. @returns the steps that were taken before; undefined in a new folder */
function openRun(
  projDir: string,
  config: RunConfig,
  learner: Learner,
  { from, make, onMessage }: {
    from: ReturnType<typeof resumePoint> | undefined;
    /** Makes the folder and holds it, where it was not there. */
    make: (() => void) | undefined;
    onMessage: (message: string) => void;
  },
): number | undefined {
  let first: number | undefined;
  if (from) {
    const newest = loadNewest(from, learner.trainables);
    first = newest?.step ?? 0;
    onMessage(
      newest ? `Resumed at step ${first} from ${newest.path}` : `No checkpoint in ${projDir}: starting again`,
    );
  } else {
    make?.();
    // It is held, and what it may hold was agreed to by --force.
    emptyRun(projDir);
    learner.saveInitial(projDir);
  }
  writeFileAtomic(join(projDir, "config.json"), JSON.stringify(config, null, 2) + "\n", { force: true });
  writeLowerings(projDir, learner.engine);
  return first;
}

/** Measures, trains, measures again, and saves. */
async function runIn(
  projDir: string,
  resumedAt: number | undefined,
  learner: Learner,
  programs: LoadedPrograms,
  { tokenizer, batches, heldOut }: Text,
  listeners: TrainListeners & { onMessage: (message: string) => void },
): Promise<TrainResult> {
  const { onMessage, onPhase } = listeners;
  const { settings } = learner;
  const first = resumedAt ?? 0;
  using metrics = new Metrics(join(projDir, "metrics.jsonl"), first);
  const every = settings.evalSteps ?? stepCounts(settings, batches).anEpoch;
  const watched = { learner, programs, tokenizer, heldOut, projDir, metrics, listeners, every };
  const validation = new Validation(watched);
  if (!heldOut && settings.heldOut > 0) {
    onMessage(
      "Nothing is measured: the text is too short to hold a part of it out, so give another with --eval_file",
    );
  }
  if (heldOut && heldOut.batchesPerEpoch > settings.evalBatches) {
    onMessage(
      `Measuring on ${settings.evalBatches} of ${heldOut.batchesPerEpoch} micro-batches of held-out text: ` +
        `--eval_batches ${heldOut.batchesPerEpoch} measures on all`,
    );
  }
  if (first === 0 && !validation.first) await validation.look(0);

  const options = { learner, programs, batches, projDir, metrics, validation, listeners, first };
  const { loss, step, stopped, stoppedEarly } = await trainSteps(options).catch((error) => {
    const [newest] = listCheckpoints(projDir);
    if (newest) listeners.onFailure?.({ projDir, step: newest.step });
    throw error;
  });
  onMessage(`Memory in use: ${megabytes(learner.engine.allocatedBytes)}`);
  if (!stopped && validation.last?.step !== step) await validation.look(step);
  onPhase?.("saving");
  requireThere(projDir);
  const output = await learner.save(projDir);
  learner.dispose();
  const { best, first: before } = validation, after = stopped ? undefined : validation.last;
  if (best) {
    const place = join(projDir, "best");
    onMessage(`Best held-out loss: ${best.heldOutLoss.toFixed(4)} at step ${best.step}, kept in ${place}`);
  }
  const both = before && after;
  const result = {
    projDir,
    output,
    steps: step,
    loss,
    heldOut: both && heldOut && { before: before.heldOutLoss!, after: after.heldOutLoss! },
    best,
    samples: both && before.samples.length
      ? { before: before.samples.join("\n\n"), after: after.samples.join("\n\n") }
      : undefined,
    stopped,
    stoppedEarly,
  };
  const report = { projDir, settings: placed(settings), lines: metrics.lines, result, before };
  const { last } = validation;
  onMessage(`Report: ${writeReport({ ...report, after: last && last.step > 0 ? last : undefined })}`);
  return result;
}
