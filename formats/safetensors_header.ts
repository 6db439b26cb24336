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

/** The parsed header. */
export interface Header {
  /** Tensors in the order of the header, which need not be that of the data. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** The first byte of each, from the data's start. */
  readonly begins: ReadonlyMap<string, number>;
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
  const tensors = new Map<string, TensorInfo>(), begins = new Map<string, number>();
  let metadata: ReadonlyMap<string, string> | undefined;
  cursor.object("the header", (name) => {
    if (name === "__metadata__") {
      if (metadata) throw error("the header has __metadata__ twice");
      metadata = cursor.take("null") ? new Map() : cursor.textMap("__metadata__");
      return;
    }
    const { begin, dtype, shape } = parseEntry(cursor, name, error);
    const earlier = tensors.get(name);
    // Two identical entries mean one thing to every reader; anything else depends on who reads.
    const same = begins.get(name) === begin && earlier?.dtype === dtype && `${earlier.shape}` === `${shape}`;
    if (earlier && !same) throw error(`tensor ${quoted(name)} is described twice, differently`);
    if (!earlier) tensors.set(name, { name, dtype, shape });
    begins.set(name, begin);
    if (tensors.size > MAX_TENSORS) throw error(`it holds more than ${MAX_TENSORS} tensors`);
  });
  cursor.end("the header");
  checkTiling(tensors, begins, dataLength, error);
  return { tensors, begins, metadata: metadata ?? new Map() };
}

function parseEntry(cursor: JsonCursor, name: string, error: MakeError): TensorInfo & { begin: number } {
  const where = `the entry of tensor ${quoted(name)}`;
  const fields: string[] = [];
  let dtype: DType | undefined;
  const shape: number[] = [];
  const offsets: number[] = [];
  cursor.object(where, (field) => {
    if (fields.includes(field)) throw error(`${where} has ${quoted(field)} twice`);
    if (fields.length >= MAX_FIELDS) throw error(`${where} has more than ${MAX_FIELDS} fields`);
    fields.push(field);
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
  if (!dtype || !fields.includes("shape") || offsets.length !== 2) {
    throw error(`${where} must have a dtype, a shape and two data_offsets`);
  }
  const [begin, end] = offsets;
  const length = tensorByteLength(dtype, shape);
  if (length === undefined) throw error(`tensor ${quoted(name)} has an impossible size, ${dtype} [${shape}]`);
  if (end - begin !== length) {
    throw error(`tensor ${quoted(name)} of ${length} bytes is given the range ${begin} to ${end}`);
  }
  // A list that was grown has room for many more.
  return { name, dtype, shape: shape.slice(), begin };
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

function checkTiling(
  tensors: ReadonlyMap<string, TensorInfo>,
  begins: ReadonlyMap<string, number>,
  dataLength: number,
  error: MakeError,
): void {
  let covered = 0;
  const lengthOf = ({ dtype, shape }: TensorInfo) => tensorByteLength(dtype, shape)!;
  const order = [...tensors.values()].sort((a, b) =>
    begins.get(a.name)! - begins.get(b.name)! || lengthOf(a) - lengthOf(b)
  );
  for (const info of order) {
    const begin = begins.get(info.name)!;
    if (begin !== covered) {
      throw error(
        `tensor ${
          quoted(info.name)
        } begins at data byte ${begin} where ${covered} is next, a gap or an overlap`,
      );
    }
    covered += lengthOf(info);
  }
  if (covered !== dataLength) {
    throw error(`its tensors take ${covered} bytes of data, but ${dataLength} follow the header`);
  }
}
