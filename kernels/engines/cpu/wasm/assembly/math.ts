// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * exp, log, tanh and sigmoid of four numbers, within about two units in the last place over the whole f32 range (subnormal
 * results included), with the limits of the real functions and NaN for NaN. The polynomials are those of the Cephes library.
 * Every intermediate is exact or well conditioned without fused multiply-add, so both builds are equally good.
 *
 * @module
 */
import { madd, nmadd } from "./vector";

/** A constant in all lanes. */
@inline
function all(x: f32): v128 {
  return f32x4.splat(x);
}

/** eˣ. */
@inline
export function exp(x: v128): v128 {
  // Beyond these the result is 0 or infinity anyway; pmin and pmax let NaN through when it comes first.
  x = f32x4.pmin(f32x4.pmax(x, all(-105)), all(89));
  // Adding 1.5·2²³ rounds x/ln 2 to an integer and leaves that integer in the low bits.
  const shifted = madd(x, all(1.44269504), all(12582912));
  const n = f32x4.sub(shifted, all(12582912));
  const power = i32x4.sub(shifted, i32x4.splat(0x4b400000));
  // ln 2 in two parts; n times the first is exact.
  const r = nmadd(n, all(-2.12194440e-4), nmadd(n, all(0.693359375), x));
  let p = madd(all(1.9875691500e-4), r, all(1.3981999507e-3));
  p = madd(p, r, all(8.3334519073e-3));
  p = madd(p, r, all(4.1665795894e-2));
  p = madd(p, r, all(1.6666665459e-1));
  p = madd(p, r, all(5.0000001201e-1));
  p = f32x4.add(madd(p, f32x4.mul(r, r), r), all(1));
  // Two factors, because 2ⁿ itself leaves the range of f32 where the result is subnormal or just below the largest.
  const half = i32x4.shr_s(power, 1);
  const first = i32x4.shl(i32x4.add(half, i32x4.splat(127)), 23);
  const second = i32x4.shl(i32x4.add(i32x4.sub(power, half), i32x4.splat(127)), 23);
  return f32x4.mul(f32x4.mul(p, first), second);
}

/** ln x: −∞ at 0, NaN below. */
@inline
export function log(x: v128): v128 {
  const subnormal = f32x4.lt(x, all(1.17549435e-38));
  const scaled = v128.bitselect(f32x4.mul(x, all(33554432)), x, subnormal);
  // Split into 2ᵉ·m with m in [√½, √2).
  const bits = i32x4.sub(scaled, i32x4.splat(0x3f3504f3));
  const exponent = i32x4.sub(i32x4.shr_s(bits, 23), v128.and(subnormal, i32x4.splat(25)));
  const e = f32x4.convert_i32x4_s(exponent);
  const m = i32x4.add(v128.and(bits, i32x4.splat(0x7fffff)), i32x4.splat(0x3f3504f3));
  const f = f32x4.sub(m, all(1));
  const z = f32x4.mul(f, f);
  let p = madd(all(7.0376836292e-2), f, all(-1.1514610310e-1));
  p = madd(p, f, all(1.1676998740e-1));
  p = madd(p, f, all(-1.2420140846e-1));
  p = madd(p, f, all(1.4249322787e-1));
  p = madd(p, f, all(-1.6668057665e-1));
  p = madd(p, f, all(2.0000714765e-1));
  p = madd(p, f, all(-2.4999993993e-1));
  p = madd(p, f, all(3.3333331174e-1));
  let y = f32x4.mul(f32x4.mul(p, f), z);
  y = madd(e, all(-2.12194440e-4), y);
  y = nmadd(all(0.5), z, y);
  y = madd(e, all(0.693359375), f32x4.add(f, y));
  // Infinity and NaN are handed through.
  y = v128.bitselect(y, x, f32x4.lt(x, all(Infinity)));
  y = v128.bitselect(all(-Infinity), y, f32x4.eq(x, all(0)));
  return v128.bitselect(all(NaN), y, f32x4.lt(x, all(0)));
}

/** tanh x. */
@inline
export function tanh(x: v128): v128 {
  const magnitude = f32x4.abs(x);
  const z = f32x4.mul(x, x);
  let p = madd(all(-5.70498872745e-3), z, all(2.06390887954e-2));
  p = madd(p, z, all(-5.37397155531e-2));
  p = madd(p, z, all(1.33314422036e-1));
  p = madd(p, z, all(-3.33332819422e-1));
  const near = madd(f32x4.mul(p, z), x, x);
  const grown = exp(f32x4.add(magnitude, magnitude));
  const far = f32x4.sub(all(1), f32x4.div(all(2), f32x4.add(grown, all(1))));
  const signed = v128.or(far, v128.and(x, i32x4.splat(0x80000000)));
  return v128.bitselect(signed, near, f32x4.gt(magnitude, all(0.625)));
}

/** 1 / (1 + e⁻ˣ), accurate on both sides because only e^−|x| is ever formed. */
@inline
export function sigmoid(x: v128): v128 {
  const decayed = exp(f32x4.neg(f32x4.abs(x)));
  const numerator = v128.bitselect(decayed, all(1), f32x4.lt(x, all(0)));
  return f32x4.div(numerator, f32x4.add(all(1), decayed));
}

/** `exp` as an export, for emitted modules to link to. The other three likewise. */
export function expLanes(x: v128): v128 {
  return exp(x);
}

/** `log` as an export. */
export function logLanes(x: v128): v128 {
  return log(x);
}

/** `tanh` as an export. */
export function tanhLanes(x: v128): v128 {
  return tanh(x);
}

/** `sigmoid` as an export. */
export function sigmoidLanes(x: v128): v128 {
  return sigmoid(x);
}
