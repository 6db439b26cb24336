/**
 * Adding products of thin matrices to a weight, which all methods of LoRA's family do to merge.
 *
 * @module
 */
import type { LowRank, Site } from "../method.ts";

/** A product and what it is multiplied by. */
export interface ScaledProduct extends LowRank {
  readonly scale: number;
}

/** `W + Σ scale · B·A`, summed in double precision and rounded once. */
export function plusProduct(
  weight: Float32Array,
  site: Pick<Site, "in" | "out">,
  products: readonly ScaledProduct[],
): Float32Array {
  const result = new Float32Array(weight.length), row = new Float64Array(site.in);
  const ranks = Math.max(...products.map(({ r }) => r));
  for (let o = 0; o < site.out; o++) {
    row.fill(0);
    // Rank by rank, so that products which cancel do so exactly.
    for (let k = 0; k < ranks; k++) {
      for (const { A, B, r, scale } of products) {
        if (k >= r) continue;
        const b = scale * B[o * r + k]!;
        for (let i = 0; i < site.in; i++) row[i]! += b * A[k * site.in + i]!;
      }
    }
    for (let i = 0; i < site.in; i++) result[o * site.in + i] = weight[o * site.in + i]! + row[i]!;
  }
  return result;
}
