/**
 * A view of a shared WebAssembly memory that follows its growth.
 *
 * @module
 */

/** The bytes of a memory, which any worker may make larger. */
export class MemoryView {
  #bytes: Uint8Array;

  constructor(readonly memory: WebAssembly.Memory) {
    this.#bytes = new Uint8Array(memory.buffer);
  }

  /** All bytes, of which at least the first `end` are there. @throws RangeError if they are not */
  bytes(end: number): Uint8Array {
    if (end > this.#bytes.length) {
      // Another worker has made the memory larger. A worker of a worker sees that only once it asks for no pages more.
      this.memory.grow(0);
      this.#bytes = new Uint8Array(this.memory.buffer);
    }
    // Beyond the end, a copy would leave bytes out and say nothing.
    if (end > this.#bytes.length) throw new RangeError(`No memory at ${end}`);
    return this.#bytes;
  }
}
