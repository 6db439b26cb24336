/**
 * Where an adapter meets a file of weights, found by names and shapes alone: it serves models that this project cannot run as well.
 *
 * Names are compared without the wrappers' `model.` before them, and those of RWKV-7 whichever of its two sets of names a file has.
 *
 * @module
 */
import type { DType } from "../formats/dtype.ts";
import type { TensorFile, TensorInfo } from "../formats/tensor_file.ts";
import type { Site } from "../rwkv/config.ts";
import { isTransposed, officialName } from "../rwkv/names.ts";
import { type Adapter, AdapterError } from "./adapter.ts";

/** A place in a file, and whether the matrix there lies the other way round than in the adapter's names. */
export type Place<T> = T & { readonly turned: boolean };

/** What an adapter does to the tensors of a file. */
export interface Fit {
  /** The linear layers that it changes, by the names of their weights in the file. */
  readonly sites: ReadonlyMap<string, Place<{ readonly site: Site }>>;
  /** Tensors that it replaces, by their names in the file: its own names for them. */
  readonly replaced: ReadonlyMap<string, Place<{ readonly name: string }>>;
  /** Tensors that it brings and the file lacks, such as an initial state, by its own names. */
  readonly added: readonly string[];
}

/** Names of tensors that only adapters have. */
export const ADAPTER_TENSOR =
  /\.(bone|bone_rows|disha|gbmm|miss_block|bone_block|lora_[AB]|init_lora_[AB]|lora_magnitude_vector)(\.default)?(\.weight)?$/;

/** Element types of weights that an adapter can be added to: a quantised weight means nothing without its scales. */
const WEIGHTS: readonly DType[] = ["F64", "F32", "F16", "BF16"];

/** Whether a tensor is one that a model works without, so that an adapter may bring it. */
export function isInitialState(name: string): boolean {
  return /^blocks\.\d+\.att\.time_state$/.test(name);
}

/**
 * Finds the place of each of an adapter's tensors.
 * @throws AdapterError that names up to five tensors without a place, or of another shape than theirs
 */
export function fitTo(adapter: Adapter, file: TensorFile): Fit {
  const isAdapter = [...file.tensors.keys()].find((name) => ADAPTER_TENSOR.test(name));
  if (isAdapter !== undefined) {
    throw new AdapterError(
      `${file.path} holds "${isAdapter}", so it is an adapter and no model: name the base model`,
    );
  }
  const find = finder(file);
  const sites = new Map<string, Place<{ site: Site }>>(),
    replaced = new Map<string, Place<{ name: string }>>();
  const added: string[] = [];
  const unplaced: string[] = [], misshapen: string[] = [];
  const atSites = new Map<string, Set<string>>();
  for (const [name, { shape }] of adapter.tensors) {
    const weight = find(name), dot = name.lastIndexOf(".");
    const site = name.slice(0, dot), linear = find(`${site}.weight`);
    if (weight) {
      const turned = isTurned(name, weight), wanted = turned ? weight.shape.toReversed() : weight.shape;
      if (`${wanted.filter((x) => x !== 1)}` !== `${shape.filter((x) => x !== 1)}`) {
        misshapen.push(wrong(name, shape, wanted));
      }
      replaced.set(weight.name, { name, turned });
    } else if (linear && linear.shape.length === 2) {
      const turned = isTurned(`${site}.weight`, linear) !== adapter.fanInFanOut;
      const [out, width] = (turned ? linear.shape.toReversed() : linear.shape) as [number, number];
      const layer = Number(/\.(\d+)\./.exec(`.${site}`)?.[1] ?? 0);
      if (!WEIGHTS.includes(linear.dtype)) {
        throw new AdapterError(
          `The weights of ${file.path} are quantised, "${linear.name}" to ${linear.dtype}: name the model that they were made from, in F32, F16 or BF16`,
        );
      }
      sites.set(linear.name, { site: { name: site, layer, in: width, out }, turned });
      atSites.set(site, (atSites.get(site) ?? new Set()).add(name.slice(dot + 1)));
    } else if (isInitialState(name) && find("blocks.0.att.r_k")) added.push(name);
    else unplaced.push(name);
  }
  if (unplaced.length) throw complaint(adapter, file, "it has no place for", unplaced);
  const missing: string[] = [];
  for (const { site } of sites.values()) {
    const wanted = adapter.method.parameters(site, adapter.settingsAt(site.name)),
      present = atSites.get(site.name)!;
    for (const [tensor, { shape, derived }] of Object.entries(wanted)) {
      const name = `${site.name}.${tensor}`, found = adapter.tensors.get(name)?.shape;
      if (!found && !derived) missing.push(name);
      else if (!found) continue;
      else if (`${found}` !== `${shape}`) misshapen.push(wrong(name, found, shape));
      present.delete(tensor);
    }
    unplaced.push(...[...present].map((tensor) => `${site.name}.${tensor}`));
  }
  if (unplaced.length) throw complaint(adapter, file, "it has no place for", unplaced);
  if (misshapen.length) throw complaint(adapter, file, "shapes differ:", misshapen);
  if (missing.length) throw complaint(adapter, file, "it lacks", missing);
  return { sites, replaced, added };
}

function wrong(name: string, found: readonly number[], wanted: readonly number[]): string {
  return `${name} [${found}] for [${wanted}]`;
}

/** Whether one of two names of a tensor is official and the other not, of those that differ by a transposition. */
function isTurned(name: string, { name: other }: TensorInfo): boolean {
  return isTransposed(officialName(name) ?? "") && isTransposed(name) !== isTransposed(other);
}

function complaint(adapter: Adapter, file: TensorFile, what: string, names: readonly string[]): AdapterError {
  const shown = names.slice(0, 5).map((name) => `"${name}"`).join(", ");
  const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
  return new AdapterError(
    `The ${adapter.method.name} adapter does not fit the model ${file.path}: ${what} ${shown}${more}`,
  );
}

/** Finds tensors of a file by their names in any model that wraps it. */
function finder(file: TensorFile): (name: string) => TensorInfo | undefined {
  const byName = new Map<string, TensorInfo | "several">();
  for (const info of file.tensors.values()) {
    const name = plain(file.prefix + info.name);
    byName.set(name, byName.has(name) ? "several" : info);
  }
  return (name) => {
    const found = byName.get(plain(name));
    if (found === "several") {
      return file.tensors.get(name) ?? file.tensors.get(name.slice(file.prefix.length));
    }
    return found;
  };
}

function plain(name: string): string {
  return officialName(name) ?? name.replace(/^(_forward_module\.|module\.|base_model\.|model\.)+/, "");
}
