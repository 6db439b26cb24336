/**
 * Writes an adapter for other programs: `deno task export_adapter`.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { fitTo } from "../adapters/fit.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import {
  type Adapter,
  loadAdapter,
  type PeftType,
  saveAdapter,
  savePeft,
  saveRwkvPeft,
  type Site,
} from "../mod.ts";
import { OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { choice, file, helpText, parseFlags, saidBy, text, toggle } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, wantedBy } from "./hub.ts";

const USAGE =
  `Writes an adapter for other programs. Nothing is computed but what --to lora needs, and nothing is rounded but to --dtype.

  deno task export_adapter --adapter runs/mine/adapter.pth --output mine-peft
  deno task export_adapter --adapter runs/mine/adapter.pth --output mine-lora --to lora --base_model model.pth --names hf
  deno task export_adapter --adapter mine-peft --output rwkv-0.pth --to rwkv_peft

--to miss, bone and lora give a Hugging Face PEFT directory: miss for PEFT 0.17 and later, bone for 0.14 to 0.18. lora is exact for
Bone, MiSS, mini, LoRA and PiSSA, for servers that know nothing else.`;

const FLAGS = {
  adapter: file("adapter: of this project, RWKV-PEFT's .pth, or a PEFT directory"),
  output: file("file or directory to write"),
  to: choice(
    ["peft", "miss", "bone", "lora", "rwkv_peft", "wishbone"],
    "what to write; peft is miss or lora, whichever the adapter is [by --output: .pth is rwkv_peft, .safetensors is wishbone, else peft]",
  ),
  names: choice(
    ["official", "hf"],
    "names of the layers in a PEFT directory: RWKV's own, or those of Hugging Face models [official]",
  ),
  baseModel: file(
    "the model that the adapter is for: --to lora takes the widths of its layers from there, where the adapter does not tell them",
  ),
  baseModelName: text("NAME", "what a PEFT directory calls its base model"),
  era: choice(
    ["disha", "bone"],
    "what rwkv_peft calls Bone's tensors: disha since February 2025, bone before [disha]",
  ),
  dtype: choice(["fp32", "fp16", "bf16"], "dtype of an rwkv_peft file, best the base model's [bf16]"),
  ...HINTS,
  force: toggle("replace an existing output"),
  ...HUB,
};
const DTYPES = { fp32: "F32", fp16: "F16", bf16: "BF16" } as const;
const TYPES: Readonly<Record<string, PeftType>> = { miss: "MISS", bone: "BONE", lora: "LORA" };

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FLAGS }));
    return 0;
  }
  const { adapter: path, output, names, baseModel, baseModelName, era, dtype, force = false } = values;
  if (path === undefined) throw new OptionError("Name the adapter with --adapter");
  if (output === undefined) throw new OptionError("Say where to with --output");
  const to = values.to ??
    (output.endsWith(".pth") ? "rwkv_peft" : output.endsWith(".safetensors") ? "wishbone" : "peft");
  if (!existsSync(dirname(output))) {
    throw new OptionError(
      `The folder of the output ${output} does not exist: create it, or choose another with --output`,
    );
  }
  if (existsSync(output) && !force) {
    throw new OptionError(
      `The output ${output} exists: choose another with --output, or replace it with --force`,
    );
  }
  const hints = hintsFrom(values);
  const adapter = await loadAdapter(path, hints);
  const sites = baseModel === undefined ? undefined : sitesOf(adapter, baseModel);
  work.begun = true;
  if (to === "wishbone") saveAdapter(adapter, output, { force });
  else if (to === "rwkv_peft") {
    const written = saveRwkvPeft(adapter, output, { era, dtype: dtype && DTYPES[dtype], force });
    if (written.paths.length > 1) console.log(`Written to ${written.paths[1]}`);
    if (written.loraAlpha !== undefined) {
      console.log(`The file cannot say its alpha: merge it with ${written.loraAlpha}`);
    }
  } else savePeft(adapter, output, { type: TYPES[to], names, sites, baseModel: baseModelName, force });
  const along = [...adapter.tensors.keys()].find((name) => /\.(weight|bias)$/.test(name));
  if (to === "lora" && along !== undefined) {
    console.error(
      `Weights that trained along, such as ${along}, are its modules_to_save, which PEFT reads and most servers do not`,
    );
  }
  console.log(`Written to ${output}`);
  return 0;
}

/** The adapter's linear layers with their widths in a model. */
function sitesOf(adapter: Adapter, base: string): Map<string, Site> {
  using file = openTensorFile(base);
  return new Map([...fitTo(adapter, file).sites.values()].map(({ site }) => [site.name, site]));
}

/** The output is written beside its place and renamed into it; the adapter and the model are read. */
function confine(args: readonly string[]): Confinement | undefined {
  const { values, help } = parseFlags(FLAGS, args);
  if (help || values.output === undefined) return undefined;
  const { adapter, baseModel, loraInit, output } = values;
  return { args, folders: [dirname(output)], reads: [adapter, baseModel, loraInit] };
}

/** What is named of the Hub. */
const wanted = (args: readonly string[]) => wantedBy(FLAGS, saidBy(FLAGS, args));

if (import.meta.main) await runCommand(main, { wanted, confine });
