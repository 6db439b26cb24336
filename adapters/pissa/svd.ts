/**
 * The largest singular values of a matrix and their vectors, by a randomised range finder with power iterations (Halko, Martinsson
 * and Tropp, arXiv 0909.4061, algorithms 4.4 and 5.1). Double precision.
 *
 * @module
 */
import type { Noise } from "../method.ts";

/** The leading part of `W = U · diag(S) · Vᵀ`. */
export interface Decomposition {
  /** [rows, r], row-major. */
  readonly U: Float64Array;
  /** [r], from the largest on. */
  readonly S: Float64Array;
  /** [columns, r], row-major. */
  readonly V: Float64Array;
}

/** Directions beyond the rank that the range finder follows. */
const OVERSAMPLING = 8;

/**
 * The `r` largest singular values of W [rows, columns].
 * @param iterations power iterations: each sharpens the result where singular values fall slowly
 */
export function leadingSingularValues(
  W: Float32Array,
  { rows, columns, r, iterations }: { rows: number; columns: number; r: number; iterations: number },
  noise: Noise,
): Decomposition {
  const q = Math.min(r + OVERSAMPLING, rows, columns);
  const start = Float64Array.from({ length: columns * q }, () => noise.normal());
  let Q = orthonormal(times(W, rows, columns, start, q), rows, q);
  for (let i = 0; i < iterations; i++) {
    const Z = orthonormal(transposedTimes(W, rows, columns, Q, q), columns, q);
    Q = orthonormal(times(W, rows, columns, Z, q), rows, q);
  }
  // Bᵀ = Wᵀ Q; with B Bᵀ = E diag(S²) Eᵀ, U = Q E and V = Bᵀ E / S.
  const Bt = transposedTimes(W, rows, columns, Q, q);
  const { values, vectors } = symmetricEigen(gram(Bt, columns, q), q);
  const order = Array.from(values.keys()).sort((a, b) => values[b]! - values[a]!).slice(0, r);
  const S = Float64Array.from(order, (k) => Math.sqrt(Math.max(0, values[k]!)));
  const E = new Float64Array(q * r);
  order.forEach((k, j) => {
    for (let i = 0; i < q; i++) E[i * r + j] = vectors[i * q + k]!;
  });
  const V = small(Bt, columns, q, E, r);
  for (let i = 0; i < columns; i++) for (let j = 0; j < r; j++) V[i * r + j]! /= S[j]! || 1;
  return { U: small(Q, rows, q, E, r), S, V };
}

/** W · X: [rows, q]. */
function times(W: Float32Array, rows: number, columns: number, X: Float64Array, q: number): Float64Array {
  const result = new Float64Array(rows * q), sum = new Float64Array(q);
  for (let i = 0; i < rows; i++) {
    sum.fill(0);
    for (let j = 0; j < columns; j++) {
      const w = W[i * columns + j]!, at = j * q;
      for (let k = 0; k < q; k++) sum[k]! += w * X[at + k]!;
    }
    result.set(sum, i * q);
  }
  return result;
}

/** Wᵀ · X: [columns, q]. */
function transposedTimes(
  W: Float32Array,
  rows: number,
  columns: number,
  X: Float64Array,
  q: number,
): Float64Array {
  const result = new Float64Array(columns * q);
  for (let i = 0; i < rows; i++) {
    const x = X.subarray(i * q, (i + 1) * q);
    for (let j = 0; j < columns; j++) {
      const w = W[i * columns + j]!, at = j * q;
      for (let k = 0; k < q; k++) result[at + k]! += w * x[k]!;
    }
  }
  return result;
}

/** X · E for small E [q, r]. */
function small(X: Float64Array, rows: number, q: number, E: Float64Array, r: number): Float64Array {
  const result = new Float64Array(rows * r);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < q; k++) {
      const x = X[i * q + k]!;
      for (let j = 0; j < r; j++) result[i * r + j]! += x * E[k * r + j]!;
    }
  }
  return result;
}

/** Xᵀ X: [q, q]. */
function gram(X: Float64Array, rows: number, q: number): Float64Array {
  const result = new Float64Array(q * q);
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < q; k++) {
      const x = X[i * q + k]!;
      for (let j = 0; j < q; j++) result[k * q + j]! += x * X[i * q + j]!;
    }
  }
  return result;
}

/** A column this much shorter than it was is in the span of those before it. */
const DEPENDENT = 1e-12;

/** Orthonormal columns with the span of X's, by Gram-Schmidt twice; a column in the span of others becomes zero. */
function orthonormal(X: Float64Array, rows: number, q: number): Float64Array {
  const columns = Array.from(
    { length: q },
    (_, k) => Float64Array.from({ length: rows }, (_, i) => X[i * q + k]!),
  );
  const dot = (a: Float64Array, b: Float64Array) => {
    let sum = 0;
    for (let i = 0; i < rows; i++) sum += a[i]! * b[i]!;
    return sum;
  };
  columns.forEach((column, k) => {
    const before = Math.sqrt(dot(column, column));
    for (let pass = 0; pass < 2; pass++) {
      for (const other of columns.slice(0, k)) {
        const share = dot(column, other);
        for (let i = 0; i < rows; i++) column[i]! -= share * other[i]!;
      }
    }
    const length = Math.sqrt(dot(column, column));
    const scale = length > DEPENDENT * before ? 1 / length : 0;
    for (let i = 0; i < rows; i++) column[i]! *= scale;
  });
  const result = new Float64Array(rows * q);
  columns.forEach((column, k) => {
    for (let i = 0; i < rows; i++) result[i * q + k] = column[i]!;
  });
  return result;
}

/** Sweeps of rotations at most; ten do for any matrix met in practice. */
const SWEEPS = 60;

/** Eigenvalues of a symmetric q × q matrix and its eigenvectors as columns, by Jacobi's cyclic rotations. */
function symmetricEigen(matrix: Float64Array, q: number): { values: Float64Array; vectors: Float64Array } {
  const a = matrix.slice(), vectors = new Float64Array(q * q);
  for (let i = 0; i < q; i++) vectors[i * (q + 1)] = 1;
  const size = Math.sqrt(a.reduce((sum, x) => sum + x * x, 0));
  const rotate = (
    m: Float64Array,
    i: number,
    j: number,
    stride: number,
    step: number,
    c: number,
    s: number,
  ) => {
    for (let k = 0; k < q; k++) {
      const x = m[i * step + k * stride]!, y = m[j * step + k * stride]!;
      m[i * step + k * stride] = c * x - s * y;
      m[j * step + k * stride] = s * x + c * y;
    }
  };
  for (let sweep = 0; sweep < SWEEPS; sweep++) {
    let rest = 0;
    for (let i = 0; i < q; i++) for (let j = 0; j < i; j++) rest = Math.max(rest, Math.abs(a[i * q + j]!));
    if (rest <= 1e-15 * size) break;
    for (let i = 0; i < q; i++) {
      for (let j = i + 1; j < q; j++) {
        const off = a[i * q + j]!;
        if (off === 0) continue;
        const theta = (a[j * q + j]! - a[i * q + i]!) / (2 * off);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        rotate(a, i, j, 1, q, c, s);
        rotate(a, i, j, q, 1, c, s);
        rotate(vectors, i, j, q, 1, c, s);
      }
    }
  }
  return { values: Float64Array.from({ length: q }, (_, i) => a[i * (q + 1)]!), vectors };
}
