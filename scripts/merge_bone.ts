/**
 * Folds an adapter into its base model: `deno task merge_bone`, or `sh scripts/merge_bone.sh` from anywhere.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { checkFits } from "../adapters/adapter.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { type Adapter, loadAdapter, mergeAdapter } from "../mod.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { OptionError } from "../training/options.ts";
import { commandLine, runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { choice, helpText, parseFlags, real, text, toggle } from "./flags.ts";
import { adapterOf, baseOf, mergedPath, newestRun } from "./runs.ts";

const USAGE = `Folds an adapter into its base model and checks that the merged model says the same.

  sh scripts/merge_bone.sh --base_model model.pth --lora_checkpoint runs/mine/adapter.pth --output merged.pth
  deno task merge_bone

Without flags it merges the newest run under runs/ with the model that the run began with.`;

const FILES = {
  baseModel: text("FILE", "base model; without it, the one that the adapter's run began with"),
  loraCheckpoint: text("FILE", "adapter; without it, that of the newest run under runs/"),
  output: text(
    "FILE",
    "merged model, in the base's format unless .pth or .safetensors says otherwise; without it, merged.* beside the adapter",
  ),
  loraAlpha: real("alpha of a LoRA whose file does not hold it"),
  force: toggle("replace an existing output, and merge even into another base than the adapter was made for"),
  engine: choice(["auto", "webgpu", "cpu"], "what to compute the check on"),
};
const OTHERS = {
  quant: choice(["none"], "", "quantised bases are not supported yet"),
  device: text("NAME", ""),
};

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags({ ...FILES, ...OTHERS }, args);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FILES }));
    return 0;
  }
  const { force = false, engine = "auto" } = values;
  if (values.device !== undefined) {
    console.error("Not needed here and without effect: --device (there is --engine)");
  }
  const { base, adapter, run } = inputs(values);
  const output = values.output ?? mergedPath(run, base);
  checkOutput(output, [base, adapter], force);
  const { loraAlpha } = values;
  const loaded = await loadAdapter(adapter, loraAlpha === undefined ? {} : { loraAlpha });
  fits(loaded, base);
  console.error(`Merging ${adapter} into ${base}`);
  work.begun = true;
  const { largestDifference, relativeError, bound, engine: by } = await mergeAdapter({
    base,
    adapter: loaded,
    output,
    force,
    engine,
  });
  console.error(by);
  console.log(
    `Checked: logits differ from base plus adapter by at most ${
      largestDifference.toPrecision(2)
    }, relative error ` +
      `${relativeError.toExponential(1)} where rounding explains ${bound}`,
  );
  console.log(`Written to ${output}`);
  console.log(`Try it with: ${commandLine("generate", ["--load_model", output])}`);
  return 0;
}

/** @throws OptionError if the output cannot go where it is said to go */
function checkOutput(output: string, inputs: readonly string[], force: boolean): void {
  if (!existsSync(dirname(output))) {
    throw new OptionError(
      `The folder of the output ${output} does not exist: create it, or choose another with --output`,
    );
  }
  if (!existsSync(output)) return;
  if (!force) {
    throw new OptionError(
      `The output ${output} exists: choose another with --output, or replace it with --force`,
    );
  }
  const replaced = inputs.find((input) =>
    existsSync(input) && Deno.realPathSync(input) === Deno.realPathSync(output)
  );
  if (replaced !== undefined) {
    throw new OptionError(
      `The output ${output} would replace ${replaced}, which it is made from: choose another with --output`,
    );
  }
}

/** @throws AdapterError if the adapter does not fit the base model */
function fits(adapter: Adapter, base: string): void {
  using file = openTensorFile(base);
  checkFits(adapter, readModelConfig(file));
}

/** What to merge: as said, or the newest run. */
function inputs(
  values: { baseModel?: string; loraCheckpoint?: string },
): { base: string; adapter: string; run: string } {
  const newest = values.loraCheckpoint === undefined ? newestRun() : undefined;
  const adapter = values.loraCheckpoint ?? (newest && adapterOf(newest));
  if (adapter === undefined) {
    throw new OptionError(
      "There is no run with an adapter under runs/ here: name one with --lora_checkpoint, or train with run_bone",
    );
  }
  const run = newest ?? dirname(adapter);
  const base = values.baseModel ?? baseOf(run);
  if (base === undefined) {
    throw new OptionError(
      `The base model of ${adapter} is not known, as no config.json of a run lies beside it: name it with --base_model`,
    );
  }
  return { base, adapter, run };
}

/** The output is written beside its place and renamed into it. */
function confine(args: readonly string[]): Confinement | undefined {
  const { values, help } = parseFlags({ ...FILES, ...OTHERS }, args);
  if (help) return undefined;
  const { base, run } = inputs(values);
  return { args, folders: [dirname(values.output ?? mergedPath(run, base))] };
}

if (import.meta.main) await runCommand(main, confine);
