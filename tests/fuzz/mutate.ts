/**
 * Changes files as an enemy or a bad disk would: bytes, numbers, texts and whole stretches. Everything follows from one seed.
 *
 * @module
 */
import { crc32 } from "node:zlib";
import { ZipWriter } from "../../formats/zip_writer.ts";

/** Whole numbers below a limit, the same for one seed. */
export type Draw = (limit: number) => number;

/** A generator of xorshift kind: fast, and good enough to choose with. */
export function draws(seed: number): Draw {
  let state = (Math.imul(seed ^ 0x9e3779b9, 2654435761) >>> 0) || 1;
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % Math.max(1, limit);
  };
}

/** Numbers at which readers are wrong. */
const NUMBERS = [
  0n,
  1n,
  2n,
  7n,
  8n,
  0x7fn,
  0x80n,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_ffffn,
]
  .concat([0x1_0000_0000n, 2n ** 40n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n - 1n, 2n ** 63n, 2n ** 64n - 1n]);

/** Texts at which readers are wrong. */
const TEXTS = [
  "__proto__",
  "constructor",
  "../../etc/passwd",
  "/etc/passwd",
  "-1",
  "-0",
  "1e99",
  "1.0",
  "NaN",
  "null",
  "{}",
]
  .concat([
    "[]",
    '""',
    '"',
    "\\",
    "\\u0000",
    "\\ud800",
    "\0",
    "\ufeff",
    "[".repeat(300),
    '{"a":'.repeat(300),
    "F64",
    "BOOL",
  ])
  .concat([
    "18446744073709551615",
    "9007199254740993",
    "posix\nsystem\n",
    "torch\nFloatStorage\n",
    "\x80\x02",
    "PK\x05\x06",
  ]);

const utf8 = new TextEncoder();

/** Changes a file in one way, or in up to four. `other` is a second file to take stretches from. */
export function mutate(bytes: Uint8Array, other: Uint8Array, draw: Draw): Uint8Array {
  let changed = bytes;
  for (let rounds = 1 + draw(2) * draw(4); rounds > 0; rounds--) {
    changed = CHANGES[draw(CHANGES.length)]!(changed, other, draw);
  }
  return changed;
}

type Change = (bytes: Uint8Array, other: Uint8Array, draw: Draw) => Uint8Array;

const CHANGES: readonly Change[] = [
  // A bit, a byte, or some bytes.
  (bytes, _, draw) =>
    bytes.length ? bytes.with(at(bytes, draw), bytes[at(bytes, draw)]! ^ (1 << draw(8))) : bytes,
  (bytes, _, draw) => bytes.length ? bytes.with(at(bytes, draw), draw(256)) : bytes,
  (bytes, _, draw) =>
    splice(bytes, at(bytes, draw), draw(8), Uint8Array.from({ length: draw(8) }, () => draw(256))),
  // A number of 2, 4 or 8 bytes.
  (bytes, _, draw) => {
    const width = [2, 4, 8][draw(3)]!;
    const number = new Uint8Array(BigUint64Array.of(NUMBERS[draw(NUMBERS.length)]!).buffer).subarray(
      0,
      width,
    );
    return splice(bytes, at(bytes, draw), width, number);
  },
  // A number in digits.
  (bytes, _, draw) => {
    const digits = [...latin1(bytes).matchAll(/\d+/g)];
    if (!digits.length) return bytes;
    const { 0: text, index } = digits[draw(digits.length)]!;
    const value = [
      `${NUMBERS[draw(NUMBERS.length)]}`,
      `${BigInt(text) + 1n}`,
      `${BigInt(text) - 1n}`,
      `-${text}`,
      `${text}.0`,
      `0${text}`,
    ];
    return splice(bytes, index, text.length, utf8.encode(value[draw(value.length)]!));
  },
  // A text, set in or over something.
  (bytes, _, draw) => splice(bytes, at(bytes, draw), draw(12), utf8.encode(TEXTS[draw(TEXTS.length)]!)),
  // Cut short, or with something behind.
  (bytes, _, draw) => bytes.slice(0, draw(bytes.length + 1)),
  (bytes, other, draw) => splice(bytes, bytes.length, 0, stretch(other, draw)),
  // A stretch twice, gone, or from another file.
  (bytes, _, draw) => splice(bytes, at(bytes, draw), 0, stretch(bytes, draw)),
  (bytes, _, draw) => splice(bytes, at(bytes, draw), draw(64), new Uint8Array()),
  (bytes, other, draw) => splice(bytes, at(bytes, draw), draw(64), stretch(other, draw)),
  // One byte very often: what it stands for may take far more memory than it.
  (bytes, _, draw) =>
    splice(bytes, at(bytes, draw), 0, new Uint8Array(1 + draw(5000)).fill(bytes[at(bytes, draw)] ?? 0)),
];

function at(bytes: Uint8Array, draw: Draw): number {
  // Headers are more worth than data: half of all places are among the first bytes.
  return draw(2) ? draw(Math.min(bytes.length, 400)) : draw(bytes.length);
}

function stretch(bytes: Uint8Array, draw: Draw): Uint8Array {
  const begin = draw(bytes.length);
  return bytes.slice(begin, begin + draw(200));
}

function splice(bytes: Uint8Array, begin: number, removed: number, added: Uint8Array): Uint8Array {
  const end = Math.min(bytes.length, begin + removed);
  const changed = new Uint8Array(begin + added.length + bytes.length - end);
  changed.set(bytes.subarray(0, begin));
  changed.set(added, begin);
  changed.set(bytes.subarray(end), begin + added.length);
  return changed;
}

function latin1(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}

/** Sets the length before a safetensors header right again, where the header still ends in a brace. */
export function withHeaderLength(bytes: Uint8Array): Uint8Array {
  const end = latin1(bytes).lastIndexOf("}") + 1;
  if (bytes.length < 8 || end < 9) return bytes;
  const repaired = bytes.slice();
  new DataView(repaired.buffer).setBigUint64(0, BigInt(end - 8), true);
  return repaired;
}

/** A stored zip archive of the entries, with their right checksums. */
export function archiveOf(entries: ReadonlyMap<string, Uint8Array>): Uint8Array {
  const pieces: Uint8Array[] = [];
  const zip = new ZipWriter((bytes) => pieces.push(bytes.slice()));
  for (const [name, bytes] of entries) zip.entry(name, bytes.length, (put) => put(bytes));
  zip.finish();
  return Uint8Array.from(pieces.flatMap((piece) => [...piece]));
}

/** The entries of an archive, as far as its directory can be followed. */
export function entriesOf(archive: Uint8Array): Map<string, Uint8Array> {
  const entries = new Map<string, Uint8Array>();
  try {
    const view = new DataView(archive.buffer, archive.byteOffset, archive.byteLength);
    const end = archive.length - 22;
    let at = view.getUint32(end + 16, true);
    while (at < end && view.getUint32(at, true) === 0x02014b50) {
      const nameLength = view.getUint16(at + 28, true);
      const size = view.getUint32(at + 24, true), local = view.getUint32(at + 42, true);
      const name = latin1(archive.subarray(at + 46, at + 46 + nameLength));
      const data = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
      entries.set(name, archive.slice(data, data + size));
      at += 46 + nameLength + view.getUint16(at + 30, true);
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return entries;
}

/** A sum by which a file is named. */
export function nameOf(bytes: Uint8Array): string {
  return crc32(bytes).toString(16).padStart(8, "0");
}
