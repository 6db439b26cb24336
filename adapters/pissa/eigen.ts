/**
 * Eigenvalues of small symmetric matrices, in double precision.
 *
 * @module
 */

/** Sweeps of rotations at most; ten do for any matrix met in practice. */
const SWEEPS = 60;

/** Eigenvalues of a symmetric q × q matrix and its eigenvectors as columns, by Jacobi's cyclic rotations. */
export function symmetricEigen(
  matrix: Float64Array,
  q: number,
): { values: Float64Array; vectors: Float64Array } {
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
