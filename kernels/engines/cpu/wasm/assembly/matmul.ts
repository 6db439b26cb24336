// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * C = op(A)·op(B) (+ C). Large products run on packed panels: a tile of ROWS×8 accumulators, B blocks of
 * KC×NC in the second-level cache and one B panel in the first. Products with few rows (generation) read B once, unpacked.
 *
 * An element's arithmetic depends on (M, N, K) alone, never on the share, so any split gives the same bits.
 *
 * @module
 */
import { axpyRange, dotRange } from "./matmul_few";
import { packA, packB, ROWS } from "./pack";
import { bf16, f16, madd, splatLane0, splatLane1, splatLane2, splatLane3, storeRow } from "./vector";

const KC: u32 = 256;
const MC: u32 = 72;
const NC: u32 = 512;
const TILE_BYTES: u32 = ROWS * 8 * 4;

/** At most this many rows take the unpacked path when B is stored along K (x·Wᵀ). */
const DOT_ROWS: u32 = 8;

/** At most this many rows take the unpacked path when B is stored along N (x·w). */
const AXPY_ROWS: u32 = 2;

/** Bytes of scratch that one worker needs for `matmul`, aligned to 16. */
export function matmulScratchBytes(): u32 {
  return (MC * KC + KC * NC) * 4 + TILE_BYTES;
}

/** C[6, 8] = (C +) panel a [k, 6]ᵀ · panel b [k, 8] (+ what lies `shift` bytes after C). `k` ≥ 1. */
function tileSix(a: u32, b: u32, k: u32, c: u32, rowBytes: u32, add: bool, shift: u32): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  let c40 = f32x4.splat(0), c41 = f32x4.splat(0);
  let c50 = f32x4.splat(0), c51 = f32x4.splat(0);
  const end = b + k * 32;
  do {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    let row = v128.load32_splat(a);
    c00 = madd(row, b0, c00);
    c01 = madd(row, b1, c01);
    row = v128.load32_splat(a, 4);
    c10 = madd(row, b0, c10);
    c11 = madd(row, b1, c11);
    row = v128.load32_splat(a, 8);
    c20 = madd(row, b0, c20);
    c21 = madd(row, b1, c21);
    row = v128.load32_splat(a, 12);
    c30 = madd(row, b0, c30);
    c31 = madd(row, b1, c31);
    row = v128.load32_splat(a, 16);
    c40 = madd(row, b0, c40);
    c41 = madd(row, b1, c41);
    row = v128.load32_splat(a, 20);
    c50 = madd(row, b0, c50);
    c51 = madd(row, b1, c51);
    a += 24;
    b += 32;
  } while (b != end);
  storeRow(c, c00, c01, add, shift);
  storeRow(c + rowBytes, c10, c11, add, shift);
  storeRow(c + 2 * rowBytes, c20, c21, add, shift);
  storeRow(c + 3 * rowBytes, c30, c31, add, shift);
  storeRow(c + 4 * rowBytes, c40, c41, add, shift);
  storeRow(c + 5 * rowBytes, c50, c51, add, shift);
}

/** The same for four rows, the first ones of a panel of `ROWS`. */
function tileFour(a: u32, b: u32, k: u32, c: u32, rowBytes: u32, add: bool, shift: u32): void {
  let c00 = f32x4.splat(0), c01 = f32x4.splat(0);
  let c10 = f32x4.splat(0), c11 = f32x4.splat(0);
  let c20 = f32x4.splat(0), c21 = f32x4.splat(0);
  let c30 = f32x4.splat(0), c31 = f32x4.splat(0);
  const end = b + k * 32;
  do {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    // One load and four shuffles: an engine without guard pages checks the bounds of every load.
    const rows = v128.load(a);
    let row = splatLane0(rows);
    c00 = madd(row, b0, c00);
    c01 = madd(row, b1, c01);
    row = splatLane1(rows);
    c10 = madd(row, b0, c10);
    c11 = madd(row, b1, c11);
    row = splatLane2(rows);
    c20 = madd(row, b0, c20);
    c21 = madd(row, b1, c21);
    row = splatLane3(rows);
    c30 = madd(row, b0, c30);
    c31 = madd(row, b1, c31);
    a += ROWS * 4;
    b += 32;
  } while (b != end);
  storeRow(c, c00, c01, add, shift);
  storeRow(c + rowBytes, c10, c11, add, shift);
  storeRow(c + 2 * rowBytes, c20, c21, add, shift);
  storeRow(c + 3 * rowBytes, c30, c31, add, shift);
}

/** One block of C from packed panels. Ragged tiles are computed whole in `spare` and copied in part. */
function block(
  aPanels: u32,
  bPanels: u32,
  m: u32,
  n: u32,
  k: u32,
  c: u32,
  rowBytes: u32,
  add: bool,
  shift: u32,
  spare: u32,
): void {
  for (let j: u32 = 0; j < n; j += 8) {
    const bPanel = bPanels + j * k * 4;
    const columns = min<u32>(8, n - j);
    for (let i: u32 = 0; i < m; i += ROWS) {
      const aPanel = aPanels + i * k * 4;
      const corner = c + i * rowBytes + j * 4;
      const rows = min<u32>(ROWS, m - i);
      const whole = columns == 8 && (rows == ROWS || rows == 4);
      const to = whole ? corner : spare, bytes: u32 = whole ? rowBytes : 32, beyond = whole ? shift : 0;
      if (ROWS == 6 && rows > 4) tileSix(aPanel, bPanel, k, to, bytes, add && whole, beyond);
      else tileFour(aPanel, bPanel, k, to, bytes, add && whole, beyond);
      if (whole) continue;
      for (let r: u32 = 0; r < rows; ++r) {
        for (let s: u32 = 0; s < columns; ++s) {
          const p = corner + r * rowBytes + s * 4;
          let sum = load<f32>(spare + r * 32 + s * 4);
          if (add) sum += load<f32>(p);
          store<f32>(p, shift != 0 ? sum + load<f32>(p + shift) : sum);
        }
      }
    }
  }
}

/** Rows [m0, m1) × columns [n0, n1) of C on packed panels. */
function packedRange(
  a: u32,
  lda: u32,
  aAlongK: bool,
  b: u32,
  ldb: u32,
  dtype: u32,
  bAlongK: bool,
  c: u32,
  ldc: u32,
  k: u32,
  accumulate: bool,
  shift: u32,
  m0: u32,
  m1: u32,
  n0: u32,
  n1: u32,
  scratch: u32,
): void {
  const aPanels = scratch + TILE_BYTES;
  const bPanels = aPanels + MC * KC * 4;
  for (let n = n0; n < n1; n += NC) {
    const nc = min<u32>(NC, n1 - n);
    for (let k0: u32 = 0; k0 < k; k0 += KC) {
      const kc = min<u32>(KC, k - k0);
      packB(b, ldb, dtype, bAlongK, n, nc, k0, kc, bPanels);
      for (let m = m0; m < m1; m += MC) {
        const mc = min<u32>(MC, m1 - m);
        packA(a, lda, aAlongK, m, mc, k0, kc, aPanels);
        const add = accumulate || k0 > 0;
        const last = k0 + kc == k;
        block(aPanels, bPanels, mc, nc, kc, c + (m * ldc + n) * 4, ldc * 4, add, last ? shift : 0, scratch);
      }
    }
  }
}

/**
 * C[m0..m1, n0..n1] of C[M, N] = op(A)·op(B), or += with `accumulate`; `addend` is a matrix stored as C is that is added last, or
 * 0. `layout` is 0 for A[M,K]·B[K,N], 1 for A[K,M]ᵀ·B[K,N],
 * 2 for A[M,K]·B[N,K]ᵀ, 3 for A[K,M]ᵀ·B[N,K]ᵀ; `dtype` of B is 0 f32, 1 bf16, 2 f16; A and C are f32. Leading dimensions are in
 * elements. `scratch` is this worker's own.
 */
export function matmul(
  layout: u32,
  dtype: u32,
  a: u32,
  lda: u32,
  b: u32,
  ldb: u32,
  c: u32,
  ldc: u32,
  m: u32,
  k: u32,
  accumulate: bool,
  addend: u32,
  m0: u32,
  m1: u32,
  n0: u32,
  n1: u32,
  scratch: u32,
): void {
  const shift = addend == 0 ? 0 : addend - c;
  const aAlongK = (layout & 1) == 0;
  const bAlongK = (layout & 2) != 0;
  if (k == 0) {
    if (n1 <= n0) return;
    for (let row = m0; row < m1; ++row) {
      const p = c + (row * ldc + n0) * 4;
      if (!accumulate) memory.fill(p, 0, (n1 - n0) * 4);
      if (shift == 0) continue;
      for (let q = p; q < p + (n1 - n0) * 4; q += 4) store<f32>(q, load<f32>(q) + load<f32>(q + shift));
    }
    return;
  }
  if (aAlongK && bAlongK && m <= DOT_ROWS) {
    if (dtype == 1) dotRange<bf16>(a, lda, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
    else if (dtype == 2) dotRange<f16>(a, lda, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
    else dotRange<f32>(a, lda, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
  } else if (!bAlongK && m <= AXPY_ROWS) {
    if (dtype == 1) axpyRange<bf16>(a, lda, aAlongK, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
    else if (dtype == 2) axpyRange<f16>(a, lda, aAlongK, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
    else axpyRange<f32>(a, lda, aAlongK, b, ldb, c, ldc, k, accumulate, shift, m0, m1, n0, n1);
  } else {
    packedRange(
      a,
      lda,
      aAlongK,
      b,
      ldb,
      dtype,
      bAlongK,
      c,
      ldc,
      k,
      accumulate,
      shift,
      m0,
      m1,
      n0,
      n1,
      scratch,
    );
  }
}
