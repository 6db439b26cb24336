/**
 * Large files that mean harm: of each kind as many bytes as are asked for, made so that what a reader keeps of them, or how often it
 * goes over them, would be as much as possible.
 *
 * @module
 */
import { ZipWriter } from "../../formats/zip_writer.ts";

/** One kind. */
export interface LargeCase {
  readonly name: string;
  /** Who reads it: a name of `READERS`. */
  readonly reader: string;
  /** A file of about so many bytes. */
  make(bytes: number): Uint8Array;
}

const utf8 = new TextEncoder();

/** Text after text until there are so many bytes, with something before and behind. */
function repeated(
  bytes: number,
  part: (i: number) => string,
  before = "",
  after = "",
  between = "",
): Uint8Array {
  const content = new Uint8Array(bytes + 4096);
  let at = 0;
  const put = (text: string) => at += utf8.encodeInto(text, content.subarray(at)).written;
  put(before);
  for (let i = 0; at + after.length < bytes; i++) put((i ? between : "") + part(i));
  put(after);
  return content.slice(0, at);
}

/** Bytes after bytes, likewise. */
function pickled(bytes: number, part: (i: number) => string, before = "", after = ""): Uint8Array {
  const content = new Uint8Array(bytes + 4096);
  let at = 0;
  const put = (text: string) => {
    for (let i = 0; i < text.length; i++) content[at++] = text.charCodeAt(i);
  };
  put(`\x80\x02${before}`);
  for (let i = 0; at + after.length < bytes; i++) put(part(i));
  put(`${after}.`);
  return content.slice(0, at);
}

function safetensors(header: Uint8Array, data = 0): Uint8Array {
  const file = new Uint8Array(8 + header.length + data);
  new DataView(file.buffer).setBigUint64(0, BigInt(header.length), true);
  file.set(header, 8);
  return file;
}

function archive(entries: Iterable<readonly [string, Uint8Array]>): Uint8Array {
  const pieces: Uint8Array[] = [];
  const zip = new ZipWriter((bytes) => pieces.push(bytes.slice()));
  for (const [name, bytes] of entries) zip.entry(name, bytes.length, (put) => put(bytes));
  zip.finish();
  const file = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  pieces.reduce((at, piece) => (file.set(piece, at), at + piece.length), 0);
  return file;
}

const model = (pickle: Uint8Array, more: Iterable<readonly [string, Uint8Array]> = []) =>
  archive([["m/data.pkl", pickle], ...more, ["m/version", utf8.encode("3\n")]]);
const u32 = (n: number) => String.fromCharCode(n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24);
const text = (value: string) => `X${u32(value.length)}${value}`;
const storage = (key: string, count: number) =>
  `(${text("storage")}ctorch\nByteStorage\n${text(key)}${text("cpu")}J${u32(count)}tQ`;
const tensor = (key: string, count: number, shape: readonly number[], strides: readonly number[]) => {
  const tuple = (numbers: readonly number[]) => `(${numbers.map((n) => `J${u32(n)}`).join("")}t`;
  return `ctorch._utils\n_rebuild_tensor_v2\n(${storage(key, count)}K\x00${tuple(shape)}${
    tuple(strides)
  }\x89` +
    "ccollections\nOrderedDict\n)RtR";
};
const nest = (depth: number) => "[".repeat(depth) + "]".repeat(depth);

/** A vocabulary begins with every byte. */
const everyByte = Array.from(
  { length: 256 },
  (_, byte) => `${byte + 1} b'\\x${byte.toString(16).padStart(2, "0")}' 1\n`,
).join("");

/** The index of documents of `length` tokens each, in a file that `binidx` reads beside as many zeros. */
function binidx(bytes: number, length: number): Uint8Array {
  const count = Math.floor((bytes - 42) / 20);
  const index = new Uint8Array(34 + 20 * count + 8), view = new DataView(index.buffer);
  index.set(utf8.encode("MMIDIDX\0\0"));
  view.setBigUint64(9, 1n, true);
  index[17] = 8;
  view.setBigUint64(18, BigInt(count), true);
  view.setBigUint64(26, BigInt(count + 1), true);
  for (let i = 0; i < count; i++) {
    view.setInt32(34 + 4 * i, length, true);
    view.setBigInt64(34 + 4 * count + 8 * i, BigInt(2 * length * i), true);
    view.setBigInt64(34 + 12 * count + 8 * (i + 1), BigInt(i + 1), true);
  }
  return index;
}

/** All of them. */
export const LARGE: readonly LargeCase[] = [
  ...([
    [
      "many empty tensors",
      (n) =>
        safetensors(
          repeated(n, (i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, "{", "}", ","),
        ),
    ],
    ["tensors of one byte", (n) => {
      const count = Math.floor(n / 62);
      return safetensors(
        repeated(n, (i) => `"${i}":{"dtype":"U8","shape":[1],"data_offsets":[${i},${i + 1}]}`, "{", "}", ","),
        count,
      );
    }],
    [
      "one tensor again and again",
      (n) =>
        safetensors(repeated(n, () => `"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`, "{", "}", ",")),
    ],
    [
      "a name without end",
      (n) =>
        safetensors(
          repeated(n, () => "abcdefgh", '{"', '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        ),
    ],
    ["a name of escapes", (n) =>
      safetensors(
        repeated(n, () => "\\u0416", '{"', '":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
      )],
    [
      "a wide name",
      (n) =>
        safetensors(
          repeated(n, () => "abcdefgh", '{"\u0416', '\\n":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'),
        ),
    ],
    [
      "metadata of many keys",
      (n) => safetensors(repeated(n, (i) => `"${i}":""`, '{"__metadata__":{', "}}", ",")),
    ],
    [
      "metadata of one long text",
      (n) => safetensors(repeated(n, () => "\\u0041", '{"__metadata__":{"a":"', '"}}')),
    ],
    ["deep lists in a field", (n) =>
      safetensors(
        repeated(n, () => nest(30), '{"a":{"b":[', '],"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ","),
      )],
    [
      "numbers in a field",
      (n) =>
        safetensors(
          repeated(n, () => "1e400", '{"a":{"b":[', '],"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', ","),
        ),
    ],
    ["white space", (n) => safetensors(repeated(n, () => "        ", "{", "}"))],
    ["nesting without end", (n) => safetensors(repeated(n, () => "[", '{"a":'))],
  ] as [string, (bytes: number) => Uint8Array][]).map(([name, make]) => ({
    name,
    reader: "safetensors",
    make,
  })),

  ...([
    ["a hundred thousand entries", (n) =>
      archive(
        function* () {
          yield ["m/data.pkl", pickled(0, () => "", "}")] as const;
          // A header of 64 bytes and a line of the directory of some 60.
          for (let i = 0; i * 140 < n; i++) yield [`m/data/${i}`, new Uint8Array()] as const;
        }(),
      )],
    ["a text without end", (n) => model(pickled(n, () => "abcdefgh", `}X${u32(n - 12)}`, "K\x00s"))],
    ["many texts", (n) => model(pickled(n, (i) => text(`${i}`) + "0", "}"))],
    ["texts as keys", (n) => model(pickled(n, (i) => `X${u32(String(i).length)}${i}Ns`, "}"))],
    ["a list of texts", (n) => model(pickled(n, (i) => `X${u32(String(i).length)}${i}a`, "]"))],
    ["dicts in lists", (n) => model(pickled(n, () => "}a", "]"))],
    ["lists in lists", (n) => model(pickled(n, () => "]a", "]"))],
    ["tuples in lists", (n) => model(pickled(n, () => ")a", "]"))],
    ["tuples in tuples", (n) => model(pickled(n, () => "\x85", ")"))],
    ["numbers in a list", (n) => model(pickled(n, () => "Na", "]"))],
    ["numbers of 255 bytes", (n) => model(pickled(n, () => `\x8a\xff${"\x7f".repeat(255)}a`, "]"))],
    ["numbers of nine bytes", (n) => model(pickled(n, () => `\x8a\x09${"\x7f".repeat(9)}a`, "]"))],
    ["fractions in a list", (n) => model(pickled(n, () => "Gabcdefgha", "]"))],
    ["memos", (n) => model(pickled(n, (i) => `r${u32(i)}`, "]"))],
    ["one memo again and again", (n) => model(pickled(n, () => "h\x00a", "]q\x00"))],
    ["a list that holds itself", (n) => model(pickled(n, () => "h\x00h\x00a0", "]q\x00"))],
    ["marks and tuples", (n) => model(pickled(n, () => "(NNNNNNNNNNta", "]"))],
    ["names", (n) => model(pickled(n, () => "ctorch\nByteStorage\na", "]"))],
    ["ordered dicts", (n) => model(pickled(n, () => "ccollections\nOrderedDict\n)Ra", "]"))],
    [
      "storages",
      (n) => model(pickled(n, () => `${storage("0", 1)}a`, "]"), [["m/data/0", new Uint8Array(1)]]),
    ],
    ["tensors of one storage", (n) =>
      model(
        pickled(n, (i) => `${text(`${i}`)}${tensor("0", 16, [4, 4], [1, 4])}s`, "}"),
        [["m/data/0", new Uint8Array(16)]],
      )],
    ["one number repeated", (n) =>
      model(
        pickled(n / 2, (i) => `${text(`${i}`)}${tensor("0", 1, [1024, 1024], [0, 0])}s`, "}"),
        [["m/data/0", new Uint8Array(1)], ["m/data/1", new Uint8Array(n / 2)]],
      )],
    ["metadata of many keys", (n) =>
      model(pickled(0, () => "", "}"), [
        ["m/extra/__metadata__.json", repeated(n, (i) => `"${i}":""`, "{", "}", ",")],
      ])],
  ] as [string, (bytes: number) => Uint8Array][]).map(([name, make]) => ({ name, reader: "pth", make })),

  ...([
    ["many tensors", (n) => repeated(n, (i) => `"${i}":"one.safetensors"`, '{"weight_map":{', "}}", ",")],
    ["many files", (n) => repeated(n, (i) => `"${i}":"${i}"`, '{"weight_map":{', "}}", ",")],
    ["other fields", (n) => repeated(n, (i) => `"${i}":${nest(20)}`, "{", ',"weight_map":{}}', ",")],
    ["one field again and again", (n) => repeated(n, () => `"a":0`, "{", ',"weight_map":{}}', ",")],
  ] as [string, (bytes: number) => Uint8Array][]).map(([name, make]) => ({
    name,
    reader: "index.json",
    make,
  })),

  ...([
    ["lists", (n) => repeated(n, () => nest(20), '{"a":[', "]}", ",")],
    ["objects", (n) => repeated(n, () => "{}", '{"a":[', "]}", ",")],
    ["numbers", (n) => repeated(n, () => "0", '{"a":[', "]}", ",")],
    ["keys", (n) => repeated(n, (i) => `"${i}":0`, "{", "}", ",")],
  ] as [string, (bytes: number) => Uint8Array][]).flatMap(([name, make]) =>
    ["config.json", "adapter_config.json"].map((reader) => ({ name, reader, make }))
  ),

  ...([
    ["a million lines", (n) => repeated(n, (i) => `${i + 257} '${(i + 65536).toString(36)}' 4\n`, everyByte)],
    [
      "short tokens",
      (n) =>
        repeated(
          n,
          (i) => `${i + 257} '${String.fromCodePoint(0x4e00 + i % 20000)}${i >> 14}' 0\n`,
          everyByte,
        ),
    ],
    [
      "long tokens",
      (n) => repeated(n, (i) => `${i + 257} '${`${i}`.padStart(1000, "x")}' 1000\n`, everyByte),
    ],
    ["empty lines", (n) => repeated(n, () => "\n", everyByte)],
    ["one line", (n) => repeated(n, () => "\\x41", "1 '", "' 9")],
    ["JSON of many tokens", (n) => repeated(n, (i) => `"${i + 1}":"${i}"`, "{", "}", ",")],
    ["JSON of one list", (n) => repeated(n, () => "1", '{"1":[', "]}", ",")],
  ] as [string, (bytes: number) => Uint8Array][]).map(([name, make]) => ({
    name,
    reader: "vocabulary",
    make,
  })),

  { name: "documents of nothing", reader: "binidx", make: (n) => binidx(n, 0) },
  { name: "documents of one token", reader: "binidx", make: (n) => binidx(n, 1) },
];
