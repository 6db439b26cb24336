/**
 * `.pth` files: the zip archives of `torch.save`, read without running anything and written in the same layout.
 *
 * An archive holds `data.pkl` (a pickle that names tensors and the storages they lie in) and one record per
 * storage. Reading checks that every storage has a record of exactly its size before any data is touched, and
 * the CRC of a record when it is first read. A tensor may be any strided window of its storage; it is handed
 * out contiguous.
 *
 * A checkpoint that keeps its weights one level down (under `state_dict`, `model`, `module` or
 * `model_state_dict`) is read from there; numbers, texts and lists beside the tensors are ignored.
 *
 * @module
 */

import { byteWidth, tensorByteLength } from "./dtype.ts";
import { JsonCursor, textMapJson } from "./json.ts";
import { pickleBudget, unpickle } from "./pickle_reader.ts";
import {
  extentOf,
  PickleDict,
  PickleList,
  PickleTuple,
  type PickleValue,
  type StorageReference,
  TensorReference,
} from "./pickle_values.ts";
import { contiguousStrides, pickleStateDict } from "./pickle_writer.ts";
import type { RandomAccessFile } from "./random_access_file.ts";
import {
  checkNames,
  type Content,
  type TensorInfo,
  type TensorSource,
  type Write,
  writeContent,
} from "./tensor.ts";
import { decodeUtf8, quoted } from "./text.ts";
import { readZipDirectory, readZipEntry, readZipRange, type ZipEntry } from "./zip_reader.ts";
import { ZipWriter } from "./zip_writer.ts";

const MAX_PICKLE = 1 << 24;
/** What the tensors of a file may add up to beyond a number of times its size. */
const FREE_BYTES = 1 << 20, MOST_TIMES = 2;
const NESTED_KEYS = ["state_dict", "model", "module", "model_state_dict"];
/** Where torch keeps texts that travel with an archive; `torch.load` passes over them. */
const METADATA_RECORD = "extra/__metadata__.json";

/**
 * Reads the directory and the pickle of a `.pth` file.
 *
 * @throws {FormatError} where the archive is damaged, contradicts itself, or asks for anything but tensors
 */
export function readTorch(file: RandomAccessFile): TensorSource {
  const error = file.error.bind(file);
  const entries = readZipDirectory(file);
  const root = findRoot(file, entries);
  checkByteOrder(file, entries.get(`${root}/byteorder`));
  const pickle = readText(file, entries.get(`${root}/data.pkl`)!);
  const { root: pickled, storages } = unpickle(pickle, error, pickleBudget(file.size));
  const records = findRecords(file, storages, root, entries);
  const references = findStateDict(file, pickled);
  const tensors = new Map<string, TensorInfo>();
  let total = 0;
  for (const [name, { storage, shape }] of references) {
    tensors.set(name, { name, dtype: storage.dtype, shape });
    total += tensorByteLength(storage.dtype, shape)!;
  }
  // Tied weights lie in one storage twice. Without a limit a small file could hold as much as one likes.
  if (total > FREE_BYTES + MOST_TIMES * file.size) {
    throw error(
      `its tensors repeat its ${file.size} bytes to ${total}`,
      "save them after calling contiguous()",
    );
  }

  const checked = new Set<ZipEntry>();
  /** Bytes `begin` to `end` of a tensor's window of its storage; its record's CRC is checked once. */
  const window = ({ storage, offset }: TensorReference, begin: number, end: number) => {
    const record = records.get(storage.key)!;
    const start = offset * byteWidth(storage.dtype) + begin;
    const bytes = readZipRange(file, record, start, end - begin, !checked.has(record));
    checked.add(record);
    return bytes;
  };
  const read = (name: string) => {
    const reference = references.get(name)!;
    const { shape, strides, storage } = reference;
    const bytes = window(reference, 0, extentOf(shape, strides) * byteWidth(storage.dtype));
    return isContiguous(reference) ? bytes : gather(bytes, reference);
  };
  return {
    tensors,
    metadata: readMetadata(file, entries.get(`${root}/${METADATA_RECORD}`)),
    read,
    range: (name, begin, end) => {
      const reference = references.get(name)!;
      return isContiguous(reference) ? window(reference, begin, end) : read(name).slice(begin, end);
    },
  };
}

/** Options of {@linkcode writeTorch}. */
export interface WriteTorchOptions {
  /** Name of the folder in the archive (default `archive`). */
  root?: string;
  /** Texts to keep in the record `extra/__metadata__.json`. */
  metadata?: ReadonlyMap<string, string>;
}

/**
 * Writes a `.pth` file that `torch.load` reads with `weights_only=True` and `mmap=True`, one tensor at a time.
 *
 * @param write takes the bytes in order
 * @param content gives each tensor's bytes; called once per tensor, in order
 * @throws {RangeError} where a name, a size, a content or an element type cannot be written
 */
export function writeTorch(
  write: Write,
  tensors: readonly TensorInfo[],
  content: Content,
  options: WriteTorchOptions = {},
): void {
  const { root = "archive", metadata = new Map() } = options;
  checkNames(tensors);
  const zip = new ZipWriter(write);
  const bytes = (name: string, data: Uint8Array): void =>
    zip.entry(`${root}/${name}`, data.length, (put) => put(data));
  const text = (name: string, data: string): void => bytes(name, new TextEncoder().encode(data));
  bytes("data.pkl", pickleStateDict(tensors));
  text(".format_version", "1");
  text(".storage_alignment", "64");
  text("byteorder", "little");
  tensors.forEach((info, index) => {
    const length = tensorByteLength(info.dtype, info.shape);
    if (length === undefined) {
      throw new RangeError(
        `Cannot write tensor "${info.name}": ${info.dtype} [${info.shape}] has no whole size`,
      );
    }
    zip.entry(`${root}/data/${index}`, length, (put) => writeContent(info, length, content, put));
  });
  text("version", "3\n");
  if (metadata.size > 0) {
    text(METADATA_RECORD, textMapJson(metadata));
  }
  zip.finish();
}

function findRoot(file: RandomAccessFile, entries: ReadonlyMap<string, ZipEntry>): string {
  const suffix = "/data.pkl";
  const pickles = [...entries.keys()].filter((name) => name.endsWith(suffix));
  if (pickles.length !== 1) {
    const reason = `it is a zip file with ${pickles.length} entries named data.pkl, where torch has one`;
    throw file.error(reason, "name a file saved by torch.save");
  }
  return pickles[0].slice(0, -suffix.length);
}

function checkByteOrder(file: RandomAccessFile, entry: ZipEntry | undefined): void {
  if (!entry) return;
  const order = entry.size > 16
    ? "…"
    : decodeUtf8(readZipEntry(file, entry), entry.name, file.error.bind(file));
  if (order === "little") return;
  if (order !== "big") throw file.error(`its byteorder is ${quoted(order)}, neither little nor big`);
  throw file.error("its numbers are big-endian", "save it again on a little-endian machine");
}

/** Reads an entry that is held in memory as a whole, unless it is too large for that. */
function readText(file: RandomAccessFile, entry: ZipEntry): Uint8Array<ArrayBuffer> {
  if (entry.size > MAX_PICKLE) {
    throw file.error(`its ${quoted(entry.name)} is over ${MAX_PICKLE} bytes`, "save only the state dict");
  }
  return readZipEntry(file, entry);
}

function readMetadata(file: RandomAccessFile, entry: ZipEntry | undefined): ReadonlyMap<string, string> {
  if (!entry) return new Map();
  const error = file.error.bind(file);
  const cursor = new JsonCursor(decodeUtf8(readText(file, entry), entry.name, error), error);
  const metadata = cursor.textMap(entry.name);
  cursor.end(entry.name);
  return metadata;
}

function findRecords(
  file: RandomAccessFile,
  storages: readonly StorageReference[],
  root: string,
  entries: ReadonlyMap<string, ZipEntry>,
): Map<string, ZipEntry> {
  const records = new Map<string, ZipEntry>();
  const first = new Map<string, StorageReference>();
  for (const storage of storages) {
    const { key, dtype, count } = storage;
    const record = entries.get(`${root}/data/${key}`);
    const length = tensorByteLength(dtype, [count]);
    if (!record || record.size !== length) {
      const found = record ? `has ${record.size} bytes` : "is missing";
      throw file.error(`storage ${quoted(key)} of ${count} ${dtype} elements ${found}`);
    }
    // Torch itself would take the first type for both tensors; which one was meant cannot be known.
    const earlier = first.get(key) ?? storage;
    if (earlier.dtype !== dtype) {
      throw file.error(`storage ${quoted(key)} is used both as ${earlier.dtype} and as ${dtype}`);
    }
    first.set(key, storage);
    records.set(key, record);
  }
  return records;
}

/** The tensors of the state dict by name: one level down under a usual key, else at the top. */
function findStateDict(file: RandomAccessFile, pickled: PickleValue): Map<string, TensorReference> {
  const remedy = "save only the state dict: torch.save(model.state_dict(), path)";
  if (!(pickled instanceof PickleDict)) {
    throw file.error(`it holds ${describe(pickled)} where a dict of tensors is expected`, remedy);
  }
  for (const key of NESTED_KEYS) {
    const nested = pickled.items.get(key);
    if (!(nested instanceof PickleDict)) continue;
    const tensors = tensorsOf(file, nested);
    if (tensors.size > 0) return tensors;
  }
  const tensors = tensorsOf(file, pickled);
  if (tensors.size === 0 && pickled.items.size > 0) {
    const keys = [...pickled.items.keys()].slice(0, 5).map((key) => quoted(`${key}`)).join(", ");
    throw file.error(`it holds a dict without tensors (its keys begin ${keys})`, remedy);
  }
  return tensors;
}

function tensorsOf(file: RandomAccessFile, dict: PickleDict): Map<string, TensorReference> {
  const tensors = new Map<string, TensorReference>();
  for (const [key, value] of dict.items) {
    if (!(value instanceof TensorReference)) continue;
    if (typeof key !== "string") {
      throw file.error(`a tensor is named by the number ${key}`, "name tensors by text");
    }
    tensors.set(key, value);
  }
  return tensors;
}

function describe(value: PickleValue): string {
  if (value instanceof TensorReference) return "a single tensor";
  if (value instanceof PickleList) return "a list";
  if (value instanceof PickleTuple) return "a tuple";
  return "a single value";
}

function isContiguous({ shape, strides }: TensorReference): boolean {
  const dense = contiguousStrides(shape);
  return shape.every((dimension, i) => dimension === 1 || strides[i] === dense[i]) || shape.includes(0);
}

/** Copies a strided window, which begins at its first element, to row-major order. */
function gather(
  window: Uint8Array<ArrayBuffer>,
  { storage, shape, strides }: TensorReference,
): Uint8Array<ArrayBuffer> {
  switch (byteWidth(storage.dtype)) {
    case 1:
      return gatherElements(window, Uint8Array, shape, strides);
    case 2:
      return gatherElements(new Uint16Array(window.buffer), Uint16Array, shape, strides);
    case 4:
      return gatherElements(new Uint32Array(window.buffer), Uint32Array, shape, strides);
    default: {
      // Eight bytes travel as pairs of integers, since a float64 may not keep the payload of a NaN.
      const pairStrides = [...strides.map((stride) => 2 * stride), 1];
      return gatherElements(new Uint32Array(window.buffer), Uint32Array, [...shape, 2], pairStrides);
    }
  }
}

type Elements = Uint8Array<ArrayBuffer> | Uint16Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

function gatherElements(
  source: Elements,
  Type: new (length: number) => Elements,
  shape: readonly number[],
  strides: readonly number[],
): Uint8Array<ArrayBuffer> {
  const rank = shape.length;
  const target = new Type(shape.reduce((product, dimension) => product * dimension, 1));
  const inner = shape[rank - 1];
  const step = strides[rank - 1];
  const index = new Array<number>(rank).fill(0);
  for (let row = 0, to = 0; to < target.length; to += inner) {
    for (let i = 0; i < inner; i++) target[to + i] = source[row + i * step];
    for (let d = rank - 2; d >= 0; d--) {
      row += strides[d];
      if (++index[d] < shape[d]) break;
      row -= strides[d] * shape[d];
      index[d] = 0;
    }
  }
  return new Uint8Array(target.buffer);
}
