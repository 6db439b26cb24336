/**
 * Writing a merged model: tensor by tensor, so that no more than the largest of them is in memory; sums in f32, rounded once.
 *
 * A tensor that the adapter does not touch goes through in pieces, bit for bit where its dtype stays.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { writeFileAtomic } from "../formats/atomic.ts";
import { type DType, fromFloat32, toFloat32 } from "../formats/dtype.ts";
import { divideIntoShards, type PendingModel, prepareFile, prepareShards } from "../formats/pending.ts";
import { release, releasing } from "../formats/memory.ts";
import { RandomAccessFile, writeFully } from "../formats/random_access_file.ts";
import { modelIn, type TensorFile, type TensorFormat, type TensorInfo } from "../formats/tensor_file.ts";
import { PROMPT_FORMAT } from "../rwkv/prompt_format.ts";
import { type Adapter, AdapterError } from "./adapter.ts";
import { type Fit, fitTo, isInitialState, type Place } from "./fit.ts";
import { mergedWeight, unmergedWeight } from "./merge.ts";
import { folderOf, formatOf } from "./merge_output.ts";
import type { Site } from "./method.ts";
import { type Restoration, restorationOf } from "./restore.ts";
import { transposed } from "./transpose.ts";

/** The dtypes that a model can be converted to. */
export type FloatDType = "F32" | "F16" | "BF16";

/** How a merged model is written. */
export interface WriteMergedOptions {
  /** Replace an existing output. */
  readonly force?: boolean | undefined;
  /** Format of the output: after its extension, else the base's; safetensors for a `.pth` that goes to several files. */
  readonly format?: TensorFormat | undefined;
  /** Element type of the output's floating-point tensors: each keeps the base's where it is not given. */
  readonly dtype?: FloatDType | undefined;
  /** Most bytes of a file, for an output in several files: the base's own division where it is not given. */
  readonly shardBytes?: number | undefined;
  /** Take the adapter out of a model that it was merged into. */
  readonly unmerge?: boolean | undefined;
}

/** A merged model that is written and has no name yet. */
export interface PreparedModel extends PendingModel {
  /**
   * Where an adapter was taken out: most by which a weight can differ from what it was before the adapter was merged, as either
   * rounds once. Undefined for methods that do not only add, which may enlarge what was rounded.
   */
  readonly mostOff: number | undefined;
}

const FLOATS: readonly DType[] = ["F64", "F32", "F16", "BF16"];
/** Most that F16 can hold. */
const F16_MAX = 65504;
/** Most that rounding changes a number by, relative to it. */
const HALF_STEP: Readonly<Partial<Record<DType, number>>> = { F16: 2 ** -11, BF16: 2 ** -8 };
const HALF_STEP_F32 = 2 ** -24;

/**
 * Writes the merged model beside its final name; the caller checks it and commits.
 *
 * @param output a `.pth` or `.safetensors` file, or a folder for a model in several files
 * @throws AdapterError if the adapter does not fit, or a result cannot be held by its dtype
 */
export function prepareMerged(
  base: TensorFile,
  adapter: Adapter,
  output: string,
  options: WriteMergedOptions = {},
): PreparedModel {
  const { force, dtype, unmerge = false } = options;
  const fit = fitTo(adapter, base);
  const restoration = unmerge ? restorationOf(adapter, fit) : undefined;
  const kept = [...base.tensors.values()].filter(({ name }) => !restoration?.dropped.has(name));
  const converted = (info: TensorInfo): TensorInfo => ({
    ...info,
    name: base.prefix + info.name,
    dtype: dtype && FLOATS.includes(info.dtype) ? dtype : info.dtype,
  });
  const added = unmerge ? [] : fit.added.map((name): TensorInfo => {
    const { shape } = adapter.tensors.get(name)!;
    return { name: base.prefix + name, shape, dtype: dtype ?? stateDType(base) };
  });
  const tensors = [...kept.map(converted), ...added];
  const content = new MergedContent(base, adapter, fit, restoration);
  const read = (info: TensorInfo) => content.of(info);
  const folder = folderOf(output, base, options.shardBytes);
  // No program looks for a .pth in several files.
  const own = folder !== undefined && base.path.endsWith(".pth") ? "safetensors" : base.format;
  const format = options.format ?? formatOf(output, own);
  const metadata = new Map(base.metadata);
  if (unmerge) metadata.delete(PROMPT_FORMAT);
  else if (adapter.promptFormat !== undefined) metadata.set(PROMPT_FORMAT, adapter.promptFormat);
  const common = { format, read, metadata, force };
  const pending = folder === undefined
    ? prepareFile(output, { ...common, tensors })
    : inFolder(folder, tensors, base, common, options.shardBytes);
  const unused = content.unused();
  if (unused.length) {
    pending[Symbol.dispose]();
    throw new AdapterError(
      `The ${adapter.method.name} adapter was not used whole: ${unused.slice(0, 5).join(", ")} is left`,
    );
  }
  return Object.assign(pending, { mostOff: adapter.method.lowRank ? content.mostOff : undefined });
}

/** Writes a merged model at once, unchecked; see {@link prepareMerged}. @returns the path of the file or index */
export function writeMerged(
  base: TensorFile,
  adapter: Adapter,
  output: string,
  options: WriteMergedOptions = {},
): string {
  using pending = prepareMerged(base, adapter, output, options);
  return pending.commit();
}

type Common = Parameters<typeof prepareShards>[3];

function inFolder(
  folder: string,
  tensors: readonly TensorInfo[],
  base: TensorFile,
  common: Common,
  shardBytes: number | undefined,
): PendingModel {
  const names = common.format === "pth"
    ? ["pytorch_model", ".bin"] as const
    : ["model", ".safetensors"] as const;
  const other = modelIn(folder);
  if (other !== undefined && basename(other) !== `${names.join("")}.index.json`) {
    throw new AdapterError(
      `The folder ${folder} holds another model, ${
        basename(other)
      }, beside which none can lie: choose another with --output`,
    );
  }
  const byName = new Map(tensors.map((info) => [info.name, info]));
  const own = base.shards.map(({ file, tensors }) => ({
    file: common.format === base.format ? file : file.replace(/\.\w+$/, names[1]),
    tensors: tensors.map(({ name }) => byName.get(name)!),
  }));
  const known = new Set(own.flatMap(({ tensors }) => tensors));
  own.at(-1)?.tensors.push(...tensors.filter((info) => !known.has(info)));
  const shards = shardBytes === undefined && own.length
    ? own
    : divideIntoShards(tensors, shardBytes ?? Infinity, names);
  return prepareShards(folder, names.join(""), shards, common);
}

/** What the added initial states are kept as: the dtype of the model's other recurrence tensors. */
function stateDType(base: TensorFile): DType {
  return [...base.tensors.values()].find(({ name }) => name.endsWith(".att.r_k"))?.dtype ?? "F32";
}

/** Copies what lies beside a base model's files, such as its configuration and tokenizer, to a folder that lacks it. */
export function copyCompanions(base: TensorFile, folder: string, dtype?: FloatDType): void {
  const from = dirname(base.path);
  for (const { name, isFile } of Deno.readDirSync(from)) {
    const copy = join(folder, name);
    if (!isFile || name.startsWith(".") || WEIGHTS.test(name) || existsSync(copy)) continue;
    if (name === "config.json" && dtype) {
      writeFileAtomic(copy, withDType(Deno.readTextFileSync(join(from, name)), dtype));
    } else writeFileAtomic(copy, (file) => copyTo(file, join(from, name)));
  }
}

function copyTo(file: Deno.FsFile, path: string): void {
  using source = new RandomAccessFile(path);
  for (let at = 0; at < source.size; at += PIECE) {
    writeFully(file, source.read(at, Math.min(PIECE, source.size - at)));
  }
}

/** Bytes that are copied at once. */
const PIECE = 1 << 24;
const WEIGHTS = /\.(safetensors|bin|pth|pt|gguf|onnx|h5|msgpack|ckpt|index\.json)$/;
const TORCH_NAMES: Readonly<Record<FloatDType, string>> = {
  F32: "float32",
  F16: "float16",
  BF16: "bfloat16",
};

function withDType(config: string, dtype: FloatDType): string {
  return config.replace(/("(?:torch_)?dtype"\s*:\s*)"[^"]*"/g, `$1"${TORCH_NAMES[dtype]}"`);
}

/** The bytes of each tensor of a merged model. */
class MergedContent {
  /** See {@link PreparedModel.mostOff}. */
  mostOff = 0;
  readonly #left: Set<string>;

  constructor(
    readonly base: TensorFile,
    readonly adapter: Adapter,
    readonly fit: Fit,
    /** Given where the adapter is taken out. */
    readonly restoration: Restoration | undefined,
  ) {
    this.#left = new Set(adapter.tensors.keys());
  }

  /** Tensors of the adapter that no tensor of the model has taken up. */
  unused(): string[] {
    return [...this.#left].filter((name) => !this.restoration || !isInitialState(name));
  }

  /** The bytes of a tensor in pieces; each is gone when the next is asked for. */
  of(info: TensorInfo): Iterable<Uint8Array<ArrayBuffer>> {
    return releasing(this.#pieces(info));
  }

  *#pieces({ name: fullName, dtype }: TensorInfo): Generator<Uint8Array<ArrayBuffer>> {
    const name = fullName.slice(this.base.prefix.length);
    const { base, fit } = this, info = base.tensors.get(name);
    const replaced = fit.replaced.get(name), place = fit.sites.get(name);
    if (!info) yield narrowed(this.#take(name).data, dtype, name);
    else if (replaced || place) yield* this.#changed(info, dtype, replaced, place);
    else if (info.dtype === dtype) yield* base.readPieces(name);
    else {
      for (const piece of base.readPieces(name)) {
        const wide = toFloat32(piece, info.dtype);
        release(piece);
        yield narrowed(wide, dtype, name);
        release(wide);
      }
    }
  }

  *#changed(
    { name, dtype: from, shape }: TensorInfo,
    dtype: DType,
    replaced: Place<{ name: string }> | undefined,
    place: Place<{ site: Site }> | undefined,
  ): Generator<Uint8Array<ArrayBuffer>> {
    const owned: Float32Array<ArrayBuffer>[] = [];
    const own = (data: Float32Array) => (owned.push(data as Float32Array<ArrayBuffer>), data);
    let weight: Float32Array;
    if (replaced) {
      const tensor = this.#take(replaced.name), restored = this.restoration?.restored.get(name);
      if (restored) weight = restored.data;
      else weight = replaced.turned ? own(transposed(tensor).data) : tensor.data;
    } else {
      const bytes = this.base.readBytes(name);
      weight = own(toFloat32(bytes, from));
      release(bytes);
    }
    if (place) {
      const { site, turned } = place, { adapter, restoration } = this;
      for (const tensor of Object.keys(adapter.parametersAt(site))) {
        const name = `${site.name}.${tensor}`;
        if (adapter.tensors.has(name)) this.#take(name);
      }
      // What was there before all of the adapter needs nothing taken out.
      if (!restoration?.restored.has(name)) {
        const inside = turned ? own(transposed({ shape, data: weight }).data) : weight;
        weight = (restoration ? unmergedWeight : mergedWeight)(adapter, site, inside);
        if (weight !== inside) own(weight);
        if (restoration) this.#roundedFrom(inside, from, weight, dtype);
        if (turned) weight = own(transposed({ shape: [site.out, site.in], data: weight }).data);
      }
    }
    const result = narrowed(weight, dtype, name);
    release(...owned);
    yield result;
  }

  #roundedFrom(merged: Float32Array, from: DType, plain: Float32Array, to: DType): void {
    const step = (values: Float32Array, dtype: DType) =>
      largest(values) * (HALF_STEP[dtype] ?? HALF_STEP_F32);
    this.mostOff = Math.max(this.mostOff, step(merged, from) + step(plain, to));
  }

  #take(name: string) {
    if (!this.#left.delete(name)) throw new AdapterError(`The adapter's "${name}" would be used twice`);
    return this.adapter.tensors.get(name)!;
  }
}

function largest(values: Float32Array): number {
  let most = 0;
  for (const x of values) most = Math.max(most, Math.abs(x));
  return most;
}

/** Rounds to a dtype. @throws AdapterError where a number is too large for F16 */
function narrowed(values: Float32Array, dtype: DType, name: string): Uint8Array<ArrayBuffer> {
  if (dtype === "F16") {
    const large = values.find((x) => Math.abs(x) > F16_MAX && Number.isFinite(x));
    if (large !== undefined) {
      throw new AdapterError(`"${name}" holds ${large}, which F16 cannot: choose BF16 or F32 with --dtype`);
    }
  }
  return fromFloat32(values, dtype);
}
