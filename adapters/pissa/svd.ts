/**
 * The largest singular values of a matrix and their vectors, by randomised subspace iteration (Halko, Martinsson and Tropp, arXiv
 * 0909.4061, algorithms 4.4 and 5.1). The products with the matrix, which are nearly all of the work, are asked for and may be done
 * anywhere: {@link plainProducts} does them here, products.ts on an engine. What is thin is done here in double precision.
 *
 * Vectors are rows, so that every product has the form of a linear layer's forward or backward pass.
 *
 * @module
 */
import type { Noise } from "../method.ts";
import { symmetricEigen } from "./eigen.ts";

/** Sizes of a decomposition. */
export interface Sizes {
  readonly rows: number;
  readonly columns: number;
  /** Singular values that are wanted. */
  readonly r: number;
  /** Power iterations: each sharpens the result where singular values fall slowly. */
  readonly iterations: number;
}

/** The leading part of `W = Leftᵀ · diag(S) · Right`. */
export interface Decomposition {
  /** [r, rows] */
  readonly left: Float32Array;
  /** [r], from the largest on. */
  readonly S: Float64Array;
  /** [r, columns] */
  readonly right: Float32Array;
}

/** A product that is wanted of thin X [q, the smaller width of W], W standing for Wᵀ where it has fewer rows than columns. */
export interface WantedProduct {
  readonly X: Float32Array;
  /** Whether X·Wᵀ·W, as wide as X, is wanted; else X·Wᵀ, as wide as W is long. */
  readonly back: boolean;
}

/** Directions beyond the rank that are followed. */
const OVERSAMPLING = 8;

/** Directions that are followed for sizes. */
export function directions({ rows, columns, r }: Sizes): number {
  return Math.min(r + OVERSAMPLING, rows, columns);
}

/**
 * Decomposes a matrix, of which it is told the products that it yields.
 * @throws RangeError, a clause on the matrix, where a product is not finite
 */
export function* decompose(
  sizes: Sizes,
  noise: Noise,
): Generator<WantedProduct, Decomposition, Float32Array> {
  const { rows, columns, r, iterations } = sizes, q = directions(sizes);
  const wide = Math.min(rows, columns), long = Math.max(rows, columns);
  let X: Float32Array = Float32Array.from({ length: q * wide }, () => noise.normal());
  for (let i = 0; i <= iterations; i++) X = orthonormal(yield { X, back: true }, q, wide);
  const Y = yield { X, back: false };
  // With Y Yᵀ = E diag(S²) Eᵀ, the vectors are Eᵀ X and Eᵀ Y / S.
  const { values, vectors } = symmetricEigen(gram(Y, q, long), q);
  const order = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!).slice(0, r);
  const S = Float64Array.from(order, (k) => Math.sqrt(Math.max(0, values[k]!)));
  const mix = (scale: (j: number) => number) => {
    const E = new Float64Array(r * q);
    order.forEach((k, j) => {
      for (let i = 0; i < q; i++) E[j * q + i] = vectors[i * q + k]! * scale(j);
    });
    return E;
  };
  const short = combined(mix(() => 1), r, X, q, wide),
    other = combined(mix((j) => S[j]! && 1 / S[j]!), r, Y, q, long);
  return rows < columns ? { left: short, S, right: other } : { left: other, S, right: short };
}

/** Decomposes W [rows, columns] without an engine. */
export function leadingSingularValues(W: Float32Array, sizes: Sizes, noise: Noise): Decomposition {
  const work = decompose(sizes, noise), products = plainProducts(W, sizes);
  let state = work.next();
  while (!state.done) state = work.next(products(state.value));
  return state.value;
}

/** Products with W [rows, columns] in plain code. */
function plainProducts(W: Float32Array, sizes: Sizes): (wanted: WantedProduct) => Float32Array {
  const { rows, columns } = sizes, q = directions(sizes);
  /** X [q, columns] · Wᵀ: [q, rows]. */
  const forward = (X: Float32Array) => {
    const result = new Float32Array(q * rows);
    for (let o = 0; o < rows; o++) {
      const w = W.subarray(o * columns, (o + 1) * columns);
      for (let k = 0; k < q; k += 4) {
        const sums = dotFour(w, X, k, Math.min(4, q - k), columns);
        for (let j = 0; j < sums.length; j++) result[(k + j) * rows + o] = sums[j]!;
      }
    }
    return result;
  };
  /** X [q, rows] · W: [q, columns]. */
  const backward = (X: Float32Array) => {
    const result = new Float64Array(q * columns);
    for (let o = 0; o < rows; o++) {
      const w = W.subarray(o * columns, (o + 1) * columns);
      for (let k = 0; k < q; k++) addScaled(result, k * columns, w, X[k * rows + o]!);
    }
    return Float32Array.from(result);
  };
  const [there, back] = rows < columns ? [backward, forward] : [forward, backward];
  return (wanted) => wanted.back ? back(there(wanted.X)) : there(wanted.X);
}

/** Products of a vector with `count` rows of X from row `k` on: at most four, so that it is read once for all. */
function dotFour(w: Float32Array, X: ArrayLike<number>, k: number, count: number, n: number): number[] {
  const at = (j: number) => Math.min(k + j, k + count - 1) * n;
  const [a, b, c, d] = [at(0), at(1), at(2), at(3)];
  let s0 = 0, s1 = 0, s2 = 0, s3 = 0;
  for (let i = 0; i < n; i++) {
    const x = w[i]!;
    s0 += x * X[a + i]!;
    s1 += x * X[b + i]!;
    s2 += x * X[c + i]!;
    s3 += x * X[d + i]!;
  }
  return [s0, s1, s2, s3].slice(0, count);
}

function addScaled(result: Float64Array, at: number, x: ArrayLike<number>, scale: number): void {
  for (let i = 0; i < x.length; i++) result[at + i]! += scale * x[i]!;
}

/** X Xᵀ of thin X [q, n]: [q, q]. @throws RangeError where it is not finite */
function gram(X: Float32Array, q: number, n: number): Float64Array {
  const result = new Float64Array(q * q);
  for (let i = 0; i < q; i++) {
    const row = X.subarray(i * n, (i + 1) * n);
    for (let k = 0; k <= i; k += 4) {
      dotFour(row, X, k, Math.min(4, i + 1 - k), n).forEach((sum, j) => {
        result[i * q + k + j] = result[(k + j) * q + i] = sum;
      });
    }
  }
  if (!result.every(Number.isFinite)) throw new RangeError("has no finite products with vectors");
  return result;
}

/** Adds up to four rows of X that follow each other, each times its scale, so that the sum is read once for all. */
function addFour(sum: Float64Array, X: Float32Array, scales: Float64Array, at: number): void {
  const n = sum.length, [a = 0, b = 0, c = 0, d = 0] = scales;
  if (!a && !b && !c && !d) return;
  // A row that is not there counts nothing, and another is read in its place.
  const of = (j: number) => at + Math.min(j, scales.length - 1) * n;
  const [i0, i1, i2, i3] = [of(0), of(1), of(2), of(3)];
  for (let i = 0; i < n; i++) sum[i]! += a * X[i0 + i]! + b * X[i1 + i]! + c * X[i2 + i]! + d * X[i3 + i]!;
}

/** E [r, q] · X [q, n]. */
function combined(E: Float64Array, r: number, X: Float32Array, q: number, n: number): Float32Array {
  const result = new Float32Array(r * n), sum = new Float64Array(n);
  for (let k = 0; k < r; k++) {
    sum.fill(0);
    for (let j = 0; j < q; j += 4) addFour(sum, X, E.subarray(k * q + j, k * q + Math.min(j + 4, q)), j * n);
    result.set(sum, k * n);
  }
  return result;
}

/** A row of which this share of the squared length is left is, as far as f32 can tell, in the span of those before it. */
const DEPENDENT = 1e-12;

/** Orthonormal rows with the span of X's, by Cholesky's decomposition of X Xᵀ; a row in the span of others becomes zero. */
function orthonormal(X: Float32Array, q: number, n: number): Float32Array {
  const L = gram(X, q, n), lengths = Float64Array.from({ length: q }, (_, k) => L[k * (q + 1)]!);
  // The inverse of L below grows row by row with L itself.
  const inverse = new Float64Array(q * q);
  for (let i = 0; i < q; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = L[i * q + j]!;
      for (let k = 0; k < j; k++) sum -= L[i * q + k]! * L[j * q + k]!;
      if (i !== j) L[i * q + j] = L[j * (q + 1)]! && sum / L[j * (q + 1)]!;
      else L[i * (q + 1)] = sum > DEPENDENT * lengths[i]! ? Math.sqrt(sum) : 0;
    }
    const pivot = L[i * (q + 1)]!;
    if (!pivot) continue;
    for (let j = 0; j < i; j++) {
      let sum = 0;
      for (let k = j; k < i; k++) sum += L[i * q + k]! * inverse[k * q + j]!;
      inverse[i * q + j] = -sum / pivot;
    }
    inverse[i * (q + 1)] = 1 / pivot;
  }
  return combined(inverse, q, X, q, n);
}
