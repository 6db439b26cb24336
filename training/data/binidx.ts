/**
 * binidx: documents as token ids in Megatron's indexed format, which RWKV's trainers read. `NAME.idx` says where the documents lie
 * in `NAME.bin`, which is nothing but ids, of 16 or 32 bits.
 *
 * The index: "MMIDIDX\0\0", u64 version 1, u8 type of the ids (8 is uint16, 4 is int32), u64 number of sequences S, u64 number of
 * entries of the document list D, then i32 lengths [S], i64 byte offsets [S], i64 first sequence of each document [D]; all
 * little-endian. Nothing of it is taken on trust.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { writeFileAtomic } from "../../formats/atomic.ts";
import { RandomAccessFile } from "../../formats/random_access_file.ts";
import { tokenOf } from "./document.ts";

const MAGIC = "MMIDIDX\0\0";
/** Bytes before the lengths. */
const HEADER = 34;
/** Types that hold token ids, by their code. */
const TYPES: Readonly<Record<number, { readonly name: "int32" | "uint16"; readonly bytes: number }>> = {
  4: { name: "int32", bytes: 4 },
  8: { name: "uint16", bytes: 2 },
};
/** What the other codes mean, for the message. */
const OTHER_TYPES: Readonly<Record<number, string>> = {
  1: "uint8",
  2: "int8",
  3: "int16",
  5: "int64",
  6: "float32",
  7: "float64",
};

/**
 * Reads the documents of `PREFIX.idx` and `PREFIX.bin` one after the other.
 * @param vocabulary one more than the largest id that the model knows
 * @throws Error in one sentence with the file and the document
 */
export function* readBinidx(prefix: string, vocabulary: number): Generator<Uint32Array> {
  const index = readIndex(`${prefix}.idx`);
  const path = `${prefix}.bin`;
  using file = new RandomAccessFile(path);
  const { size } = file;
  const { type, lengths, offsets, documents } = index;
  if (size % type.bytes) {
    throw new Error(
      `Cannot read ${path}: its ${size} bytes are no whole number of ${type.name} tokens, so it is cut off`,
    );
  }
  const tokens = lengths.reduce((sum, length) => sum + length, 0);
  if (tokens * type.bytes > size) {
    // Sequences that share tokens could make a small pair as large as one likes.
    throw new Error(
      `Cannot read ${path}: its index has ${tokens} tokens where ${size} bytes hold ${
        Math.floor(size / type.bytes)
      }, ` +
        "so the pair is cut off or does not belong together",
    );
  }
  let free = 0;
  for (let i = 0; i + 1 < documents.length; i++) {
    const parts: Uint32Array[] = [];
    for (let sequence = documents[i]!; sequence < documents[i + 1]!; sequence++) {
      const at = offsets[sequence]!, bytes = lengths[sequence]! * type.bytes;
      if (at < 0 || at + bytes > size) {
        throw new Error(
          `Cannot read ${path}: document ${i + 1} lies at bytes ${at} to ${at + bytes} of ${size}, ` +
            "so the pair is cut off or does not belong together",
        );
      }
      if (at % type.bytes || (bytes && at < free)) {
        throw new Error(
          `Cannot read ${path}: document ${i + 1} begins at byte ${at}, ${
            at % type.bytes ? "inside a token" : "before the end of what comes before it"
          }, so its index is damaged`,
        );
      }
      free = Math.max(free, at + bytes);
      const content = file.read(at, bytes);
      const ids = type.name === "uint16" ? new Uint16Array(content.buffer) : new Int32Array(content.buffer);
      const wrong = ids.findIndex((id) => id < 0 || id >= vocabulary);
      if (wrong >= 0) {
        throw new Error(
          `Cannot use ${path}: token ${ids[wrong]} in document ${
            i + 1
          } is outside the vocabulary of ${vocabulary}: ` +
            "it was prepared for another tokenizer",
        );
      }
      parts.push(Uint32Array.from(ids));
    }
    if (parts.length === 1) yield parts[0]!;
    else {
      const whole = new Uint32Array(parts.reduce((sum, part) => sum + part.length, 0));
      parts.reduce((at, part) => (whole.set(part, at), at + part.length), 0);
      yield whole;
    }
  }
}

function readIndex(path: string) {
  using file = new RandomAccessFile(path);
  const bytes = file.read(0, file.size);
  const view = new DataView(bytes.buffer);
  const unusable = (why: string) => new Error(`Cannot read ${path}: ${why}`);
  const magic = String.fromCharCode(...bytes.subarray(0, MAGIC.length));
  if (bytes.length < HEADER || magic !== MAGIC) throw unusable("it is no binidx index");
  const version = view.getBigUint64(9, true);
  if (version !== 1n) throw unusable(`it has version ${version}, and there is only 1`);
  const code = bytes[17]!, type = TYPES[code];
  if (!type) {
    throw unusable(
      `its tokens are ${OTHER_TYPES[code] ?? `of unknown type ${code}`}: uint16 and int32 are read`,
    );
  }
  const S = Number(view.getBigUint64(18, true)), D = Number(view.getBigUint64(26, true));
  if (HEADER + 12 * S + 8 * D !== bytes.length) {
    throw unusable(
      `it has ${bytes.length} bytes where ${S} sequences and ${D} documents need another number`,
    );
  }
  const number = (at: number) => Number(view.getBigInt64(at, true));
  const lengths = Int32Array.from({ length: S }, (_, i) => view.getInt32(HEADER + 4 * i, true));
  const offsets = Float64Array.from({ length: S }, (_, i) => number(HEADER + 4 * S + 8 * i));
  // Writers that know no documents leave a list of one entry: each sequence is a document then.
  const documents = D > 1
    ? Float64Array.from({ length: D }, (_, i) => number(HEADER + 12 * S + 8 * i))
    : Float64Array.from({ length: S + 1 }, (_, i) => i);
  const rises = documents.every((first, i) => first >= (i ? documents[i - 1]! : 0) && first <= S);
  if (lengths.some((length) => length < 0) || !rises || documents[0] !== 0 || documents.at(-1) !== S) {
    throw unusable("its lengths or its list of documents make no sense");
  }
  return { type, lengths, offsets, documents };
}

/** What {@link writeBinidx} wrote. */
export interface BinidxSummary {
  readonly documents: number;
  readonly tokens: number;
  readonly type: "int32" | "uint16";
}

/**
 * Writes documents as `PREFIX.bin` and `PREFIX.idx`, the index last. Which tokens are only context is not kept: the format has
 * no place for it.
 * @param type by default uint16 where all ids fit
 * @throws Error in one sentence where a file exists and `force` is not set, or an id does not fit
 */
export function writeBinidx(
  prefix: string,
  documents: readonly Uint32Array[],
  options: { type?: "int32" | "uint16" | undefined; force?: boolean | undefined } = {},
): BinidxSummary {
  const { force = false } = options;
  const existing = [".bin", ".idx"].map((extension) => prefix + extension).find((path) => existsSync(path));
  if (existing !== undefined && !force) {
    throw new Error(`The output ${existing} exists: name another, or replace it with --force`);
  }
  let largest = 0, tokens = 0;
  for (const document of documents) {
    tokens += document.length;
    for (const word of document) largest = Math.max(largest, tokenOf(word));
  }
  const type = options.type ?? (largest < 2 ** 16 ? "uint16" : "int32");
  if (type === "uint16" && largest >= 2 ** 16) {
    throw new Error(`Token ${largest} does not fit into uint16: leave the type out, or say int32`);
  }
  const [code, bytes] = type === "uint16" ? [8, 2] : [4, 4];
  const content = type === "uint16" ? new Uint16Array(tokens) : new Int32Array(tokens);
  const S = documents.length, index = new Uint8Array(HEADER + 12 * S + 8 * (S + 1));
  const view = new DataView(index.buffer);
  index.set(Array.from(MAGIC, (letter) => letter.charCodeAt(0)));
  view.setBigUint64(9, 1n, true);
  index[17] = code!;
  view.setBigUint64(18, BigInt(S), true);
  view.setBigUint64(26, BigInt(S + 1), true);
  let at = 0;
  documents.forEach((document, i) => {
    view.setInt32(HEADER + 4 * i, document.length, true);
    view.setBigInt64(HEADER + 4 * S + 8 * i, BigInt(at * bytes!), true);
    view.setBigInt64(HEADER + 12 * S + 8 * (i + 1), BigInt(i + 1), true);
    content.set(document.map(tokenOf), at);
    at += document.length;
  });
  // An index beside other tokens than its own would be believed.
  if (existsSync(`${prefix}.idx`)) Deno.removeSync(`${prefix}.idx`);
  writeFileAtomic(`${prefix}.bin`, new Uint8Array(content.buffer), { force });
  writeFileAtomic(`${prefix}.idx`, index, { force });
  return { documents: S, tokens, type };
}
