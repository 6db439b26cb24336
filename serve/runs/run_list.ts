/**
 * The run folders under a root, and the only way from a request to a file: an id is looked up in a list that is made here, and a
 * file is opened only if it truly lies in the root, links resolved.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join, sep } from "node:path";

/** A run folder. */
export interface RunFolder {
  /** Stands for it in addresses: its name, or a hash where the name has other signs than letters, digits, _ and -. */
  readonly id: string;
  /** Its name, for people. */
  readonly name: string;
  /** Its true path. */
  readonly path: string;
}

/** What an id looks like. */
const ID = /^[A-Za-z0-9_-]{1,64}$/;

/** Bytes of a file that is read whole, at most. */
const WHOLE_BYTES = 1 << 20;

/** The runs under a root, which need not exist yet. */
export class RunList {
  constructor(readonly root: string) {}

  #realRoot(): string | undefined {
    try {
      return Deno.realPathSync(this.root);
    } catch (error) {
      if (isMissing(error)) return undefined;
      throw error;
    }
  }

  /** The runs that there are now, by name. */
  list(): RunFolder[] {
    const root = this.#realRoot();
    if (root === undefined) return [];
    const folders: RunFolder[] = [];
    for (const name of namesIn(root)) {
      if (name.startsWith(".")) continue;
      const path = inside(root, join(root, name));
      if (path === undefined || !openFile(root, join(path, "config.json"))) continue;
      const id = ID.test(name) ? name : `run-${createHash("sha256").update(name).digest("hex").slice(0, 16)}`;
      folders.push({ id, name, path });
    }
    return folders.sort((a, b) => a.name.localeCompare(b.name, "en", { numeric: true }));
  }

  /** The run of an id; undefined where there is none. */
  find(id: string): RunFolder | undefined {
    return ID.test(id) ? this.list().find((run) => run.id === id) : undefined;
  }

  /** The true path of a plain file in a run; undefined where there is none, or it leads out of the root. */
  file(run: RunFolder, name: string): string | undefined {
    const root = this.#realRoot();
    return root === undefined ? undefined : openFile(root, join(run.path, name));
  }

  /** The text of a small file in a run; undefined where there is none or it is large. */
  text(run: RunFolder, name: string): string | undefined {
    const path = this.file(run, name);
    if (path === undefined || (statOf(path)?.size ?? Infinity) > WHOLE_BYTES) return undefined;
    return Deno.readTextFileSync(path);
  }

  /** The last lines of a file in a run, as many as lie in its last 128 KiB; empty where there is none. */
  tail(run: RunFolder, name: string): string {
    const path = this.file(run, name);
    if (path === undefined) return "";
    using file = Deno.openSync(path);
    const { size } = file.statSync(), start = Math.max(0, size - TAIL_BYTES);
    file.seekSync(start, Deno.SeekMode.Start);
    const bytes = new Uint8Array(TAIL_BYTES);
    let length = 0;
    for (let count = 1; count && length < bytes.length;) {
      count = file.readSync(bytes.subarray(length)) ?? 0;
      length += count;
    }
    const text = new TextDecoder().decode(bytes.subarray(0, length));
    return start ? text.slice(text.indexOf("\n") + 1) : text;
  }
}

/** Bytes at the end of a file that are looked at for its last lines. */
const TAIL_BYTES = 128 * 1024;

/** What lies in a folder; nothing where it is none. */
function namesIn(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  } catch (error) {
    if (isMissing(error)) return [];
    throw error;
  }
}

/** The true path, if it lies in the root. */
function inside(root: string, path: string): string | undefined {
  try {
    const real = Deno.realPathSync(path);
    return real.startsWith(root.endsWith(sep) ? root : root + sep) ? real : undefined;
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** The true path of what is a plain file in the root: reading a pipe would wait for ever. */
function openFile(root: string, path: string): string | undefined {
  const real = inside(root, path);
  return real !== undefined && statOf(real)?.isFile ? real : undefined;
}

/** What the system says of a file; undefined where it is gone. */
export function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Whether there is nothing, or nothing that may be read; links that lead in a circle are nothing too. */
function isMissing(error: unknown): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory ||
    error instanceof Deno.errors.PermissionDenied || error instanceof Deno.errors.FilesystemLoop ||
    (error instanceof Error && /os error (40|62|1921)\b/.test(error.message));
}
