/**
 * BAT on a whole weight, tile by tile, in double precision: W_ab + (W_ab + I) B, and back.
 *
 * @module
 */
import type { AdapterMerge } from "../method.ts";
import type { BatSettings } from "./bat.ts";

/** Calls `change` for every tile with W_ab and its block, and puts what it gives in the tile's place. */
function eachTile(
  { site, settings, weight, parameters }: AdapterMerge<BatSettings>,
  blockOf: (index: number) => Float64Array,
  change: (tile: Float64Array, block: Float64Array, plain: Float32Array) => Float64Array,
): Float32Array {
  const { r, axis } = settings, all = parameters.bone!;
  const result = new Float32Array(weight.length), tile = new Float64Array(r * r);
  for (let a = 0; a < site.out / r; a++) {
    for (let b = 0; b < site.in / r; b++) {
      const index = axis === "in" ? b : a;
      const at = (p: number, q: number) => (a * r + p) * site.in + b * r + q;
      for (let p = 0; p < r; p++) for (let q = 0; q < r; q++) tile[p * r + q] = weight[at(p, q)]!;
      const changed = change(tile, blockOf(index), all.subarray(index * r * r, (index + 1) * r * r));
      for (let p = 0; p < r; p++) for (let q = 0; q < r; q++) result[at(p, q)] = changed[p * r + q]!;
    }
  }
  return result;
}

/** X · Y of r × r. */
function product(x: Float64Array, y: Float64Array, r: number): Float64Array {
  const result = new Float64Array(r * r);
  for (let p = 0; p < r; p++) {
    for (let k = 0; k < r; k++) {
      const factor = x[p * r + k]!;
      for (let q = 0; q < r; q++) result[p * r + q]! += factor * y[k * r + q]!;
    }
  }
  return result;
}

/** I + B, of each block once. */
function shifted({ settings: { r }, parameters }: AdapterMerge<BatSettings>): Float64Array[] {
  const all = parameters.bone!;
  return Array.from(
    { length: all.length / (r * r) },
    (_, index) =>
      Float64Array.from({ length: r * r }, (_, i) => all[index * r * r + i]! + (i % (r + 1) ? 0 : 1)),
  );
}

/** W (I + B) + B. */
export function mergeTiles(call: AdapterMerge<BatSettings>): Float32Array {
  const factors = shifted(call), { r } = call.settings;
  return eachTile(call, (index) => factors[index]!, (tile, factor, block) => {
    const result = product(tile, factor, r);
    for (let i = 0; i < r * r; i++) result[i]! += block[i]!;
    return result;
  });
}

/** (W' − B) (I + B)⁻¹. @throws RangeError if a block leaves no way back */
export function unmergeTiles(call: AdapterMerge<BatSettings>): Float32Array {
  const { r } = call.settings, { name } = call.site;
  const inverses = shifted(call).map((factor, index) => {
    const found = inverse(factor, r);
    if (found) return found;
    throw new RangeError(
      `The bat adapter cannot be taken out of ${name}: I + B of its block ${index} has no inverse; start from the base model`,
    );
  });
  return eachTile(call, (index) => inverses[index]!, (tile, factor, block) => {
    for (let i = 0; i < r * r; i++) tile[i]! -= block[i]!;
    return product(tile, factor, r);
  });
}

/** A smaller pivot than this, beside the largest number of its matrix, is taken for none. */
const SINGULAR = 1e-10;

/** Inverse of an r × r matrix by Gauss-Jordan elimination with row pivots; undefined where there is none. */
function inverse(matrix: Float64Array, r: number): Float64Array | undefined {
  const a = matrix.slice(), result = new Float64Array(r * r);
  for (let i = 0; i < r; i++) result[i * (r + 1)] = 1;
  const least = SINGULAR * a.reduce((largest, x) => Math.max(largest, Math.abs(x)), 0);
  for (let k = 0; k < r; k++) {
    let pivot = k;
    for (let i = k + 1; i < r; i++) if (Math.abs(a[i * r + k]!) > Math.abs(a[pivot * r + k]!)) pivot = i;
    const divisor = a[pivot * r + k]!;
    if (!(Math.abs(divisor) > least)) return undefined;
    for (const m of [a, result]) {
      for (let j = 0; j < r; j++) {
        const x = m[pivot * r + j]!;
        m[pivot * r + j] = m[k * r + j]!;
        m[k * r + j] = x / divisor;
      }
    }
    for (let i = 0; i < r; i++) {
      const factor = a[i * r + k]!;
      if (i === k || factor === 0) continue;
      for (const m of [a, result]) for (let j = 0; j < r; j++) m[i * r + j]! -= factor * m[k * r + j]!;
    }
  }
  return result;
}
