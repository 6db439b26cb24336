// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Packing for the matrix product: a panel is what one register tile walks through along K, so `ROWS` (of A) or eight (of B)
 * numbers for each k lie side by side. Packing widens bf16 and f16, transposes where the matrix is stored along K, and repeats
 * the last row or column where a tile is ragged (those products are computed and thrown away).
 *
 * @module
 */
import { bf16, f16, loadFour, loadSplat } from "./vector";

/**
 * Rows of a tile. Six take twelve registers for sums and three for operands, all that an engine gives, and hide the latency of the
 * multiply-adds with some to spare; where a product needs a register of its own before it is added, four.
 */
export const ROWS: u32 = ASC_FEATURE_RELAXED_SIMD ? 6 : 4;

/** dst[k·stride + i] = src[i, k] for four rows i, of which `rows` exist; `stride` in bytes. */
function packFourRows<T>(src: u32, rowBytes: u32, rows: u32, k: u32, dst: u32, stride: u32): void {
  const last = rows - 1;
  let p0 = src;
  let p1 = src + min<u32>(1, last) * rowBytes;
  let p2 = src + min<u32>(2, last) * rowBytes;
  let p3 = src + min<u32>(3, last) * rowBytes;
  let i: u32 = 0;
  for (; i + 4 <= k; i += 4) {
    const r0 = loadFour<T>(p0);
    const r1 = loadFour<T>(p1);
    const r2 = loadFour<T>(p2);
    const r3 = loadFour<T>(p3);
    const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
    const high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
    const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
    const high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
    v128.store(dst, v128.shuffle<f64>(low01, low23, 0, 2));
    v128.store(dst + stride, v128.shuffle<f64>(low01, low23, 1, 3));
    v128.store(dst + 2 * stride, v128.shuffle<f64>(high01, high23, 0, 2));
    v128.store(dst + 3 * stride, v128.shuffle<f64>(high01, high23, 1, 3));
    dst += 4 * stride;
    p0 += 4 * sizeof<T>();
    p1 += 4 * sizeof<T>();
    p2 += 4 * sizeof<T>();
    p3 += 4 * sizeof<T>();
  }
  for (; i < k; ++i) {
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p0), 0), 0);
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p1), 0), 4);
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p2), 0), 8);
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p3), 0), 12);
    dst += stride;
    p0 += sizeof<T>();
    p1 += sizeof<T>();
    p2 += sizeof<T>();
    p3 += sizeof<T>();
  }
}

/** The same for two rows. */
function packTwoRows<T>(src: u32, rowBytes: u32, rows: u32, k: u32, dst: u32, stride: u32): void {
  let p0 = src;
  let p1 = rows > 1 ? src + rowBytes : src;
  let i: u32 = 0;
  for (; i + 4 <= k; i += 4) {
    const r0 = loadFour<T>(p0);
    const r1 = loadFour<T>(p1);
    const low = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
    const high = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
    v128.store64_lane(dst, low, 0);
    v128.store64_lane(dst + stride, low, 1);
    v128.store64_lane(dst + 2 * stride, high, 0);
    v128.store64_lane(dst + 3 * stride, high, 1);
    dst += 4 * stride;
    p0 += 4 * sizeof<T>();
    p1 += 4 * sizeof<T>();
  }
  for (; i < k; ++i) {
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p0), 0), 0);
    store<f32>(dst, f32x4.extract_lane(loadSplat<T>(p1), 0), 4);
    dst += stride;
    p0 += sizeof<T>();
    p1 += sizeof<T>();
  }
}

/** dst[k·stride + i] = src[k, i] for four, six or eight (`width`) columns i, of which `columns` exist; `stride` in bytes. */
function packColumns<T>(
  src: u32,
  rowBytes: u32,
  columns: u32,
  k: u32,
  dst: u32,
  width: u32,
): void {
  const stride = width * 4;
  // Of six, four that are left are multiplied by themselves.
  const four = width == 6 && columns == 4;
  if (columns < width && !four) {
    for (let i: u32 = 0; i < k; ++i) {
      for (let j: u32 = 0; j < width; ++j) {
        const p = src + min<u32>(j, columns - 1) * sizeof<T>();
        store<f32>(dst + j * 4, f32x4.extract_lane(loadSplat<T>(p), 0));
      }
      src += rowBytes;
      dst += stride;
    }
  } else if (width < 8) {
    // Of A, in f32.
    for (let i: u32 = 0; i < k; ++i) {
      v128.store(dst, v128.load(src));
      if (width == 6 && !four) v128.store64_lane(dst, v128.load64_zero(src, 16), 0, 16);
      src += rowBytes;
      dst += stride;
    }
  } else {
    for (let i: u32 = 0; i < k; ++i) {
      v128.store(dst, loadFour<T>(src));
      v128.store(dst, loadFour<T>(src + 4 * sizeof<T>()), 16);
      src += rowBytes;
      dst += 32;
    }
  }
}

/**
 * Packs `count` rows (or, when `alongK` is false, columns) of a matrix whose element [row or column `first`, k = `k0`] is the
 * panel's first, into consecutive panels of `width` (4, 6 or 8) by `k`.
 */
@inline
function packPanels<T>(
  matrix: u32,
  ld: u32,
  alongK: bool,
  first: u32,
  count: u32,
  k0: u32,
  k: u32,
  dst: u32,
  width: u32,
): void {
  const rowBytes = ld * sizeof<T>();
  if (!alongK) {
    for (let i: u32 = 0; i < count; i += width) {
      const src = matrix + k0 * rowBytes + (first + i) * sizeof<T>();
      packColumns<T>(src, rowBytes, count - i, k, dst + i * k * 4, width);
    }
    return;
  }
  if (width == 6) {
    for (let i: u32 = 0; i < count; i += 6) {
      const src = matrix + (first + i) * rowBytes + k0 * sizeof<T>();
      const panel = dst + i * k * 4, rows = count - i;
      packFourRows<T>(src, rowBytes, rows, k, panel, 24);
      // Where there are four at most, a tile of four is all that is computed.
      if (rows > 4) packTwoRows<T>(src + 4 * rowBytes, rowBytes, rows - 4, k, panel + 16, 24);
    }
    return;
  }
  for (let i: u32 = 0; i < count; i += 4) {
    const src = matrix + (first + i) * rowBytes + k0 * sizeof<T>();
    // The second four of eight rows go beside the first four, inside the same panel.
    const within = i & (width - 1);
    packFourRows<T>(src, rowBytes, count - i, k, dst + (i - within) * k * 4 + within * 4, width * 4);
  }
}

/** Packs rows [first, first + count) of op(A), f32, into panels of `ROWS`. */
export function packA(
  a: u32,
  lda: u32,
  alongK: bool,
  first: u32,
  count: u32,
  k0: u32,
  k: u32,
  dst: u32,
): void {
  packPanels<f32>(a, lda, alongK, first, count, k0, k, dst, ROWS);
}

/** Packs columns [first, first + count) of op(B) into panels of eight; `dtype` 0 is f32, 1 bf16, 2 f16. */
export function packB(
  b: u32,
  ldb: u32,
  dtype: u32,
  alongK: bool,
  first: u32,
  count: u32,
  k0: u32,
  k: u32,
  dst: u32,
): void {
  if (dtype == 1) packPanels<bf16>(b, ldb, alongK, first, count, k0, k, dst, 8);
  else if (dtype == 2) packPanels<f16>(b, ldb, alongK, first, count, k0, k, dst, 8);
  else packPanels<f32>(b, ldb, alongK, first, count, k0, k, dst, 8);
}
