/**
 * Where training starts: the tensors that will train, before anything is on an engine.
 *
 * @module
 */
import { Adapter, checkFits, newAdapter, weightsNamed } from "../adapters/adapter.ts";
import { loadAdapter } from "../adapters/file.ts";
import type { AdapterMethod, Settings } from "../adapters/method.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import type { ModelConfig } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { random } from "./data/random.ts";
import type { TrainSettings } from "./options.ts";

/** A model's sizes and what of it, or beside it, trains. */
export interface Start {
  readonly config: ModelConfig;
  /** An adapter with the weights that train along, or all weights of the model. */
  readonly tensors: Adapter | Pick<Adapter, "tensors">;
}

/**
 * Reads sizes and makes the tensors that will train.
 * @param method undefined where every weight trains
 * @throws in one sentence where settings and model do not fit
 */
export function startingTensors(settings: TrainSettings, method: AdapterMethod | undefined): Start {
  using file = openTensorFile(settings.loadModel);
  const config = readModelConfig(file);
  const hostTensor = (name: string) =>
    [name, { shape: file.tensors.get(name)!.shape, data: file.readFloat32(name) }] as const;
  if (!method) {
    return { config, tensors: { tensors: new Map(weightsNamed(config, [""]).map(hostTensor)) } };
  }
  const { load, given } = methodSettings(settings);
  if (load) {
    const adapter = loadAdapter(load, { loraAlpha: settings.loraConfig.lora_alpha! });
    checkFits(adapter, config);
    const others = weightsNamed(config, settings.trainParts).filter((name) => !adapter.tensors.has(name)).map(
      hostTensor,
    );
    return { config, tensors: adapter.withTensors(new Map([...adapter.tensors, ...others])) };
  }
  const tensors = newAdapter({ config, file, fingerprint: "" }, method, {
    settings: given,
    trainParts: settings.trainParts,
    noise: random(settings.randomSeed, "adapter"),
  });
  return { config, tensors };
}

/** A method's own settings, and the adapter to go on from. */
function methodSettings(
  { peft, boneConfig, loraConfig, peftConfig }: TrainSettings,
): { load?: string; given: Settings } {
  const load = (path: string | undefined) => path ? { load: path } : {};
  if (peft === "bone") return { ...load(boneConfig.bone_load), given: { r: boneConfig.bone_r } };
  if (peft !== "lora") return { given: peftConfig ?? {} };
  return { ...load(loraConfig.lora_load), given: { r: loraConfig.lora_r, alpha: loraConfig.lora_alpha } };
}
