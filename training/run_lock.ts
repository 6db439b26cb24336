/**
 * One run in a folder at a time: a lock that the operating system holds for as long as its owner lives.
 *
 * The lock is on the open file, not in its existence, so a process that was killed, or a machine that lost power, leaves none
 * behind; the file that it leaves is taken over. What the file says is only for people.
 *
 * @module
 */
import { join } from "node:path";
import { OptionError } from "./options.ts";

/** Name of the lock's file in a run folder; removed when the run ends. */
export const LOCK_FILE = "run.lock";

/** A run folder held by this process. */
export class RunLock implements Disposable {
  readonly #path: string;
  readonly #file: Deno.FsFile;

  private constructor(path: string, file: Deno.FsFile) {
    this.#path = path;
    this.#file = file;
  }

  /**
   * Takes a run folder, which must exist.
   *
   * @throws OptionError if another run, in this process or another, is at work in it
   */
  static take(folder: string): RunLock {
    const path = join(folder, LOCK_FILE);
    for (;;) {
      // A link of either kind could lead to a file of somebody else's, and a pipe cannot be locked.
      if (isOther(path)) Deno.removeSync(path);
      const file = Deno.openSync(path, { read: true, write: true, create: true });
      if (!file.tryLockSync(true)) {
        using _held = file;
        const owner = new TextDecoder().decode(readStart(file)).trim();
        throw new OptionError(
          `The run folder ${folder} is in use${
            /^process \d+ since [\w:.-]+$/.test(owner) ? ` by ${owner}` : ""
          }: ` +
            `wait for that run to end, or choose another with --proj_dir`,
        );
      }
      // Whoever held it until now may have removed the name while this process was opening it.
      if (isSame(file, path)) {
        file.truncateSync();
        file.writeSync(new TextEncoder().encode(`process ${Deno.pid} since ${new Date().toISOString()}\n`));
        return new RunLock(path, file);
      }
      file.close();
    }
  }

  /** Lets the folder go. */
  [Symbol.dispose](): void {
    try {
      // Removed while it is held, so that nobody can take a file that is about to lose its name. Windows removes no open file.
      if (Deno.build.os !== "windows" && isSame(this.#file, this.#path)) Deno.removeSync(this.#path);
    } catch (error) {
      // The folder may have been taken away: then there is nothing to let go.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    } finally {
      this.#file.close();
    }
  }
}

/** Whether a path is anything but a file with one name; a folder is left, and told by whoever opens it. */
function isOther(path: string): boolean {
  try {
    const { isFile, isDirectory, nlink } = Deno.lstatSync(path);
    return !isDirectory && (!isFile || (nlink ?? 1) > 1);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

/** The first bytes of a lock file, enough for what {@link RunLock.take} writes; none where a lock keeps readers out. */
function readStart(file: Deno.FsFile): Uint8Array {
  const bytes = new Uint8Array(80);
  try {
    return bytes.subarray(0, file.readSync(bytes) ?? 0);
  } catch {
    return new Uint8Array();
  }
}

/** Whether an open file is the one that a path names now; always on Windows, which has no inode numbers. */
function isSame(file: Deno.FsFile, path: string): boolean {
  try {
    const [a, b] = [file.statSync(), Deno.statSync(path)];
    return a.ino === b.ino && a.dev === b.dev;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
