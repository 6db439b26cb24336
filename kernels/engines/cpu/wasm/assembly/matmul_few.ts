// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Products with few rows: B is read once and not packed. Where B is stored along K, a column's sum runs in four lanes; where it
 * is stored along N, a lane is a column.
 *
 * @module
 */
import { loadFour, loadSplat, madd, storeRow, sumEach } from "./vector";

@inline
function storeSum(c: u32, sum: f32, accumulate: bool, shift: u32): void {
  if (accumulate) sum += load<f32>(c);
  store<f32>(c, shift != 0 ? sum + load<f32>(c + shift) : sum);
}

/** Rows `m0`..`m1` times four rows of B from `b` (of which `columns` exist), all read along K. */
function dotColumns<T>(
  a: u32,
  lda: u32,
  b: u32,
  ldb: u32,
  columns: u32,
  c: u32,
  ldc: u32,
  m0: u32,
  m1: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
): void {
  const last = columns - 1;
  const b1 = b + min<u32>(1, last) * ldb * sizeof<T>();
  const b2 = b + min<u32>(2, last) * ldb * sizeof<T>();
  const b3 = b + min<u32>(3, last) * ldb * sizeof<T>();
  const whole = k & ~3;
  for (let m = m0; m < m1; m += 2) {
    const x = a + m * lda * 4;
    // An odd last row is computed twice; the second result is not stored.
    const y = m + 1 < m1 ? x + lda * 4 : x;
    let s00 = f32x4.splat(0), s01 = f32x4.splat(0), s02 = f32x4.splat(0), s03 = f32x4.splat(0);
    let s10 = f32x4.splat(0), s11 = f32x4.splat(0), s12 = f32x4.splat(0), s13 = f32x4.splat(0);
    if (y != x) {
      for (let i: u32 = 0; i < whole; i += 4) {
        const x4 = v128.load(x + i * 4);
        const y4 = v128.load(y + i * 4);
        let w = loadFour<T>(b + i * sizeof<T>());
        s00 = madd(x4, w, s00);
        s10 = madd(y4, w, s10);
        w = loadFour<T>(b1 + i * sizeof<T>());
        s01 = madd(x4, w, s01);
        s11 = madd(y4, w, s11);
        w = loadFour<T>(b2 + i * sizeof<T>());
        s02 = madd(x4, w, s02);
        s12 = madd(y4, w, s12);
        w = loadFour<T>(b3 + i * sizeof<T>());
        s03 = madd(x4, w, s03);
        s13 = madd(y4, w, s13);
      }
    } else {
      for (let i: u32 = 0; i < whole; i += 4) {
        const x4 = v128.load(x + i * 4);
        s00 = madd(x4, loadFour<T>(b + i * sizeof<T>()), s00);
        s01 = madd(x4, loadFour<T>(b1 + i * sizeof<T>()), s01);
        s02 = madd(x4, loadFour<T>(b2 + i * sizeof<T>()), s02);
        s03 = madd(x4, loadFour<T>(b3 + i * sizeof<T>()), s03);
      }
    }
    // Lane j of each is the sum for column j; the ragged end of K is added to all four at once.
    let sumX = sumEach(s00, s01, s02, s03);
    let sumY = sumEach(s10, s11, s12, s13);
    for (let i = whole; i < k; ++i) {
      let w = loadSplat<T>(b + i * sizeof<T>());
      w = f32x4.replace_lane(w, 1, f32x4.extract_lane(loadSplat<T>(b1 + i * sizeof<T>()), 0));
      w = f32x4.replace_lane(w, 2, f32x4.extract_lane(loadSplat<T>(b2 + i * sizeof<T>()), 0));
      w = f32x4.replace_lane(w, 3, f32x4.extract_lane(loadSplat<T>(b3 + i * sizeof<T>()), 0));
      sumX = madd(v128.load32_splat(x + i * 4), w, sumX);
      sumY = madd(v128.load32_splat(y + i * 4), w, sumY);
    }
    for (let row: u32 = 0; row < (y != x ? 2 : 1); ++row) {
      const p = c + (m + row) * ldc * 4;
      const sums = row == 0 ? sumX : sumY;
      storeSum(p, f32x4.extract_lane(sums, 0), accumulate, shift);
      if (columns > 1) storeSum(p + 4, f32x4.extract_lane(sums, 1), accumulate, shift);
      if (columns > 2) storeSum(p + 8, f32x4.extract_lane(sums, 2), accumulate, shift);
      if (columns > 3) storeSum(p + 12, f32x4.extract_lane(sums, 3), accumulate, shift);
    }
  }
}

/** One row times sixteen columns of B [K, N] read across N: c[0..16) = (c +) Σ x[k]·b[k, 0..16). */
function axpySixteen<T>(
  x: u32,
  stepBytes: u32,
  b: u32,
  ldb: u32,
  c: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
): void {
  let s0 = f32x4.splat(0), s1 = f32x4.splat(0), s2 = f32x4.splat(0), s3 = f32x4.splat(0);
  for (let i: u32 = 0; i < k; ++i) {
    const scale = v128.load32_splat(x);
    s0 = madd(scale, loadFour<T>(b), s0);
    s1 = madd(scale, loadFour<T>(b + 4 * sizeof<T>()), s1);
    s2 = madd(scale, loadFour<T>(b + 8 * sizeof<T>()), s2);
    s3 = madd(scale, loadFour<T>(b + 12 * sizeof<T>()), s3);
    x += stepBytes;
    b += ldb * sizeof<T>();
  }
  storeRow(c, s0, s1, accumulate, shift);
  storeRow(c + 32, s2, s3, accumulate, shift);
}

/** The same for one column: a lane of the vector form, so that a column's bits do not depend on its neighbours. */
function axpyOne<T>(
  x: u32,
  stepBytes: u32,
  b: u32,
  ldb: u32,
  c: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
): void {
  let sum = f32x4.splat(0);
  for (let i: u32 = 0; i < k; ++i) {
    sum = madd(v128.load32_splat(x), loadSplat<T>(b), sum);
    x += stepBytes;
    b += ldb * sizeof<T>();
  }
  storeSum(c, f32x4.extract_lane(sum, 0), accumulate, shift);
}

/** Rows [m0, m1) × columns [n0, n1) of C with A and B stored along K. */
export function dotRange<T>(
  a: u32,
  lda: u32,
  b: u32,
  ldb: u32,
  c: u32,
  ldc: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
  m0: u32,
  m1: u32,
  n0: u32,
  n1: u32,
): void {
  for (let n = n0; n < n1; n += 4) {
    const columns = min<u32>(4, n1 - n);
    dotColumns<T>(a, lda, b + n * ldb * sizeof<T>(), ldb, columns, c + n * 4, ldc, m0, m1, k, accumulate, shift);
  }
}

/** Rows [m0, m1) × columns [n0, n1) of C with B stored along N. */
export function axpyRange<T>(
  a: u32,
  lda: u32,
  aAlongK: bool,
  b: u32,
  ldb: u32,
  c: u32,
  ldc: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
  m0: u32,
  m1: u32,
  n0: u32,
  n1: u32,
): void {
  const step: u32 = aAlongK ? 4 : lda * 4;
  for (let m = m0; m < m1; ++m) {
    const x = a + (aAlongK ? m * lda * 4 : m * 4);
    const y = c + m * ldc * 4;
    let n = n0;
    for (; n + 16 <= n1; n += 16) {
      axpySixteen<T>(x, step, b + n * sizeof<T>(), ldb, y + n * 4, k, accumulate, shift);
    }
    for (; n < n1; ++n) axpyOne<T>(x, step, b + n * sizeof<T>(), ldb, y + n * 4, k, accumulate, shift);
  }
}
