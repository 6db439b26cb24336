// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Softmax cross-entropy and its gradient, a row at a time, with the optional L2 pull on each row's largest logit that RWKV is
 * trained with: it changes the gradient, not the loss.
 *
 * @module
 */
import { exp, log } from "./math";
import { sumLanes } from "./vector";

/** Exponentials are summed in f32 over this many numbers, then in f64: a row has up to 65536. */
const BLOCK: u32 = 1024;

/** The largest of `n` ≥ 1 numbers; NaN if one is NaN. */
function largest(x: u32, n: u32): f32 {
  const whole = n & ~3;
  let most = f32x4.splat(-Infinity);
  let i: u32 = 0;
  for (; i < whole; i += 4) most = f32x4.max(most, v128.load(x + i * 4));
  for (; i < n; ++i) most = f32x4.max(most, v128.load32_splat(x + i * 4));
  const high = f32x4.max(most, v128.shuffle<f32>(most, most, 2, 3, 2, 3));
  return f32x4.extract_lane(f32x4.max(high, v128.shuffle<f32>(high, high, 1, 1, 1, 1)), 0);
}

/** Where `value` first occurs among `n` numbers; `n` if nowhere. */
function find(x: u32, n: u32, value: f32): u32 {
  const wanted = f32x4.splat(value);
  let i: u32 = 0;
  while (i + 4 <= n && !v128.any_true(f32x4.eq(v128.load(x + i * 4), wanted))) i += 4;
  while (i < n && load<f32>(x + i * 4) != value) ++i;
  return i;
}

/** Σ e^(x − most) over `n` numbers; the terms go to `terms` (which may be `x`) unless it is 0. */
function sumExp(x: u32, n: u32, most: f32, terms: u32): f64 {
  const shift = f32x4.splat(most);
  let total: f64 = 0;
  for (let start: u32 = 0; start < n; start += BLOCK) {
    const end = min<u32>(start + BLOCK, n);
    let sums = f32x4.splat(0);
    let i = start;
    for (; i + 4 <= end; i += 4) {
      const term = exp(f32x4.sub(v128.load(x + i * 4), shift));
      if (terms != 0) v128.store(terms + i * 4, term);
      sums = f32x4.add(sums, term);
    }
    total += <f64> sumLanes(sums);
    for (; i < end; ++i) {
      const term = f32x4.extract_lane(exp(f32x4.sub(v128.load32_splat(x + i * 4), shift)), 0);
      if (terms != 0) store<f32>(terms + i * 4, term);
      total += <f64> term;
    }
  }
  return total;
}

/**
 * For rows [row0, row1) of `logits` [M, V], with `targets` [M] i32 and `weights` [M] f32:
 *
 *     loss = weight·(logsumexp − logit[target])
 *     dLogits = weight·(softmax − onehot), and + l2·weight·max at the first largest logit
 *
 * `loss` [M]; `dLogits` [M, V], which may be `logits`, or 0 to leave the gradient out. A row with weight 0 gives zeros whatever
 * it holds; a target outside [0, V) gives NaN.
 */
export function crossEntropy(
  logits: u32,
  targets: u32,
  weights: u32,
  loss: u32,
  dLogits: u32,
  vocabulary: u32,
  l2: f32,
  row0: u32,
  row1: u32,
): void {
  for (let row = row0; row < row1; ++row) {
    const x = logits + row * vocabulary * 4;
    const dx = dLogits == 0 ? 0 : dLogits + row * vocabulary * 4;
    const weight = load<f32>(weights + row * 4);
    if (weight == 0) {
      store<f32>(loss + row * 4, 0);
      if (dx != 0) memory.fill(dx, 0, vocabulary * 4);
      continue;
    }
    const target = load<u32>(targets + row * 4);
    const known = target < vocabulary;
    const most = largest(x, vocabulary);
    const argmax: u32 = l2 == 0 ? 0 : find(x, vocabulary, most);
    // Read before the terms overwrite it.
    const gap = known ? most - load<f32>(x + target * 4) : f32.NaN;
    const sum = sumExp(x, vocabulary, most, dx);
    const entropy = gap + f32x4.extract_lane(log(f32x4.splat(<f32> sum)), 0);
    store<f32>(loss + row * 4, weight * entropy);
    if (dx == 0) continue;
    const scale: f32 = known ? <f32> (<f64> weight / sum) : f32.NaN;
    const scales = f32x4.splat(scale);
    let i: u32 = 0;
    for (; i + 4 <= vocabulary; i += 4) v128.store(dx + i * 4, f32x4.mul(v128.load(dx + i * 4), scales));
    for (; i < vocabulary; ++i) store<f32>(dx + i * 4, load<f32>(dx + i * 4) * scale);
    if (known) store<f32>(dx + target * 4, load<f32>(dx + target * 4) - weight);
    if (l2 != 0 && argmax < vocabulary) {
      store<f32>(dx + argmax * 4, load<f32>(dx + argmax * 4) + l2 * weight * most);
    }
  }
}
