/**
 * The readers that are fuzzed: each with whole files to start from, a way to read all of a file, and what it may throw.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inflateSync } from "node:zlib";
import { AdapterError } from "../../adapters/adapter.ts";
import { loadAdapter } from "../../adapters/file.ts";
import "../../mod.ts";
import { tensorByteLength } from "../../formats/dtype.ts";
import { FormatError, openTensorFile, writeTensorFile } from "../../formats/tensor_file.ts";
import { readModelConfig } from "../../rwkv/model.ts";
import { ModelError } from "../../rwkv/config.ts";
import { bytesTokenizer } from "../../rwkv/tokenizer/bytes.ts";
import { chooseTokenizer } from "../../rwkv/tokenizer/choose.ts";
import { parquetWriteBuffer } from "hyparquet-writer";
import { readBinidx, writeBinidx } from "../../training/data/binidx.ts";
import { readDocuments } from "../../training/data/documents.ts";
import { OptionError, settle } from "../../training/options.ts";
import { readRun, RUN_VERSION } from "../../training/run_folder.ts";
import { archiveOf, type Draw, entriesOf, mutate, withHeaderLength } from "./mutate.ts";

/** One reader. */
export interface Reader {
  readonly name: string;
  /** Whole and broken files to change. */
  seeds(): Uint8Array[];
  /** Changes a file so that some of the changes come past the first checks. */
  change(bytes: Uint8Array, other: Uint8Array, draw: Draw): Uint8Array;
  /** Reads everything that a file holds. `path` is in a folder of its own. */
  read(path: string): void | Promise<void>;
  /** Whether an error is one that a person is meant to see. */
  isRefusal(error: unknown): boolean;
}

const fixture = (name: string) => fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
const utf8 = new TextEncoder();

function cases(name: string): Uint8Array[] {
  const cases: { base64: string; zlib?: boolean }[] = JSON.parse(Deno.readTextFileSync(fixture(name)));
  return cases.map(({ base64, zlib }) => {
    const bytes = Uint8Array.fromBase64(base64);
    return zlib ? new Uint8Array(inflateSync(bytes)) : bytes;
  }).filter(({ length }) => length < 20_000);
}

/** A small file of tensors of several types. */
function tensors(
  format: "safetensors" | "pth",
  names: readonly string[],
  metadata?: Map<string, string>,
): Uint8Array {
  const path = join(scratch(), `seed.${format}`);
  const dtypes = ["F32", "BF16", "F16", "I64", "U8", "BOOL"] as const;
  writeTensorFile(path, {
    format,
    tensors: names.map((name, i) => ({
      name,
      dtype: dtypes[metadata ? 0 : i % dtypes.length]!,
      shape: [2, 3].slice(i % 3),
    })),
    read: ({ dtype, shape }) => new Uint8Array(tensorByteLength(dtype, shape)!).fill(1),
    metadata,
    force: true,
  });
  return Deno.readFileSync(path);
}

let folder: string | undefined;
/** A folder for files that are made on the way. */
export function scratch(): string {
  if (folder === undefined) throw new Error("No scratch folder was set");
  return folder;
}
/** Says where that is. */
export function useScratch(path: string): void {
  folder = path;
}

function readTensors(path: string): void {
  using file = openTensorFile(path);
  for (const { name, dtype, shape } of file.tensors.values()) {
    const bytes = file.readBytes(name);
    if (bytes.length !== tensorByteLength(dtype, shape)) {
      throw new Error(`"${name}" has ${bytes.length} bytes`);
    }
    if (bytes.byteLength > 0 && /^(F32|F16|BF16)$/.test(dtype)) file.readFloat32(name);
  }
  if (file.tensors.size) {
    try {
      readModelConfig(file);
    } catch (error) {
      if (!(error instanceof ModelError)) throw error;
    }
  }
}

const isFormatError = (error: unknown) => error instanceof FormatError && oneLine(error);
const oneLine = (error: Error) => !error.message.includes("\n") && error.message.length < 2000;
const isSentence = (error: unknown) =>
  error instanceof Error && [Error, SyntaxError, OptionError].some((kind) => error.constructor === kind);

const names = ["emb.weight", "blocks.0.att.key.weight", "blocks.0.att.r_k", "a", "é"];
const settings = settle({ loadModel: "model.pth", dataFile: "text.jsonl" }, () => "runs/a");
const digits = (n: number) => String(n).padStart(1);
const vocabulary = Array.from(
  { length: 256 },
  (_, byte) => `${digits(byte + 1)} b'\\x${byte.toString(16).padStart(2, "0")}' 1`,
)
  .concat(["257 'the' 3", "258 ' and' 4", `259 "it's" 4`, "260 '\\u4e2d' 3"]).join("\n") + "\n";
const vocabularyJson = JSON.stringify(Object.fromEntries([
  ...Array.from({ length: 256 }, (_, byte) => [byte + 1, [byte]]),
  [257, "the"],
  [258, " and"],
]));

/** All of them. */
export const READERS: readonly Reader[] = [
  {
    name: "safetensors",
    seeds: () => [...cases("safetensors-cases.json"), tensors("safetensors", names)],
    change: (bytes, other, draw) => {
      const changed = mutate(bytes, other, draw);
      return draw(2) ? withHeaderLength(changed) : changed;
    },
    read: readTensors,
    isRefusal: isFormatError,
  },
  {
    name: "pth",
    seeds: () => [...cases("pth-cases.json"), tensors("pth", names)],
    change: mutate,
    read: readTensors,
    isRefusal: isFormatError,
  },
  {
    // The pickle is changed and the archive made right again, or a checksum would refuse nearly everything.
    name: "pickle",
    seeds:
      () => [...cases("pth-cases.json").filter((bytes) => entriesOf(bytes).size > 1), tensors("pth", names)],
    change: (bytes, other, draw) => {
      const entries = entriesOf(bytes), from = entriesOf(other);
      const pickle = [...entries.keys()].find((name) => name.endsWith("data.pkl"));
      if (pickle === undefined) return bytes;
      entries.set(pickle, mutate(entries.get(pickle)!, [...from.values()][0] ?? other, draw));
      return archiveOf(entries);
    },
    read: readTensors,
    isRefusal: isFormatError,
  },
  {
    name: "index.json",
    seeds: () => [
      utf8.encode(
        `{"metadata":{"total_size":60},"weight_map":{${names.map((name) => `"${name}":"one.safetensors"`)}}}`,
      ),
      utf8.encode(`{"weight_map":{}}`),
    ],
    change: mutate,
    read: (path) => {
      const index = path.replace(/[^/\\]+$/, "model.safetensors.index.json");
      Deno.renameSync(path, index);
      const shard = path.replace(/[^/\\]+$/, "one.safetensors");
      Deno.writeFileSync(shard, shardBytes ??= tensors("safetensors", names));
      readTensors(index);
    },
    isRefusal: (error) => isFormatError(error) || error instanceof Deno.errors.NotFound,
  },
  {
    name: "adapter",
    seeds: () => {
      const description = (settings: unknown) => new Map([["wishbone", JSON.stringify(settings)]]);
      const bone = ["blocks.0.att.key.bone", "blocks.0.ffn.value.bone"],
        lora = ["blocks.0.att.key.lora_A", "blocks.0.att.key.lora_B"];
      return [
        tensors("safetensors", bone, description({ version: 1, method: "bone", settings: { r: 2 } })),
        tensors(
          "safetensors",
          lora,
          description({ version: 1, method: "lora", settings: { r: 2, alpha: 4 }, overrides: {} }),
        ),
        tensors("safetensors", bone, new Map([["other", "text"]])),
      ];
    },
    change: (bytes, other, draw) => {
      const changed = mutate(bytes, other, draw);
      return draw(2) ? withHeaderLength(changed) : changed;
    },
    read: (path) => void loadAdapter(path),
    isRefusal: (error) =>
      isFormatError(error) || (error instanceof AdapterError && oneLine(error)) ||
      (error instanceof RangeError && /does not say its alpha/.test(error.message)),
  },
  {
    name: "adapter_config.json",
    seeds: () => [
      utf8.encode(
        `{"peft_type":"LORA","r":2,"lora_alpha":16,"target_modules":["key","value"],"bias":"none","rank_pattern":{}}`,
      ),
      utf8.encode(
        `{"peft_type":"BONE","r":8,"init_weights":true,"target_modules":"all-linear","alpha_pattern":{"key":4}}`,
      ),
    ],
    change: mutate,
    read: (path) => {
      const folder = path.replace(/[/\\][^/\\]+$/, "");
      Deno.renameSync(path, join(folder, "adapter_config.json"));
      writeTensorFile(join(folder, "adapter_model.safetensors"), {
        format: "safetensors",
        tensors: ["A", "B"].map((letter, i) => ({
          name: `base_model.model.blocks.0.att.key.lora_${letter}.weight`,
          dtype: "F32",
          shape: [[2, 4], [4, 2]][i]!,
        })),
        read: () => new Uint8Array(32),
      });
      loadAdapter(folder);
    },
    isRefusal: (error) => isFormatError(error) || (error instanceof AdapterError && oneLine(error)),
  },
  {
    name: "config.json",
    seeds:
      () => [utf8.encode(JSON.stringify({ version: RUN_VERSION, settings, model: "a", data: "b" }, null, 2))],
    change: mutate,
    read: (path) => {
      Deno.renameSync(path, path.replace(/[^/\\]+$/, "config.json"));
      readRun(path.replace(/[/\\][^/\\]+$/, ""));
    },
    isRefusal: (error) => error instanceof OptionError && oneLine(error),
  },
  {
    name: "vocabulary",
    seeds: () => [utf8.encode(vocabulary), utf8.encode(vocabularyJson)],
    change: mutate,
    read: async (path) => {
      const tokenizer = await chooseTokenizer({ vocabulary: 1 << 16, modelPath: path, vocab: path });
      tokenizer.decode(tokenizer.encode("the and \u4e2d\0 it's"));
    },
    isRefusal: isSentence,
  },
  {
    name: "binidx",
    seeds: () =>
      [[["one", "three"], "uint16"], [["a", "", "b"], "int32"]].map(([texts, type]) => {
        const prefix = join(scratch(), "seed");
        const documents = (texts as string[]).map((text) => Uint32Array.from(utf8.encode(text)));
        writeBinidx(prefix, documents, { type: type as "uint16" | "int32", force: true });
        return Deno.readFileSync(`${prefix}.idx`);
      }),
    change: mutate,
    read: (path) => {
      Deno.renameSync(path, `${path}.idx`);
      Deno.writeFileSync(`${path}.bin`, new Uint8Array(64));
      for (const document of readBinidx(path, 256)) {
        if (document.length > 64) throw new Error("more tokens than bytes");
      }
    },
    isRefusal: isSentence,
  },
  {
    name: "parquet",
    seeds: () =>
      [true, false].map((small) =>
        new Uint8Array(parquetWriteBuffer({
          columnData: [{ name: "text", data: small ? ["one"] : ["one", "two", "two", "two", "\u00e9", ""] }],
          rowGroupSize: 4,
        }))
      ),
    change: mutate,
    read: async (path) => {
      const parquet = `${path}.parquet`;
      Deno.renameSync(path, parquet);
      await readDocuments(parquet, bytesTokenizer(256), { dataType: "parquet" });
    },
    isRefusal: isSentence,
  },
  {
    name: "csv",
    seeds: () => [utf8.encode('text,more\none,1\n"two, ""quoted""\nlines",2\n\u00e9,3\n')],
    change: mutate,
    read: async (path) => {
      Deno.renameSync(path, `${path}.csv`);
      await readDocuments(`${path}.csv`, bytesTokenizer(256), { dataType: "csv" });
    },
    isRefusal: isSentence,
  },
  {
    name: "documents",
    seeds: () => [utf8.encode(`{"text":"one"}\n\n{"text":"two \\u00e9","more":[1,{}]}\r\n{"text":""}`)],
    change: mutate,
    read: async (path) => void await readDocuments(path, bytesTokenizer(256), { dataType: "jsonl" }),
    isRefusal: isSentence,
  },
];

let shardBytes: Uint8Array | undefined;
