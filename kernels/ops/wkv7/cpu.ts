/**
 * The recurrence of wkv7 and its gradient, step by step, one head at a time. Works in f32 and f64 memory; the arithmetic is f64.
 *
 * @module
 */
import type { NumberArray } from "../../op.ts";
import { CHUNK } from "./op.ts";

interface Sizes {
  readonly B: number;
  readonly T: number;
  readonly H: number;
  readonly N: number;
  readonly C: number;
  readonly chunks: number;
  /** Heads `start` to `end` of the B·H heads. */
  readonly start: number;
  readonly end: number;
}

/**
 * S ← S · diag(w) + (S a) ⊗ b + v ⊗ k at row `at` of the streams, each `stride` elements after the one before; S a is written
 * to the same row of `kept`, where that is given.
 */
function step(
  S: Float64Array,
  N: number,
  x: NumberArray,
  at: number,
  stride: number,
  kept?: NumberArray,
): void {
  const w = at + stride, k = at + 2 * stride, v = at + 3 * stride, a = at + 4 * stride, b = at + 5 * stride;
  for (let i = 0; i < N; i++) {
    const row = i * N, value = x[v + i]!;
    let sa = 0;
    for (let j = 0; j < N; j++) sa += S[row + j]! * x[a + j]!;
    if (kept) kept[at + i] = sa;
    for (let j = 0; j < N; j++) S[row + j] = S[row + j]! * x[w + j]! + sa * x[b + j]! + value * x[k + j]!;
  }
}

/** Forward; shapes as in `op.ts`. */
export function wkv7Forward(
  call: Sizes & {
    readonly streams: NumberArray;
    readonly initial: NumberArray;
    readonly y: NumberArray;
    readonly states: NumberArray;
    readonly final: NumberArray;
    /** S a of every step, [B·T, C]. */
    readonly sa: NumberArray;
  },
): void {
  const { B, T, H, N, C, chunks, streams, initial, y, states, final, sa, start, end } = call;
  const stride = B * T * C, NN = N * N;
  for (let head = start; head < end; head++) {
    const S = Float64Array.from(initial.subarray(head * NN, (head + 1) * NN));
    for (let t = 0; t < T; t++) {
      if (t % CHUNK === 0) states.set(S, (head * chunks + t / CHUNK) * NN);
      const at = (Math.floor(head / H) * T + t) * C + (head % H) * N;
      step(S, N, streams, at, stride, sa);
      for (let i = 0; i < N; i++) {
        let sum = 0;
        for (let j = 0; j < N; j++) sum += S[i * N + j]! * streams[at + j]!;
        y[at + i] = sum;
      }
    }
    final.set(S, head * NN);
  }
}

/** Backward; shapes as in `op.ts`. */
export function wkv7Backward(
  call: Sizes & {
    readonly streams: NumberArray;
    readonly states: NumberArray;
    readonly dy: NumberArray;
    readonly dFinal: NumberArray;
    readonly dStreams: NumberArray;
    readonly dInitial: NumberArray;
  },
): void {
  const { B, T, H, N, C, chunks, streams: x, states, dy, dFinal, dStreams: dx, dInitial, start, end } = call;
  const stride = B * T * C, NN = N * N;
  const sa = new Float64Array(N), dsa = new Float64Array(N);
  // The states after each step of one chunk.
  const scratch = new Float64Array(CHUNK * NN);
  for (let head = start; head < end; head++) {
    const dS = Float64Array.from(dFinal.subarray(head * NN, (head + 1) * NN));
    for (let chunk = chunks - 1; chunk >= 0; chunk--) {
      const kept = states.subarray((head * chunks + chunk) * NN, (head * chunks + chunk + 1) * NN);
      const first = chunk * CHUNK, last = Math.min(first + CHUNK, T) - 1;
      const rowOf = (t: number) => (Math.floor(head / H) * T + t) * C + (head % H) * N;
      const S = Float64Array.from(kept);
      for (let t = first; t <= last; t++) {
        step(S, N, x, rowOf(t), stride);
        scratch.set(S, (t - first) * NN);
      }
      for (let t = last; t >= first; t--) {
        const r = rowOf(t), w = r + stride, k = w + stride, v = k + stride, a = v + stride, b = a + stride;
        const after = scratch.subarray((t - first) * NN, (t - first + 1) * NN);
        const before = t === first ? kept : scratch.subarray((t - first - 1) * NN, (t - first) * NN);
        for (let j = 0; j < N; j++) {
          dx[r + j] =
            dx[w + j] =
            dx[k + j] =
            dx[a + j] =
            dx[b + j] =
              0;
        }
        for (let i = 0; i < N; i++) {
          const row = i * N, g = dy[r + i]!;
          let sum = 0, dv = 0, ds = 0;
          for (let j = 0; j < N; j++) {
            sum += before[row + j]! * x[a + j]!;
            dx[r + j]! += after[row + j]! * g;
            const d = dS[row + j]! += g * x[r + j]!;
            dv += d * x[k + j]!;
            ds += d * x[b + j]!;
          }
          sa[i] = sum;
          dsa[i] = ds;
          dx[v + i] = dv;
        }
        for (let i = 0; i < N; i++) {
          const row = i * N, value = x[v + i]!;
          for (let j = 0; j < N; j++) {
            const d = dS[row + j]!, s = before[row + j]!;
            dx[w + j]! += d * s;
            dx[k + j]! += d * value;
            dx[b + j]! += d * sa[i]!;
            dx[a + j]! += s * dsa[i]!;
            dS[row + j] = d * x[w + j]! + dsa[i]! * x[a + j]!;
          }
        }
      }
    }
    dInitial.set(dS, head * NN);
  }
}
