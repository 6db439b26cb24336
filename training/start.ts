/**
 * Where training starts: the tensors that will train, before anything is on an engine.
 *
 * @module
 */
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
}

/**
 * Reads sizes and makes the tensors that will train.
 * @throws in one sentence where settings and model do not fit
 */
export function startingTensors(settings: TrainSettings): Start {
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
    return { config, tensors: newAdapter({ config, file, fingerprint: "" }, method, options) };
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
  const whole = withDerived(adapter, config, file);
  const tensors = new Map([...whole.tensors, ...others]);
  return { config, tensors: whole.with({ tensors, originals: originalsOf(tensors.keys(), file) }) };
}
