/**
 * Where training starts: the tensors that will train, before anything is on an engine.
 *
 * @module
 */
import { join } from "node:path";
import {
  Adapter,
  baseWeight,
  checkFits,
  newAdapter,
  weightsNamed,
  withDerived,
} from "../adapters/adapter.ts";
import { loadAdapter } from "../adapters/file.ts";
import { originalsOf } from "../adapters/originals.ts";
import { initialised } from "../adapters/initialise.ts";
import { INITIAL_FILE, withInitial } from "../adapters/rwkv_peft.ts";
import type { Engine } from "../kernels/engine.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import type { ModelConfig } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { random } from "./data/random.ts";
import { chooseMethod, chosenTargets } from "./methods.ts";
import { OptionError, type TrainSettings } from "./options.ts";

/** A model's sizes and what of it, or beside it, trains. */
export interface Start {
  readonly config: ModelConfig;
  /** An adapter with the weights that train along, or all weights of the model. */
  readonly tensors: Adapter | Pick<Adapter, "tensors">;
  /** Whether first contents are still to be computed on an engine, by {@link completed}. */
  readonly pending?: boolean;
}

/**
 * Reads sizes and makes the tensors that will train.
 * @param run the folder of a run that goes on, which holds what it began with
 * @throws in one sentence where settings and model do not fit
 */
export function startingTensors(settings: TrainSettings, run?: string): Start {
  using file = openTensorFile(settings.loadModel);
  const config = readModelConfig(file), choice = chooseMethod(settings);
  const hostTensor = (name: string) => [name, baseWeight(name, config, file)] as const;
  if (!choice) {
    return { config, tensors: { tensors: new Map(weightsNamed(config, [""]).map(hostTensor)) } };
  }
  const { method, load, hints } = choice, targets = chosenTargets(settings);
  const { trainParts, rankPattern, alphaPattern, randomSeed } = settings;
  if (!load) {
    const noise = random(randomSeed, "adapter");
    const options = { settings: choice.settings, trainParts, noise, targets, rankPattern, alphaPattern };
    const adapter = newAdapter({ config, file, fingerprint: "" }, method, { ...options, deferred: true });
    if (!method.initialiser) return { config, tensors: adapter };
    const initial = run === undefined ? choice.initial : join(run, INITIAL_FILE);
    return initial === undefined
      ? { config, tensors: adapter, pending: true }
      : { config, tensors: withInitial(adapter, initial) };
  }
  const adapter = loadAdapter(load, { ...hints, targets });
  if (adapter.method !== method) {
    throw new OptionError(
      `Cannot go on from ${load}: it is a ${adapter.method.name} adapter, and ${method.name} is to be trained: use --peft ${adapter.method.name}`,
    );
  }
  checkFits(adapter, config);
  const others = weightsNamed(config, trainParts).filter((name) => !adapter.tensors.has(name)).map(
    hostTensor,
  );
  const whole = withDerived(adapter, config, ({ name }) => file.readFloat32(`${name}.weight`));
  const tensors = new Map([...whole.tensors, ...others]);
  return { config, tensors: whole.with({ tensors, originals: originalsOf(tensors.keys(), file) }) };
}

/** The start with first contents that are computed on an engine. @throws AdapterError where a weight has none */
export async function completed(
  start: Start,
  { loadModel, randomSeed }: TrainSettings,
  engine: Engine,
  onSite: (site: string, done: number, all: number) => void,
): Promise<Start> {
  const { config, tensors, pending } = start;
  if (!pending || !(tensors instanceof Adapter)) return start;
  using file = openTensorFile(loadModel);
  const noise = random(randomSeed, "adapter");
  return { config, tensors: await initialised(tensors, { config, file }, engine, noise, onSite) };
}
