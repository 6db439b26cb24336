/**
 * safetensors: 8 bytes little-endian header length, a JSON header, the data.
 *
 * The reader takes the header only; each tensor is read by its range when it is asked for, so the size of the
 * file does not matter. Data may lie at any alignment. The writer pads the header with spaces to 8 bytes and
 * lays the data out widest element first, otherwise in the given order, so that every tensor is aligned; the
 * header keeps the given order.
 *
 * @module
 */

import { byteWidth, tensorByteLength } from "./dtype.ts";
import { textJson, textMapJson } from "./json.ts";
import type { RandomAccessFile } from "./random_access_file.ts";
import { maxHeaderLength, parseHeader } from "./safetensors_header.ts";
import {
  checkNames,
  type Content,
  type TensorInfo,
  type TensorSource,
  type Write,
  writeContent,
} from "./tensor.ts";

const PREFIX_LENGTH = 8;

/**
 * Whether a file begins with a possible header length and the first character of a header. Asked before any
 * other format's first bytes are, since those can be a header length too.
 */
export function looksLikeSafetensors(file: RandomAccessFile): boolean {
  if (file.size <= PREFIX_LENGTH) return false;
  const start = file.read(0, PREFIX_LENGTH + 1);
  const announced = new DataView(start.buffer).getBigUint64(0, true);
  return announced <= Math.min(maxHeaderLength, file.size - PREFIX_LENGTH) &&
    "{ \t\r\n".includes(String.fromCharCode(start[PREFIX_LENGTH]));
}

/**
 * Reads and checks the header of a safetensors file.
 *
 * @throws {FormatError} where the file breaks the format in any way
 */
export function readSafetensors(file: RandomAccessFile): TensorSource {
  const error = file.error.bind(file);
  if (file.size < PREFIX_LENGTH) {
    throw error(`it has ${file.size} bytes, fewer than the ${PREFIX_LENGTH} of a safetensors header length`);
  }
  const announced = new DataView(file.read(0, PREFIX_LENGTH).buffer).getBigUint64(0, true);
  if (announced > maxHeaderLength) {
    throw error(
      `it is not a safetensors file (its header would have ${announced} bytes)`,
      "name a .safetensors file, or a .pth file saved by torch 1.6 or newer",
    );
  }
  if (Number(announced) > file.size - PREFIX_LENGTH) {
    throw error(`it ends inside its header of ${announced} bytes`);
  }
  const dataStart = PREFIX_LENGTH + Number(announced);
  const header = file.read(PREFIX_LENGTH, Number(announced));
  const { tensors, begins, metadata } = parseHeader(header, file.size - dataStart, error);
  const startOf = (name: string) => dataStart + begins.get(name)!;
  return {
    tensors,
    metadata,
    read: (name) => {
      const { dtype, shape } = tensors.get(name)!;
      return file.read(startOf(name), tensorByteLength(dtype, shape)!);
    },
    range: (name, from, to) => file.read(startOf(name) + from, to - from),
  };
}

/**
 * Writes a safetensors file, one tensor after the other.
 *
 * @param write takes the bytes in order
 * @param content gives each tensor's bytes; called once per tensor, in the order of the data
 * @throws {RangeError} where a name, a size or a content is wrong
 */
export function writeSafetensors(
  write: Write,
  tensors: readonly TensorInfo[],
  content: Content,
  metadata: ReadonlyMap<string, string>,
): void {
  checkNames(tensors);
  const placed = place(tensors);
  write(encodeHeader(tensors, placed, metadata));
  for (const [info, { begin, end }] of placed) writeContent(info, end - begin, content, write);
}

interface Range {
  readonly begin: number;
  readonly end: number;
}

/** Ranges in the order of the data: widest element first (a stable sort), which leaves nothing misaligned. */
function place(tensors: readonly TensorInfo[]): Map<TensorInfo, Range> {
  const placed = new Map<TensorInfo, Range>();
  let begin = 0;
  for (const info of tensors.toSorted((a, b) => byteWidth(b.dtype) - byteWidth(a.dtype))) {
    const length = tensorByteLength(info.dtype, info.shape);
    if (length === undefined) {
      throw new RangeError(
        `Cannot write tensor "${info.name}": ${info.dtype} [${info.shape}] has no whole size`,
      );
    }
    placed.set(info, { begin, end: begin += length });
  }
  return placed;
}

function encodeHeader(
  tensors: readonly TensorInfo[],
  placed: ReadonlyMap<TensorInfo, Range>,
  metadata: ReadonlyMap<string, string>,
): Uint8Array {
  // Written member by member: an object would reorder integer names and lose one called __proto__.
  const members: string[] = [];
  if (metadata.size > 0) {
    members.push(`"__metadata__":${textMapJson(metadata)}`);
  }
  for (const info of tensors) {
    if (info.name === "__metadata__") {
      throw new RangeError(`Cannot write tensor "${info.name}": safetensors reserves the name, rename it`);
    }
    const { begin, end } = placed.get(info)!;
    members.push(
      `${textJson(info.name)}:{"dtype":"${info.dtype}","shape":[${info.shape}],` +
        `"data_offsets":[${begin},${end}]}`,
    );
  }
  const json = new TextEncoder().encode(`{${members.join(",")}}`);
  const length = Math.ceil(json.length / 8) * 8;
  if (length > maxHeaderLength) {
    throw new RangeError(`Cannot write a header of ${length} bytes: safetensors allows ${maxHeaderLength}`);
  }
  const bytes = new Uint8Array(PREFIX_LENGTH + length).fill(0x20);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length), true);
  bytes.set(json, PREFIX_LENGTH);
  return bytes;
}
