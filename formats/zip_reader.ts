/**
 * The directory of a zip file whose entries are stored, not compressed: all that torch writes.
 *
 * Sizes and checksums come from the central directory, since torch leaves zeros in the local headers. Every
 * local header must still agree with it, and no two entries may touch the same byte, so that every reader of
 * the file sees the same content. Zip64 is read; compression, encryption and split archives are refused.
 *
 * @module
 */

import { crc32 } from "node:zlib";
import type { RandomAccessFile } from "./random_access_file.ts";
import { decodeUtf8, quoted } from "./text.ts";

/** An entry of the archive. */
export interface ZipEntry {
  /** Full name, as in the directory. */
  readonly name: string;
  /** First byte of the content in the file. */
  readonly offset: number;
  /** Bytes of content. */
  readonly size: number;
  /** CRC-32 of the content. */
  readonly crc: number;
}

const END_LENGTH = 22;
const LOCATOR_LENGTH = 20;
const END64_LENGTH = 56;
const LOCAL_LENGTH = 30;
const CENTRAL_LENGTH = 46;
const MAX_COMMENT = 0xffff;
const MAX_DIRECTORY = 1 << 25;
const MAX_ENTRIES = 100_000;
const UINT32_MAX = 0xffff_ffff;
const CHUNK = 1 << 24;
const REMEDY = "download it again, or save it again with torch.save";

interface Directory {
  readonly offset: number;
  readonly size: number;
  readonly count: number;
}

interface CentralEntry {
  readonly name: string;
  readonly rawName: Uint8Array;
  readonly flags: number;
  readonly crc: number;
  readonly size: number;
  readonly localOffset: number;
}

/**
 * Reads and checks the directory of a zip file.
 *
 * @returns the entries by name, in the order of the directory
 * @throws {FormatError} where the archive is damaged, ambiguous or not stored
 */
export function readZipDirectory(file: RandomAccessFile): Map<string, ZipEntry> {
  const directory = findDirectory(file);
  const bytes = file.read(directory.offset, directory.size);
  const entries = new Map<string, ZipEntry>();
  const starts = new Float64Array(directory.count), ends = new Float64Array(directory.count);
  for (const line of centralEntries(file, bytes, directory)) {
    if (entries.has(line.name)) {
      throw file.error(`the zip entry ${quoted(line.name)} is there twice`, REMEDY);
    }
    const entry = locate(file, line, directory.offset);
    starts[entries.size] = line.localOffset;
    ends[entries.size] = entry.offset + entry.size;
    entries.set(line.name, entry);
  }
  checkNoOverlap(file, entries, starts, ends);
  return entries;
}

/** Reads the content of a small entry and checks its CRC. */
export function readZipEntry(file: RandomAccessFile, entry: ZipEntry): Uint8Array<ArrayBuffer> {
  return readZipRange(file, entry, 0, entry.size, true);
}

/**
 * Reads part of an entry.
 *
 * @param check whether to read the whole entry, in bounded memory, and check its CRC
 */
export function readZipRange(
  file: RandomAccessFile,
  entry: ZipEntry,
  start: number,
  length: number,
  check: boolean,
): Uint8Array<ArrayBuffer> {
  const bytes = file.read(entry.offset + start, length);
  if (!check) return bytes;
  let crc = 0;
  for (let at = 0; at < start; at += CHUNK) {
    crc = crc32(file.read(entry.offset + at, Math.min(CHUNK, start - at)), crc);
  }
  for (let at = 0; at < length; at += CHUNK) crc = crc32(bytes.subarray(at, at + CHUNK), crc);
  for (let at = start + length; at < entry.size; at += CHUNK) {
    crc = crc32(file.read(entry.offset + at, Math.min(CHUNK, entry.size - at)), crc);
  }
  if (crc !== entry.crc) {
    throw file.error(`the content of zip entry ${quoted(entry.name)} does not match its checksum`, REMEDY);
  }
  return bytes;
}

function findDirectory(file: RandomAccessFile): Directory {
  const tailLength = Math.min(file.size, END_LENGTH + MAX_COMMENT);
  const tailStart = file.size - tailLength;
  const tail = new DataView(file.read(tailStart, tailLength).buffer);
  for (let at = tailLength - END_LENGTH; at >= 0; at--) {
    if (tail.getUint32(at, true) !== 0x06054b50) continue;
    // The comment must reach the end of the file: nothing may hide behind the archive.
    if (tail.getUint16(at + 20, true) !== tailLength - at - END_LENGTH) continue;
    const end = new DataView(tail.buffer, at, END_LENGTH);
    return readEnd(file, end, tailStart + at);
  }
  throw file.error("it is cut off: a zip file ends with a directory, and this one does not", REMEDY);
}

function readEnd(file: RandomAccessFile, end: DataView, endOffset: number): Directory {
  const short = {
    disks: end.getUint32(4, true),
    count: end.getUint16(10, true),
    size: end.getUint32(12, true),
    offset: end.getUint32(16, true),
  };
  const long = readEnd64(file, endOffset);
  const directory = long ?? { ...short, endOffset };
  // Torch writes both records always; where the short one can say the number, they must agree.
  const agrees = (small: number, large: number, limit: number): boolean => small === large || small === limit;
  const consistent = short.disks === 0 && end.getUint16(8, true) === short.count &&
    agrees(short.count, directory.count, 0xffff) && agrees(short.size, directory.size, UINT32_MAX) &&
    agrees(short.offset, directory.offset, UINT32_MAX) &&
    directory.offset + directory.size === directory.endOffset;
  if (!consistent) throw file.error("the end of its zip directory contradicts itself", REMEDY);
  if (directory.size > MAX_DIRECTORY || directory.count > MAX_ENTRIES) {
    throw file.error(`its zip directory is over ${MAX_DIRECTORY} bytes or ${MAX_ENTRIES} entries`, REMEDY);
  }
  return directory;
}

function readEnd64(file: RandomAccessFile, endOffset: number): Directory & { endOffset: number } | undefined {
  const locatorOffset = endOffset - LOCATOR_LENGTH;
  if (locatorOffset < 0) return undefined;
  const locator = new DataView(file.read(locatorOffset, LOCATOR_LENGTH).buffer);
  if (locator.getUint32(0, true) !== 0x07064b50) return undefined;
  const offset = Number(locator.getBigUint64(8, true));
  if (offset + END64_LENGTH > locatorOffset) {
    throw file.error("its zip64 directory end is out of place", REMEDY);
  }
  const end = new DataView(file.read(offset, END64_LENGTH).buffer);
  const count = end.getBigUint64(32, true);
  const consistent = end.getUint32(0, true) === 0x06064b50 &&
    end.getBigUint64(4, true) + 12n === BigInt(locatorOffset - offset) &&
    end.getBigUint64(16, true) === 0n && end.getBigUint64(24, true) === count;
  if (!consistent) throw file.error("its zip64 directory end contradicts itself", REMEDY);
  return {
    count: Number(count),
    size: Number(end.getBigUint64(40, true)),
    offset: Number(end.getBigUint64(48, true)),
    endOffset: offset,
  };
}

/** The lines of the directory one at a time: there may be very many. */
function* centralEntries(
  file: RandomAccessFile,
  bytes: Uint8Array<ArrayBuffer>,
  directory: Directory,
): Generator<CentralEntry> {
  const view = new DataView(bytes.buffer);
  let at = 0, count = 0;
  while (at < bytes.length) {
    const header = at + CENTRAL_LENGTH;
    if (header > bytes.length || view.getUint32(at, true) !== 0x02014b50) break;
    const nameEnd = header + view.getUint16(at + 28, true);
    const extraEnd = nameEnd + view.getUint16(at + 30, true);
    const next = extraEnd + view.getUint16(at + 32, true);
    if (next > bytes.length) break;
    const rawName = bytes.subarray(header, nameEnd);
    const name = decodeUtf8(rawName, "the name of a zip entry", file.error.bind(file));
    const flags = view.getUint16(at + 8, true);
    if (view.getUint16(at + 10, true) !== 0) {
      throw file.error(
        `the zip entry ${quoted(name)} is compressed`,
        "save it again with torch.save, which stores",
      );
    }
    const [size, stored, localOffset] = withZip64(
      [view.getUint32(at + 24, true), view.getUint32(at + 20, true), view.getUint32(at + 42, true)],
      new DataView(bytes.buffer, nameEnd, extraEnd - nameEnd),
    );
    if ((flags & 1) !== 0 || view.getUint16(at + 34, true) !== 0 || size !== stored) {
      throw file.error(`the zip entry ${quoted(name)} is encrypted, split or of two sizes`, REMEDY);
    }
    // One more than it says would have no place; it is told below.
    if (++count > directory.count) break;
    yield { name, rawName, flags, crc: view.getUint32(at + 16, true), size, localOffset };
    at = next;
  }
  if (at !== bytes.length || count !== directory.count) {
    throw file.error(
      `its zip directory should list ${directory.count} entries, but has ${
        count > directory.count ? "more" : `only ${count}`
      }`,
      REMEDY,
    );
  }
}

/** Replaces each field that is all ones by the next number of the zip64 extra field, as far as it has one. */
function withZip64(fields: number[], extra: DataView): number[] {
  for (let at = 0; at + 4 <= extra.byteLength;) {
    const length = extra.getUint16(at + 2, true);
    const end = Math.min(at + 4 + length, extra.byteLength);
    if (extra.getUint16(at, true) === 1) {
      let next = at + 4;
      return fields.map((field) => {
        if (field !== UINT32_MAX || next + 8 > end) return field;
        const value = Number(extra.getBigUint64(next, true));
        next += 8;
        return value;
      });
    }
    at += 4 + length;
  }
  return fields;
}

function locate(file: RandomAccessFile, entry: CentralEntry, directoryOffset: number): ZipEntry {
  const { name, rawName, flags, size, crc, localOffset } = entry;
  const fixedEnd = localOffset + LOCAL_LENGTH;
  if (fixedEnd + rawName.length > directoryOffset) {
    throw file.error(`the zip entry ${quoted(name)} lies outside the archive`, REMEDY);
  }
  const bytes = file.read(localOffset, LOCAL_LENGTH + rawName.length);
  const local = new DataView(bytes.buffer);
  // With flag 3 the numbers follow the content, and the header has zeros.
  const deferred = (flags & 8) !== 0;
  const agrees = (at: number, value: number): boolean => {
    const field = local.getUint32(at, true);
    return field === value || field === UINT32_MAX || (deferred && field === 0);
  };
  const same = local.getUint32(0, true) === 0x04034b50 && local.getUint16(6, true) === flags &&
    local.getUint16(8, true) === 0 && (local.getUint32(14, true) === crc || deferred) &&
    agrees(18, size) && agrees(22, size) && local.getUint16(26, true) === rawName.length &&
    rawName.every((byte, i) => byte === bytes[LOCAL_LENGTH + i]);
  if (!same) throw file.error(`the zip entry ${quoted(name)} differs from its line in the directory`, REMEDY);
  const offset = fixedEnd + rawName.length + local.getUint16(28, true);
  if (offset + size > directoryOffset) {
    throw file.error(`the zip entry ${quoted(name)} of ${size} bytes lies outside the archive`, REMEDY);
  }
  return { name, offset, size, crc };
}

/** @param ends the byte after the content of each entry, in the order of `entries`, as `starts` are of their headers */
function checkNoOverlap(
  file: RandomAccessFile,
  entries: ReadonlyMap<string, ZipEntry>,
  starts: Float64Array,
  ends: Float64Array,
): void {
  let free = 0;
  for (const i of Uint32Array.from(starts.keys()).sort((a, b) => starts[a] - starts[b])) {
    if (starts[i] < free) {
      throw file.error(`the zip entry ${quoted([...entries.keys()][i])} overlaps the one before it`, REMEDY);
    }
    free = ends[i];
  }
}
