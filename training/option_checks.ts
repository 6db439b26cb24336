/**
 * What options have to be, as far as no file is needed to know it.
 *
 * @module
 */
import { promptFormat } from "../rwkv/prompt_format.ts";
import { requireMaskId } from "./data/answers.ts";
import { splitOf } from "./data/splits.ts";
import { flag, OptionError } from "./option_error.ts";
import type { TrainSettings } from "./options.ts";

/** Samples of a micro-batch and micro-batches of a step: each is something in memory. */
const MOST_SAMPLES = 1 << 20;

/** Checks numbers and words. @throws OptionError in one sentence */
export function check(settings: TrainSettings): void {
  const counts = [
    "ctxLen",
    "chunkCtx",
    "microBsz",
    "accumulateGradBatches",
    "epochCount",
    "epochSave",
    "keep",
    "evalBatches",
  ] as const;
  const optionalCounts = ["epochSteps", "maxSteps", "saveSteps", "evalSteps", "earlyStop"] as const;
  for (const name of [...counts, ...optionalCounts]) {
    const value = settings[name];
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1)) {
      throw new OptionError(`${flag(name)} must be a whole number of at least 1: it is ${value}`);
    }
  }
  for (const name of ["microBsz", "accumulateGradBatches"] as const) {
    if (settings[name] > MOST_SAMPLES) {
      throw new OptionError(`${flag(name)} must be at most ${MOST_SAMPLES}: it is ${settings[name]}`);
    }
  }
  const { loadModel, dataFile, evalFile, vocab, projDir } = settings;
  const wrong = Object.entries({ loadModel, dataFile, evalFile, vocab, projDir }).find(([, path]) =>
    path?.includes("\0")
  );
  if (wrong) throw new OptionError(`${flag(wrong[0])} holds a NUL, which no path has`);
  const reals: [keyof TrainSettings, (x: number) => boolean, string][] = [
    ["lrInit", (x) => x > 0, "above 0"],
    ["lrFinal", (x) => x >= 0, "at least 0"],
    ["warmupSteps", (x) => x >= 0 && Number.isInteger(x), "a whole number of at least 0"],
    ["beta1", (x) => x >= 0 && x < 1, "from 0 to below 1"],
    ["beta2", (x) => x >= 0 && x < 1, "from 0 to below 1"],
    ["adamEps", (x) => x > 0, "above 0"],
    ["weightDecay", (x) => x >= 0, "at least 0"],
    ["gradientClipVal", (x) => x > 0, "above 0"],
    ["randomSeed", (x) => Number.isSafeInteger(x) && x >= 0, "a whole number of at least 0"],
    ["heldOut", (x) => x >= 0 && x < 1, "from 0 to below 1"],
  ];
  for (const [name, holds, wanted] of reals) {
    const value = settings[name] as number;
    if (!(Number.isFinite(value) && holds(value))) {
      throw new OptionError(`${flag(name)} must be ${wanted}: it is ${value}`);
    }
  }
  if (!["none", "infctx"].includes(settings.trainType)) {
    throw new OptionError(`Unknown --train_type "${settings.trainType}": there are none and infctx`);
  }
  if (!["constant", "cos", "exp"].includes(settings.lrSchedule)) {
    throw new OptionError(`Unknown --lr_schedule "${settings.lrSchedule}": there are constant, cos and exp`);
  }
  if (settings.lrSchedule === "exp" && settings.lrFinal === 0) {
    throw new OptionError("--lr_final must be above 0 for --lr_schedule exp");
  }
}

/** Checks how data is read against the rest. @throws OptionError in one sentence */
export function checkData(settings: TrainSettings): void {
  const { sftField, promptFormat: format, dataload, groupByLength } = settings;
  if (groupByLength && (dataload === "pack" || dataload === "get")) {
    throw new OptionError(
      `--group_by_length is for samples of many lengths, and --dataload ${dataload} leaves none: leave it out`,
    );
  }
  if (sftField && !(sftField.length >= 1 && sftField.length <= 3)) {
    throw new OptionError(
      `--sft_field names one field (text or messages), two (prompt, answer) or three (instruction, input, output): ` +
        `it has ${sftField.length}`,
    );
  }
  try {
    requireMaskId(settings);
    if (settings.sftSplit !== undefined) splitOf(settings.sftSplit);
    if (format !== "auto") promptFormat(format);
  } catch (error) {
    throw new OptionError((error as Error).message);
  }
}
