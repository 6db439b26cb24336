// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * Ops that move, mix and repeat rows: token shift, the sum and repetition of shards, embedding. A unit is a row.
 *
 * @module
 */
import { accumulate } from "./reduce";
import { bf16, f16, loadFour, loadSplat, madd } from "./vector";

/** The row before `row` in its sequence of T: of x, of `carried` at the start, or 0 where there is none. */
@inline
function previous(x: u32, carried: u32, time: u32, rowBytes: u32, row: u32): u32 {
  if (row % time != 0) return x + (row - 1) * rowBytes;
  return carried == 0 ? 0 : carried + (row / time) * rowBytes;
}

/** out[t] = x[t] + (x[t−1] − x[t])·mix for rows [row0, row1) of x [B·T, C]; `carried` [B, C] precedes, or 0 for zeros. */
export function tokenShift(
  x: u32,
  mix: u32,
  carried: u32,
  out: u32,
  time: u32,
  channels: u32,
  row0: u32,
  row1: u32,
): void {
  const rowBytes = channels * 4;
  for (let row = row0; row < row1; ++row) {
    const p = x + row * rowBytes, q = out + row * rowBytes;
    const before = previous(x, carried, time, rowBytes, row);
    let i: u32 = 0;
    for (; i + 16 <= rowBytes; i += 16) {
      const now = v128.load(p + i);
      const change = f32x4.sub(before == 0 ? f32x4.splat(0) : v128.load(before + i), now);
      v128.store(q + i, madd(change, v128.load(mix + i), now));
    }
    for (; i < rowBytes; i += 4) {
      const now = load<f32>(p + i);
      const change = (before == 0 ? <f32> 0 : load<f32>(before + i)) - now;
      store<f32>(q + i, now + change * load<f32>(mix + i));
    }
  }
}

/** dx[t] (+)= d[t]·(1 − mix) + d[t+1]·mix for rows [row0, row1): one mix's part of the gradient of `tokenShift`. */
export function tokenShiftGradient(
  d: u32,
  mix: u32,
  dx: u32,
  time: u32,
  channels: u32,
  add: bool,
  row0: u32,
  row1: u32,
): void {
  const rowBytes = channels * 4;
  for (let row = row0; row < row1; ++row) {
    const p = d + row * rowBytes, q = dx + row * rowBytes;
    const last = row % time == time - 1;
    let i: u32 = 0;
    for (; i + 16 <= rowBytes; i += 16) {
      const weight = v128.load(mix + i);
      let sum = f32x4.mul(v128.load(p + i), f32x4.sub(f32x4.splat(1), weight));
      if (!last) sum = madd(v128.load(p + rowBytes + i), weight, sum);
      v128.store(q + i, add ? f32x4.add(v128.load(q + i), sum) : sum);
    }
    for (; i < rowBytes; i += 4) {
      const weight = load<f32>(mix + i);
      let sum = load<f32>(p + i) * (1 - weight);
      if (!last) sum += load<f32>(p + rowBytes + i) * weight;
      store<f32>(q + i, add ? load<f32>(q + i) + sum : sum);
    }
  }
}

/** out[t] = x[t−1] for rows [row0, row1) of x [B·T, C]; `carried` [B, C] precedes, or 0 for zeros. */
export function previousRow(
  x: u32,
  carried: u32,
  out: u32,
  time: u32,
  channels: u32,
  row0: u32,
  row1: u32,
): void {
  const rowBytes = channels * 4;
  for (let row = row0; row < row1; ++row) {
    const before = previous(x, carried, time, rowBytes, row);
    if (before == 0) memory.fill(out + row * rowBytes, 0, rowBytes);
    else memory.copy(out + row * rowBytes, before, rowBytes);
  }
}

/** out[m, j] = Σ_b x[m, b·R + j] for rows [row0, row1): x [M, K] → [M, R], the last shard ragged. */
export function fold(x: u32, out: u32, width: u32, shard: u32, row0: u32, row1: u32): void {
  for (let row = row0; row < row1; ++row) {
    const p = x + row * width * 4, q = out + row * shard * 4;
    memory.fill(q, 0, shard * 4);
    for (let i: u32 = 0; i < width; i += shard) accumulate(p + i * 4, q, 0, min<u32>(shard, width - i));
  }
}

/** out[m, i] = x[m, i mod R] for rows [row0, row1): x [M, R] → [M, K]. */
export function tile(x: u32, out: u32, shard: u32, width: u32, row0: u32, row1: u32): void {
  for (let row = row0; row < row1; ++row) {
    const p = x + row * shard * 4, q = out + row * width * 4;
    for (let i: u32 = 0; i < width; i += shard) memory.copy(q + i * 4, p, min<u32>(shard, width - i) * 4);
  }
}

function widenRow<T>(src: u32, dst: u32, n: u32): void {
  let i: u32 = 0;
  for (; i + 4 <= n; i += 4) v128.store(dst + i * 4, loadFour<T>(src + i * sizeof<T>()));
  for (; i < n; ++i) v128.store32_lane(dst + i * 4, loadSplat<T>(src + i * sizeof<T>()), 0);
}

function addRow<T>(src: u32, dst: u32, n: u32): void {
  let i: u32 = 0;
  for (; i + 4 <= n; i += 4) {
    v128.store(dst + i * 4, f32x4.add(v128.load(dst + i * 4), loadFour<T>(src + i * sizeof<T>())));
  }
  for (; i < n; ++i) {
    store<f32>(dst + i * 4, load<f32>(dst + i * 4) + f32x4.extract_lane(loadSplat<T>(src + i * sizeof<T>()), 0));
  }
}

/** out[m] = table[ids[m]] for rows [row0, row1); table [V, C] of `dtype`, ids i32; zeros for an id outside the table. */
export function embedding(
  table: u32,
  dtype: u32,
  ids: u32,
  out: u32,
  vocabulary: u32,
  channels: u32,
  row0: u32,
  row1: u32,
): void {
  for (let row = row0; row < row1; ++row) {
    const id = load<u32>(ids + row * 4);
    const q = out + row * channels * 4;
    if (id >= vocabulary) memory.fill(q, 0, channels * 4);
    else if (dtype == 1) widenRow<bf16>(table + id * channels * 2, q, channels);
    else if (dtype == 2) widenRow<f16>(table + id * channels * 2, q, channels);
    else widenRow<f32>(table + id * channels * 4, q, channels);
  }
}

/**
 * out[o, i] = w[o, i] + d[i mod R, o] for rows [row0, row1): w [O, K] of `dtype`, of which `w` is the address of row `row0`, d [R, O].
 */
export function addTile(
  w: u32,
  dtype: u32,
  d: u32,
  out: u32,
  width: u32,
  shard: u32,
  rows: u32,
  row0: u32,
  row1: u32,
): void {
  const wide = dtype == 0 ? width * 4 : width * 2;
  for (let row = row0; row < row1; ++row) {
    const q = out + row * width * 4;
    // One column of d, in the place of the first shard and then of all; the weight is added last, as it is where both are terms.
    for (let i: u32 = 0; i < min<u32>(shard, width); ++i) store<f32>(q + i * 4, load<f32>(d + (i * rows + row) * 4));
    for (let i = shard; i < width; i += shard) memory.copy(q + i * 4, q, min<u32>(shard, width - i) * 4);
    if (dtype == 1) addRow<bf16>(w, q, width);
    else if (dtype == 2) addRow<f16>(w, q, width);
    else addRow<f32>(w, q, width);
    w += wide;
  }
}

/** Entries [id0, id1) of dTable [V, C]: each the sum of the rows of d [M, C] with that id, in the order of the rows. */
export function embeddingGradient(
  ids: u32,
  d: u32,
  dTable: u32,
  rows: u32,
  channels: u32,
  id0: u32,
  id1: u32,
): void {
  if (id1 <= id0) return;
  memory.fill(dTable + id0 * channels * 4, 0, (id1 - id0) * channels * 4);
  for (let row: u32 = 0; row < rows; ++row) {
    const id = load<u32>(ids + row * 4);
    if (id >= id0 && id < id1) accumulate(d + row * channels * 4, dTable + id * channels * 4, 0, channels);
  }
}
