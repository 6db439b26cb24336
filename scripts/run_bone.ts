/**
 * Trains a Bone adapter: `deno task run_bone`, or `sh scripts/run_bone.sh` from anywhere.
 *
 * @module
 */
import type { TrainOptions, TrainResult } from "../mod.ts";
import { EXAMPLE } from "../training/options.ts";
import { commandLine, runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { boneConfig, checkDescription, COMPATIBILITY, notNeeded, stateTuning } from "./compatibility.ts";
import { CONFIG, parseWithConfig, saidWithConfig } from "./config_file.ts";
import { helpText } from "./flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { LAYERS, METHOD } from "./method_flags.ts";
import { baseOf, isInRuns, mergedPath } from "./runs.ts";
import { confineRun, trainOnTerminal } from "./training.ts";
import {
  DRY_RUN,
  FILES,
  LENGTH,
  MODEL,
  OPTIMIZER,
  pick,
  trainingDefaults,
  WATCHING,
} from "./training_flags.ts";

const USAGE = `Trains a Bone adapter for an RWKV-7 model.

  sh scripts/run_bone.sh --load_model model.pth --data_file text.jsonl --proj_dir runs/mine
  deno task run_bone

Without flags it trains the bundled model on the bundled text. Flags are RWKV-PEFT's; those that have no meaning
here are accepted and named, and sizes such as --n_layer are only compared with the model's file.`;

const SECTIONS = {
  "Files": { ...MODEL, ...FILES },
  "Method": METHOD,
  "Layers": LAYERS,
  "Length and memory": LENGTH,
  "Optimizer": OPTIMIZER,
  "Watching": WATCHING,
  "Before you begin": { ...DRY_RUN, ...CONFIG, ...HUB },
};
const OWN = { ...MODEL, ...FILES, ...METHOD, ...LAYERS, ...LENGTH, ...OPTIMIZER, ...WATCHING };
const ALL = { ...OWN, ...COMPATIBILITY, ...DRY_RUN, ...HUB };

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = await parseWithConfig(ALL, args);
  if (help) {
    console.log(helpText(USAGE, SECTIONS, trainingDefaults()));
    return 0;
  }
  const { trainType, ...own } = values;
  const options: TrainOptions = pick(own, OWN);
  if (trainType !== undefined && trainType !== "state") options.trainType = trainType;
  const config = boneConfig(values);
  if (config) options.boneConfig = config;
  Object.assign(options, stateTuning(values));
  const note = notNeeded(values);
  if (note) console.error(note);
  if (options.resume === undefined) await checkDescription(values, options.loadModel ?? EXAMPLE.model);
  // Not loaded by the process's first thread, which only confines this.
  const { planTraining, train } = await import("../mod.ts");
  if (values.dryRun) {
    const { dryRunOnTerminal } = await import("./dry_run.ts");
    return await dryRunOnTerminal(OWN, (listeners) => planTraining(options, listeners));
  }
  return await trainOnTerminal({
    task: "run_bone",
    run: (listeners) => train(options, listeners),
    next: (result) => mergeHint(options, result),
  }, work);
}

/** The command that merges the result. */
function mergeHint({ loadModel, peft, resume }: TrainOptions, { projDir, output }: TrainResult): string {
  if (peft === "none" || peft === "full") return "It is a whole model: there is nothing to merge";
  const base = loadModel ?? (resume === undefined ? undefined : baseOf(projDir)) ?? EXAMPLE.model;
  const args = base === EXAMPLE.model && isInRuns(projDir)
    ? []
    : ["--base_model", base, "--lora_checkpoint", output, "--output", mergedPath(projDir, base)];
  return `Merge it with: ${commandLine("merge_bone", args)}`;
}

/** A run writes in its folder only, and reads what was named. */
async function confine(args: readonly string[]): Promise<Confinement | undefined> {
  const { values, help, config } = await parseWithConfig(ALL, args);
  if (help) return undefined;
  const bone = boneConfig(values);
  return await confineRun("run_bone", bone ? { ...values, boneConfig: bone } : values, args, config);
}

/** What is named of the Hub. */
const wanted = async (args: readonly string[]) => wantedBy(ALL, await saidWithConfig(ALL, args));

if (import.meta.main) await runCommand(main, { wanted, confine });
