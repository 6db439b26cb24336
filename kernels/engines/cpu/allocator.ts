/**
 * Hands out pieces of one growing WebAssembly memory: first fit, neighbours joined when freed.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";

const PAGE = 65536;
/** A 32-bit memory has this many pages, 4 GiB. */
export const MAXIMUM_PAGES = 65536;
/** Cache lines, so that workers never share one across two pieces. */
const ALIGNMENT = 64;
/** What is handed out of a 32-bit memory at most: not its first bytes, nor its last, as the address behind a piece has 32 bits too. */
export const MAXIMUM_BYTES: number = MAXIMUM_PAGES * PAGE - 2 * ALIGNMENT;

/** So many bytes, or as few more as let another piece begin behind them. */
export function aligned(bytes: number): number {
  return Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;
}

/** Allocates by byte address. Address 0 is never handed out: it means "none" to the kernels. */
export class Allocator {
  /** Free pieces in order of address. */
  #free: { at: number; bytes: number }[] = [];
  #used = new Map<number, number>();
  #end = ALIGNMENT;
  /** Where memory begins that was never handed out, which holds zeros. */
  #fresh = ALIGNMENT;

  constructor(readonly memory: WebAssembly.Memory) {}

  /** Bytes handed out. */
  get usedBytes(): number {
    return this.#used.values().reduce((sum, bytes) => sum + bytes, 0);
  }

  /** @throws EngineError if the memory would pass 4 GiB */
  allocate(bytes: number, what: string): number {
    const wanted = Math.max(ALIGNMENT, aligned(bytes));
    const index = this.#free.findIndex((piece) => piece.bytes >= wanted);
    let at: number;
    if (index >= 0) {
      const piece = this.#free[index]!;
      at = piece.at;
      if (piece.bytes === wanted) this.#free.splice(index, 1);
      else this.#free[index] = { at: at + wanted, bytes: piece.bytes - wanted };
    } else {
      at = this.#end;
      this.#grow(at + wanted, what);
      this.#end = at + wanted;
    }
    this.#used.set(at, wanted);
    this.#fresh = Math.max(this.#fresh, this.#end);
    return at;
  }

  /** As {@link allocate}, with zeros in it. Memory that has them is not touched: it is only there once it is. */
  allocateZeros(bytes: number, what: string): number {
    const fresh = this.#fresh, at = this.allocate(bytes, what);
    new Uint8Array(this.memory.buffer, at, Math.max(0, Math.min(bytes, fresh - at))).fill(0);
    return at;
  }

  #grow(end: number, what: string): void {
    const pages = Math.ceil(end / PAGE) - this.memory.buffer.byteLength / PAGE;
    const gigabytes = (bytes: number) => (bytes / 2 ** 30).toFixed(2);
    try {
      if (end > ALIGNMENT + MAXIMUM_BYTES) throw new RangeError("beyond 32 bits");
      if (pages > 0) this.memory.grow(pages);
    } catch {
      throw new EngineError(
        `Out of memory for ${what}: the cpu engine would need ${
          gigabytes(end)
        } GiB and its limit is 4 GiB; ` +
          `try --grad_cp 1, a smaller --micro_bsz or --ctx_len, or a smaller model`,
      );
    }
  }

  free(at: number): void {
    const bytes = this.#used.get(at);
    if (bytes === undefined) throw new RangeError(`Nothing was allocated at ${at}`);
    this.#used.delete(at);
    const next = this.#free.findIndex((piece) => piece.at > at);
    const index = next < 0 ? this.#free.length : next;
    this.#free.splice(index, 0, { at, bytes });
    this.#join(index);
    this.#join(index - 1);
    const last = this.#free.at(-1);
    if (last && last.at + last.bytes === this.#end) {
      this.#end = last.at;
      this.#free.pop();
    }
  }

  /** Joins piece `index` with the one after it where they touch. */
  #join(index: number): void {
    const piece = this.#free[index], next = this.#free[index + 1];
    if (!piece || !next || piece.at + piece.bytes !== next.at) return;
    piece.bytes += next.bytes;
    this.#free.splice(index + 1, 1);
  }
}
