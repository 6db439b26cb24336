/**
 * A batch in chunks of time, for a program that carries the state from one to the next.
 *
 * @module
 */
import type { Batch } from "./batches.ts";

/**
 * Cuts the rows of a batch into chunks of T positions, in order; the last is padded. Chunks after the last target are left out, as
 * nothing is learnt from them.
 *
 * @param B rows of the batch
 */
export function chunksOf(batch: Batch, B: number, T: number): Batch[] {
  const { inputs, targets, mask, keep } = batch;
  const length = inputs.length / B;
  if (length === T) return [batch];
  let last = -1;
  for (let b = 0; b < B; b++) {
    last = Math.max(last, mask.subarray(b * length, (b + 1) * length).lastIndexOf(1));
  }
  return Array.from({ length: Math.ceil((last + 1) / T) }, (_, chunk) => {
    const cut = <A extends Int32Array | Float32Array>(from: A, to: A): A => {
      for (let b = 0; b < B; b++) {
        const start = b * length + chunk * T, end = Math.min(start + T, (b + 1) * length);
        to.set(from.subarray(start, end), b * T);
      }
      return to;
    };
    const counted = cut(mask, new Float32Array(B * T));
    return {
      inputs: cut(inputs, new Int32Array(B * T)),
      targets: cut(targets, new Int32Array(B * T)),
      mask: counted,
      keep: keep && cut(keep, new Float32Array(B * T).fill(1)),
      counted: counted.reduce((sum, weight) => sum + weight, 0),
    };
  });
}
