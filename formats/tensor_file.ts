/**
 * Opens and writes files of tensors, whatever their format.
 *
 * The format is recognised by content, not by extension. Opening reads the names only; each tensor is read
 * from its place when it is asked for. Prefixes that training frameworks put before every name (`module.`,
 * `_forward_module.`, …) are taken off, so that one model has one set of names.
 *
 * A model in several files is opened by its index (`model.safetensors.index.json`), and a folder by the model in it.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { FormatError } from "./format_error.ts";
import { writeFileAtomic } from "./atomic.ts";
import { tensorByteLength, toFloat32 } from "./dtype.ts";
import { RandomAccessFile, writeFully } from "./random_access_file.ts";
import { recognise, type TensorFormat } from "./recognise.ts";
import { readSafetensors, writeSafetensors } from "./safetensors.ts";
import { INDEX_ENDING, readShardIndex, type Shard } from "./shard_index.ts";
import type { TensorInfo, TensorSource, Write } from "./tensor.ts";
import { quoted } from "./text.ts";
import { readTorch, writeTorch } from "./torch.ts";

export { FormatError };
export type { Shard } from "./shard_index.ts";
export type { TensorFormat } from "./recognise.ts";
export type { TensorInfo } from "./tensor.ts";

/** An open file of tensors. */
export interface TensorFile extends Disposable {
  /** The path it was opened by; for a folder, that of the file or index in it. */
  readonly path: string;
  /** Its format. */
  readonly format: TensorFormat;
  /** Tensors in file order, by their names without {@linkcode prefix}. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Free text that the file carries: `__metadata__` of safetensors. */
  readonly metadata: ReadonlyMap<string, string>;
  /** What every name in the file begins with and `tensors` leaves out, such as `module.`; mostly empty. */
  readonly prefix: string;
  /** The files that an index divides the tensors among, by their full names; empty for a single file. */
  readonly shards: readonly Shard[];
  /**
   * Reads a tensor as contiguous row-major little-endian bytes.
   *
   * @throws {FormatError} where the file has no such tensor, or its data is damaged
   */
  readBytes(name: string): Uint8Array<ArrayBuffer>;
  /**
   * Reads a tensor as float32, row-major; see `toFloat32` for the rounding.
   *
   * @throws {FormatError} where the file has no such tensor, or its data is damaged
   * @throws {RangeError} where its element type has no conversion
   */
  readFloat32(name: string): Float32Array<ArrayBuffer>;
  /**
   * Reads a tensor as `readBytes` does, in pieces of at most `bytes` bytes (default 16 MiB, a multiple of every element).
   *
   * @throws {FormatError} where the file has no such tensor, or its data is damaged
   */
  readPieces(name: string, bytes?: number): Iterable<Uint8Array<ArrayBuffer>>;
  /** Closes the file; closing twice is harmless. */
  close(): void;
}

/** What {@linkcode writeTensorFile} writes. */
export interface WriteTensorFileOptions {
  /** The format, whatever the extension of the path. */
  format: TensorFormat;
  /** The tensors, in the order wanted in the file. */
  tensors: Iterable<TensorInfo>;
  /** Gives the bytes of a tensor, contiguous row-major little-endian, whole or in pieces; called once for each, in turn. */
  read: (info: TensorInfo) => Uint8Array | Iterable<Uint8Array>;
  /** Free text to carry; for safetensors `format` is `pt` unless given. */
  metadata?: ReadonlyMap<string, string> | undefined;
  /** Replace an existing file (default: refuse). */
  force?: boolean | undefined;
}

/** What a model in a folder may be called, in the order of preference. */
const MODEL_NAMES = [
  `model.safetensors${INDEX_ENDING}`,
  "model.safetensors",
  `pytorch_model.bin${INDEX_ENDING}`,
  "pytorch_model.bin",
];

/**
 * Opens a safetensors or `.pth` file, a model in several files by its index, or a folder that holds one of these.
 *
 * @throws {FormatError} where the file is none of these, or is malformed in any way
 * @throws {Deno.errors.NotFound} where nothing is there
 */
export function openTensorFile(path: string): TensorFile {
  const inFolder = modelIn(path);
  if (inFolder === undefined && isFolder(path)) {
    throw new FormatError(
      path,
      `it is a folder without ${MODEL_NAMES.slice(0, -1).join(", ")} or ${MODEL_NAMES.at(-1)}`,
      "name a file",
    );
  }
  const file = new RandomAccessFile(inFolder ?? path);
  try {
    if (file.path.endsWith(INDEX_ENDING)) return openShards(file);
    const { format, source } = openSource(file);
    return new OpenTensorFile(file, format, source);
  } catch (error) {
    file.close();
    throw error;
  }
}

/** The file or index of the model in a folder; undefined where there is none, or no folder. */
export function modelIn(path: string): string | undefined {
  return isFolder(path)
    ? MODEL_NAMES.map((name) => join(path, name)).find((path) => existsSync(path))
    : undefined;
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    // What is wrong with it is said by whoever opens it.
    return false;
  }
}

function openSource(file: RandomAccessFile): { format: TensorFormat; source: TensorSource } {
  const format = recognise(file);
  return { format, source: format === "pth" ? readTorch(file) : readSafetensors(file) };
}

/** Opens what an index names; every tensor must be in the file that it says, and in no other. */
function openShards(index: RandomAccessFile): TensorFile {
  const files = [index], shards: Shard[] = [];
  const sources = new Map<string, TensorSource>();
  const tensors = new Map<string, TensorInfo>(), metadata = new Map<string, string>();
  const formats = new Set<TensorFormat>();
  try {
    for (const [name, wanted] of readShardIndex(index)) {
      const file = new RandomAccessFile(join(dirname(index.path), name));
      files.push(file);
      const { format, source } = openSource(file);
      formats.add(format);
      const missing = wanted.difference(source.tensors),
        unnamed = new Set(source.tensors.keys()).difference(wanted);
      if (missing.size) {
        throw index.error(`${quoted(name)} lacks tensor ${quoted([...missing][0]!)} of its weight_map`);
      }
      if (unnamed.size) {
        throw index.error(
          `${quoted(name)} holds tensor ${quoted([...unnamed][0]!)}, which its weight_map has not there`,
        );
      }
      const infos = [...source.tensors.values()];
      shards.push({ file: name, tensors: infos.map(({ name, dtype, shape }) => ({ name, dtype, shape })) });
      source.tensors.forEach((info, tensor) => (tensors.set(tensor, info), sources.set(tensor, source)));
      source.metadata.forEach((text, key) => metadata.set(key, text));
    }
    if (formats.size !== 1) {
      throw index.error(`its files are ${formats.size ? "of several formats" : "none at all"}`);
    }
    const source: TensorSource = {
      tensors,
      metadata,
      read: (name) => sources.get(name)!.read(name),
      range: (name, begin, end) => sources.get(name)!.range(name, begin, end),
    };
    return new OpenTensorFile(index, [...formats][0]!, source, {
      shards,
      close: () => files.forEach((f) => f.close()),
    });
  } catch (error) {
    files.forEach((file) => file.close());
    throw error;
  }
}

/**
 * Writes a file of tensors, holding one tensor at a time. The path appears whole or not at all; see
 * `writeFileAtomic`. A file that is being read from may be replaced by the one written from it.
 *
 * @throws {Deno.errors.AlreadyExists} where `path` exists and `force` is not set
 * @throws {RangeError} where a name, an element type or a content cannot be written
 */
export function writeTensorFile(path: string, options: WriteTensorFileOptions): void {
  const { format, read, metadata = new Map(), force } = options;
  const tensors = [...options.tensors];
  const content = (info: TensorInfo): Iterable<Uint8Array> => {
    const bytes = read(info);
    return bytes instanceof Uint8Array ? [bytes] : bytes;
  };
  writeFileAtomic(path, (file) => {
    const write: Write = (bytes) => writeFully(file, bytes);
    if (format === "pth") writeTorch(write, tensors, content, { metadata });
    else writeSafetensors(write, tensors, content, new Map([["format", "pt"], ...metadata]));
  }, { force });
}

/** Bytes of a piece of a tensor. */
const PIECE = 1 << 24;

function withoutPrefix(
  tensors: ReadonlyMap<string, TensorInfo>,
  { length }: string,
): ReadonlyMap<string, TensorInfo> {
  return new Map(
    Array.from(tensors.values(), ({ name: fullName, dtype, shape }) => {
      const name = fullName.slice(length);
      return [name, { name, dtype, shape }];
    }),
  );
}

const PREFIXES = ["_forward_module.", "module.", "model.", "base_model."];

/** The longest chain of framework prefixes that every name begins with; no name is emptied by it. */
export function commonPrefix(names: Iterable<string>): string {
  const all = [...names];
  let prefix = "";
  for (let grew = all.length > 0; grew;) {
    const longer = PREFIXES.map((part) => prefix + part).find((candidate) =>
      all.every((name) => name.startsWith(candidate) && name.length > candidate.length)
    );
    grew = longer !== undefined;
    prefix = longer ?? prefix;
  }
  return prefix;
}

class OpenTensorFile implements TensorFile {
  readonly format: TensorFormat;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly prefix: string;
  readonly #file: RandomAccessFile;
  readonly #source: TensorSource;
  readonly shards: readonly Shard[];
  readonly close: () => void;

  constructor(
    file: RandomAccessFile,
    format: TensorFormat,
    source: TensorSource,
    { shards, close }: { shards: readonly Shard[]; close: () => void } = {
      shards: [],
      close: () => file.close(),
    },
  ) {
    this.#file = file;
    this.shards = shards;
    this.close = close;
    this.#source = source;
    this.format = format;
    this.metadata = source.metadata;
    this.prefix = commonPrefix(source.tensors.keys());
    this.tensors = this.prefix ? withoutPrefix(source.tensors, this.prefix) : source.tensors;
  }

  get path(): string {
    return this.#file.path;
  }

  readBytes(name: string): Uint8Array<ArrayBuffer> {
    this.#info(name);
    return this.#source.read(this.prefix + name);
  }

  readFloat32(name: string): Float32Array<ArrayBuffer> {
    const { dtype } = this.#info(name);
    return toFloat32(this.readBytes(name), dtype);
  }

  *readPieces(name: string, bytes = PIECE): Generator<Uint8Array<ArrayBuffer>> {
    const { dtype, shape } = this.#info(name);
    const length = tensorByteLength(dtype, shape)!;
    for (let at = 0; at < length; at += bytes) {
      yield this.#source.range(this.prefix + name, at, Math.min(at + bytes, length));
    }
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #info(name: string): TensorInfo {
    const info = this.tensors.get(name);
    if (!info) {
      throw this.#file.error(`it has no tensor "${name}"`, "check the name, or that this is the right file");
    }
    return info;
  }
}
