/**
 * Folds an adapter into its base model: `deno task merge_bone`, or `sh scripts/merge_bone.sh` from anywhere.
 *
 * @module
 */
import { dirname } from "node:path";
import { requireFit, requireMerged } from "../adapters/merge_adapter.ts";
import { requireOutput } from "../adapters/merge_output.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { type Adapter, loadAdapter, mergeAdapter, type MergeResult } from "../mod.ts";
import { flag, OptionError } from "../training/options.ts";
import { commandLine, runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { ENGINES } from "../kernels/engines/choice.ts";
import { bytes, choice, file, helpText, parseFlags, saidBy, text, toggle } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { adapterOf, baseOf, mergedPath, newestRun } from "./runs.ts";

const USAGE = `Folds an adapter into its base model and checks that the merged model does the same.

  sh scripts/merge_bone.sh --base_model model.pth --lora_checkpoint runs/mine/adapter.pth --output merged.pth
  deno task merge_bone

Without flags it merges the newest run under runs/ with the model that the run began with.

The adapter may be any that this project trains, an RWKV-PEFT .pth, or a Hugging Face PEFT directory of BONE, MISS or LORA. The base
may be any safetensors or .pth model that it fits, a Llama as well: a file, the index of several, or a folder. One tensor at a time
is in memory.`;

const FILES = {
  baseModel: file("base model, index or folder; without it, the one that the adapter's run began with"),
  loraCheckpoint: file("adapter file or PEFT directory; without it, that of the newest run under runs/"),
  output: text(
    "FILE",
    "merged model, in the base's format unless .pth or .safetensors says otherwise, or a folder for a model in several files (safetensors where the base is a .pth); " +
      "without it, merged.* beside the adapter, or unmerged.*",
  ),
  dtype: choice(
    ["fp32", "fp16", "bf16"],
    "dtype of the merged model; without it, each tensor keeps the base's",
  ),
  shardSize: bytes("most bytes of a file, such as 5GB: the output is a folder with an index"),
  unmerge: toggle(
    "take the adapter out of --base_model, which it was merged into; without that, out of the run's merged model",
  ),
  ...HINTS,
  force: toggle("replace an existing output, and merge even into another base than the adapter was made for"),
  engine: choice(ENGINES, "what to compute the check on"),
  ...HUB,
};
const DTYPES = { fp32: "F32", fp16: "F16", bf16: "BF16" } as const;
const OTHERS = {
  quant: choice(["none"], "", "quantised bases are not supported yet"),
  device: text("NAME", ""),
};
const ALL = { ...FILES, ...OTHERS };

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(ALL, args);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FILES }));
    return 0;
  }
  const { force = false, engine = "auto" } = values;
  if (values.device !== undefined) {
    console.error("Not needed here and without effect: --device (there is --engine)");
  }
  const { base, adapter, run } = inputs(values);
  const output = values.output ?? mergedPath(run, base, values.unmerge);
  requireOutput(output, { base, adapter, force });
  const { dtype, shardSize, unmerge = false } = values;
  const hints = hintsFrom(values);
  const loaded = await loadAdapter(adapter, hints);
  fits(loaded, base, unmerge && !force);
  console.error(unmerge ? `Taking ${adapter} out of ${base}` : `Merging ${adapter} into ${base}`);
  work.begun = true;
  const result = await mergeAdapter({
    base,
    adapter: loaded,
    output,
    force,
    engine,
    unmerge,
    ...(dtype === undefined ? {} : { dtype: DTYPES[dtype] }),
    ...(shardSize === undefined ? {} : { shardBytes: shardSize }),
  });
  console.error(result.engine);
  if (unmerge) console.log(outcome(result));
  else if (result.sameBase) {
    console.error("The base is the one that the adapter was trained on, by its SHA-256");
  }
  console.log(
    `Checked: ${result.extent} differ from base plus adapter by at most ${
      result.largestDifference.toPrecision(2)
    }, relative error ${result.relativeError.toExponential(1)} where rounding explains ${
      Number(result.bound.toPrecision(2))
    }`,
  );
  console.log(`Written to ${output}`);
  if (result.isRwkv7) console.log(`Try it with: ${commandLine("generate", ["--load_model", output])}`);
  return 0;
}

/** How near what came out is to the model that the adapter was trained on. */
function outcome({ sameBase, mostOff }: MergeResult): string {
  if (sameBase) return "It is byte for byte the model that the adapter was trained on, by its SHA-256";
  const rounding = mostOff === undefined
    ? "each adapted weight is as near as the rounding of the merge lets it be"
    : `rounding can have left an adapted weight up to ${mostOff.toPrecision(2)} off`;
  return sameBase === undefined
    ? `The adapter does not say which model it was trained on; ${rounding}`
    : `It is not byte for byte the model that the adapter was trained on: ${rounding}`;
}

/** @throws AdapterError if the adapter does not fit the model, or, where that is asked, was not merged into it */
function fits(adapter: Adapter, base: string, isMerged: boolean): void {
  using file = openTensorFile(base);
  requireFit(adapter, file);
  if (isMerged) requireMerged(adapter, file);
}

/** What to merge: as said, or the newest run. */
function inputs(
  values: { baseModel?: string; loraCheckpoint?: string; unmerge?: boolean },
): { base: string; adapter: string; run: string } {
  const newest = values.loraCheckpoint === undefined ? newestRun() : undefined;
  const adapter = values.loraCheckpoint ?? (newest && adapterOf(newest));
  if (adapter === undefined) {
    throw new OptionError(
      "There is no run with an adapter under runs/ here: name one with --lora_checkpoint, or train with run_bone",
    );
  }
  const run = newest ?? dirname(adapter);
  const base = values.baseModel ?? (values.unmerge ? mergedIn(run) : baseOf(run));
  if (base === undefined) {
    throw new OptionError(
      `The base model of ${adapter} is not known, as no config.json of a run lies beside it: name it with --base_model`,
    );
  }
  return { base, adapter, run };
}

/** The model that a run's adapter was merged into without further words; undefined where the folder is no run. */
function mergedIn(run: string): string | undefined {
  const base = baseOf(run);
  return base && mergedPath(run, base);
}

/** The output is written beside its place and renamed into it; what is merged is read. */
function confine(args: readonly string[]): Confinement | undefined {
  const { values, help } = parseFlags(ALL, args);
  if (help) return undefined;
  const { base, adapter, run } = inputs(values);
  const chosen = {
    baseModel: base,
    loraCheckpoint: adapter,
    output: values.output ?? mergedPath(run, base, values.unmerge),
  };
  // What was found here is said to the command, which cannot look for it.
  const unsaid = Object.entries(chosen).filter(([option]) =>
    values[option as keyof typeof chosen] === undefined
  );
  return {
    args: [...args, ...unsaid.flatMap(([option, path]) => [flag(option), path])],
    folders: [dirname(chosen.output)],
    reads: [base, adapter, values.loraInit],
    engine: { choice: values.engine ?? "auto", precision: "fp32" },
  };
}

/** What is named of the Hub. */
const wanted = (args: readonly string[]) => wantedBy(ALL, saidBy(ALL, args));

if (import.meta.main) await runCommand(main, { wanted, confine });
