/**
 * Models that are written whole and checked before they get their name: one file, or several with an index.
 *
 * The index is what makes several files a model, so it gets its name last. Where a model is replaced, the new files have names that
 * no old file has, the index changes from old to new by one rename, and only then do the old files go: whatever happens, the index
 * in the folder names whole files of one model.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { renameSynced, requireFree, writeFileAtomic } from "./atomic.ts";
import { RandomAccessFile } from "./random_access_file.ts";
import { INDEX_ENDING, readShardIndex, type Shard, shardIndexText } from "./shard_index.ts";
import { writeTensorFile, type WriteTensorFileOptions } from "./tensor_file.ts";

export { divideIntoShards, type Shard } from "./shard_index.ts";

/** A model that is written whole, but does not have its name yet. Disposing of it without {@linkcode commit} removes it. */
export interface PendingModel extends Disposable {
  /** Where it can be opened before it has its name. */
  readonly path: string;
  /** Gives it its name, and removes what it replaces. @returns the path of the file or index */
  commit(): string;
}

/**
 * Writes a model as one file under a preliminary name.
 *
 * @throws {Deno.errors.AlreadyExists} where the path exists and `force` is not set
 */
export function prepareFile(path: string, options: WriteTensorFileOptions): PendingModel {
  const { force = false } = options;
  requireFree(path, force);
  const preliminary = join(dirname(path), `.${basename(path)}.${crypto.randomUUID().slice(0, 8)}.unchecked`);
  writeTensorFile(preliminary, { ...options, force: false });
  return {
    path: preliminary,
    commit() {
      requireFree(path, force);
      renameSynced(preliminary, path);
      return path;
    },
    [Symbol.dispose]() {
      if (existsSync(preliminary)) Deno.removeSync(preliminary);
    },
  };
}

/**
 * Writes the files of a model into a folder, which is made if need be, and an index under a preliminary name.
 *
 * @param stem what the index is of: `model.safetensors`
 * @throws {Deno.errors.AlreadyExists} where the index or one of the files exists and `force` is not set
 */
export function prepareShards(
  folder: string,
  stem: string,
  shards: readonly Shard[],
  options: Omit<WriteTensorFileOptions, "tensors">,
): PendingModel {
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
  const id = crypto.randomUUID().slice(0, 8);
  const renamed = existing.length
    ? shards.map((shard) => ({ ...shard, file: `${id}-${shard.file}` }))
    : shards;
  const preliminary = join(folder, `.${stem}.${id}${INDEX_ENDING}`);
  const made: string[] = [];
  let isNew = false, committed = false;
  const discard = () => {
    if (committed) return;
    made.filter((path) => existsSync(path)).forEach((path) => Deno.removeSync(path));
    if (isNew && existsSync(folder)) Deno.removeSync(folder);
  };
  try {
    if (!existsSync(folder)) {
      Deno.mkdirSync(folder);
      isNew = true;
    }
    for (const { file, tensors } of renamed) {
      const path = join(folder, file);
      writeTensorFile(path, { ...options, tensors, force: false });
      made.push(path);
    }
    made.push(preliminary);
    writeFileAtomic(preliminary, shardIndexText(renamed));
  } catch (error) {
    discard();
    throw error;
  }
  return {
    path: preliminary,
    commit() {
      const old = existsSync(index) ? filesOf(index).map((file) => join(folder, file)) : [];
      renameSynced(preliminary, index);
      committed = true;
      old.filter((path) => !made.includes(path) && existsSync(path)).forEach((path) => Deno.removeSync(path));
      return index;
    },
    [Symbol.dispose]: discard,
  };
}

/** Writes a model into a folder at once; see {@linkcode prepareShards}. @returns the path of the index */
export function writeShards(
  folder: string,
  stem: string,
  shards: readonly Shard[],
  options: Omit<WriteTensorFileOptions, "tensors">,
): string {
  using pending = prepareShards(folder, stem, shards, options);
  return pending.commit();
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
