/**
 * Trains a model from scratch: `deno task pretrain`.
 *
 * @module
 */
import { dirname } from "node:path";
import type { PretrainOptions } from "../mod.ts";
import { OptionError } from "../training/option_error.ts";
import { commandLine, runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { ACCEPTED, notNeeded } from "./compatibility.ts";
import { CONFIG, parseWithConfig, saidWithConfig } from "./config_file.ts";
import { helpText, text, whole } from "./flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { confineRun, trainOnTerminal } from "./training.ts";
import { DRY_RUN, FILES, LENGTH, OPTIMIZER, pick, WATCHING } from "./training_flags.ts";

const USAGE = `Trains an RWKV-7 model from scratch.

  deno task pretrain --n_layer 12 --n_embd 768 --vocab_size 65536 --vocab rwkv_vocab_v20230424.txt \\
    --data_file text.jsonl --proj_dir runs/mine`;

const SIZES = {
  nLayer: whole("layers"),
  nEmbd: whole("channels"),
  vocabSize: whole("tokens of the vocabulary: 256, for bytes, without it; 65536 for RWKV World"),
  headSize: whole("channels of a head; 64 without it"),
  initModel: text("FILE", "where the fresh model goes; <proj_dir>-init.safetensors without it"),
};
const SECTIONS = {
  "Sizes": SIZES,
  "Files": FILES,
  "Length and memory": LENGTH,
  "Optimizer": OPTIMIZER,
  "Watching": WATCHING,
  "Before you begin": { ...DRY_RUN, ...CONFIG, ...HUB },
};
const OWN = { ...SIZES, ...FILES, ...LENGTH, ...OPTIMIZER, ...WATCHING };
const ALL = { ...OWN, ...ACCEPTED, ...DRY_RUN, ...HUB };

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = await parseWithConfig(ALL, args);
  if (help) {
    console.log(helpText(USAGE, SECTIONS));
    return 0;
  }
  const { nLayer, nEmbd, projDir, resume } = values;
  if (resume === undefined && (nLayer === undefined || nEmbd === undefined || projDir === undefined)) {
    throw new OptionError("Give the sizes and a run folder: --n_layer 12 --n_embd 768 --proj_dir runs/mine");
  }
  const note = notNeeded(values);
  if (note) console.error(note);
  const options = pick(values, OWN) as PretrainOptions;
  // Not loaded by the process's first thread, which only confines this.
  const { planPretraining, pretrain } = await import("../mod.ts");
  if (values.dryRun) {
    const { dryRunOnTerminal } = await import("./dry_run.ts");
    return await dryRunOnTerminal(OWN, (listeners) => planPretraining(options, listeners));
  }
  return await trainOnTerminal({
    task: "pretrain",
    run: (listeners) => pretrain(options, listeners),
    next: ({ output }) => `Try it with: ${commandLine("generate", ["--load_model", output])}`,
  }, work);
}

/** A run writes in its folder, and the fresh model where it goes; it reads what was named. */
async function confine(args: readonly string[]): Promise<Confinement | undefined> {
  const { values, help, config } = await parseWithConfig(ALL, args);
  if (help || (values.resume === undefined && values.projDir === undefined)) return undefined;
  const run = await confineRun("pretrain", values, args, config);
  if (values.resume !== undefined) return run;
  const { freshModelPath } = await import("../training/pretrain.ts");
  return { ...run, folders: [...run.folders, dirname(values.initModel ?? freshModelPath(values.projDir!))] };
}

/** What is named of the Hub. */
const wanted = async (args: readonly string[]) => wantedBy(ALL, await saidWithConfig(ALL, args));

if (import.meta.main) await runCommand(main, { wanted, confine });
