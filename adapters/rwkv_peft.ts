/**
 * The `.pth` adapters of RWKV-PEFT and its forerunners: tensors under `<site>.<name>`, in the dtype of the model, and nothing that says
 * what they are.
 *
 *     2024-08            .gbmm, later .bone [out, R]          the blocks of BAT by output block, one below the other
 *     2024-09 to 11      .bone [in/R, R, R]                    BAT by input block
 *     2024-11 to 2025-02 .bone [R, out], [in/R, R, R]          Bone, and BAT by input block
 *     2025-02 to 10      .disha                                the same two under another name
 *     all of the time    .lora_A [R, in], .lora_B [out, R]     LoRA, or PiSSA with init_pissa.pth (.init_lora_A, .init_lora_B)
 *                        .time_state [H, N, N]                 state tuning
 *
 * Since then RWKV-PEFT writes PEFT directories. With the default `train_parts` the weights that trained along are in the file too.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { type DType, fromFloat32, toFloat32 } from "../formats/dtype.ts";
import { release } from "../formats/memory.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { type Adapter, AdapterError, type HostTensor } from "./adapter.ts";
import type { AdapterHints } from "./method.ts";

/** Tensors by name. */
type Tensors = Map<string, HostTensor>;

/** Element types of an adapter's tensors. */
const ADAPTER_DTYPES: readonly DType[] = ["F32", "F16", "BF16", "F64"];

/** Reads every tensor of a file under the names of today. @throws FormatError, AdapterError */
export function readTensors(path: string): {
  tensors: Tensors;
  metadata: ReadonlyMap<string, string>;
  /** Whether the names are those of August 2024. */
  isOldest: boolean;
} {
  using file = openTensorFile(path);
  const tensors: Tensors = new Map();
  let isOldest = false;
  for (const { name, dtype, shape } of file.tensors.values()) {
    // A file of this project's own means the names that it has, those of a Llama that begin with "model." too.
    const full = file.metadata.has("wishbone") ? file.prefix + name : name;
    const known = full.replace(/\.(disha|gbmm)$/, ".bone");
    if (tensors.has(known)) throw new AdapterError(`Cannot load ${path}: two of its tensors mean "${known}"`);
    if (!ADAPTER_DTYPES.includes(dtype)) {
      throw new AdapterError(
        `Cannot load ${path}: tensor "${name}" is ${dtype}, and an adapter's are F32, F16 or BF16`,
      );
    }
    isOldest ||= name.endsWith(".gbmm");
    const bytes = file.readBytes(name);
    tensors.set(known, { shape, data: toFloat32(bytes, dtype) });
    release(bytes);
  }
  return { tensors, metadata: file.metadata, isOldest };
}

/**
 * Brings a file without a description into the form that methods know.
 * @param tensors changed in place
 * @returns the hints, with what the file shows
 * @throws AdapterError where a hint is missing
 */
export function modernise(
  { tensors, isOldest }: { tensors: Tensors; isOldest: boolean },
  path: string,
  hints: AdapterHints,
): AdapterHints {
  const hasLora = [...tensors.keys()].some((name) => name.endsWith(".lora_A"));
  const hasInit = [...tensors.keys()].some((name) => name.endsWith(".init_lora_A"));
  if (hasLora && !hasInit) addInitial(tensors, path, hints);
  const lie = howBlocksLie(tensors, isOldest);
  if (lie === "whole" || hints.batAxis === undefined && lie === "perhaps flat" && !isOldest) return hints;
  if (lie === "perhaps flat" && hints.batAxis === undefined) {
    throw new AdapterError(
      `Cannot load ${path}: it may be Bone, or BAT with its blocks one below the other: say --bat_axis out if it is BAT`,
    );
  }
  if (hints.batAxis === "in") {
    throw new AdapterError(
      `Cannot load ${path}: no BAT by input block lies flat as its tensors do: ` +
        (lie === "flat" ? "use --bat_axis out" : "leave --bat_axis out if it is Bone"),
    );
  }
  unflatten(tensors);
  return { ...hints, batAxis: "out" };
}

/** PiSSA's first A and B, from their own file. */
function addInitial(tensors: Tensors, path: string, { loraInit, loraAlpha }: AdapterHints): void {
  if (loraInit === undefined) {
    const beside = join(dirname(path), INITIAL_FILE);
    if (loraAlpha === undefined && existsSync(beside)) {
      throw new AdapterError(
        `Cannot load ${path}: it may be a PiSSA, as ${beside} lies beside it; name that with --lora_init, ` +
          "or the alpha with --lora_alpha if it is a LoRA",
      );
    }
    return;
  }
  const { tensors: initial } = readTensors(loraInit);
  const foreign = [...initial.keys()].filter((name) =>
    !/\.init_lora_[AB]$/.test(name) || !tensors.has(name.replace(".init_lora_", ".lora_"))
  );
  if (!initial.size || foreign.length) {
    throw new AdapterError(
      `Cannot load ${loraInit}: ${
        foreign.length ? `"${foreign[0]}" belongs to no tensor of ${path}` : "it holds no tensor"
      }, so it is not the start of that PiSSA`,
    );
  }
  const lacking = [...tensors.keys()].find((name) =>
    /\.lora_[AB]$/.test(name) && !initial.has(asInitial(name))
  );
  if (lacking !== undefined) {
    throw new AdapterError(
      `Cannot load ${loraInit}: it lacks "${
        asInitial(lacking)
      }", so it is not the start of the PiSSA ${path}`,
    );
  }
  initial.forEach((tensor, name) => tensors.set(name, tensor));
}

/** Tensors of Bone or BAT. */
const blocksOf = (tensors: Tensors) => [...tensors].filter(([name]) => name.endsWith(".bone"));

/**
 * Whether the blocks of a BAT lie one below the other, [out, R]. Bone's [R, out] looks alike, but there the number that all layers
 * share is the first, and it is no greater than the width of any.
 */
function howBlocksLie(tensors: Tensors, isOldest: boolean): "flat" | "perhaps flat" | "whole" {
  const found = blocksOf(tensors);
  if (!found.length || found.some(([, { shape }]) => shape.length !== 2)) return "whole";
  const firsts = new Set(found.map(([, { shape }]) => shape[0]!)),
    seconds = new Set(found.map(([, { shape }]) => shape[1]!));
  const [r] = seconds as Iterable<number> as [number];
  if (seconds.size !== 1 || [...firsts].some((out) => out % r)) return "whole";
  const isSquare = found.some(([name, { shape }]) => /\.att\./.test(name) && shape[0]! > r);
  if (firsts.size > 1 || isSquare || isOldest && [...firsts].every((out) => out > r)) return "flat";
  return "perhaps flat";
}

/** Takes blocks that lie one below the other apart to [out/R, R, R]. */
function unflatten(tensors: Tensors): void {
  for (const [name, { shape, data }] of blocksOf(tensors)) {
    const [out, r] = shape as [number, number];
    tensors.set(name, { shape: [out / r, r, r], data });
  }
}

/** The file of a PiSSA's first tensors. */
export const INITIAL_FILE = "init_pissa.pth";

/** The name that a tensor which trains has as a first tensor. */
const asInitial = (name: string) => name.replace(/\.lora_([AB])$/, ".init_lora_$1");

/** Writes an adapter's first tensors into a folder as RWKV-PEFT does when a run begins. @returns the path; undefined where it has none */
export function saveInitial(
  { tensors }: Adapter,
  folder: string,
  { dtype = "F32", force }: Pick<SaveRwkvPeftOptions, "dtype" | "force"> = {},
): string | undefined {
  const initial = new Map([...tensors].filter(([name]) => /\.init_lora_[AB]$/.test(name)));
  if (!initial.size) return undefined;
  const path = join(folder, INITIAL_FILE);
  writeTensors(path, initial, dtype, force);
  return path;
}

/**
 * A PiSSA at its start from the file of its first tensors.
 * @param adapter has the shapes
 * @throws AdapterError where the file holds others
 */
export function withInitial(adapter: Adapter, path: string): Adapter {
  const { tensors: initial } = readTensors(path), tensors = new Map(adapter.tensors);
  const unusable = (why: string) => new AdapterError(`Cannot begin a PiSSA with ${path}: ${why}`);
  for (const [name, { shape }] of adapter.tensors) {
    const first = asInitial(name), found = initial.get(first);
    if (!/\.init_lora_[AB]$/.test(first)) continue;
    if (!found) throw unusable(`it lacks "${first}"`);
    if (found.shape.join() !== shape.join()) {
      throw unusable(`its "${first}" is [${found.shape}] where rank and model ask for [${shape}]`);
    }
    tensors.set(name, { shape, data: name === first ? found.data : found.data.slice() });
  }
  const idle = [...initial.keys()].find((name) => !/\.init_lora_[AB]$/.test(name) || !tensors.has(name));
  if (idle !== undefined) throw unusable(`its "${idle}" has no place in it`);
  return adapter.withTensors(tensors);
}

/** How an adapter is written for RWKV-PEFT. */
export interface SaveRwkvPeftOptions {
  /** What Bone's and BAT's tensors are called: `disha` since February 2025 (default), `bone` before. */
  readonly era?: "bone" | "disha" | undefined;
  /** Element type, which should be the base model's, as its merge script adds them as they are. Default: BF16. */
  readonly dtype?: "F32" | "F16" | "BF16" | undefined;
  /** Replace existing files. */
  readonly force?: boolean | undefined;
}

/**
 * Writes an adapter as RWKV-PEFT's own `.pth`; a PiSSA's first tensors go to `init_pissa.pth` beside it.
 * @returns the paths, and the alpha to merge a LoRA with, which the file cannot say
 * @throws AdapterError where RWKV-PEFT has no such adapter
 */
export function saveRwkvPeft(
  adapter: Adapter,
  path: string,
  { era = "disha", dtype = "BF16", force }: SaveRwkvPeftOptions = {},
): { readonly paths: readonly string[]; readonly loraAlpha?: number } {
  const { method, settings, overrides, tensors } = adapter;
  const refuse = (why: string) => new AdapterError(`Cannot write this adapter for RWKV-PEFT: ${why}`);
  if (!["bone", "bat", "lora", "pissa", "state"].includes(method.name)) {
    throw refuse(`it has no ${method.name}`);
  }
  if (settings.axis === "out") throw refuse("its BAT is by input block, and this one is by output block");
  if (settings.mini_r !== undefined || settings.shards !== undefined) {
    throw refuse("its Bone has shards of columns as high as the weight, and no others");
  }
  const foreign = [...tensors.keys()].find((name) => !/^(blocks\.\d+|emb|head|ln_out)\./.test(name));
  if (foreign !== undefined) throw refuse(`"${foreign}" is no part of an RWKV model`);
  if (overrides.size && method.name === "lora") {
    throw refuse(`it merges all layers with one scale, and ${[...overrides.keys()][0]} has another`);
  }
  const written = new Map([...tensors].map(([name, tensor]) => [name.replace(/\.bone$/, `.${era}`), tensor]));
  const others = new Map([...written].filter(([name]) => !/\.init_lora_[AB]$/.test(name)));
  writeTensors(path, others, dtype, force);
  const initial = saveInitial(adapter, dirname(path), { dtype, force });
  const paths = initial === undefined ? [path] : [path, initial];
  if (method.name !== "lora") return { paths };
  const { r, alpha, rslora } = settings as { r: number; alpha: number; rslora: boolean };
  return { paths, loraAlpha: rslora ? alpha * Math.sqrt(r) : alpha };
}

function writeTensors(path: string, tensors: Tensors, dtype: DType, force: boolean | undefined): void {
  writeTensorFile(path, {
    format: "pth",
    tensors: [...tensors].map(([name, { shape }]) => ({ name, shape, dtype })),
    read: ({ name }) => fromFloat32(tensors.get(name)!.data, dtype),
    force,
  });
}
