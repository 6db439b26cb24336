/**
 * The index of a model in several files, as Hugging Face writes it: JSON that says of each tensor which file holds it.
 *
 *     { "metadata": { "total_size": 123 }, "weight_map": { "emb.weight": "model-00001-of-00002.safetensors", … } }
 *
 * @module
 */

import { tensorByteLength } from "./dtype.ts";
import { JsonCursor } from "./json.ts";
import type { RandomAccessFile } from "./random_access_file.ts";
import type { TensorInfo } from "./tensor.ts";
import { decodeUtf8, quoted } from "./text.ts";

/** How the name of an index ends. */
export const INDEX_ENDING = ".index.json";

/** A name that leads out of no folder on any system, and that every file system can hold. */
// deno-lint-ignore no-control-regex
const FILE_NAME = /^[^/\\:\u0000-\u001f\u007f]{1,200}$/;
const MAX_INDEX = 1 << 25;
/** All are held open, and a process may hold a thousand files or so. */
const MAX_SHARDS = 500;

/** One of the files of a model, and what lies in it. */
export interface Shard {
  /** Its name, in the folder of the index. */
  readonly file: string;
  /** Its tensors, in the order wanted in the file. */
  readonly tensors: readonly TensorInfo[];
}

/**
 * Reads an index: the names of its files in order, each with the names of its tensors.
 *
 * @throws {FormatError} where it is malformed, or names a file that is not in its own folder
 */
export function readShardIndex(file: RandomAccessFile): Map<string, Set<string>> {
  const error = file.error.bind(file);
  if (file.size > MAX_INDEX) throw error(`it has ${file.size} bytes, too many for an index of shards`);
  const cursor = new JsonCursor(decodeUtf8(file.read(0, file.size), "the index", error), error);
  let map: Map<string, string> | undefined;
  cursor.object("the index", (key) => {
    if (key !== "weight_map") return cursor.skipValue("the index");
    if (map) throw error("the index has weight_map twice");
    map = cursor.textMap("weight_map");
  });
  cursor.end("the index");
  if (!map) throw error("it has no weight_map, so it is not an index of shards");
  const shards = new Map<string, Set<string>>();
  for (const [tensor, shard] of map) {
    if (!FILE_NAME.test(shard) || shard === "." || shard === "..") {
      throw error(
        `its weight_map puts tensor ${quoted(tensor)} into ${quoted(shard)}, which is no name of a file`,
      );
    }
    shards.set(shard, (shards.get(shard) ?? new Set()).add(tensor));
  }
  if (shards.size > MAX_SHARDS) {
    throw error(`it names ${shards.size} files, and at most ${MAX_SHARDS} are read`);
  }
  return new Map([...shards].sort(([a], [b]) => a < b ? -1 : 1));
}

/** The text of an index, as `json.dumps(indent=2, sort_keys=True)` writes it. */
export function shardIndexText(shards: readonly Shard[]): string {
  const places = shards.flatMap(({ file, tensors }) => tensors.map(({ name }) => [name, file] as const));
  const lines = places.sort(([a], [b]) => a < b ? -1 : 1)
    .map(([name, file]) => `    ${JSON.stringify(name)}: ${JSON.stringify(file)}`);
  const total = shards.flatMap(({ tensors }) => tensors)
    .reduce((sum, { dtype, shape }) => sum + (tensorByteLength(dtype, shape) ?? 0), 0);
  return `{\n  "metadata": {\n    "total_size": ${total}\n  },\n  "weight_map": {\n${
    lines.join(",\n")
  }\n  }\n}\n`;
}

/**
 * Divides tensors among files of at most `bytes` each, in their order; a larger tensor gets a file of its own.
 *
 * @param stem,ending of the names: `model` and `.safetensors` give `model-00001-of-00002.safetensors`
 */
export function divideIntoShards(
  tensors: Iterable<TensorInfo>,
  bytes: number,
  [stem, ending]: readonly [string, string],
): Shard[] {
  const groups: TensorInfo[][] = [];
  let filled = 0;
  for (const info of tensors) {
    const length = tensorByteLength(info.dtype, info.shape) ?? 0;
    if (!groups.length || (filled > 0 && length > 0 && filled + length > bytes)) {
      groups.push([]);
      filled = 0;
    }
    groups.at(-1)!.push(info);
    filled += length;
  }
  const digits = (number: number) => `${number}`.padStart(5, "0");
  return groups.map((tensors, i) => ({
    file: `${stem}-${digits(i + 1)}-of-${digits(groups.length)}${ending}`,
    tensors,
  }));
}
