// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * What every kernel shares: the fused multiply-add (relaxed SIMD, or a product and a sum in the plain build), loads that
 * widen bf16 and f16 to f32, and sums over lanes.
 *
 * @module
 */

/** A bf16 element: the upper half of an f32. The name is for `loadFour` and its like, which choose by type. */
export type bf16 = u16;

/** An IEEE half. Signed only so that the compiler can tell it from `bf16`. */
export type f16 = i16;

/** a·b + c: one rounding with relaxed SIMD on hardware that fuses, two otherwise. */
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_madd(a, b, c);
  return f32x4.add(f32x4.mul(a, b), c);
}

/** c − a·b, rounded as `madd`. */
@inline
export function nmadd(a: v128, b: v128, c: v128): v128 {
  if (ASC_FEATURE_RELAXED_SIMD) return f32x4.relaxed_nmadd(a, b, c);
  return f32x4.sub(c, f32x4.mul(a, b));
}

/** Four bf16 patterns in the low halves of u32 lanes, as f32. */
@inline
function widenBf16(bits: v128): v128 {
  return i32x4.shl(bits, 16);
}

/** Four f16 patterns in the low halves of u32 lanes, as f32: exact, subnormals, infinities and NaN included. */
@inline
function widenF16(bits: v128): v128 {
  const sign = i32x4.shl(v128.and(bits, i32x4.splat(0x8000)), 16);
  const magnitude = i32x4.shl(v128.and(bits, i32x4.splat(0x7fff)), 13);
  // Multiplying by 2^112 moves the exponent bias from 15 to 127 and normalises subnormals.
  const finite = f32x4.mul(magnitude, f32x4.splat(5.192296858534828e33));
  const special = v128.and(i32x4.ge_s(magnitude, i32x4.splat(0x0f800000)), i32x4.splat(0x7f800000));
  return v128.or(v128.or(finite, special), sign);
}

/** Four consecutive elements at `p`, as f32. */
@inline
export function loadFour<T>(p: u32): v128 {
  if (isFloat<T>()) return v128.load(p);
  if (isSigned<T>()) return widenF16(v128.load16x4_u(p));
  return widenBf16(v128.load16x4_u(p));
}

/** The element at `p` in all four lanes, as f32. */
@inline
export function loadSplat<T>(p: u32): v128 {
  if (isFloat<T>()) return v128.load32_splat(p);
  if (isSigned<T>()) return widenF16(i32x4.splat(load<u16>(p)));
  return widenBf16(i32x4.splat(load<u16>(p)));
}

/** The sum of the four lanes, in a fixed order. */
@inline
export function sumLanes(x: v128): f32 {
  const low = f32x4.extract_lane(x, 0) + f32x4.extract_lane(x, 1);
  return low + (f32x4.extract_lane(x, 2) + f32x4.extract_lane(x, 3));
}

/** One lane of `x` in all four lanes. */
@inline
export function splatLane0(x: v128): v128 {
  return v128.shuffle<f32>(x, x, 0, 0, 0, 0);
}

/** Lane 1 of `x` in all four lanes. */
@inline
export function splatLane1(x: v128): v128 {
  return v128.shuffle<f32>(x, x, 1, 1, 1, 1);
}

/** Lane 2 of `x` in all four lanes. */
@inline
export function splatLane2(x: v128): v128 {
  return v128.shuffle<f32>(x, x, 2, 2, 2, 2);
}

/** Lane 3 of `x` in all four lanes. */
@inline
export function splatLane3(x: v128): v128 {
  return v128.shuffle<f32>(x, x, 3, 3, 3, 3);
}

/** The sums over lanes of four vectors, as four lanes. */
@inline
export function sumEach(s0: v128, s1: v128, s2: v128, s3: v128): v128 {
  const s01 = f32x4.add(v128.shuffle<f32>(s0, s1, 0, 4, 1, 5), v128.shuffle<f32>(s0, s1, 2, 6, 3, 7));
  const s23 = f32x4.add(v128.shuffle<f32>(s2, s3, 0, 4, 1, 5), v128.shuffle<f32>(s2, s3, 2, 6, 3, 7));
  return f32x4.add(v128.shuffle<f64>(s01, s23, 0, 2), v128.shuffle<f64>(s01, s23, 1, 3));
}

/** Eight numbers to `c`, or added to those there, and to those `shift` bytes after `c` where that is not 0. */
@inline
export function storeRow(c: u32, left: v128, right: v128, add: bool, shift: u32): void {
  if (add) {
    left = f32x4.add(v128.load(c), left);
    right = f32x4.add(v128.load(c, 16), right);
  }
  if (shift != 0) {
    left = f32x4.add(v128.load(c + shift), left);
    right = f32x4.add(v128.load(c + shift, 16), right);
  }
  v128.store(c, left);
  v128.store(c, right, 16);
}

/** f16 patterns in the low halves of u32 lanes (the high halves are ignored), as f32: an export, for emitted modules. */
export function f16Lanes(bits: v128): v128 {
  return widenF16(bits);
}
