/**
 * Writing a model in several files with an index.
 *
 * The index is what makes the files a model, so it is written last. Where a model is replaced, the new files get names
 * that no old file has, the index changes from old to new by one rename, and only then do the old files go: whatever
 * happens, the index in the folder names whole files of one model.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "./atomic.ts";
import { RandomAccessFile } from "./random_access_file.ts";
import { INDEX_ENDING, readShardIndex, type Shard, shardIndexText } from "./shard_index.ts";
import { writeTensorFile, type WriteTensorFileOptions } from "./tensor_file.ts";

export { divideIntoShards, type Shard } from "./shard_index.ts";

/**
 * Writes a model into a folder, which is made if need be: its files, then the index `<stem>.index.json`.
 *
 * @param stem what the index is of: `model.safetensors`
 * @returns the path of the index
 * @throws {Deno.errors.AlreadyExists} where the index or one of the files exists and `force` is not set
 */
export function writeShards(
  folder: string,
  stem: string,
  shards: readonly Shard[],
  options: Omit<WriteTensorFileOptions, "tensors">,
): string {
  const { force = false } = options;
  const index = join(folder, `${stem}${INDEX_ENDING}`);
  const existing = [index, ...shards.map(({ file }) => join(folder, file))].filter((path) =>
    existsSync(path)
  );
  if (existing.length && !force) {
    throw new Deno.errors.AlreadyExists(
      `Cannot write "${folder}": ${
        existing[0]
      } exists, choose another folder or ask for it to be replaced (force)`,
    );
  }
  const old = existsSync(index) ? filesOf(index) : [];
  const isNew = !existsSync(folder);
  if (isNew) Deno.mkdirSync(folder);
  const tag = existing.length ? `${crypto.randomUUID().slice(0, 8)}-` : "";
  const renamed = shards.map((shard) => ({
    ...shard,
    file: shard.file.replace(/\d+-of-\d+|$/, (at) => `${tag}${at}`),
  }));
  const written: string[] = [];
  try {
    for (const { file, tensors } of renamed) {
      const path = join(folder, file);
      writeTensorFile(path, { ...options, tensors, force: false });
      written.push(path);
    }
    writeFileAtomic(index, shardIndexText(renamed), { force });
  } catch (error) {
    written.forEach((path) => Deno.removeSync(path));
    if (isNew) Deno.removeSync(folder);
    throw error;
  }
  for (const file of old) {
    const path = join(folder, file);
    if (!written.includes(path) && existsSync(path)) Deno.removeSync(path);
  }
  return index;
}

/** The files that an index names; none where it cannot be read, so that nothing of it is removed. */
function filesOf(index: string): string[] {
  try {
    const file = new RandomAccessFile(index);
    try {
      return [...readShardIndex(file).keys()];
    } finally {
      file.close();
    }
  } catch {
    return [];
  }
}
