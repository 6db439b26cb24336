/**
 * Synchronous reading and writing of whole byte ranges.
 *
 * Deno's `readSync` and `writeSync` may stop early (Linux moves at most 2 GiB per call), so both are looped
 * here, and a range outside the file is refused before anything is allocated for it.
 *
 * @module
 */

import { FormatError } from "./format_error.ts";

/** A regular file that is read by ranges and never as a whole. */
export class RandomAccessFile implements Disposable {
  /** The path as the user gave it. */
  readonly path: string;
  /** Bytes in the file when it was opened. */
  readonly size: number;
  #file: Deno.FsFile | undefined;

  /**
   * Opens a file for reading.
   *
   * @throws {FormatError} where the path is a folder, a device or a pipe
   * @throws {Deno.errors.NotFound} where nothing is there
   */
  constructor(path: string) {
    // Asked before opening, since opening a pipe would wait for its writer.
    const status = statFile(path);
    if (!status.isFile) {
      throw new FormatError(
        path,
        `it is ${status.isDirectory ? "a folder" : "not a regular file"}`,
        "name a file",
      );
    }
    this.path = path;
    this.size = status.size;
    this.#file = Deno.openSync(path, { read: true });
  }

  /**
   * Reads `length` bytes from `offset` into a new array.
   *
   * @throws {FormatError} where the range is not inside the file, or the file shrank since it was opened
   */
  read(offset: number, length: number): Uint8Array<ArrayBuffer> {
    if (!this.#file) throw new Error(`Cannot read "${this.path}": it is closed, open it again`);
    if (offset + length > this.size) {
      throw this.error(`it ends at byte ${this.size}, ${offset + length - this.size} bytes too early`);
    }
    const bytes = new Uint8Array(length);
    this.#file.seekSync(offset, Deno.SeekMode.Start);
    for (let done = 0; done < length;) {
      const count = this.#file.readSync(bytes.subarray(done));
      if (count === null) throw this.error("it became shorter while it was read");
      done += count;
    }
    return bytes;
  }

  /** The error that says what is wrong with this file; see {@linkcode FormatError} for the two clauses. */
  error(reason: string, remedy?: string): FormatError {
    return new FormatError(this.path, reason, remedy);
  }

  /** Closes the file; closing twice is harmless. */
  close(): void {
    this.#file?.close();
    this.#file = undefined;
  }

  /** Closes the file at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** Writes all of `bytes` at the current position of `file`. */
export function writeFully(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length;) done += file.writeSync(bytes.subarray(done));
}

function statFile(path: string): Deno.FileInfo {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new Deno.errors.NotFound(`Cannot read "${path}": there is no such file, check the path`);
    }
    throw error;
  }
}
