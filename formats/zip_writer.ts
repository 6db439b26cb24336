/**
 * A zip file in the layout of `torch.save`: stored entries, content at multiples of 64 bytes, checksums and
 * sizes behind the content, so that it can be written in one pass without knowing the content beforehand.
 *
 * Field by field it follows PyTorch's `caffe2/serialize/inline_container.cc` and the miniz library below it:
 * version and time fields are zero, a padding field named `FB` aligns the content, and the zip64 end record is
 * always there. The aligned offsets are what lets `torch.load(mmap=True)` use the file in place.
 *
 * @module
 */

import { crc32 } from "node:zlib";
import type { Write } from "./tensor.ts";

const UINT32_MAX = 0xffff_ffff;
const ALIGNMENT = 64;
/** Sizes follow the content (bit 3), names are UTF-8 (bit 11). */
const FLAGS = 0x808;
const CHUNK = 1 << 24;

interface WrittenEntry {
  readonly name: Uint8Array;
  readonly crc: number;
  readonly size: number;
  readonly localOffset: number;
}

/** Writes the entries of an archive one after the other, then its directory. */
export class ZipWriter {
  readonly #write: Write;
  readonly #entries: WrittenEntry[] = [];
  #position = 0;

  /**
   * Begins an archive.
   *
   * @param write takes its bytes in order
   */
  constructor(write: Write) {
    this.#write = write;
  }

  /**
   * Writes one entry.
   *
   * @param size bytes of content, needed beforehand since it decides how wide the numbers are
   * @param content writes exactly `size` bytes
   */
  entry(name: string, size: number, content: (write: Write) => void): void {
    const rawName = new TextEncoder().encode(name);
    const localOffset = this.#position;
    const extra = zip64Extra(size, localOffset);
    this.#put(localHeader(rawName, extra, localOffset));
    let crc = 0;
    const start = this.#position;
    content((bytes) => {
      for (let at = 0; at < bytes.length; at += CHUNK) crc = crc32(bytes.subarray(at, at + CHUNK), crc);
      this.#put(bytes);
    });
    if (this.#position - start !== size) {
      throw new RangeError(
        `Cannot write zip entry "${name}": ${size} bytes announced, ${this.#position - start} given`,
      );
    }
    this.#put(descriptor(crc, size, extra.length > 0));
    this.#entries.push({ name: rawName, crc, size, localOffset });
  }

  /** Writes the directory, after which the archive is complete. */
  finish(): void {
    const offset = this.#position;
    for (const entry of this.#entries) this.#put(centralHeader(entry));
    this.#put(endRecords(this.#entries.length, this.#position - offset, offset));
  }

  #put(bytes: Uint8Array): void {
    this.#write(bytes);
    this.#position += bytes.length;
  }
}

/** Little-endian fields, each given as its number of bytes and its value. */
function pack(...fields: readonly (readonly [1 | 2 | 4 | 8, number])[]): Uint8Array {
  const bytes = new Uint8Array(fields.reduce((sum, [width]) => sum + width, 0));
  let at = 0;
  for (const [width, value] of fields) {
    for (let i = 0, rest = value; i < width; i++, rest = Math.floor(rest / 256)) bytes[at++] = rest % 256;
  }
  return bytes;
}

function join(...parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

const short = (value: number): number => Math.min(value, UINT32_MAX);

/** The zip64 field: only those numbers that four bytes cannot hold, or nothing. */
function zip64Extra(size: number, localOffset: number): Uint8Array {
  const numbers = [
    ...(size >= UINT32_MAX ? [size, size] : []),
    ...(localOffset >= UINT32_MAX ? [localOffset] : []),
  ];
  if (numbers.length === 0) return new Uint8Array(0);
  return pack([2, 1], [2, 8 * numbers.length], ...numbers.map((value) => [8, value] as const));
}

function localHeader(name: Uint8Array, extra: Uint8Array, offset: number): Uint8Array {
  const unpadded = offset + 30 + name.length + extra.length + 4;
  const padding = new Uint8Array((ALIGNMENT - unpadded % ALIGNMENT) % ALIGNMENT).fill("Z".charCodeAt(0));
  const fixed = pack(
    [4, 0x04034b50],
    [2, 0], // version needed
    [2, FLAGS],
    [2, 0], // method: stored
    [4, 0], // time and date
    [4, 0], // CRC, given behind the content
    [4, 0], // compressed size, likewise
    [4, 0], // size, likewise
    [2, name.length],
    [2, extra.length + 4 + padding.length],
  );
  return join(fixed, name, extra, pack([2, 0x4246], [2, padding.length]), padding);
}

function descriptor(crc: number, size: number, wide: boolean): Uint8Array {
  const width = wide ? 8 : 4;
  return pack([4, 0x08074b50], [4, crc], [width, size], [width, size]);
}

function centralHeader({ name, crc, size, localOffset }: WrittenEntry): Uint8Array {
  const extra = zip64Extra(size, localOffset);
  const fixed = pack(
    [4, 0x02014b50],
    [2, 0], // version made by
    [2, 0], // version needed
    [2, FLAGS],
    [2, 0], // method
    [4, 0], // time and date
    [4, crc],
    [4, short(size)],
    [4, short(size)],
    [2, name.length],
    [2, extra.length],
    [2, 0], // comment
    [2, 0], // disk
    [2, 0], // internal attributes
    [4, 0], // external attributes
    [4, short(localOffset)],
  );
  return join(fixed, name, extra);
}

function endRecords(count: number, size: number, offset: number): Uint8Array {
  const end64 = pack(
    [4, 0x06064b50],
    [8, 44], // length of the rest
    [2, 0x031e], // version made by
    [2, 45], // version needed: zip64
    [4, 0], // disk
    [4, 0], // disk of the directory
    [8, count],
    [8, count],
    [8, size],
    [8, offset],
  );
  const locator = pack([4, 0x07064b50], [4, 0], [8, offset + size], [4, 1]);
  const smallCount = Math.min(count, 0xffff);
  const end = pack(
    [4, 0x06054b50],
    [2, 0], // disk
    [2, 0], // disk of the directory
    [2, smallCount],
    [2, smallCount],
    [4, short(size)],
    [4, short(offset)],
    [2, 0], // comment
  );
  return join(end64, locator, end);
}
