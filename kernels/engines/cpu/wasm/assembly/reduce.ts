// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Sums: over rows, over neighbours, of squares, and of one array into another. Long sums go through f64.
 *
 * @module
 */
import { sumLanes } from "./vector";

const PART: u32 = 4096;
/** Numbers that are added in f32, four sums side by side, before the total goes to f64. */
const BLOCK: u32 = 1024;

/** out[j] = Σᵢ x[i, j] over the rows of x [rows, width], for columns [column0, column1). */
export function reduceRows(x: u32, out: u32, rows: u32, width: u32, column0: u32, column1: u32): void {
  if (column1 <= column0) return;
  const step = width * 4;
  const end = out + column1 * 4;
  memory.fill(out + column0 * 4, 0, (column1 - column0) * 4);
  // Four rows at a time, so that the sums go through memory a quarter as often.
  let row: u32 = 0;
  for (; row + 4 <= rows; row += 4) {
    let p = x + row * step + column0 * 4;
    let q = out + column0 * 4;
    for (; end - q >= 16; q += 16) {
      const first = f32x4.add(v128.load(p), v128.load(p + step));
      const second = f32x4.add(v128.load(p + 2 * step), v128.load(p + 3 * step));
      v128.store(q, f32x4.add(v128.load(q), f32x4.add(first, second)));
      p += 16;
    }
    for (; q != end; q += 4) {
      const first = load<f32>(p) + load<f32>(p + step);
      const second = load<f32>(p + 2 * step) + load<f32>(p + 3 * step);
      store<f32>(q, load<f32>(q) + (first + second));
      p += 4;
    }
  }
  for (; row < rows; ++row) accumulate(x + row * step, out, column0, column1);
}

/** y += x for elements [start, end). */
export function accumulate(x: u32, y: u32, start: u32, end: u32): void {
  let i = start;
  for (; i + 4 <= end; i += 4) {
    v128.store(y + i * 4, f32x4.add(v128.load(y + i * 4), v128.load(x + i * 4)));
  }
  for (; i < end; ++i) store<f32>(y + i * 4, load<f32>(y + i * 4) + load<f32>(x + i * 4));
}

/** out[i] = the sum of the `group` numbers from x + i·group, for i in [unit0, unit1). */
export function reduceGroups(x: u32, out: u32, group: u32, unit0: u32, unit1: u32): void {
  for (let unit = unit0; unit < unit1; ++unit) {
    let total: f64 = 0;
    for (let start: u32 = 0; start < group; start += BLOCK) {
      const p = x + (unit * group + start) * 4;
      const n = min<u32>(BLOCK, group - start);
      let sums = f32x4.splat(0);
      let i: u32 = 0;
      for (; i + 4 <= n; i += 4) sums = f32x4.add(sums, v128.load(p + i * 4));
      total += <f64> sumLanes(sums);
      for (; i < n; ++i) total += <f64> load<f32>(p + i * 4);
    }
    store<f32>(out + unit * 4, <f32> total);
  }
}

/** parts[i] = Σx² over the i-th 4096 of the `n` numbers at `x`, summed in f64, for i in [part0, part1). */
export function sumOfSquares(x: u32, n: u32, parts: u32, part0: u32, part1: u32): void {
  for (let part = part0; part < part1; ++part) {
    const end = min<u32>((part + 1) * PART, n);
    let low = f64x2.splat(0), high = f64x2.splat(0);
    let i = part * PART;
    for (; i + 4 <= end; i += 4) {
      const four = v128.load(x + i * 4);
      const a = f64x2.promote_low_f32x4(four);
      const b = f64x2.promote_low_f32x4(v128.shuffle<f32>(four, four, 2, 3, 2, 3));
      low = f64x2.add(low, f64x2.mul(a, a));
      high = f64x2.add(high, f64x2.mul(b, b));
    }
    const both = f64x2.add(low, high);
    let sum = f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1);
    for (; i < end; ++i) {
      const value = <f64> load<f32>(x + i * 4);
      sum += value * value;
    }
    store<f32>(parts + part * 4, <f32> sum);
  }
}
