/**
 * The header of a safetensors file: JSON that gives each tensor a type, a shape and a range of the data.
 *
 * Stricter than the reference reader in three points, each of which it leaves to chance: a repeated key
 * anywhere but the tensor name is refused, a tensor may be named twice only by two identical entries, and
 * sizes stop at 2^53. Ranges must tile the data exactly, so that no byte is outside a tensor or inside two.
 *
 * @module
 */

import { type DType, dtypeNames, isDType, tensorByteLength } from "./dtype.ts";
import { JsonCursor } from "./json.ts";
import { maxRank, type TensorInfo } from "./tensor.ts";
import { decodeUtf8, type MakeError, quoted } from "./text.ts";

/** Largest header in bytes: the format's own limit. */
export const maxHeaderLength = 100_000_000;

const MAX_TENSORS = 100_000;
const MAX_FIELDS = 16;

/** A tensor and its range of the data, in bytes from the data's start. */
export interface HeaderEntry extends TensorInfo {
  /** First byte. */
  readonly begin: number;
  /** The byte after the last. */
  readonly end: number;
}

/** The parsed header. */
export interface Header {
  /** Entries in the order of the header, which need not be that of the data. */
  readonly entries: ReadonlyMap<string, HeaderEntry>;
  /** The `__metadata__` object. */
  readonly metadata: ReadonlyMap<string, string>;
}

/**
 * Parses and checks a header.
 *
 * @param bytes the JSON text
 * @param dataLength bytes that follow the header in the file
 * @param error makes the error to throw
 */
export function parseHeader(bytes: Uint8Array, dataLength: number, error: MakeError): Header {
  const cursor = new JsonCursor(decodeUtf8(bytes, "the header", error), error);
  const entries = new Map<string, HeaderEntry>();
  let metadata: ReadonlyMap<string, string> | undefined;
  cursor.object("the header", (name) => {
    if (name === "__metadata__") {
      if (metadata) throw error("the header has __metadata__ twice");
      metadata = cursor.take("null") ? new Map() : cursor.textMap("__metadata__");
      return;
    }
    const entry = parseEntry(cursor, name, error);
    const earlier = entries.get(name);
    // Two identical entries mean one thing to every reader; anything else depends on who reads.
    if (earlier && !sameEntry(earlier, entry)) {
      throw error(`tensor ${quoted(name)} is described twice, differently`);
    }
    entries.set(name, entry);
    if (entries.size > MAX_TENSORS) throw error(`it holds more than ${MAX_TENSORS} tensors`);
  });
  cursor.end("the header");
  checkTiling(entries.values(), dataLength, error);
  return { entries, metadata: metadata ?? new Map() };
}

function parseEntry(cursor: JsonCursor, name: string, error: MakeError): HeaderEntry {
  const where = `the entry of tensor ${quoted(name)}`;
  const fields = new Set<string>();
  let dtype: DType | undefined;
  const shape: number[] = [];
  const offsets: number[] = [];
  cursor.object(where, (field) => {
    if (fields.has(field)) throw error(`${where} has ${quoted(field)} twice`);
    if (fields.size >= MAX_FIELDS) throw error(`${where} has more than ${MAX_FIELDS} fields`);
    fields.add(field);
    if (field === "dtype") {
      dtype = parseDType(cursor.string(where), name, error);
    } else if (field === "shape") {
      parseIntegers(cursor, where, shape, maxRank, error);
    } else if (field === "data_offsets") {
      parseIntegers(cursor, where, offsets, 2, error);
    } else {
      cursor.skipValue(where);
    }
  });
  if (!dtype || !fields.has("shape") || offsets.length !== 2) {
    throw error(`${where} must have a dtype, a shape and two data_offsets`);
  }
  const [begin, end] = offsets;
  const length = tensorByteLength(dtype, shape);
  if (length === undefined) throw error(`tensor ${quoted(name)} has an impossible size, ${dtype} [${shape}]`);
  if (end - begin !== length) {
    throw error(`tensor ${quoted(name)} of ${length} bytes is given the range ${begin} to ${end}`);
  }
  return { name, dtype, shape, begin, end };
}

function parseIntegers(
  cursor: JsonCursor,
  where: string,
  list: number[],
  limit: number,
  error: MakeError,
): void {
  cursor.list(where, () => {
    if (list.length >= limit) throw error(`${where} has a list of more than ${limit} numbers`);
    list.push(cursor.integer(where));
  });
}

function parseDType(dtype: string, name: string, error: MakeError): DType {
  if (isDType(dtype)) return dtype;
  throw error(
    `tensor ${quoted(name)} has element type ${quoted(dtype)}, which is not supported`,
    `convert it to one of ${dtypeNames.join(", ")}`,
  );
}

function sameEntry(a: HeaderEntry, b: HeaderEntry): boolean {
  return a.dtype === b.dtype && a.begin === b.begin && a.end === b.end && `${a.shape}` === `${b.shape}`;
}

function checkTiling(entries: Iterable<HeaderEntry>, dataLength: number, error: MakeError): void {
  let covered = 0;
  for (const { name, begin, end } of [...entries].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== covered) {
      throw error(
        `tensor ${quoted(name)} begins at data byte ${begin} where ${covered} is next, a gap or an overlap`,
      );
    }
    covered = end;
  }
  if (covered !== dataLength) {
    throw error(`its tensors take ${covered} bytes of data, but ${dataLength} follow the header`);
  }
}
