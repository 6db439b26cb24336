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
import { startingTensors } from "./start.ts";

/** A run that could begin. Disposing of it releases the engine and everything on it. */
export interface Setup extends Disposable {
  readonly learner: Learner;
  readonly text: Text;
}

/** Reads everything that settings name. @throws in one sentence where they do not fit the files, or each other */
export async function setUp(
  settings: TrainSettings,
  { onMessage, onPhase }: TrainListeners,
): Promise<Setup> {
  using held = new DisposableStack();
  const start = startingTensors(settings);
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
