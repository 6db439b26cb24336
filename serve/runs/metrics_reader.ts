/**
 * Follows a run's `metrics.jsonl` as it grows, from any place in it on.
 *
 * A place is an offset and a hash of the line that ends there. So a reader that comes back, after a lost connection or another
 * server's start, goes on where it was if the file still is what it was, and starts again if a resumed run has rewritten it.
 * A last line without its end is left until it is whole; a line that is no object of JSON is counted and skipped.
 *
 * @module
 */
import { createHash } from "node:crypto";

/** A line: numbers and texts by name. */
export type Line = Readonly<Record<string, unknown>>;

/** What was read at once. */
export interface Piece {
  readonly lines: readonly Line[];
  /** Lines that could not be read. */
  readonly malformed: number;
  /** Whether the file is another than before, so that what was read before counts no more. */
  readonly restarted: boolean;
  /** The place after it: what {@link MetricsReader} goes on from. */
  readonly place: string;
}

/** Bytes of a piece. */
const PIECE_BYTES = 256 * 1024;

/** Reads a file of lines in pieces. */
export class MetricsReader {
  #offset = 0;
  /** The last line that was read, with its end. */
  #last = new Uint8Array();
  /** A place to check before anything is read. */
  #claimed: { offset: number; hash: string } | undefined;

  /** @param place where to go on; anything that is no place of this file is its start */
  constructor(readonly path: string, place = "") {
    const match = /^(\d{1,15})-([0-9a-f]{16})$/.exec(place);
    if (match) this.#claimed = { offset: Number(match[1]), hash: match[2]! };
  }

  /** Where reading goes on. */
  get place(): string {
    return `${this.#offset}-${hashOf(this.#last)}`;
  }

  /** Reads what has come; undefined where nothing has. */
  read(): Piece | undefined {
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(this.path);
    } catch (error) {
      if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied) {
        return undefined;
      }
      throw error;
    }
    try {
      const restarted = this.#claimed ? !this.#resume(file) : !this.#isSame(file);
      if (restarted) {
        this.#offset = 0;
        this.#last = new Uint8Array();
      }
      const bytes = readAt(file, this.#offset, PIECE_BYTES);
      const end = bytes.lastIndexOf(10) + 1;
      // A line longer than a piece is not one of ours.
      const taken = end || (bytes.length === PIECE_BYTES ? bytes.length : 0);
      if (!taken) return restarted ? this.#piece([], 0, true) : undefined;
      const whole = bytes.subarray(0, taken);
      this.#offset += taken;
      this.#last = whole.slice(whole.lastIndexOf(10, taken - 2) + 1);
      const lines: Line[] = [];
      let malformed = 0;
      for (const text of new TextDecoder().decode(whole).split("\n")) {
        if (text.trim() === "") continue;
        const line = parsed(text);
        if (line) lines.push(line);
        else malformed++;
      }
      return this.#piece(lines, malformed, restarted);
    } finally {
      file.close();
    }
  }

  #piece(lines: Line[], malformed: number, restarted: boolean): Piece {
    return { lines, malformed, restarted, place: this.place };
  }

  /** Goes to the claimed place, if the line that ends there is the one that did. */
  #resume(file: Deno.FsFile): boolean {
    const { offset, hash } = this.#claimed!;
    this.#claimed = undefined;
    if (offset === 0) return true;
    const start = Math.max(0, offset - PIECE_BYTES);
    const before = readAt(file, start, offset - start);
    if (before.length < offset - start || before.at(-1) !== 10) return false;
    const last = before.slice(before.lastIndexOf(10, before.length - 2) + 1);
    if (hashOf(last) !== hash) return false;
    this.#offset = offset;
    this.#last = last;
    return true;
  }

  /** Whether the last line that was read is still where it was. */
  #isSame(file: Deno.FsFile): boolean {
    const there = readAt(file, this.#offset - this.#last.length, this.#last.length);
    return there.length === this.#last.length && there.every((byte, i) => byte === this.#last[i]);
  }
}

function readAt(file: Deno.FsFile, offset: number, length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  file.seekSync(offset, Deno.SeekMode.Start);
  let size = 0;
  while (size < length) {
    const count = file.readSync(bytes.subarray(size));
    if (!count) break;
    size += count;
  }
  return bytes.subarray(0, size);
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex").slice(0, 16);
}

function parsed(text: string): Line | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value) ? value as Line : undefined;
  } catch {
    return undefined;
  }
}
