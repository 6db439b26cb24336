/**
 * Files that appear whole or not at all.
 *
 * The bytes go to a temporary name in the same folder, are synced to the disk, and take the final name by one
 * rename; then the folder is synced, since a rename that was not may be forgotten at a power loss. A crash at
 * any moment leaves the previous file untouched, at worst with a `.tmp` file beside it.
 *
 * @module
 */

import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { writeFully } from "./random_access_file.ts";

/** Options of {@linkcode writeFileAtomic}. */
export interface WriteFileAtomicOptions {
  /** Replace an existing file (default: refuse). */
  force?: boolean | undefined;
}

/**
 * Writes a file so that its name never refers to part of it.
 *
 * @param data the content, or a function that writes it to the open temporary file
 * @throws {Deno.errors.AlreadyExists} where `path` exists and `force` is not set
 * @throws whatever `data` throws, after the temporary file is removed
 */
export function writeFileAtomic(
  path: string,
  data: Uint8Array | string | ((file: Deno.FsFile) => void),
  options: WriteFileAtomicOptions = {},
): void {
  const { force = false } = options;
  requireFree(path, force);
  const folder = dirname(path);
  const temporary = join(folder, `.${basename(path)}.${Deno.pid}-${crypto.randomUUID().slice(0, 8)}.tmp`);
  try {
    // Nested so that the file is closed before it is renamed or removed, which Windows requires.
    {
      using file = createFile(temporary, path);
      if (typeof data === "function") data(file);
      else writeFully(file, typeof data === "string" ? new TextEncoder().encode(data) : data);
      file.syncSync();
    }
    // Asked again: writing may have taken minutes.
    requireFree(path, force);
    renameSynced(temporary, path);
  } catch (error) {
    removeIfPresent(temporary);
    throw writeError(path, error);
  }
}

/** Renames a file or folder within its folder, so that the new name outlasts a power loss. */
export function renameSynced(from: string, to: string): void {
  Deno.renameSync(from, to);
  syncFolder(dirname(to));
}

/** What the system may say of a file that cannot be written, and what to do about it. */
const REASONS: Readonly<Record<string, string>> = {
  ENOSPC: "the disk is full, free some space or choose another folder",
  EDQUOT: "there is no space left for this user, free some or choose another folder",
  EFBIG: "files may not grow as large here, choose another folder",
  EROFS: "its folder is read-only, choose another",
  EIO: "the disk fails, choose another folder and check the disk",
  EACCES: "permission is denied, choose another folder or change its permissions",
  EPERM: "permission is denied, choose another folder or change its permissions",
};

/** The error of a write: a sentence where the system refuses it, otherwise the error itself. */
export function writeError(path: string, error: unknown): unknown {
  const code = error instanceof Error && "code" in error ? `${error.code}` : "";
  if (!Object.hasOwn(REASONS, code)) return error;
  return new Error(`Cannot write "${path}": ${REASONS[code]}`, { cause: error });
}

function createFile(temporary: string, path: string): Deno.FsFile {
  try {
    return Deno.openSync(temporary, { write: true, createNew: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`Cannot write "${path}": its folder does not exist, create it first`);
    }
    throw error;
  }
}

/**
 * Checks that a file may get a name.
 *
 * @param force whether a file of that name may be replaced; nothing else may
 * @throws {Deno.errors.AlreadyExists} in one sentence
 */
export function requireFree(path: string, force: boolean): void {
  let there: Deno.FileInfo;
  try {
    // Not followed: a link to nowhere is somebody's file too.
    there = Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw error;
  }
  const refused = (why: string) => new Deno.errors.AlreadyExists(`Cannot write "${path}": ${why}`);
  if (there.isDirectory) throw refused("it is a folder, choose another path");
  if (!there.isFile && !there.isSymlink) {
    throw refused("it is a device, a pipe or a socket, choose another path");
  }
  if (!force) throw refused("it exists, choose another path or ask for it to be replaced (force)");
}

/** Makes a folder where there is none, so that it outlasts a power loss; the one that it is in must exist. */
export function makeFolder(path: string): void {
  if (existsSync(path)) return;
  Deno.mkdirSync(path, { recursive: true });
  syncFolder(dirname(path));
}

function removeIfPresent(path: string): void {
  try {
    Deno.removeSync(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

function syncFolder(folder: string): void {
  // Windows cannot open a folder, and its rename is journalled.
  if (Deno.build.os === "windows") return;
  using handle = Deno.openSync(folder, { read: true });
  handle.syncSync();
}
