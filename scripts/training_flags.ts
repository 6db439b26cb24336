/**
 * The flags of a training run, in sections as help shows them. Keys are those of {@link TrainOptions}.
 *
 * @module
 */
import type { MaskId, TrainOptions } from "../mod.ts";
import { ENGINES } from "../kernels/engines/choice.ts";
import type { Precision } from "../kernels/engines/webgpu/engine.ts";
import { PROMPT_FORMATS } from "../rwkv/prompt_format.ts";
import { settle } from "../training/options.ts";
import {
  choice,
  type Defaults,
  file,
  type Flag,
  type Flags,
  json,
  list,
  named,
  real,
  text,
  texts,
  toggle,
  type Values,
  whole,
} from "./flags.ts";

/** A flag for each of some options of a run. */
type FlagsFor<K extends keyof TrainOptions> = { readonly [P in K]: Flag<TrainOptions[P]> };

/** -1 says in RWKV-PEFT that nothing is asked for. */
function orNone<T>(flag: Flag<number>, none: T): Flag<number | T> {
  return { ...flag, read: (values) => flag.read(values) === -1 ? none : flag.read(values) };
}

/** The model to start from. */
export const MODEL = {
  loadModel: file("base model, .pth or .safetensors; without it the bundled one"),
} satisfies FlagsFor<"loadModel">;

/** Files and folders. */
export const FILES = {
  dataFile: text(
    "FILE",
    "text to learn: .jsonl, .json, .csv, .parquet, plain text, binidx, or a folder of these; without it, for the bundled model, the bundled one",
  ),
  dataType: choice(
    ["auto", "utf-8", "jsonl", "json", "csv", "parquet", "binidx", "sft"],
    "how to read it; auto and sft go by extensions",
  ),
  sftField: list("fields of a record: text or messages; prompt and answer; or instruction, input and output"),
  sftSplit: text(
    "SPLIT",
    "part of the text, in the words of Hugging Face's datasets: train, train[:1000], test[10%:]; a name chooses files of a folder; without it all",
  ),
  promptFormat: text(
    "NAME",
    `how conversations are written: ${
      Object.keys(PROMPT_FORMATS).join(", ")
    }, or a template such as 'Q: {prompt}\\nA: {response}'; auto is instruction for instructions and chat for the rest`,
  ),
  lossMask: choice(
    ["auto", "none", "pad", "qa", "se"],
    "what is learnt: auto, of conversations the answers and of a text all; none and pad, all; qa, answers, in text those after Assistant: and Response:; " +
      "se, what stands between the texts of --mask_id",
  ),
  maskId: json(
    '{"mask0":"User:","mask1":"Assistant:"}',
    "for --loss_mask se: what follows mask1 is learnt, up to mask0",
    { mask0: "string", mask1: "string" },
  ) as unknown as Flag<MaskId>,
  dataload: choice(
    ["pad", "pack", "get", "only"],
    "rows of a batch: pad, one document each, longer ones cut into several; pack, as many documents as fit, kept apart; get, slices of raw text; only, the beginning of each document",
  ),
  groupByLength: toggle(
    "samples of like length together, so that short ones take less time, at the price of memory",
  ),
  dataShuffle: toggle("an order of its own for each epoch; 0 keeps that of the text"),
  projDir: text("FOLDER", "run folder, must be new; without it the next free of runs/bone, runs/bone-2, …"),
  force: toggle("replace an existing run folder"),
  resume: text(
    "FOLDER",
    "go on with a run that was stopped, or with the checkpoint named; everything else then comes from it",
  ),
  vocab: file("World vocabulary; without it, rwkv_vocab_v20230424.txt beside the model"),
} satisfies FlagsFor<
  | "dataFile"
  | "dataType"
  | "sftField"
  | "sftSplit"
  | "promptFormat"
  | "lossMask"
  | "maskId"
  | "dataload"
  | "dataShuffle"
  | "groupByLength"
  | "projDir"
  | "force"
  | "resume"
  | "vocab"
>;

/** RWKV-PEFT's and Lightning's words for 32 bits; their words for 16 mean what happens anyway: f16 operands, f32 sums. */
const PRECISIONS: Readonly<Record<string, Precision>> = {
  ...{ auto: "auto", bf16: "auto", fp16: "auto", tf32: "auto", "16": "auto" },
  ...{ "bf16-true": "auto", "bf16-mixed": "auto", "16-true": "auto", "16-mixed": "auto" },
  ...{ fp32: "fp32", "32": "fp32", "32-true": "fp32" },
};

/** How long, how much at once. */
export const LENGTH = {
  ctxLen: whole("tokens of a sample"),
  trainType: choice(
    ["none", "infctx"],
    "infctx reads long samples in chunks and carries the state over: memory is that of a chunk",
    "a state is tuned with --peft state",
  ),
  chunkCtx: whole("tokens of a chunk, with --train_type infctx"),
  microBsz: whole("samples of a micro-batch"),
  accumulateGradBatches: whole("micro-batches of a step"),
  epochSteps: whole("micro-batches of an epoch; without it one pass over the text"),
  epochCount: whole("epochs"),
  maxSteps: whole("stop after this many steps"),
  gradCp: toggle("recompute blocks in the backward pass: less memory, a third more time"),
  engine: choice(ENGINES, "what to compute on; deno and dawn are WebGPU by either"),
  precision: named(
    PRECISIONS,
    "auto|fp32",
    "auto: on a GPU the fastest products with f32 sums, also of f16 operands; fp32: operands in f32 too",
  ),
} satisfies FlagsFor<
  | "ctxLen"
  | "trainType"
  | "chunkCtx"
  | "microBsz"
  | "accumulateGradBatches"
  | "epochSteps"
  | "epochCount"
  | "maxSteps"
  | "gradCp"
  | "engine"
  | "precision"
>;

/** The optimizer. */
export const OPTIMIZER = {
  lrInit: real("learning rate at first"),
  lrFinal: real("learning rate at last"),
  lrSchedule: choice(["cos", "exp", "constant"], "how it gets there"),
  warmupSteps: orNone(whole("steps over which it first rises"), 0),
  beta1: real("AdamW"),
  beta2: real("AdamW"),
  adamEps: real("AdamW"),
  weightDecay: real("AdamW"),
  gradientClipVal: real("global gradient norm to clip at"),
  layerwiseLr: toggle("att.w0 learns at twice the rate where it trains"),
  l2wrap: toggle("pull the largest logit a little towards zero"),
  randomSeed: orNone(whole("fixes data order, held-out split and noise"), undefined),
} satisfies FlagsFor<
  | "lrInit"
  | "lrFinal"
  | "lrSchedule"
  | "warmupSteps"
  | "beta1"
  | "beta2"
  | "adamEps"
  | "weightDecay"
  | "gradientClipVal"
  | "layerwiseLr"
  | "l2wrap"
  | "randomSeed"
>;

/** What is kept and shown. */
export const WATCHING = {
  epochSave: whole("epochs between checkpoints"),
  saveSteps: whole("steps between checkpoints, besides those"),
  keep: whole("checkpoints to keep"),
  heldOut: real("share of the text to measure on instead of learning it; 0 for none"),
  evalFile: text("FILE", "text to measure on instead of a share"),
  evalSteps: whole("steps between measurements; without it an epoch"),
  evalBatches: whole("micro-batches to measure on at most"),
  earlyStop: whole("end after this many measurements in a row that were not the best; without it never"),
  samplePrompt: texts("what samples begin with, one text or several; empty for none"),
} satisfies FlagsFor<
  | "epochSave"
  | "saveSteps"
  | "keep"
  | "heldOut"
  | "evalFile"
  | "evalSteps"
  | "evalBatches"
  | "earlyStop"
  | "samplePrompt"
>;

/** To know a run before it is begun. */
export const DRY_RUN = {
  dryRun: toggle("say what the run would be, its memory and the time of a step, and write nothing"),
};

/** The values of one table among those of several. */
export function pick<F extends Flags>(values: Readonly<Record<string, unknown>>, flags: F): Values<F> {
  return Object.fromEntries(Object.entries(values).filter(([option]) => option in flags)) as Values<F>;
}

/** Defaults as help shows them; where they differ, both those for a model of one's own and those for the bundled one. */
export function trainingDefaults(): Defaults {
  const own = settle({ loadModel: "", dataFile: "" }, () => ""), bundled = settle({}, () => "");
  return (option) => {
    if (["loadModel", "dataFile", "projDir"].includes(option)) return undefined;
    const [a, b] = [own, bundled].map((settings) => shown(settings[option as keyof typeof settings]));
    return a === b ? a : `${a}; bundled model ${b}`;
  };
}

function shown(value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value === "boolean") return value ? "1" : "0";
  if (typeof value === "string") return /^\w[\w-]*$/.test(value) ? value : JSON.stringify(value);
  if (typeof value === "number" && value > 0 && value < 1e-3) return value.toExponential();
  return Array.isArray(value)
    ? value.join(" ")
    : typeof value === "object"
    ? JSON.stringify(value)
    : String(value);
}
