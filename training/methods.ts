/**
 * Which method a run trains, with which settings and on which layers: from options that are named as in RWKV-PEFT and in Hugging Face
 * PEFT to the methods' own.
 *
 * @module
 */
import type { AdapterHints, AdapterMethod, Settings } from "../adapters/method.ts";
import { adapterMethod } from "../adapters/registry.ts";
import type { Targets } from "../adapters/targets.ts";
import { OptionError, type TrainSettings } from "./options.ts";

/** What a run trains. */
export interface MethodChoice {
  readonly method: AdapterMethod;
  /** The method's own settings. */
  readonly settings: Settings;
  /** An adapter to go on from instead. */
  readonly load?: string;
  /** The first tensors of a PiSSA that begins with them. */
  readonly initial?: string;
  /** What is said of that adapter's file. */
  readonly hints: AdapterHints;
}

/** The method of a run; undefined where every weight trains. @throws OptionError, RangeError in one sentence */
export function chooseMethod(settings: TrainSettings): MethodChoice | undefined {
  const { peft } = settings;
  if (peft === "none" || peft === "full") return undefined;
  const { name, load, given } = namedChoice(settings);
  const method = adapterMethod(name);
  const { loraConfig: { lora_alpha: loraAlpha }, batAxis } = settings;
  const initial = name === "pissa" && settings.pissaConfig.pissa_init;
  const hints = {
    loraAlpha: loraAlpha!,
    ...(name === "bat" ? { batAxis } : {}),
    ...(initial ? { loraInit: initial } : {}),
  };
  return { method, settings: given, hints, ...(load ? { load } : initial ? { initial } : {}) };
}

/** Method, settings and file for the names that RWKV-PEFT gives them. */
function namedChoice(
  { peft, boneConfig, batAxis, loraConfig, pissaConfig, useRslora, loraplusLrRatio, peftConfig }:
    TrainSettings,
): { name: string; load?: string | undefined; given: Settings } {
  const stated = (settings: Settings) =>
    Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== undefined));
  if (peft === "bone" || peft === "bat") {
    const { bone_mode: mode, bone_load: load, bone_r: r, bone_mini_r, bone_shards, bone_dropout } =
      boneConfig;
    const isBat = peft === "bat" || mode === "bat";
    const mini = stated({ mini_r: bone_mini_r, shards: bone_shards, dropout: bone_dropout });
    if (!isBat) return { name: "bone", load, given: { r, ...mini } };
    const [foreign] = Object.keys(mini);
    if (foreign !== undefined) {
      throw new OptionError(`bone_${foreign} in --bone_config has no meaning for bat: leave it out`);
    }
    return { name: "bat", load, given: { r, axis: batAxis } };
  }
  if (peft === "lora" || peft === "dora") {
    const { lora_load: load, lora_r: r, lora_alpha: alpha, lora_dropout: dropout } = loraConfig;
    const given = { r, alpha, dropout, rslora: useRslora, lr_ratio: loraplusLrRatio };
    return { name: peft, load, given };
  }
  if (peft === "pissa") {
    const { pissa_load: load, pissa_r: r, svd_niter: niter } = pissaConfig;
    return { name: "pissa", load, given: { r, niter } };
  }
  return { name: peft, given: peftConfig ?? {} };
}

/** Options that choose layers. */
type LayerOptions = {
  readonly [K in "targetModules" | "excludeModules" | "layersToTransform" | "layersPattern"]?:
    | TrainSettings[K]
    | undefined;
};

/** The choice of layers in the options; empty where nothing is said. */
export function chosenTargets(
  { targetModules, excludeModules, layersToTransform, layersPattern }: LayerOptions,
): Targets {
  return {
    ...(targetModules === undefined ? {} : { target_modules: targetModules }),
    ...(excludeModules === undefined ? {} : { exclude_modules: excludeModules }),
    ...(layersToTransform === undefined ? {} : { layers_to_transform: layersToTransform }),
    ...(layersPattern === undefined ? {} : { layers_pattern: layersPattern }),
  };
}
