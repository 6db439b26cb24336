// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * The AdamW update.
 *
 * @module
 */
import { madd } from "./vector";

/** Four elements from `p`, or one in all lanes. */
@inline
function fetch(p: u32, four: bool): v128 {
  return four ? v128.load(p) : v128.load32_splat(p);
}

@inline
function put(p: u32, four: bool, value: v128): void {
  if (four) v128.store(p, value);
  else v128.store32_lane(p, value, 0);
}

/**
 * One step on elements [start, end) of p, g, m, v. `norm` [1] is the global gradient norm; `settings` [9] are learning rate,
 * β₁, β₂, eps, weight decay, two bias corrections, clip, and what gradients and their norm are multiplied by first; `rate` and `decay` multiply the learning rate and the weight decay.
 * A norm that is not finite only clears g.
 */
export function adamW(
  p: u32,
  g: u32,
  m: u32,
  v: u32,
  norm: u32,
  settings: u32,
  rate: f32,
  decay: f32,
  start: u32,
  end: u32,
): void {
  const unit = load<f32>(settings, 32), size = load<f32>(norm) * unit, clip = load<f32>(settings, 28);
  if (!isFinite(size)) {
    if (end > start) memory.fill(g + start * 4, 0, (end - start) * 4);
    return;
  }
  const scale = f32x4.splat((size > clip ? clip / size : 1) * unit);
  const beta1 = load<f32>(settings, 4), beta2 = load<f32>(settings, 8);
  const b1 = f32x4.splat(beta1), rest1 = f32x4.splat(1 - beta1);
  const b2 = f32x4.splat(beta2), rest2 = f32x4.splat(1 - beta2);
  const eps = v128.load32_splat(settings, 12);
  const bias1 = v128.load32_splat(settings, 20), bias2 = v128.load32_splat(settings, 24);
  const shrink = f32x4.splat(load<f32>(settings, 16) * decay);
  const step = f32x4.splat(load<f32>(settings) * rate);
  let i = start;
  // The last few are lanes of the same vector code, so a share's ends do not change the bits.
  while (i < end) {
    const four = end - i >= 4;
    const o = i * 4;
    const gradient = f32x4.mul(fetch(g + o, four), scale);
    const first = madd(b1, fetch(m + o, four), f32x4.mul(rest1, gradient));
    const second = madd(b2, fetch(v + o, four), f32x4.mul(f32x4.mul(rest2, gradient), gradient));
    const divisor = f32x4.add(f32x4.sqrt(f32x4.div(second, bias2)), eps);
    const old = fetch(p + o, four);
    const move = madd(shrink, old, f32x4.div(f32x4.div(first, bias1), divisor));
    put(m + o, four, first);
    put(v + o, four, second);
    put(p + o, four, f32x4.sub(old, f32x4.mul(step, move)));
    put(g + o, four, f32x4.splat(0));
    i += four ? 4 : 1;
  }
}
