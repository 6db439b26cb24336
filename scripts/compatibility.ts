/**
 * Flags of RWKV-PEFT that are no options here, so that a script written for it runs when its first words are exchanged.
 *
 * Some have no meaning here and are named once; some may only have the value that says what happens anyway; those that describe
 * the model are compared with its file.
 *
 * @module
 */
import type { BoneConfig, TrainOptions } from "../mod.ts";
import { flag, OptionError } from "../training/option_error.ts";
import { choice, type Flag, json, real, text, toggle, type Values, whole } from "./flags.ts";

const any = text("VALUE", "");

/** Accepted, without any effect. */
const NOT_NEEDED = {
  accelerator: any,
  strategy: any,
  devices: any,
  numNodes: any,
  dsBucketMb: any,
  wandb: any,
  op: any,
  fla: toggle(""),
  fusedKernel: toggle(""),
  numWorkers: any,
  persistentWorkers: toggle(""),
  prefetchFactor: any,
  loraLoad: any,
  loraR: any,
  loraAlpha: any,
  loraDropout: any,
  loraParts: any,
  lisaConfig: any,
  headSizeDivisor: any,
  tinyAttDim: any,
  tinyAttLayer: any,
  myPosEmb: any,
  myFfnShift: any,
  myAttShift: any,
  mySampleLen: any,
  myPileVersion: any,
  myExit: any,
  avgLoss: any,
} as const;

/** A flag that may only say what happens anyway. */
function only(words: readonly string[], remedy = "nothing else is supported yet"): Flag<string> {
  return choice(words, "", remedy);
}

/** A number that may only be one. */
function onlyNumber(number: number, remedy?: string): Flag<string> {
  const parse = real(""), word = only([String(number)], remedy);
  return { ...parse, read: (values) => word.read([String(parse.read(values))]) };
}

/** Accepted where they say what happens anyway. */
const ONLY = {
  quant: only(["none"]),
  optim: only(["none"], "AdamW is what there is"),
  optimizer: only(["none"], "AdamW is what there is"),
  epochBegin: onlyNumber(0, "a run is gone on with by --resume FOLDER"),
  weightDecayFinal: onlyNumber(-1, "the weight decay is constant"),
  dropout: onlyNumber(0),
  preFfn: onlyNumber(0),
  headQk: onlyNumber(0),
  loadPartial: onlyNumber(0),
  myPileStage: onlyNumber(0),
  myPileShift: onlyNumber(-1),
  myPileEdecay: onlyNumber(0),
  myExitTokens: onlyNumber(0),
  myQaMask: onlyNumber(0),
  myRandomSteps: onlyNumber(0),
  magicPrime: onlyNumber(0),
} as const;

/** Compared with the model's file. */
const DESCRIBE_MODEL = {
  nLayer: whole(""),
  nEmbd: whole(""),
  vocabSize: whole(""),
  headSizeA: whole(""),
  headSize: whole(""),
  dimAtt: whole(""),
  dimFfn: whole(""),
  myTesting: text("VALUE", ""),
  rwkvVersion: text("VALUE", ""),
} as const;

/** Flags that training from scratch accepts besides its own. */
export const ACCEPTED = { ...NOT_NEEDED, ...ONLY };

/** Bone's settings under its later names. */
const LATER_NAMES = {
  dishaConfig: json('{"mode":"bone","load":"","r":64}', "", { mode: "string", load: "string", r: "number" }),
} as const;

/** State tuning as RWKV-PEFT asks for it. */
const STATE_TUNING = {
  trainType: choice(["none", "state", "infctx"], ""),
  stateTune: toggle(""),
} as const;

/** All of them. */
export const COMPATIBILITY = { ...ACCEPTED, ...DESCRIBE_MODEL, ...LATER_NAMES, ...STATE_TUNING };

/**
 * Bone's settings, whichever of its names they were given under: `--bone_config` or `--disha_config`.
 * @throws OptionError where they were given twice
 */
export function boneConfig(
  values: Readonly<
    { boneConfig?: BoneConfig; dishaConfig?: Record<string, unknown> }
  >,
): BoneConfig | undefined {
  const { boneConfig, dishaConfig } = values;
  if (!dishaConfig) return boneConfig;
  if (boneConfig) throw new OptionError("--bone_config and --disha_config say the same: leave one out");
  const { mode, load, r } = dishaConfig;
  const renamed = { bone_mode: mode, bone_load: load, bone_r: r };
  return Object.fromEntries(Object.entries(renamed).filter(([, value]) => value !== undefined));
}

/**
 * RWKV-PEFT's flags for state tuning in options: `--train_type state` and `--state_tune` are `--peft state`, or with another method
 * let the initial state train along.
 */
export function stateTuning(
  { trainType, stateTune, peft, trainParts }: Readonly<
    { trainType?: string; stateTune?: boolean; peft?: string; trainParts?: readonly string[] }
  >,
): Pick<TrainOptions, "peft" | "trainParts"> {
  if (trainType !== "state" && !stateTune) return {};
  if (peft === undefined || peft === "none" || peft === "state") return { peft: "state" };
  return { trainParts: [...(trainParts ?? ["time", "ln"]), "time_state"] };
}

/** A sentence on the flags that were given without need; undefined where there are none. */
export function notNeeded(values: Readonly<Record<string, unknown>>): string | undefined {
  // Scripts have it without --loss_mask se as well.
  const isUnused = (option: string) => option === "maskId" && values.lossMask !== "se";
  const named = Object.keys(values).filter((option) => option in NOT_NEEDED || isUnused(option)).map(flag);
  return named.length ? `Not needed here and without effect: ${named.join(", ")}` : undefined;
}

/**
 * Compares what was said of a model with its file, which is not opened where nothing was said.
 * @throws OptionError with both values
 */
export async function checkDescription(values: Values<typeof DESCRIBE_MODEL>, path: string): Promise<void> {
  const said = Object.entries(values).filter(([option]) => option in DESCRIBE_MODEL) as [
    keyof typeof values,
    string | number,
  ][];
  if (!said.length) return;
  const [{ openTensorFile }, { readModelConfig }] = await Promise.all([
    import("../formats/tensor_file.ts"),
    import("../rwkv/model.ts"),
  ]);
  using file = openTensorFile(path);
  const { layers, channels, vocabulary, headSize, ffn } = readModelConfig(file);
  const sizes = {
    nLayer: layers,
    nEmbd: channels,
    vocabSize: vocabulary,
    headSizeA: headSize,
    headSize,
    dimAtt: channels,
    dimFfn: ffn,
  };
  for (const [option, value] of said) {
    // RWKV-PEFT's 0 leaves a width to the program.
    if (value === 0 && option.startsWith("dim")) continue;
    const isVersion = option === "myTesting" || option === "rwkvVersion";
    const agrees = isVersion ? String(value).includes("7") : value === sizes[option];
    if (agrees) continue;
    throw new OptionError(
      `${flag(option)} is ${value} but ${path} has ${isVersion ? "x070 (RWKV-7)" : sizes[option]}: ` +
        "leave it out, what a model is like is read from its file",
    );
  }
}
