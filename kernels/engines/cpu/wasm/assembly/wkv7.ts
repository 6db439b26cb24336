// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * The RWKV-7 recurrence, forward and backward, one (batch, head) at a time:
 *
 *     S_t = S_{t-1}·diag(w_t) + (S_{t-1} a_t) b_tᵀ + v_t k_tᵀ        y_t = S_t r_t
 *
 * S is [N value rows, N key columns]; vectors lie along the key columns. Time goes in chunks of 16: the forward pass keeps the
 * state at the start of each chunk, the backward pass walks a chunk forward again from there (it never divides by the decay).
 * Value rows do not mix, so both work on four rows through a whole chunk, which keeps them in the first-level cache; a state in
 * scratch has its rows interleaved by fours, as the loops over them want it.
 *
 * @module
 */
import { advance, finishRead, retrace, stepBack } from "./wkv7_rows";

const CHUNK: u32 = 16;

/** Bytes of scratch that one worker needs for `wkv7Forward` or `wkv7Backward`, aligned to 16. */
export function wkv7ScratchBytes(n: u32): u32 {
  const padded = (n + 3) & ~3;
  const streams: u32 = n == padded ? 0 : 14 * CHUNK * padded;
  // The state (or its gradient), four rows of the states inside a chunk, padded streams.
  return (padded * padded + CHUNK * 4 * padded + streams) * 4;
}

/** Copies rows of `n` numbers that lie `srcBytes` apart to where they lie `dstBytes` apart. */
function copyRows(dst: u32, dstBytes: u32, src: u32, srcBytes: u32, rows: u32, n: u32): void {
  if (dstBytes == n * 4 && srcBytes == n * 4) memory.copy(dst, src, rows * n * 4);
  else for (let i: u32 = 0; i < rows; ++i) memory.copy(dst + i * dstBytes, src + i * srcBytes, n * 4);
}

/** The padded state, four rows interleaved after the other, from a packed one or `rows` rows of it; zeros when `src` is 0. */
function loadState(state: u32, src: u32, rows: u32, n: u32): void {
  const width = (n + 3) & ~3, whole = n & ~3;
  if (src == 0 || n != width) memory.fill(state, 0, ((rows + 3) & ~3) * width * 4);
  if (src == 0) return;
  for (let i: u32 = 0; i < rows; ++i) {
    let p = state + (i & ~3) * width * 4 + (i & 3) * 16;
    for (const end = src + whole * 4; src != end; src += 16, p += 64) v128.store(p, v128.load(src));
    for (let j = whole; j < n; ++j, src += 4, p += 4) store<f32>(p, load<f32>(src));
  }
}

/** The packed state from the padded one. */
function storeState(dst: u32, state: u32, n: u32): void {
  const width = (n + 3) & ~3, whole = n & ~3;
  for (let i: u32 = 0; i < n; ++i) {
    let p = state + (i & ~3) * width * 4 + (i & 3) * 16;
    for (const end = dst + whole * 4; dst != end; dst += 16, p += 64) v128.store(dst, v128.load(p));
    for (let j = whole; j < n; ++j, dst += 4, p += 4) store<f32>(dst, load<f32>(p));
  }
}

/** `steps` rows of a stream: themselves, or a copy padded with zeros at `copy`. */
@inline
function stream(src: u32, step: u32, steps: u32, n: u32, copy: u32): u32 {
  if ((n & 3) == 0) return src;
  const rowBytes = ((n + 3) & ~3) * 4;
  memory.fill(copy, 0, steps * rowBytes);
  copyRows(copy, rowBytes, src, step, steps, n);
  return copy;
}

/**
 * y, S·a, and the state at the start of each chunk of 16 steps, for (batch, head) pairs [unit0, unit1) of B·H.
 *
 * r, w, k, v, a, b, y, sa: [B, T, H, N] f32, with w the decay itself. `initial` [B, H, N, N], or 0 for zeros; `states`
 * [B, H, ceil(T/16), N, N], or 0 to keep none; `final` [B, H, N, N], or 0; it may be `initial`.
 */
export function wkv7Forward(
  r: u32,
  w: u32,
  k: u32,
  v: u32,
  a: u32,
  b: u32,
  initial: u32,
  y: u32,
  sa: u32,
  states: u32,
  final: u32,
  time: u32,
  heads: u32,
  n: u32,
  unit0: u32,
  unit1: u32,
  scratch: u32,
): void {
  // The streams of a chunk are used in place where N is a multiple of four, else copied to rows padded with zeros.
  const width = (n + 3) & ~3, rowBytes = width * 4;
  const direct = n == width;
  const step = heads * n * 4;
  const stepBytes = direct ? step : rowBytes;
  const stateBytes = n * n * 4;
  const chunks = (time + CHUNK - 1) / CHUNK;
  const pad = scratch + width * rowBytes;
  const padBytes = CHUNK * rowBytes;
  for (let unit = unit0; unit < unit1; ++unit) {
    loadState(scratch, initial == 0 ? 0 : initial + unit * stateBytes, n, n);
    for (let chunk: u32 = 0; chunk < chunks; ++chunk) {
      if (states != 0) storeState(states + (unit * chunks + chunk) * stateBytes, scratch, n);
      const steps = min<u32>(CHUNK, time - chunk * CHUNK);
      const at = ((unit / heads) * time + chunk * CHUNK) * step + (unit % heads) * n * 4;
      const pr = stream(r + at, step, steps, n, pad);
      const pw = stream(w + at, step, steps, n, pad + padBytes);
      const pk = stream(k + at, step, steps, n, pad + 2 * padBytes);
      const pv = stream(v + at, step, steps, n, pad + 3 * padBytes);
      const pa = stream(a + at, step, steps, n, pad + 4 * padBytes);
      const pb = stream(b + at, step, steps, n, pad + 5 * padBytes);
      const py = direct ? y + at : pad + 6 * padBytes;
      const psa = direct ? sa + at : pad + 7 * padBytes;
      for (let i: u32 = 0; i < width; i += 4) {
        advance(
          scratch + i * rowBytes,
          rowBytes,
          steps,
          stepBytes,
          pr,
          pw,
          pk,
          pv + i * 4,
          pa,
          pb,
          py + i * 4,
          psa + i * 4,
        );
      }
      if (!direct) {
        copyRows(y + at, step, py, rowBytes, steps, n);
        copyRows(sa + at, step, psa, rowBytes, steps, n);
      }
    }
    if (final != 0) storeState(final + unit * stateBytes, scratch, n);
  }
}

/**
 * The gradients of all six streams for (batch, head) pairs [unit0, unit1), from dy and the `sa` and `states` of the forward pass.
 * `dFinal` [B, H, N, N] is the gradient of the final state, or 0 for none; `dInitial` [B, H, N, N] takes the gradient of the
 * initial one, or 0; it may be `dFinal`. Gradients are written, not added.
 */
export function wkv7Backward(
  r: u32,
  w: u32,
  k: u32,
  v: u32,
  a: u32,
  b: u32,
  sa: u32,
  states: u32,
  dy: u32,
  dFinal: u32,
  dr: u32,
  dw: u32,
  dk: u32,
  dv: u32,
  da: u32,
  db: u32,
  dInitial: u32,
  time: u32,
  heads: u32,
  n: u32,
  unit0: u32,
  unit1: u32,
  scratch: u32,
): void {
  // The streams of a chunk are used in place where N is a multiple of four, else copied to rows padded with zeros.
  const width = (n + 3) & ~3, rowBytes = width * 4;
  const direct = n == width;
  const step = heads * n * 4;
  const stepBytes = direct ? step : rowBytes;
  const stateBytes = n * n * 4;
  const chunks = (time + CHUNK - 1) / CHUNK;
  const rows = scratch + width * rowBytes;
  const pad = rows + CHUNK * 4 * rowBytes;
  const padBytes = CHUNK * rowBytes;
  for (let unit = unit0; unit < unit1; ++unit) {
    loadState(scratch, dFinal == 0 ? 0 : dFinal + unit * stateBytes, n, n);
    for (let chunk = chunks; chunk > 0; --chunk) {
      const t0 = (chunk - 1) * CHUNK;
      const steps = min<u32>(CHUNK, time - t0);
      const at = ((unit / heads) * time + t0) * step + (unit % heads) * n * 4;
      const pr = stream(r + at, step, steps, n, pad);
      const pw = stream(w + at, step, steps, n, pad + padBytes);
      const pk = stream(k + at, step, steps, n, pad + 2 * padBytes);
      const pv = stream(v + at, step, steps, n, pad + 3 * padBytes);
      const pa = stream(a + at, step, steps, n, pad + 4 * padBytes);
      const pb = stream(b + at, step, steps, n, pad + 5 * padBytes);
      const pdy = stream(dy + at, step, steps, n, pad + 6 * padBytes);
      const psa = stream(sa + at, step, steps, n, pad + 13 * padBytes);
      const pdr = direct ? dr + at : pad + 7 * padBytes;
      const pdw = direct ? dw + at : pad + 8 * padBytes;
      const pdk = direct ? dk + at : pad + 9 * padBytes;
      const pdv = direct ? dv + at : pad + 10 * padBytes;
      const pda = direct ? da + at : pad + 11 * padBytes;
      const pdb = direct ? db + at : pad + 12 * padBytes;
      const start = states + (unit * chunks + chunk - 1) * stateBytes;
      for (let i: u32 = 0; i < width; i += 4) {
        loadState(rows, start + i * n * 4, min<u32>(4, n - i), n);
        // The state after the last step is not needed.
        retrace(rows, rowBytes, steps - 1, stepBytes, pw, pk, pv + i * 4, pb, psa + i * 4);
        for (let t = steps; t > 0; --t) {
          const o = (t - 1) * stepBytes;
          stepBack(
            scratch + i * rowBytes,
            rows + (t - 1) * 4 * rowBytes,
            rowBytes,
            i == 0,
            pr + o,
            pw + o,
            pk + o,
            pv + o + i * 4,
            pa + o,
            pb + o,
            psa + o + i * 4,
            pdy + o + i * 4,
            pdr + o,
            pdw + o,
            pdk + o,
            pdv + o + i * 4,
            pda + o,
            pdb + o,
          );
        }
      }
      for (let t: u32 = 0; t < steps; ++t) {
        const o = t * stepBytes;
        finishRead(rowBytes, pw + o, pk + o, pv + o, pb + o, psa + o, pdy + o, pdr + o);
      }
      if (!direct) {
        copyRows(dr + at, step, pdr, rowBytes, steps, n);
        copyRows(dw + at, step, pdw, rowBytes, steps, n);
        copyRows(dk + at, step, pdk, rowBytes, steps, n);
        copyRows(dv + at, step, pdv, rowBytes, steps, n);
        copyRows(da + at, step, pda, rowBytes, steps, n);
        copyRows(db + at, step, pdb, rowBytes, steps, n);
      }
    }
    if (dInitial != 0) storeState(dInitial + unit * stateBytes, scratch, n);
  }
}
