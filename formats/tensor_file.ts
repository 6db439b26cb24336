/**
 * Opens and writes files of tensors, whatever their format.
 *
 * The format is recognised by content, not by extension. Opening reads the names only; each tensor is read
 * from its place when it is asked for. Prefixes that training frameworks put before every name (`module.`,
 * `_forward_module.`, …) are taken off, so that one model has one set of names.
 *
 * @module
 */

import { writeFileAtomic } from "./atomic.ts";
import { toFloat32 } from "./dtype.ts";
import { RandomAccessFile, writeFully } from "./random_access_file.ts";
import { looksLikeSafetensors, readSafetensors, writeSafetensors } from "./safetensors.ts";
import type { TensorInfo, TensorSource, Write } from "./tensor.ts";
import { readTorch, writeTorch } from "./torch.ts";

export { FormatError } from "./format_error.ts";
export type { TensorInfo } from "./tensor.ts";

/** The formats that are read and written. */
export type TensorFormat = "safetensors" | "pth";

/** An open file of tensors. */
export interface TensorFile extends Disposable {
  /** The path it was opened by. */
  readonly path: string;
  /** Its format. */
  readonly format: TensorFormat;
  /** Tensors in file order, by their names without {@linkcode prefix}. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Free text that the file carries: `__metadata__` of safetensors. */
  readonly metadata: ReadonlyMap<string, string>;
  /** What every name in the file begins with and `tensors` leaves out, such as `module.`; mostly empty. */
  readonly prefix: string;
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
  /** Closes the file; closing twice is harmless. */
  close(): void;
}

/** What {@linkcode writeTensorFile} writes. */
export interface WriteTensorFileOptions {
  /** The format, whatever the extension of the path. */
  format: TensorFormat;
  /** The tensors, in the order wanted in the file. */
  tensors: Iterable<TensorInfo>;
  /** Gives the bytes of a tensor, contiguous row-major little-endian; called once for each, in turn. */
  read: (info: TensorInfo) => Uint8Array;
  /** Free text to carry; for safetensors `format` is `pt` unless given. */
  metadata?: ReadonlyMap<string, string> | undefined;
  /** Replace an existing file (default: refuse). */
  force?: boolean | undefined;
}

/**
 * Opens a safetensors or `.pth` file.
 *
 * @throws {FormatError} where the file is neither, or is malformed in any way
 * @throws {Deno.errors.NotFound} where nothing is there
 */
export function openTensorFile(path: string): TensorFile {
  const file = new RandomAccessFile(path);
  try {
    const format = recognise(file);
    const source = format === "pth" ? readTorch(file) : readSafetensors(file);
    return new OpenTensorFile(file, format, source);
  } catch (error) {
    file.close();
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
  const content = (info: TensorInfo): Iterable<Uint8Array> => [read(info)];
  writeFileAtomic(path, (file) => {
    const write: Write = (bytes) => writeFully(file, bytes);
    if (format === "pth") writeTorch(write, tensors, content, { metadata });
    else writeSafetensors(write, tensors, content, new Map([["format", "pt"], ...metadata]));
  }, { force });
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

function recognise(file: RandomAccessFile): TensorFormat {
  if (looksLikeSafetensors(file)) return "safetensors";
  const start = file.read(0, Math.min(file.size, 4));
  const magic = start.toHex();
  if (magic.startsWith("504b")) return "pth"; // "PK": a zip file
  if (magic === "80028a0a") {
    throw file.error(
      "it is in the torch format from before 1.6",
      "load it and torch.save it with a newer torch, or convert it to safetensors",
    );
  }
  if (start[0] === 0x80 && start[1] >= 2 && start[1] <= 5) {
    throw file.error("it is a bare pickle, not a zip archive of torch", "name a file saved by torch.save");
  }
  return "safetensors";
}

class OpenTensorFile implements TensorFile {
  readonly format: TensorFormat;
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  readonly metadata: ReadonlyMap<string, string>;
  readonly prefix: string;
  readonly #file: RandomAccessFile;
  readonly #source: TensorSource;

  constructor(file: RandomAccessFile, format: TensorFormat, source: TensorSource) {
    this.#file = file;
    this.#source = source;
    this.format = format;
    this.metadata = source.metadata;
    this.prefix = commonPrefix(source.tensors.keys());
    const tensors = new Map<string, TensorInfo>();
    for (const { name: fullName, dtype, shape } of source.tensors.values()) {
      const name = fullName.slice(this.prefix.length);
      tensors.set(name, { name, dtype, shape });
    }
    this.tensors = tensors;
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

  close(): void {
    this.#file.close();
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
