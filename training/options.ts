/**
 * What a run can be told, and what it does where it is not told.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { DEFAULT_RANK } from "../adapters/settings.ts";
import { localPath } from "../formats/hub.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import type { Precision } from "../kernels/engines/webgpu/engine.ts";
import type { MaskId } from "./data/answers.ts";
import type { LossMask } from "./data/documents.ts";
import type { DataType } from "./data/files.ts";
import type { Dataload } from "./data/rows.ts";
import { check, checkData } from "./option_checks.ts";
import { OptionError } from "./option_error.ts";
import { withoutPeftNames } from "./peft_names.ts";
import type { Schedule } from "./schedule.ts";

export { flag, OptionError } from "./option_error.ts";

/** Bone's settings as RWKV-PEFT writes them. */
export interface BoneConfig {
  /** "bone", or "bat" with {@link TrainOptions.batAxis} */
  readonly bone_mode?: string;
  /** An adapter to go on from; "" for none. */
  readonly bone_load?: string;
  /** Rank. */
  readonly bone_r?: number;
  /** Extent of a shard in the other direction, which makes it MiSS's "mini". */
  readonly bone_mini_r?: number;
  /** Whether a shard is of columns (the default) or rows of the weight. */
  readonly bone_shards?: string;
  /** Share of the inputs that are dropped while training. */
  readonly bone_dropout?: number;
}

/** LoRA's settings as RWKV-PEFT writes them. */
export interface LoraConfig {
  /** An adapter to go on from; "" for none. */
  readonly lora_load?: string;
  /** Rank. */
  readonly lora_r?: number;
  /** Numerator of the scale. */
  readonly lora_alpha?: number;
  /** Share of the inputs that are dropped while training. */
  readonly lora_dropout?: number;
}

/** PiSSA's settings as RWKV-PEFT writes them. */
export interface PissaConfig {
  /** An adapter to go on from; "" for none. */
  readonly pissa_load?: string;
  /** File of first tensors, `init_pissa.pth`: those of pissa_load where it lacks them, or what to start from; "" for none. */
  readonly pissa_init?: string;
  /** Rank. */
  readonly pissa_r?: number;
  /** Power iterations of the decomposition. */
  readonly svd_niter?: number;
}

/** Options of a run: the commands' flags in camel case. */
export interface TrainOptions {
  /** Base model, `.pth` or `.safetensors`, or the name on the Hub of one that was fetched. Default: the bundled one. */
  loadModel?: string;
  /** Run folder, which must not exist unless `force`. Default: the first of runs/bone, runs/bone-2, … that does not exist. */
  projDir?: string;
  /** Training text. Default: the bundled one. */
  dataFile?: string;
  /** How files are read; "auto" goes by their extensions, and "sft" is the same. */
  dataType?: DataType;
  /** Fields of a record: one of text or messages, two of prompt and answer, or three of instruction, input and output. */
  sftField?: readonly string[];
  /** Part of the text, in the words of Hugging Face's datasets: `train`, `train[:1000]`, `test[10%:]`. Default: all. */
  sftSplit?: string;
  /** How conversations are written: a name, a template, or "auto". */
  promptFormat?: string;
  /** What counts: "auto" is the answers of conversations and all of a text. */
  lossMask?: LossMask;
  /** For lossMask "se": what follows `mask1` is learnt, up to `mask0`. */
  maskId?: MaskId;
  /** How documents come into the rows of a batch. */
  dataload?: Dataload;
  /** Put samples of like length together, so that batches of short ones are computed as such: for dataload pad and only. */
  groupByLength?: boolean;
  /** Whether each epoch has an order of its own; else the text's. */
  dataShuffle?: boolean;
  /** World vocabulary file. Default: beside the model. */
  vocab?: string;
  /** T, tokens of a sample. */
  ctxLen?: number;
  /**
   * "infctx" reads samples in chunks of chunkCtx tokens and carries the state from one to the next: memory is that of a chunk,
   * whatever ctxLen is. Gradients do not go back over the border of a chunk.
   */
  trainType?: "none" | "infctx";
  /** Tokens of a chunk. */
  chunkCtx?: number;
  /** B, samples of a micro-batch. */
  microBsz?: number;
  /** Micro-batches of a step. */
  accumulateGradBatches?: number;
  /** Micro-batches of an epoch. Default: one pass over the data. */
  epochSteps?: number;
  /** Epochs, over which the learning rate runs its course. */
  epochCount?: number;
  /** Epochs between checkpoints. */
  epochSave?: number;
  /** Steps between checkpoints, besides those at epochs. */
  saveSteps?: number;
  /** Checkpoints to keep. */
  keep?: number;
  /** Stop after this many steps, whatever the epochs say; the schedule does not change with it. */
  maxSteps?: number;
  /** Learning rate at the start, after the warm-up. */
  lrInit?: number;
  /** Learning rate at the end. */
  lrFinal?: number;
  /** The way from the first to the last learning rate. */
  lrSchedule?: Schedule;
  /** Steps over which the learning rate rises. */
  warmupSteps?: number;
  /** AdamW's decay of the first moment. */
  beta1?: number;
  /** AdamW's decay of the second moment. */
  beta2?: number;
  /** AdamW's epsilon. */
  adamEps?: number;
  /** Decoupled weight decay, on matrices. */
  weightDecay?: number;
  /** Global gradient norm to clip at. */
  gradientClipVal?: number;
  /** att.w0 learns at twice the rate where it trains. */
  layerwiseLr?: boolean;
  /** L2Wrap: a pull of the largest logit towards zero. */
  l2wrap?: boolean;
  /** Recompute blocks in the backward pass: less memory, a third more time. */
  gradCp?: boolean;
  /** A registered method's name, or "none" or "full" to train every weight. */
  peft?: string;
  /** Bone's settings. */
  boneConfig?: BoneConfig;
  /** What chooses the block of a BAT tile: the input block (RWKV-PEFT's) or the output block (PEFT's). Default: "in". */
  batAxis?: "in" | "out";
  /** LoRA's settings, and DoRA's. */
  loraConfig?: LoraConfig;
  /** Scale LoRA by alpha / sqrt(r). */
  useRslora?: boolean;
  /** LoRA's B learns at this multiple of the learning rate (LoRA+). */
  loraplusLrRatio?: number;
  /** PiSSA's settings. */
  pissaConfig?: PissaConfig;
  /** The method's own settings, where the others do not name them; those of a method registered from outside. */
  peftConfig?: Readonly<Record<string, unknown>>;
  /** Linear layers to adapt: names, last parts of names, one expression for whole names, or "all-linear". Default: all. */
  targetModules?: string | readonly string[];
  /** Linear layers to leave out, likewise. */
  excludeModules?: string | readonly string[];
  /** Numbers of the blocks to adapt. */
  layersToTransform?: number | readonly number[];
  /** What stands before a block's number in a name. */
  layersPattern?: string | readonly string[];
  /** Ranks of layers whose names end so, or match so. */
  rankPattern?: Readonly<Record<string, number>>;
  /** Alphas likewise. */
  alphaPattern?: Readonly<Record<string, number>>;
  /** Weights whose names contain one of these train along with an adapter. */
  trainParts?: readonly string[];
  /** Fixes data order, held-out split and noise. */
  randomSeed?: number;
  /** Share of the text that is held out to measure on; 0 for none. */
  heldOut?: number;
  /** Text to measure on, in a file of its own, instead of a share of the training text. */
  evalFile?: string;
  /** Steps between measurements. Default: an epoch. */
  evalSteps?: number;
  /** Micro-batches that are measured on, at most. */
  evalBatches?: number;
  /** End after this many measurements in a row that were not better than the best. Default: never. */
  earlyStop?: number;
  /** What samples begin with, one text or several; "" for none. */
  samplePrompt?: string | readonly string[];
  /** What runs it. */
  engine?: EngineChoice;
  /** "auto" takes the fastest products with f32 sums that a GPU has, also with f16 operands; "fp32" keeps operands in f32. */
  precision?: Precision;
  /** Replace an existing run folder. */
  force?: boolean;
  /** Run folder, or one of its checkpoints, to go on with: everything else then comes from it, except maxSteps and engine. */
  resume?: string;
}

/** Every option in effect. */
export type TrainSettings =
  & Required<
    Omit<TrainOptions, "resume" | "force" | Unset>
  >
  & Pick<TrainOptions, Unset>;

/** Options that may have no value, and what kinds of value they have otherwise, with `or` between them. */
export const UNSET = {
  epochSteps: "number",
  maxSteps: "number",
  vocab: "string",
  saveSteps: "number",
  peftConfig: "object",
  targetModules: "string or list of texts",
  excludeModules: "string or list of texts",
  layersToTransform: "number or list of numbers",
  layersPattern: "string or list of texts",
  rankPattern: "object",
  alphaPattern: "object",
  evalFile: "string",
  evalSteps: "number",
  earlyStop: "number",
  sftField: "list of texts",
  sftSplit: "string",
  maskId: "object",
} as const satisfies { [option in keyof TrainOptions]: string };
type Unset = keyof typeof UNSET;

/** The bundled files. */
export const EXAMPLE = {
  model: fileURLToPath(new URL("../examples/base.safetensors", import.meta.url)),
  data: fileURLToPath(new URL("../examples/sotu.jsonl", import.meta.url)),
};

/** RWKV-PEFT's values, for a person's own model and text. */
const DEFAULTS = {
  dataType: "auto",
  promptFormat: "auto",
  lossMask: "auto",
  dataload: "pad",
  dataShuffle: true,
  groupByLength: false,
  ctxLen: 1024,
  trainType: "none",
  chunkCtx: 512,
  microBsz: 8,
  accumulateGradBatches: 1,
  epochCount: 1,
  epochSave: 1,
  keep: 3,
  lrInit: 2e-5,
  lrFinal: 2e-5,
  lrSchedule: "cos",
  warmupSteps: 0,
  beta1: 0.9,
  beta2: 0.99,
  adamEps: 1e-8,
  weightDecay: 0,
  gradientClipVal: 1,
  layerwiseLr: true,
  l2wrap: true,
  gradCp: true,
  peft: "bone",
  boneConfig: { bone_mode: "bone", bone_load: "", bone_r: DEFAULT_RANK },
  batAxis: "in",
  loraConfig: { lora_load: "", lora_r: 8, lora_alpha: 32, lora_dropout: 0 },
  useRslora: false,
  loraplusLrRatio: 1,
  pissaConfig: { pissa_load: "", pissa_init: "", pissa_r: 8, svd_niter: 4 },
  trainParts: ["time", "ln"],
  randomSeed: 42,
  heldOut: 0.05,
  evalBatches: 16,
  engine: "auto",
  precision: "auto",
} as const satisfies TrainOptions;

/** What suits the small bundled model better. */
const EXAMPLE_DEFAULTS = {
  ctxLen: 256,
  microBsz: 8,
  lrInit: 2e-3,
  lrFinal: 2e-4,
  warmupSteps: 10,
  gradCp: false,
  samplePrompt: "The American people ",
} as const satisfies TrainOptions;

/** What a person's own run begins its samples with: the start of anything. */
const DEFAULT_PROMPT = "\n";

/**
 * Fills in the defaults and checks numbers.
 * @param freeFolder gives a run folder where none is named
 * @throws OptionError
 */
export function settle(said: TrainOptions, freeFolder: () => string): TrainSettings {
  const options = withoutPeftNames(said);
  const given = Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
  const bundled = options.loadModel === undefined;
  const boneConfig = withLocalPaths({ ...DEFAULTS.boneConfig, ...options.boneConfig });
  const loraConfig = withLocalPaths({ ...DEFAULTS.loraConfig, ...options.loraConfig });
  const pissaConfig = withLocalPaths({ ...DEFAULTS.pissaConfig, ...options.pissaConfig });
  for (const name of ["loadModel", "vocab"] as const) {
    const path = options[name];
    if (path !== undefined) given[name] = localPath(path);
  }
  const settings = {
    samplePrompt: DEFAULT_PROMPT,
    ...DEFAULTS,
    ...(bundled ? EXAMPLE_DEFAULTS : {}),
    loadModel: EXAMPLE.model,
    dataFile: EXAMPLE.data,
    ...given,
    boneConfig,
    loraConfig,
    pissaConfig,
    projDir: options.projDir ?? freeFolder(),
  } as TrainSettings & TrainOptions;
  if (!bundled && options.dataFile === undefined) {
    throw new OptionError("No training text was given for this model: name a file with --data_file");
  }
  if (boneConfig.bone_mode !== "bone" && boneConfig.bone_mode !== "bat") {
    throw new OptionError(
      `Unknown bone_mode "${boneConfig.bone_mode}" in --bone_config: there are bone and bat`,
    );
  }
  check(settings);
  checkData(settings);
  const { resume: _resume, force: _force, ...rest } = settings;
  return rest;
}

/** Settings of a method, with the paths of files for names of the Hub. */
function withLocalPaths<T extends object>(config: T): T {
  const local = Object.entries(config).map((
    [key, value],
  ) => [key, typeof value === "string" ? localPath(value) : value]);
  return Object.fromEntries(local) as T;
}

/** The texts that samples begin with. */
export function promptsOf({ samplePrompt }: Pick<TrainSettings, "samplePrompt">): string[] {
  return [samplePrompt].flat().filter((prompt) => prompt !== "");
}
