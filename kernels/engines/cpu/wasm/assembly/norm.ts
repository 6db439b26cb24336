// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Normalisation of groups of neighbours, and its gradient. A unit is one group of one row.
 *
 * @module
 */
import { madd, sumLanes } from "./vector";

/** Σ(x − center)^power over `n` numbers, for power 1 or 2. */
@inline
function moment(x: u32, n: u32, center: f32, square: bool): f32 {
  const whole = n & ~3;
  const centers = f32x4.splat(center);
  let sums = f32x4.splat(0);
  let i: u32 = 0;
  for (; i < whole; i += 4) {
    const d = f32x4.sub(v128.load(x + i * 4), centers);
    sums = square ? madd(d, d, sums) : f32x4.add(sums, d);
  }
  let sum = sumLanes(sums);
  for (; i < n; ++i) {
    const d = load<f32>(x + i * 4) - center;
    sum += square ? d * d : d;
  }
  return sum;
}

/**
 * y = (x − mean)·rstd·weight + bias for units [unit0, unit1) of rows·groups; the mean and rstd of each unit go to `means` and
 * `rstds`.
 */
export function norm(
  x: u32,
  weight: u32,
  bias: u32,
  y: u32,
  means: u32,
  rstds: u32,
  channels: u32,
  groups: u32,
  eps: f32,
  unit0: u32,
  unit1: u32,
): void {
  const n = channels / groups;
  for (let unit = unit0; unit < unit1; ++unit) {
    const px = x + unit * n * 4, py = y + unit * n * 4;
    const offset = (unit % groups) * n * 4;
    const pw = weight + offset, pb = bias + offset;
    const mean = moment(px, n, 0, false) / <f32> n;
    const rstd: f32 = 1 / sqrt<f32>(moment(px, n, mean, true) / <f32> n + eps);
    store<f32>(means + unit * 4, mean);
    store<f32>(rstds + unit * 4, rstd);
    const center = f32x4.splat(mean), scale = f32x4.splat(rstd);
    let i: u32 = 0;
    for (; i + 4 <= n; i += 4) {
      const normal = f32x4.mul(f32x4.sub(v128.load(px + i * 4), center), scale);
      v128.store(py + i * 4, madd(normal, v128.load(pw + i * 4), v128.load(pb + i * 4)));
    }
    for (; i < n; ++i) {
      const normal = (load<f32>(px + i * 4) - mean) * rstd;
      store<f32>(py + i * 4, normal * load<f32>(pw + i * 4) + load<f32>(pb + i * 4));
    }
  }
}

/** dx of `norm` for units [unit0, unit1), from what it kept. */
export function normGradient(
  x: u32,
  weight: u32,
  means: u32,
  rstds: u32,
  dy: u32,
  dx: u32,
  channels: u32,
  groups: u32,
  unit0: u32,
  unit1: u32,
): void {
  const n = channels / groups;
  for (let unit = unit0; unit < unit1; ++unit) {
    const px = x + unit * n * 4, pdy = dy + unit * n * 4, pdx = dx + unit * n * 4;
    const pw = weight + (unit % groups) * n * 4;
    const mean = load<f32>(means + unit * 4), rstd = load<f32>(rstds + unit * 4);
    const center = f32x4.splat(mean), scale = f32x4.splat(rstd);
    let sums = f32x4.splat(0), products = f32x4.splat(0);
    let i: u32 = 0;
    for (; i + 4 <= n; i += 4) {
      const g = f32x4.mul(v128.load(pdy + i * 4), v128.load(pw + i * 4));
      sums = f32x4.add(sums, g);
      products = madd(g, f32x4.mul(f32x4.sub(v128.load(px + i * 4), center), scale), products);
    }
    let sum = sumLanes(sums), product = sumLanes(products);
    for (; i < n; ++i) {
      const g = load<f32>(pdy + i * 4) * load<f32>(pw + i * 4);
      sum += g;
      product += g * ((load<f32>(px + i * 4) - mean) * rstd);
    }
    sum /= <f32> n;
    product /= <f32> n;
    const meanG = f32x4.splat(sum), meanGX = f32x4.splat(product);
    for (i = 0; i + 4 <= n; i += 4) {
      const g = f32x4.mul(v128.load(pdy + i * 4), v128.load(pw + i * 4));
      const normal = f32x4.mul(f32x4.sub(v128.load(px + i * 4), center), scale);
      v128.store(pdx + i * 4, f32x4.mul(f32x4.sub(f32x4.sub(g, meanG), f32x4.mul(normal, meanGX)), scale));
    }
    for (; i < n; ++i) {
      const g = load<f32>(pdy + i * 4) * load<f32>(pw + i * 4);
      const normal = (load<f32>(px + i * 4) - mean) * rstd;
      store<f32>(pdx + i * 4, (g - sum - normal * product) * rstd);
    }
  }
}
