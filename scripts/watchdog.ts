/**
 * Sees from the process's first thread that a command, which runs in a worker, waits for a device that does not answer.
 *
 * @module
 */
import { onWaiting } from "../kernels/engines/webgpu/waiting.ts";

/** Milliseconds between looks. */
const INTERVAL = 1000;
/** Shared words: how often something began or ceased to be waited for, and bytes of the text that says what. */
const TURNS = 0, LENGTH = 1, TEXT = 8, BYTES = 1024;

/** Memory for the two threads. */
export function sharedWatch(): SharedArrayBuffer {
  return new SharedArrayBuffer(BYTES);
}

/** In the worker: writes down what is waited for. */
export function reportWaits(shared: SharedArrayBuffer): void {
  const words = new Int32Array(shared, 0, 2), text = new Uint8Array(shared, TEXT);
  onWaiting((what) => {
    const bytes = new TextEncoder().encode(what).subarray(0, text.length);
    text.set(bytes);
    Atomics.store(words, LENGTH, bytes.length);
    Atomics.add(words, TURNS, 1);
  });
}

/**
 * In the first thread: looks whether one thing is waited for too long.
 *
 * @param patience milliseconds
 * @param hangs called with what is waited for
 * @returns stops looking
 */
export function watchWaits(
  shared: SharedArrayBuffer,
  patience: number,
  hangs: (what: string) => void,
): () => void {
  const words = new Int32Array(shared, 0, 2), text = new Uint8Array(shared, TEXT);
  let turns = 0, since = performance.now();
  const timer = setInterval(() => {
    const now = Atomics.load(words, TURNS), length = Atomics.load(words, LENGTH);
    if (now !== turns || length === 0) {
      turns = now;
      since = performance.now();
    } else if (performance.now() - since >= patience) {
      hangs(new TextDecoder().decode(text.slice(0, length)));
    }
  }, Math.min(INTERVAL, patience));
  return () => clearInterval(timer);
}
