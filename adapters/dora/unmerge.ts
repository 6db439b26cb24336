/**
 * Taking a DoRA out of a weight. Each row was W' = c (W + Δ) with a c that the merged row does not tell; but the adapter knows Δ and
 * the length w of W, so c follows: with u = 1 / c, ‖W' u − Δ‖² = w² is a quadratic equation.
 *
 * @module
 */
import { loraScale, type LoraSettings } from "../lora/lora.ts";
import { plusProduct } from "../lora/product.ts";
import type { AdapterMerge } from "../method.ts";

/** The rows as they were. @throws RangeError where the equation leaves two answers, or none */
export function unmergeRows(
  { site, settings, weight, parameters }: AdapterMerge<LoraSettings>,
): Float32Array {
  const { lora_A: A, lora_B: B, lora_magnitude_vector: m, weight_norm: w } = parameters;
  const zero = new Float32Array(weight.length);
  const added = plusProduct(zero, site, [{ A: A!, B: B!, r: settings.r, scale: loraScale(settings) }]);
  const result = new Float32Array(weight.length);
  for (let o = 0; o < site.out; o++) {
    let square = 0, cross = 0, change = 0;
    for (let i = o * site.in; i < (o + 1) * site.in; i++) {
      square += weight[i]! ** 2;
      cross += weight[i]! * added[i]!;
      change += added[i]! ** 2;
    }
    const rest = w![o]! ** 2 - change;
    if (!(rest > 0 && square > 0)) {
      throw new RangeError(
        `The dora adapter cannot be taken out of ${site.name}: what it added to row ${o} outweighs the row; start from the base model`,
      );
    }
    // One root has the sign of m, as rest > 0 makes their product negative.
    const u = (cross + Math.sign(m![o]!) * Math.sqrt(cross ** 2 + square * rest)) / square;
    for (let i = o * site.in; i < (o + 1) * site.in; i++) result[i] = weight[i]! * u - added[i]!;
  }
  return result;
}
