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

/** The six streams, each [B·T, C], or their gradients. */
export interface Streams {
  readonly r: NumberArray;
  readonly w: NumberArray;
  readonly k: NumberArray;
  readonly v: NumberArray;
  readonly a: NumberArray;
  readonly b: NumberArray;
}

/** S ← S · diag(w) + (S a) ⊗ b + v ⊗ k at element `at` of the streams, keeping S a there where that is asked for. */
function step(
  S: Float64Array,
  N: number,
  { w, k, v, a, b }: Streams,
  at: number,
  kept?: NumberArray,
): void {
  for (let i = 0; i < N; i++) {
    const row = i * N, value = v[at + i]!;
    let sa = 0;
    for (let j = 0; j < N; j++) sa += S[row + j]! * a[at + j]!;
    if (kept) kept[at + i] = sa;
    for (let j = 0; j < N; j++) S[row + j] = S[row + j]! * w[at + j]! + sa * b[at + j]! + value * k[at + j]!;
  }
}

/** Forward; shapes as in `op.ts`. */
export function wkv7Forward(
  call: Sizes & {
    readonly streams: Streams;
    readonly initial: NumberArray | undefined;
    readonly y: NumberArray;
    readonly states: NumberArray;
    readonly final: NumberArray;
    readonly sa: NumberArray;
  },
): void {
  const { T, H, N, C, chunks, streams, initial, y, states, final, sa, start, end } = call;
  const NN = N * N;
  for (let head = start; head < end; head++) {
    const S = new Float64Array(NN);
    if (initial) S.set(initial.subarray(head * NN, (head + 1) * NN));
    for (let t = 0; t < T; t++) {
      if (t % CHUNK === 0) states.set(S, (head * chunks + t / CHUNK) * NN);
      const at = (Math.floor(head / H) * T + t) * C + (head % H) * N;
      step(S, N, streams, at, sa);
      for (let i = 0; i < N; i++) {
        let sum = 0;
        for (let j = 0; j < N; j++) sum += S[i * N + j]! * streams.r[at + j]!;
        y[at + i] = sum;
      }
    }
    final.set(S, head * NN);
  }
}

/** Backward; shapes as in `op.ts`. */
export function wkv7Backward(
  call: Sizes & {
    readonly streams: Streams;
    readonly states: NumberArray;
    readonly dy: NumberArray;
    readonly dFinal: NumberArray | undefined;
    readonly dStreams: Streams;
    readonly dInitial: NumberArray;
  },
): void {
  const { T, H, N, C, chunks, streams: x, states, dy, dFinal, dStreams: dx, dInitial, start, end } = call;
  const NN = N * N;
  const sa = new Float64Array(N), dsa = new Float64Array(N);
  // The states after each step of one chunk.
  const scratch = new Float64Array(CHUNK * NN);
  for (let head = start; head < end; head++) {
    const dS = new Float64Array(NN);
    if (dFinal) dS.set(dFinal.subarray(head * NN, (head + 1) * NN));
    for (let chunk = chunks - 1; chunk >= 0; chunk--) {
      const kept = states.subarray((head * chunks + chunk) * NN, (head * chunks + chunk + 1) * NN);
      const first = chunk * CHUNK, last = Math.min(first + CHUNK, T) - 1;
      const rowOf = (t: number) => (Math.floor(head / H) * T + t) * C + (head % H) * N;
      const S = Float64Array.from(kept);
      for (let t = first; t <= last; t++) {
        step(S, N, x, rowOf(t));
        scratch.set(S, (t - first) * NN);
      }
      for (let t = last; t >= first; t--) {
        const at = rowOf(t);
        const after = scratch.subarray((t - first) * NN, (t - first + 1) * NN);
        const before = t === first ? kept : scratch.subarray((t - first - 1) * NN, (t - first) * NN);
        for (const d of [dx.r, dx.w, dx.k, dx.a, dx.b]) d.fill(0, at, at + N);
        for (let i = 0; i < N; i++) {
          const row = i * N, g = dy[at + i]!;
          let sum = 0, dv = 0, ds = 0;
          for (let j = 0; j < N; j++) {
            sum += before[row + j]! * x.a[at + j]!;
            dx.r[at + j]! += after[row + j]! * g;
            const d = dS[row + j]! += g * x.r[at + j]!;
            dv += d * x.k[at + j]!;
            ds += d * x.b[at + j]!;
          }
          sa[i] = sum;
          dsa[i] = ds;
          dx.v[at + i] = dv;
        }
        for (let i = 0; i < N; i++) {
          const row = i * N, value = x.v[at + i]!;
          for (let j = 0; j < N; j++) {
            const d = dS[row + j]!, s = before[row + j]!;
            dx.w[at + j]! += d * s;
            dx.k[at + j]! += d * value;
            dx.b[at + j]! += d * sa[i]!;
            dx.a[at + j]! += s * dsa[i]!;
            dS[row + j] = d * x.w[at + j]! + dsa[i]! * x.a[at + j]!;
          }
        }
      }
    }
    dInitial.set(dS, head * NN);
  }
}
