/**
 * What has to be there before a step can be planned: an engine, the text, the model on the engine, and what learns.
 *
 * @module
 */
import { Adapter, checkBase } from "../adapters/adapter.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { Model } from "../rwkv/model.ts";
import { readText, type Text } from "./data/text.ts";
import { Learner } from "./learner.ts";
import type { TrainListeners } from "./listeners.ts";
import { OptionError, type TrainSettings } from "./options.ts";
import { completed, type Start, startingTensors } from "./start.ts";

/** A run that could begin. Disposing of it releases the engine and everything on it. */
export interface Setup extends Disposable {
  readonly learner: Learner;
  readonly text: Text;
}

/** @throws OptionError where documents are to share rows, but do not begin with a state of zeros */
function requireZeroState({ dataload, loadModel }: TrainSettings, { config, tensors }: Start): void {
  const trains = [...tensors.tensors.keys()].some((name) => name.endsWith(".att.time_state"));
  if (dataload !== "pack" || !(trains || config.hasState)) return;
  throw new OptionError(
    `--dataload pack begins each document with a state of zeros, and ${
      trains ? "the initial state trains here" : `${loadModel} has a tuned one`
    }: use --dataload pad`,
  );
}

/**
 * Reads everything that settings name.
 * @param run.goesOn the folder of a run that goes on
 * @param run.isPlan whether no more than sizes matter, so that first contents which take long may be zeros
 * @throws in one sentence where they do not fit the files, or each other
 */
export async function setUp(
  settings: TrainSettings,
  { onMessage, onPhase, onProgress }: TrainListeners,
  run: { readonly goesOn?: string | undefined; readonly isPlan?: boolean } = {},
): Promise<Setup> {
  using held = new DisposableStack();
  let start = startingTensors(settings, run.goesOn);
  requireZeroState(settings, start);
  const { engine, reason } = await chooseEngine(settings.engine, { precision: settings.precision });
  held.defer(() => engine.dispose());
  onMessage?.(reason);
  onPhase?.("reading the text");
  const text = await readText(settings, start.config.vocabulary, (message) => onMessage?.(message));
  if (settings.earlyStop !== undefined && !text.heldOut) {
    throw new OptionError(
      "--early_stop has nothing to judge by: hold text out with --held_out or --eval_file",
    );
  }
  if (start.pending && !run.isPlan) {
    onPhase?.("decomposing the weights");
    start = await completed(start, settings, engine, (...done) => onProgress?.(...done));
  }
  onPhase?.("loading the model");
  const model = held.use(
    Model.load(settings.loadModel, engine, { elsewhere: (name) => start.tensors.tensors.has(name) }),
  );
  if (start.tensors instanceof Adapter) checkBase(start.tensors, model.fingerprint, settings.loadModel);
  const learner = new Learner(model, start, settings, text.promptFormat, text.batches.shorter);
  onMessage?.(learner.describe());
  const kept = held.move();
  return { learner, text, [Symbol.dispose]: () => kept.dispose() };
}
