/**
 * Merging from end to end: which files, what is checked before and after, and that a model gets its name only if it is right.
 *
 * @module
 */
import { dirname } from "node:path";
import { openTensorFile, type TensorFile } from "../formats/tensor_file.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import type { Engine } from "../kernels/engine.ts";
import { linearSites } from "../rwkv/config.ts";
import { fingerprint, readModelConfig } from "../rwkv/model.ts";
import { type Adapter, AdapterError, checkBase, checkFits } from "./adapter.ts";
import { compareBlocks, compareLayers, compareLogits, type MergeCheck } from "./check_merge.ts";
import { loadAdapter } from "./file.ts";
import { fitTo, isInitialState } from "./fit.ts";
import { copyCompanions, type FloatDType, prepareMerged } from "./merged_file.ts";
import type { AdapterHints } from "./method.ts";
import { requireOutput } from "./merge_output.ts";
import { broughtButMissing } from "./restore.ts";

/** What {@link mergeAdapter} folds together. */
export interface MergeOptions {
  /** Base model: a file, the index of several, or a folder with one of these. RWKV-7, or any other model of linear layers. */
  readonly base: string;
  /** Adapter file, PEFT directory, or an adapter. */
  readonly adapter: string | Adapter;
  /** What the adapter's file may leave unsaid. */
  readonly hints?: AdapterHints;
  /** Where the merged model goes: the base's format unless the extension says otherwise; a folder for several files, which are safetensors where the base is a `.pth`. */
  readonly output: string;
  /** Element type of the merged model's floating-point tensors. Default: each tensor's own in the base. */
  readonly dtype?: FloatDType;
  /** Most bytes of a file of an output folder. Default: as the base is divided. */
  readonly shardBytes?: number;
  /** Takes the adapter out of a model that it was merged into, which is then the base here. */
  readonly unmerge?: boolean;
  /** Replace an existing output, and merge even into another base than the adapter was made for. */
  readonly force?: boolean;
  /** Which engine compares the two. Default: "auto". */
  readonly engine?: EngineChoice;
}

/** What a merge came to. */
export interface MergeResult extends MergeCheck {
  /** Path of the merged model: the file, or the index of several. */
  readonly output: string;
  /** One sentence on the engine that compared the two. */
  readonly engine: string;
  /**
   * Whether the base is known to be the one that the adapter was made for; with `unmerge`, whether what came out is that, byte for
   * byte. Undefined where the adapter does not say.
   */
  readonly sameBase: boolean | undefined;
  /**
   * With `unmerge`, most by which a weight can differ from what it was before the merge, as either rounds once; undefined for methods
   * that do more than add.
   */
  readonly mostOff?: number | undefined;
  /** Whether it is an RWKV-7 model with the official names, which this project runs. */
  readonly isRwkv7: boolean;
}

/** Bytes of a model that is compared by its logits on a processor, where it lies in memory as a whole; a larger one is by its blocks. */
const MOST_IN_MEMORY = 5e8;
/** Of the memory that is free, the share that such a model may take: it is there once as bytes and once on the engine. */
const FREE_SHARE = 0.25;

/**
 * Folds an adapter into its base model and compares both before the output gets its name.
 *
 * One tensor at a time is in memory. The merged model has the base's names, order, shapes and dtypes, unless another dtype is asked
 * for; the arithmetic is f32 and rounds once.
 * @throws AdapterError if the adapter does not fit or was made for another base
 * @throws Error if the merged model differs by more than rounding; nothing is left then
 */
export async function mergeAdapter(options: MergeOptions): Promise<MergeResult> {
  const { base, output, force = false, unmerge = false, dtype, shardBytes } = options;
  const adapter = typeof options.adapter === "string"
    ? loadAdapter(options.adapter, options.hints)
    : options.adapter;
  const path = typeof options.adapter === "string" ? options.adapter : undefined;
  requireOutput(output, { base, adapter: path, force });
  using file = openTensorFile(base);
  const isRwkv7 = requireFit(adapter, file);
  const isBase = (file: TensorFile) =>
    isRwkv7 && adapter.base ? adapter.base === fingerprint(file) : undefined;
  const sameBase = unmerge ? undefined : isBase(file);
  if (sameBase === false && !force) checkBase(adapter, "", base);
  if (unmerge && !force) requireMerged(adapter, file);
  const isFolder = file.path !== base || file.shards.length > 0;
  const several = shardBytes ??
    (isFolder && !file.shards.length && !/\.\w+$/.test(output) ? Infinity : undefined);
  using pending = prepareMerged(file, adapter, output, { dtype, shardBytes: several, unmerge, force });
  const { engine, reason } = await chooseEngine(options.engine, { precision: "fp32" });
  try {
    using merged = openTensorFile(pending.path);
    checkSame(file, merged, adapter);
    const lacking = unmerge ? undefined : broughtButMissing(merged, adapter, fitTo(adapter, merged));
    if (lacking) {
      throw new Error(`The merged model is wrong, so it was not written: ${lacking}; please report this`);
    }
    const [before, after] = unmerge ? [merged, file] : [file, merged];
    const compare = !isRwkv7 || isBeyond(adapter, file)
      ? compareLayers
      : fitsInto(engine, file)
      ? compareLogits
      : compareBlocks;
    let check = await compare(before, adapter, after, engine);
    // A model may make more of rounding than most do; its blocks tell whether it is that.
    if (compare === compareLogits && !(check.relativeError <= check.bound)) {
      check = await compareBlocks(before, adapter, after, engine);
    }
    if (!(check.relativeError <= check.bound)) {
      throw new Error(
        `The ${unmerge ? "unmerged" : "merged"} model would differ from base plus adapter by ${
          check.relativeError.toExponential(1)
        } in the ${check.extent}, more than the ${check.bound} that rounding explains, so it was not written: ` +
          (unmerge ? "the adapter may not be what was merged into it" : "please report this"),
      );
    }
    const outcome = unmerge ? { sameBase: isBase(merged), mostOff: pending.mostOff } : { sameBase };
    const written = pending.commit();
    if (written.endsWith(".index.json") && isFolder) copyCompanions(file, dirname(written), dtype);
    return { ...check, output: written, engine: reason, isRwkv7, ...outcome };
  } finally {
    engine.dispose();
  }
}

/**
 * Checks that an adapter fits a file of weights, whatever model it is of.
 * @returns whether it is an RWKV-7 model with the official names
 * @throws AdapterError, ModelError
 */
export function requireFit(adapter: Adapter, file: TensorFile): boolean {
  const isRwkv7 = file.tensors.has("blocks.0.att.r_k");
  if (!isRwkv7 || isBeyond(adapter, file)) fitTo(adapter, file);
  else checkFits(adapter, readModelConfig(file));
  return isRwkv7;
}

/** Checks that an adapter was merged into a model, as far as the weights that it brings tell. @throws AdapterError */
export function requireMerged(adapter: Adapter, file: TensorFile): void {
  const foreign = broughtButMissing(file, adapter, fitTo(adapter, file));
  if (foreign === undefined) return;
  throw new AdapterError(
    `Cannot take the ${adapter.method.name} adapter out of ${file.path}: ${foreign}, so it was not merged into this model; ` +
      "name the merged model, or use --force",
  );
}

/** Whether an adapter sits on layers of an RWKV-7 model that are not adapted here, such as the head: they can be merged all the same. */
function isBeyond(adapter: Adapter, file: TensorFile): boolean {
  const own = new Set(linearSites(readModelConfig(file)).map(({ name }) => name));
  try {
    return fitTo(adapter, file).sites.values().some(({ site }) => !own.has(site.name));
  } catch (error) {
    if (error instanceof AdapterError || error instanceof RangeError) return false;
    throw error;
  }
}

/** Whether a model is compared by its logits on this engine. */
function fitsInto(engine: Engine, file: TensorFile): boolean {
  const bytes = [...file.tensors.values()].reduce(
    (sum, { shape, dtype }) => sum + shape.reduce((a, b) => a * b, 1) * (dtype === "F32" ? 4 : 2),
    0,
  );
  if (engine.name !== "cpu") return bytes <= engine.room("f32") / 2;
  const asked = { name: "sys", kind: "systemMemoryInfo" } as const;
  const isKnown = Deno.permissions.querySync(asked).state === "granted";
  const free = isKnown ? Deno.systemMemoryInfo().available : Infinity;
  return bytes <= Math.min(MOST_IN_MEMORY, free * FREE_SHARE);
}

/** Checks that the written model has the base's tensors, in order and shape. @throws Error if not, which is a fault of this program */
function checkSame(base: TensorFile, merged: TensorFile, adapter: Adapter): void {
  const listed = (file: TensorFile) =>
    [...file.tensors.values()].filter(({ name }) => base.tensors.has(name) && !isInitialState(name))
      .map(({ name, shape }) => `${file.prefix}${name} [${shape}]`);
  const extra = [...merged.tensors.keys()].filter((name) =>
    !base.tensors.has(name) && !adapter.tensors.has(name)
  );
  const wanted = listed(base), found = listed(merged);
  if (extra.length || wanted.length !== found.length || wanted.some((text, i) => text !== found[i])) {
    throw new Error("The merged model has not the base's tensors, so it was not written: please report this");
  }
}
