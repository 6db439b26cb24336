/**
 * Memory given back at once: the garbage collector learns late how much a large array held.
 *
 * @module
 */

/** Frees what arrays lie in. They and every other view of the same memory are empty from then on. */
export function release(...views: readonly ArrayBufferView<ArrayBuffer>[]): void {
  for (const { buffer } of views) if (!buffer.detached) buffer.transfer(0);
}

/** Passes arrays on and frees each once the next is asked for. */
export function* releasing<T extends ArrayBufferView<ArrayBuffer>>(views: Iterable<T>): Generator<T> {
  for (const view of views) {
    yield view;
    release(view);
  }
}
