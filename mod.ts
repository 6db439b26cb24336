/**
 * Wishbone: fine-tuning of RWKV-7 on the GPU that a person already owns.
 *
 * ```ts ignore
 * import { generate, loadModel, mergeAdapter, train } from "./mod.ts";
 *
 * const { output } = await train({ loadModel: "rwkv7-0.1b.pth", dataFile: "notes.jsonl", projDir: "runs/notes" });
 * await mergeAdapter({ base: "rwkv7-0.1b.pth", adapter: output, output: "rwkv7-0.1b-notes.pth" });
 * const model = await loadModel("rwkv7-0.1b-notes.pth");
 * for await (const text of generate(model, { prompt: "Dear diary, " })) console.log(text);
 * model.dispose();
 * ```
 *
 * @module
 */
import { Adapter, AdapterError, checkBase, newAdapter } from "./adapters/adapter.ts";
import { loadAdapter as loadAdapterFile } from "./adapters/file.ts";
import type { AdapterHints } from "./adapters/method.ts";
import { adapterMethod } from "./adapters/registry.ts";
import { type AdapterChoice, AdapterSet, adaptersOf, promptFormatOf } from "./adapters/set.ts";
import { type Term, weightedSum as sumOfAdapters } from "./adapters/sum.ts";
import { attachAll, wireAdapter } from "./adapters/wiring.ts";
import { localPath } from "./formats/hub.ts";
import type { EngineChoice } from "./kernels/engines/choice.ts";
import { chooseEngine } from "./kernels/engines/choose.ts";
import type { Precision } from "./kernels/engines/webgpu/engine.ts";
import { generateTokens } from "./rwkv/generate.ts";
import { Model } from "./rwkv/model.ts";
import { Answer, PROMPT_FORMAT, promptFor, promptFormat } from "./rwkv/prompt_format.ts";
import { Session } from "./rwkv/session.ts";
import { chooseTokenizer } from "./rwkv/tokenizer/choose.ts";
import { streamDecoder } from "./rwkv/tokenizer/tokenizer.ts";
import { random } from "./training/data/random.ts";
import { chosenTargets } from "./training/methods.ts";

export { saveAdapter } from "./adapters/file.ts";
export { savePeft, type SavePeftOptions } from "./adapters/peft/write.ts";
export type { PeftType } from "./adapters/peft/config.ts";
export { type AdapterSummary, inspect, type Inspection, type ModelSummary } from "./adapters/inspect.ts";
export { saveRwkvPeft, type SaveRwkvPeftOptions } from "./adapters/rwkv_peft.ts";
export { Adapter, AdapterError };
export type { Original, Originals } from "./adapters/originals.ts";
export type { HostTensor } from "./adapters/adapter.ts";
export type { MergeCheck } from "./adapters/check_merge.ts";
export { mergeAdapter, type MergeOptions, type MergeResult } from "./adapters/merge_adapter.ts";
export type { FloatDType } from "./adapters/merged_file.ts";
export type {
  AdapterForward,
  AdapterHints,
  AdapterInitialiser,
  AdapterMerge,
  AdapterMethod,
  AdapterParameter,
  AdapterWeight,
  LowRank,
  Noise,
  Settings,
  Site,
  UnnamedFile,
} from "./adapters/method.ts";
export { type AdapterChoice, AdapterSet };
export type { Term } from "./adapters/sum.ts";
export type { Targets } from "./adapters/targets.ts";
export { registerAdapter } from "./adapters/registry.ts";
export { fetchFromHub, type FetchOptions, HubError, type HubFile, type HubPlaces } from "./formats/hub.ts";
export type { Engine, Executable } from "./kernels/engine.ts";
export { EngineError } from "./kernels/engine.ts";
export type { Shard, TensorFile, TensorFormat, TensorInfo } from "./formats/tensor_file.ts";
export type { DType } from "./formats/dtype.ts";
export type { EngineChoice } from "./kernels/engines/choice.ts";
export type { Precision } from "./kernels/engines/webgpu/engine.ts";
export { Graph, Tensor, Variable } from "./kernels/graph.ts";
export type { Node, StorageType, TensorType } from "./kernels/graph.ts";
export type {
  Alternative,
  Binding,
  CpuCall,
  DeviceLimits,
  GradientCall,
  MatrixUnits,
  NumberArray,
  Op,
  Pass,
} from "./kernels/op.ts";
export type { Program } from "./kernels/plan.ts";
export type { Place } from "./kernels/slots.ts";
export type { View } from "./kernels/views.ts";
export * as ops from "./kernels/ops.ts";
export { type ModelConfig, ModelError } from "./rwkv/config.ts";
export { Model } from "./rwkv/model.ts";
export { PROMPT_FORMATS } from "./rwkv/prompt_format.ts";
export type { ModelState } from "./rwkv/session.ts";
export type { LayerState, Wiring } from "./rwkv/v7.ts";
export { computeGradients, type GradientOptions } from "./training/gradients.ts";
export type { Schedule } from "./training/schedule.ts";
export {
  type BoneConfig,
  type LoraConfig,
  OptionError,
  type PissaConfig,
  type TrainOptions,
} from "./training/options.ts";
export type { MaskId } from "./training/data/answers.ts";
export type { DocumentsSummary, LossMask, ReadDocumentsOptions } from "./training/data/documents.ts";
export type { DataType, FileType } from "./training/data/files.ts";
export type { Dataload } from "./training/data/rows.ts";
export { evaluate, type EvaluateOptions, type Evaluation } from "./training/evaluate.ts";
export { type Prepared, prepareData, type PrepareOptions } from "./training/prepare.ts";
export { planPretraining, pretrain, type PretrainOptions } from "./training/pretrain.ts";
export type { Phase, StepReport, TrainListeners, TrainResult } from "./training/listeners.ts";
export { planTraining, type TrainingPlan } from "./training/dry_run.ts";
export type { LargestBinding, MemoryPlan } from "./training/memory.ts";
export { train } from "./training/trainer.ts";

/**
 * Loads an RWKV-7 model from a `.pth` or safetensors file, or one that was fetched, by its name on the Hub.
 *
 * @param options.engine "auto" (default) takes a hardware GPU where there is one, else the processor
 * @param options.precision "fp32" (default), or "auto" for the fastest products that a GPU has, with operands in f16 and f32 sums
 * @returns the model, which holds its engine until {@link Model.dispose}
 * @throws FormatError, ModelError, EngineError, each in one sentence
 */
export async function loadModel(
  path: string,
  options: { engine?: EngineChoice; precision?: Precision } = {},
): Promise<Model> {
  const { engine } = await chooseEngine(options.engine, { precision: options.precision ?? "fp32" });
  try {
    const model = Model.load(localPath(path), engine);
    model.onDispose(() => engine.dispose());
    return model;
  } catch (error) {
    engine.dispose();
    throw error;
  }
}

/** What {@link createAdapter} makes: a method's name, its settings, and what trains along. */
export interface CreateAdapterOptions {
  /** Name of a registered method. Default: "bone". */
  readonly peft?: string;
  /** Weights whose names contain one of these are part of the adapter too. Default: none. */
  readonly trainParts?: readonly string[];
  /** Fixes the noise of methods that start from noise. */
  readonly seed?: number;
  /** For bat: what chooses the block of a tile. Default: "in". */
  readonly batAxis?: "in" | "out";
  /** Linear layers to adapt: names, last parts of names, one expression for whole names, or "all-linear". Default: all. */
  readonly targetModules?: string | readonly string[];
  /** Linear layers to leave out, likewise. */
  readonly excludeModules?: string | readonly string[];
  /** Numbers of the blocks to adapt. */
  readonly layersToTransform?: number | readonly number[];
  /** What stands before a block's number in a name. */
  readonly layersPattern?: string | readonly string[];
  /** Ranks of layers whose names end so, or match so. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** Alphas likewise. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
  /** Settings of the method: `r` for bone. */
  readonly [setting: string]: unknown;
}

/**
 * A fresh adapter for a model: for bone all zeros, which changes nothing yet.
 * @throws RangeError if the settings do not fit the model
 */
export function createAdapter(model: Model, options: CreateAdapterOptions = {}): Adapter {
  const { peft = "bone", trainParts = [], seed = 42, batAxis, rankPattern, alphaPattern, ...rest } = options;
  const { targetModules, excludeModules, layersToTransform, layersPattern, ...settings } = rest;
  return newAdapter(model, adapterMethod(peft), {
    settings: batAxis === undefined ? settings : { ...settings, axis: batAxis },
    trainParts,
    noise: random(seed, "adapter"),
    targets: chosenTargets({ targetModules, excludeModules, layersToTransform, layersPattern }),
    rankPattern,
    alphaPattern,
  });
}

/**
 * Loads an adapter from a `.pth` or safetensors file with keys `<site>.<tensor>`, such as `blocks.0.att.key.bone`, or from a
 * Hugging Face PEFT directory (BONE, MISS or LORA; PEFT 0.14 to 0.21).
 * @param hints what the file may leave unsaid: `loraAlpha`
 * @throws FormatError, AdapterError
 */
export function loadAdapter(path: string, hints: AdapterHints = {}): Promise<Adapter> {
  return Promise.resolve().then(() => loadAdapterFile(path, hints));
}

/**
 * The adapter that adds a weighted sum of what others add to a model.
 * @param terms adapters with their factors
 * @throws AdapterError where a sum would not be exact (BAT, DoRA, state tuning, weights that trained along), or one does not fit
 */
export function weightedSum(model: Model, terms: readonly Term[]): Adapter {
  return sumOfAdapters(model.config, terms);
}

/** How {@link generate} goes on from a prompt. */
export interface GenerateOptions {
  /** What the text goes on from; with a prompt format, what the user says, unless it is written out already. */
  readonly prompt: string;
  /**
   * How the prompt is written out and what ends the answer: a name such as `chat`, a template, or `plain` to go on from the
   * prompt itself. Default: the format of the conversations that the adapter or the model learnt, where there were any; else plain.
   */
  readonly promptFormat?: string;
  /** Comes before the user's words, where the format has a place for it. */
  readonly system?: string;
  /** Adapters to read the model with: one, several in stacking order, or those of a set that are in use. */
  readonly adapter?: AdapterChoice;
  /** Tokens at most. Default: 256. */
  readonly tokens?: number;
  /** 0 takes the likeliest token every time. Default: 1. */
  readonly temperature?: number;
  /** Draws from the fewest likeliest tokens that hold this share. Default: 0.85. */
  readonly topP?: number;
  /** Default: 42. */
  readonly seed?: number;
  /** World vocabulary file. Default: beside the model. */
  readonly vocab?: string;
}

/**
 * Text that follows a prompt, piece by piece as it comes.
 * @throws RangeError for a temperature below 0, a topP outside (0, 1], a count below 1 or an unknown prompt format
 */
export async function* generate(model: Model, options: GenerateOptions): AsyncGenerator<string> {
  const { prompt, tokens = 256, temperature = 1, topP = 0.85, seed = 42, vocab } = options;
  if (!(temperature >= 0)) throw new RangeError(`The temperature must be at least 0: it is ${temperature}`);
  if (!(topP > 0 && topP <= 1)) throw new RangeError(`top_p must be above 0 and at most 1: it is ${topP}`);
  if (!(Number.isSafeInteger(tokens) && tokens >= 1)) {
    throw new RangeError(`The number of tokens must be a whole number of at least 1: it is ${tokens}`);
  }
  const { config, engine, file } = model;
  const adapters = adaptersOf(options.adapter);
  const stored = promptFormatOf(adapters) ?? file.metadata.get(PROMPT_FORMAT);
  const format = promptFormat(options.promptFormat ?? stored ?? "plain");
  const tokenizer = await chooseTokenizer({
    vocabulary: config.vocabulary,
    modelPath: file.path,
    ...(vocab === undefined ? {} : { vocab }),
  });
  for (const adapter of adapters) checkBase(adapter, model.fingerprint, file.path);
  using attached = attachAll(adapters, model);
  const session = new Session(
    config,
    (graph) => wireAdapter(graph, model, attached),
    engine,
  );
  try {
    const draw = random(seed, "generate");
    const decoder = streamDecoder(tokenizer);
    const sampling = { temperature, topP };
    const drawn = { count: tokens, sampling, uniform: () => draw.uniform() };
    const given = tokenizer.encode(promptFor(format, prompt, { system: options.system }));
    const answer = new Answer(format.stops);
    if (format.begun) yield format.begun;
    for await (const token of generateTokens(session, given, drawn)) {
      const text = answer.push(decoder.push(token));
      if (text) yield text;
      if (answer.ended) return;
    }
    const rest = answer.push(decoder.end()) + answer.end();
    if (rest) yield rest;
  } finally {
    session.dispose();
  }
}
