/**
 * The flags that choose what trains: the method, its settings, and the layers that it sits on.
 *
 * @module
 */
import type { BoneConfig, LoraConfig, PissaConfig, TrainOptions } from "../mod.ts";
import { choice, type Flag, json, list, names, numbers, real, text, toggle } from "./flags.ts";

/** A flag for each of some options of a run. */
type FlagsFor<K extends keyof TrainOptions> = { readonly [P in K]: Flag<TrainOptions[P]> };

const BONE_CONFIG = '{"bone_mode":"bone","bone_load":"","bone_r":64}';
const LORA_CONFIG = '{"lora_load":"","lora_r":8,"lora_alpha":32,"lora_dropout":0}';
const PISSA_CONFIG = '{"pissa_load":"","pissa_init":"","pissa_r":8,"svd_niter":4}';

/** Names that Bone has had; the method is one. */
const BONE_NAMES = ["bone", "disha", "miss"];

/** The method and its settings. */
export const METHOD = {
  peft: {
    ...text(
      "METHOD",
      "bone (or by its later names disha and miss), bat, lora, dora, pissa, state (the initial WKV state), or none to train every weight",
    ),
    read: ([name]: readonly string[]) =>
      BONE_NAMES.includes(name!) ? "bone" : name === "full" ? "none" : name!,
  },
  boneConfig: json(
    BONE_CONFIG,
    'for bone and bat: rank, and an adapter to start from; bone_mode "bat" for BAT; "bone_mini_r":N, "bone_shards":"rows" and ' +
      '"bone_dropout":X for the rest of DiSHA',
    {
      ...{ bone_mode: "string", bone_load: "string", bone_r: "number" },
      ...{ bone_mini_r: "number", bone_shards: "string", bone_dropout: "number" },
    },
  ) as Flag<BoneConfig>,
  batAxis: choice(
    ["in", "out"],
    "for bat: blocks chosen by input block (RWKV-PEFT's) or by output block (PEFT's)",
  ),
  loraConfig: json(
    LORA_CONFIG,
    "for lora and dora: rank, alpha, share of inputs to drop while training, and an adapter to start from",
    { lora_load: "string", lora_r: "number", lora_alpha: "number", lora_dropout: "number" },
  ) as Flag<LoraConfig>,
  useRslora: toggle("for lora and dora: scale by alpha / sqrt(r) instead of alpha / r"),
  loraplusLrRatio: real("for lora and dora: B learns at this multiple of the learning rate (LoRA+)"),
  pissaConfig: json(
    PISSA_CONFIG,
    "for pissa: rank, power iterations of the decomposition, an adapter to start from, and the file of its first tensors",
    { pissa_load: "string", pissa_init: "string", pissa_r: "number", svd_niter: "number" },
  ) as Flag<PissaConfig>,
  peftConfig: json(
    '{"r":64}',
    "the same in Hugging Face PEFT's words, such as r, miss_dropout, init_weights, lora_alpha, use_dora",
  ),
} satisfies FlagsFor<
  | "peft"
  | "boneConfig"
  | "batAxis"
  | "loraConfig"
  | "useRslora"
  | "loraplusLrRatio"
  | "pissaConfig"
  | "peftConfig"
>;

/** The layers that it sits on, and the weights that train along. */
export const LAYERS = {
  targetModules: names(
    "linear layers to adapt: names or last parts of names, such as key att.value, or one regular expression for whole names; without it all",
  ),
  excludeModules: names("linear layers to leave out, likewise"),
  layersToTransform: numbers("blocks to adapt, from 0; without it all"),
  layersPattern: names("what stands before a block's number in a name; without it anything"),
  rankPattern: json(
    '{"att.key":16}',
    "ranks of layers whose names end so or match so, instead of the method's own",
  ) as Flag<
    Record<string, number>
  >,
  alphaPattern: json('{"att.key":32}', "alphas likewise") as Flag<Record<string, number>>,
  trainParts: list("weights whose names contain one of these train along"),
} satisfies FlagsFor<
  | "targetModules"
  | "excludeModules"
  | "layersToTransform"
  | "layersPattern"
  | "rankPattern"
  | "alphaPattern"
  | "trainParts"
>;
