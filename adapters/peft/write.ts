/**
 * Hugging Face PEFT directories, written as PEFT 0.21 reads them: MISS (PEFT 0.17 and later), BONE (0.14 to 0.18) or LORA.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { renameSynced, writeFileAtomic } from "../../formats/atomic.ts";
import { writeTensorFile } from "../../formats/tensor_file.ts";
import { huggingFaceName } from "../../rwkv/names.ts";
import { type Adapter, AdapterError, type HostTensor } from "../adapter.ts";
import type { Site } from "../method.ts";
import { asHuggingFace } from "../transpose.ts";
import type { PeftType } from "./config.ts";
import { describe, type Described } from "./describe.ts";
import { CONFIG_FILE, PEFT_FILES, WEIGHT_FILES } from "./files.ts";

/** How a PEFT directory is written. */
export interface SavePeftOptions {
  /** Default: LORA for LoRA and DoRA, MISS for the others. LORA of any method that adds a product of thin matrices is exact. */
  readonly type?: PeftType | undefined;
  /** Names of the modules: as the adapter has them (default), or those of Hugging Face RWKV-7 models. */
  readonly names?: "official" | "hf" | undefined;
  /** The adapter's linear layers with their widths, which LORA needs of a Bone. */
  readonly sites?: ReadonlyMap<string, Site> | undefined;
  /** What `base_model_name_or_path` says: a name on the hub or a path. */
  readonly baseModel?: string | undefined;
  /** Replace an existing directory. */
  readonly force?: boolean | undefined;
}

/**
 * Writes an adapter as a PEFT directory, which appears whole or not at all.
 * @throws AdapterError where PEFT has no words for the adapter
 * @throws {Deno.errors.AlreadyExists} where the directory exists and `force` is not set
 */
export function savePeft(adapter: Adapter, folder: string, options: SavePeftOptions = {}): void {
  const { names = "official", baseModel } = options;
  const described = describe(adapter, options.type, options.sites);
  const { tensors, modules, saved, bias } = named(described, names === "hf");
  const own = described.config((site) => names === "hf" ? huggingFaceName(site)! : site);
  const config = {
    auto_mapping: null,
    base_model_name_or_path: baseModel ?? null,
    exclude_modules: null,
    inference_mode: true,
    layers_pattern: null,
    layers_to_transform: null,
    modules_to_save: saved.length ? saved : null,
    revision: null,
    target_modules: briefly(modules),
    // PEFT's wrapper for causal models asks the model for methods that only Hugging Face models have.
    task_type: names === "hf" ? "CAUSAL_LM" : null,
    ...own,
    // The type's own word for the biases of its layers: lora_only, miss_only.
    bias: bias === "only" ? `${own.peft_type}_only`.toLowerCase() : bias,
  };
  appearAsFolder(folder, options.force ?? false, (at) => {
    const sorted = [...tensors].sort(([a], [b]) => a < b ? -1 : 1);
    writeTensorFile(join(at, WEIGHT_FILES[0]), {
      format: "safetensors",
      tensors: sorted.map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
      read: ({ name }) => {
        const { data } = tensors.get(name)!;
        return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
      },
    });
    writeFileAtomic(join(at, CONFIG_FILE), pythonJson(config));
  });
}

/** Gives every tensor the name that PEFT looks for. */
function named(
  { atSites, others }: Described,
  hf: boolean,
): { tensors: Map<string, HostTensor>; modules: string[]; saved: string[]; bias: "none" | "only" | "all" } {
  const tensors = new Map<string, HostTensor>(), modules = new Set<string>(), saved = new Set<string>();
  const rename = (name: string): string => {
    const renamed = hf ? huggingFaceName(name) : name;
    if (renamed !== undefined) return renamed;
    throw new AdapterError(
      `Cannot write "${name}" with Hugging Face's names: it is no part of an RWKV-7 model there`,
    );
  };
  for (const { site, key, tensor } of atSites) {
    modules.add(rename(site));
    tensors.set(`base_model.model.${rename(site)}.${key}`, tensor);
  }
  let bias = "none" as "none" | "only" | "all";
  for (const [name, tensor] of others) {
    const renamed = rename(name), module = /^(.*)\.(?:weight|bias)$/.exec(renamed)?.[1];
    if (module === undefined) {
      throw new AdapterError(
        `Cannot write "${name}" to a PEFT adapter: it is no weight of a module, which is all that modules_to_save can hold; ` +
          `train without it, or merge the adapter instead`,
      );
    }
    const isTarget = modules.has(module);
    if (renamed.endsWith(".bias") && !others.has(name.replace(/bias$/, "weight"))) {
      bias = isTarget && bias !== "all" ? "only" : "all";
      tensors.set(`base_model.model.${module}${isTarget ? ".base_layer" : ""}.bias`, tensor);
      continue;
    }
    if (isTarget) {
      throw new AdapterError(
        `Cannot write "${name}" to a PEFT adapter: PEFT adapts no layer that it saves whole; merge the adapter instead`,
      );
    }
    saved.add(module);
    tensors.set(`base_model.model.${renamed}`, hf ? asHuggingFace(name, tensor) : tensor);
  }
  return { tensors, modules: [...modules], saved: [...saved].sort(), bias };
}

/**
 * Modules as PEFT writes them in target_modules: by the last parts of their names where every layer from the first to the last has the
 * same ones, else by whole names.
 */
function briefly(modules: readonly string[]): string[] {
  const layers = new Map<number, string[]>();
  for (const module of modules) {
    const [, layer, inside] = /^(?:.*\.)?(\d+)\.(.+)$/.exec(module) ?? [];
    if (inside === undefined) return [...modules].sort();
    layers.set(Number(layer), [...layers.get(Number(layer)) ?? [], inside]);
  }
  const insides = [...layers.values()].map((list) => list.sort().join());
  const complete = layers.has(layers.size - 1) && new Set(insides).size === 1;
  if (!complete) return [...modules].sort();
  const whole = [...layers.values()][0]!, last = (name: string) => name.slice(name.lastIndexOf(".") + 1);
  // "key" means att.key and ffn.key alike, so it is brief enough only where both are there or there is but one.
  const kinds = new Set(whole.map(last));
  const both = [...kinds].every((kind) => !SHARED.has(kind) || isShared(whole, kind));
  return both ? [...kinds].sort() : whole;
}

/** Last parts of official names that two linear layers of a block have. */
const SHARED = new Set(["key", "value"]);

function isShared(whole: readonly string[], kind: string): boolean {
  const bearers = whole.filter((name) => name.endsWith(`.${kind}`) || name === kind);
  // Under Hugging Face's names only the channel mix has them.
  return bearers.length === 2 || whole.some((name) => name.startsWith("attn."));
}

/** Text that Python's `json.dumps(indent=2, sort_keys=True)` gives; a share is a float there, so 0 is written 0.0. */
function pythonJson(config: Readonly<Record<string, unknown>>): string {
  const sorted = Object.fromEntries(Object.entries(config).sort(([a], [b]) => a < b ? -1 : 1));
  return JSON.stringify(sorted, null, 2)
    .replace(/("(?:miss|lora)_dropout": \d+)(?=,|\n)/, "$1.0")
    .replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

/** What lies in a PEFT directory; one that holds anything else is not replaced. */
const OWN = [...PEFT_FILES, "README.md"];

/** Fills a folder under another name first, so that it is never seen half done. */
function appearAsFolder(folder: string, force: boolean, fill: (at: string) => void): void {
  const exists = existsSync(folder);
  if (exists) {
    if (!force) {
      throw new Deno.errors.AlreadyExists(
        `Cannot write "${folder}": it exists, choose another path or ask for it to be replaced (force)`,
      );
    }
    const foreign = Deno.statSync(folder).isDirectory
      ? [...Deno.readDirSync(folder)].find(({ name }) => !OWN.includes(name))?.name
      : "it is a file";
    if (foreign !== undefined) {
      throw new AdapterError(
        `Cannot replace "${folder}": it is no PEFT adapter alone (${foreign}), choose another path`,
      );
    }
  }
  const beside = (what: string) =>
    join(dirname(folder), `.${basename(folder)}.${crypto.randomUUID().slice(0, 8)}.${what}`);
  const temporary = beside("tmp"), old = beside("old");
  Deno.mkdirSync(temporary);
  try {
    fill(temporary);
    if (exists) Deno.renameSync(folder, old);
    renameSynced(temporary, folder);
  } catch (error) {
    if (existsSync(old) && !existsSync(folder)) Deno.renameSync(old, folder);
    Deno.removeSync(temporary, { recursive: true });
    throw error;
  }
  if (exists) Deno.removeSync(old, { recursive: true });
}
