/**
 * What the tests of the WebAssembly kernels share: a memory to lay numbers out in, both builds, uneven shares, and a distance.
 *
 * @module
 */
import assert from "node:assert/strict";
import { type KernelVariant, loadKernels } from "../kernels/engines/cpu/wasm/load.ts";

/** The memory that the kernels under test work in. */
export const memory = new WebAssembly.Memory({ initial: 512, maximum: 65536, shared: true });
/** Both builds, or the plain one alone where the engine lacks relaxed SIMD. */
export const builds = (["relaxed", "simd"] as KernelVariant[]).map((name) => loadKernels(memory, name))
  .filter((build, i) => build.variant === (i === 0 ? "relaxed" : "simd"));

/** Numbers in the shared memory: an address for the kernels, a view for the test. */
export interface Block {
  at: number;
  f32: Float32Array;
}

let top = 16;

/** Forgets all blocks. */
export function reset(): void {
  top = 16;
}

/** `length` floats filled by `fill`, 4-byte aligned only, so that kernels meet unaligned vectors. */
export function block(length: number, fill: (i: number) => number = () => NaN): Block {
  const at = top;
  top += length * 4 + 4;
  assert.ok(top <= memory.buffer.byteLength, "the test memory is too small");
  const f32 = new Float32Array(memory.buffer, at, length);
  for (let i = 0; i < length; i++) f32[i] = fill(i);
  return { at, f32 };
}

/** Bytes of scratch, filled with NaN so that a kernel that reads what it has not written shows it. */
export function scratch(bytes: number): number {
  top = (top + 15) & ~15;
  return block(bytes / 4).at;
}

let seed = 1;

/** Uniform in (-1, 1), the same in every run. */
export function random(): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return seed / 2 ** 31 - 1;
}

/** ‖a − b‖ / ‖b‖. */
export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let error = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i] - b[i]) ** 2;
    norm += b[i] ** 2;
  }
  return Math.sqrt(error / (norm || 1));
}

/** Asserts that the normalised error is within `limit`. */
export function assertClose(a: ArrayLike<number>, b: ArrayLike<number>, limit: number, what: string): void {
  const error = distance(a, b);
  assert.ok(error <= limit, `${what}: normalised error ${error} is above ${limit}`);
}

/** [0, n) in `count` ranges, uneven and some of them empty. */
export function split(n: number, count: number): [number, number][] {
  const cut = (i: number) => i === 0 ? 0 : i === count ? n : Math.floor(n * (i - 0.4) / count);
  return Array.from({ length: count }, (_, i) => [cut(i), cut(i + 1)]);
}

/** Runs `call` over shares of `units` in one, two and three parts; `outputs` must come out the same. @returns them */
export function shared(
  units: number,
  outputs: Block[],
  call: (start: number, end: number) => void,
): Float32Array[] {
  const [whole, ...others] = [1, 2, 3].map((count) => {
    outputs.forEach((x) => x.f32.fill(NaN));
    split(units, count).forEach(([start, end]) => call(start, end));
    return outputs.map((x) => x.f32.slice());
  });
  others.forEach((other) => assert.deepEqual(other, whole));
  return whole;
}
