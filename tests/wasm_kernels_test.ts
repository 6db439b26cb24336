/**
 * The matrix product and the recurrence in WebAssembly against plain float64: both builds, ragged sizes, and shares that must
 * not change a bit.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DTYPE, LAYOUT, type WasmKernels, WKV7_CHUNK } from "../kernels/engines/cpu/wasm/load.ts";
import { assertClose, block, builds, memory, random, reset, scratch, split } from "./wasm_memory.ts";

interface Product {
  layout: number;
  dtype: number;
  M: number;
  N: number;
  K: number;
  accumulate: number;
  addend?: boolean;
}

/** One product with padded rows; gives what the kernel wrote for each way of sharing, and the float64 result. */
function product(kernels: WasmKernels, { layout, dtype, M, N, K, accumulate, addend = false }: Product) {
  reset();
  const [aRows, aColumns] = layout & 1 ? [K, M] : [M, K];
  const [bRows, bColumns] = layout & 2 ? [N, K] : [K, N];
  const lda = aColumns + 3, ldb = bColumns + 1, ldc = N + 2;
  const a = block(aRows * lda, random);
  const b = block(bRows * ldb, random);
  let bValue = (i: number) => b.f32[i];
  if (dtype !== DTYPE.f32) {
    const bits = new Uint16Array(memory.buffer, b.at, bRows * ldb);
    const halves = new Float16Array(memory.buffer, b.at, bRows * ldb);
    for (let i = 0; i < bits.length; i++) {
      if (dtype === DTYPE.f16) halves[i] = random();
      else bits[i] = new Uint32Array(Float32Array.of(random()).buffer)[0] >>> 16;
    }
    const widened = dtype === DTYPE.f16
      ? Float64Array.from(halves)
      : Float64Array.from(new Float32Array(Uint32Array.from(bits, (x) => x << 16).buffer));
    bValue = (i) => widened[i];
  }
  const before = Float32Array.from({ length: M * ldc }, random);
  const added = block(M * ldc, random);
  const c = block(M * ldc);
  const space = scratch(kernels.matmulScratchBytes());
  const run = (shares: [number, number, number, number][]) => {
    c.f32.set(before);
    for (const [m0, m1, n0, n1] of shares) {
      // deno-fmt-ignore
      kernels.matmul(layout, dtype, a.at, lda, b.at, ldb, c.at, ldc, M, K, accumulate, addend ? added.at : 0,
        m0, m1, n0, n1, space);
    }
    return c.f32.slice();
  };
  const whole = run([[0, M, 0, N]]);
  const shared = [2, 3].flatMap((count) => [
    run(split(M, count).map(([m0, m1]) => [m0, m1, 0, N])),
    run(split(N, count).map(([n0, n1]) => [0, M, n0, n1])),
  ]);
  const expected = Float64Array.from(before);
  for (let m = 0; m < M; m++) {
    for (let n = 0; n < N; n++) {
      let sum = accumulate ? before[m * ldc + n] : 0;
      for (let k = 0; k < K; k++) {
        sum += a.f32[layout & 1 ? k * lda + m : m * lda + k] * bValue(layout & 2 ? n * ldb + k : k * ldb + n);
      }
      expected[m * ldc + n] = sum + (addend ? added.f32[m * ldc + n] : 0);
    }
  }
  return { whole, shared, expected };
}

for (const { variant, kernels } of builds) {
  Deno.test(`matmul equals float64 and its shares agree bit for bit (${variant})`, () => {
    // Rows of every remainder by six and by four, in shares that begin anywhere.
    // deno-fmt-ignore
    const sizes = [[1, 1, 1], [1, 23, 9], [2, 7, 70], [3, 9, 4], [4, 8, 6], [5, 17, 33], [8, 21, 66], [9, 34, 67], [10, 16, 5],
      [11, 8, 6], [12, 9, 7], [13, 24, 3], [70, 19, 40], [75, 16, 9], [77, 17, 10]];
    for (const [M, N, K] of sizes) {
      for (const layout of Object.values(LAYOUT)) {
        for (const dtype of Object.values(DTYPE)) {
          const what = {
            layout,
            dtype,
            M,
            N,
            K,
            accumulate: (M + dtype) & 1,
            addend: (N + layout) % 3 === 0,
          };
          const { whole, shared, expected } = product(kernels, what);
          assertClose(whole, expected, 1e-6, JSON.stringify(what));
          for (const other of shared) assert.deepEqual(other, whole, JSON.stringify(what));
        }
      }
    }
  });

  Deno.test(`matmul equals float64 across cache blocks (${variant})`, () => {
    for (const [layout, dtype] of [[LAYOUT.NT, DTYPE.bf16], [LAYOUT.NN, DTYPE.f32], [LAYOUT.TN, DTYPE.f16]]) {
      const what = {
        layout,
        dtype,
        M: 67,
        N: 525,
        K: 259,
        accumulate: dtype & 1,
        addend: dtype !== DTYPE.f32,
      };
      const { whole, shared, expected } = product(kernels, what);
      assertClose(whole, expected, 1e-6, JSON.stringify(what));
      for (const other of shared) assert.deepEqual(other, whole);
    }
  });

  Deno.test(`matmul with K = 0 writes zeros, or adds nothing (${variant})`, () => {
    const shape = { layout: LAYOUT.NT, dtype: DTYPE.f32, M: 3, N: 5, K: 0 };
    const written = product(kernels, { ...shape, accumulate: 0 });
    assert.deepEqual(Float64Array.from(written.whole), written.expected);
    const added = product(kernels, { ...shape, accumulate: 1 });
    assert.deepEqual(Float64Array.from(added.whole), added.expected);
    const addend = product(kernels, { ...shape, accumulate: 0, addend: true });
    assert.deepEqual(Float64Array.from(addend.whole), addend.expected);
  });

  Deno.test(`matmul widens every f16 and bf16 pattern exactly (${variant})`, () => {
    reset();
    const x = block(2, () => 1);
    const b = block(32768);
    const bits = new Uint16Array(memory.buffer, b.at, 65536).map((_, i) => i);
    new Uint16Array(memory.buffer, b.at, 65536).set(bits);
    const c = block(65536);
    kernels.matmul(LAYOUT.NN, DTYPE.f16, x.at, 1, b.at, 65536, c.at, 65536, 1, 1, 0, 0, 0, 1, 0, 65536, 0);
    // The sum starts at +0, so −0 comes out as +0.
    assert.deepEqual(c.f32, Float32Array.from(new Float16Array(bits.buffer), (x) => x + 0));
    kernels.matmul(LAYOUT.NN, DTYPE.bf16, x.at, 1, b.at, 65536, c.at, 65536, 1, 1, 0, 0, 0, 1, 0, 65536, 0);
    assert.deepEqual(
      c.f32,
      new Float32Array(Uint32Array.from(bits, (i) => i << 16).buffer).map((x) => x + 0),
    );
  });
}

/** A recurrence problem in plain arrays: streams [B, T, H, N] in the order r, w, k, v, a, b, and states [B, H, N, N]. */
interface Recurrence {
  B: number;
  T: number;
  H: number;
  N: number;
  streams: Float64Array[];
  initial: Float64Array;
  dy: Float64Array;
  dFinal: Float64Array;
}

function recurrence(B: number, T: number, H: number, N: number): Recurrence {
  const draw = (length: number, f: (x: number) => number) =>
    Float64Array.from({ length }, () => Math.fround(f(random())));
  const length = B * T * H * N, scale = 1 / Math.sqrt(N);
  return {
    ...{ B, T, H, N },
    // w over the range that RWKV-7 can reach.
    streams: [0, 1, 2, 3, 4, 5].map((i) =>
      draw(length, (x) => i === 1 ? 0.77 + 0.22 * x : i > 3 ? x * scale : x)
    ),
    initial: draw(B * H * N * N, (x) => x),
    dy: draw(length, (x) => x),
    dFinal: draw(B * H * N * N, (x) => x),
  };
}

/** Forward and backward in float64, with every state kept. */
function recur({ B, T, H, N, streams, initial, dy, dFinal }: Recurrence) {
  const [r, w, k, v, a, b] = streams;
  const [dr, dw, dk, dv, da, db, y] = Array.from({ length: 7 }, () => new Float64Array(dy.length));
  const final = new Float64Array(initial.length), dInitial = new Float64Array(initial.length);
  for (let unit = 0; unit < B * H; unit++) {
    const at = (t: number) => ((Math.floor(unit / H) * T + t) * H + unit % H) * N;
    const states = [initial.slice(unit * N * N, (unit + 1) * N * N)];
    const erased: Float64Array[] = [];
    for (let t = 0; t < T; t++) {
      const o = at(t), S = states[t], next = new Float64Array(N * N), sa = new Float64Array(N);
      for (let i = 0; i < N; i++) {
        for (let j = 0; j < N; j++) sa[i] += S[i * N + j] * a[o + j];
        for (let j = 0; j < N; j++) {
          next[i * N + j] = S[i * N + j] * w[o + j] + sa[i] * b[o + j] + v[o + i] * k[o + j];
          y[o + i] += next[i * N + j] * r[o + j];
        }
      }
      states.push(next);
      erased.push(sa);
    }
    final.set(states[T], unit * N * N);
    const dS = dFinal.slice(unit * N * N, (unit + 1) * N * N);
    for (let t = T - 1; t >= 0; t--) {
      const o = at(t), S = states[t], after = states[t + 1];
      for (let i = 0; i < N; i++) {
        let dsa = 0;
        for (let j = 0; j < N; j++) {
          const x = i * N + j;
          dr[o + j] += after[x] * dy[o + i];
          dS[x] += dy[o + i] * r[o + j];
          dw[o + j] += dS[x] * S[x];
          dk[o + j] += dS[x] * v[o + i];
          dv[o + i] += dS[x] * k[o + j];
          db[o + j] += dS[x] * erased[t][i];
          dsa += dS[x] * b[o + j];
        }
        for (let j = 0; j < N; j++) {
          da[o + j] += S[i * N + j] * dsa;
          dS[i * N + j] = dS[i * N + j] * w[o + j] + dsa * a[o + j];
        }
      }
    }
    dInitial.set(dS, unit * N * N);
  }
  return { y, final, gradients: [dr, dw, dk, dv, da, db], dInitial };
}

Deno.test("wkv7 float64 reference has the gradients that finite differences give", () => {
  const problem = recurrence(2, 5, 2, 3);
  const { gradients, dInitial } = recur(problem);
  const loss = () => {
    const { y, final } = recur(problem);
    return y.reduce((sum, x, i) => sum + x * problem.dy[i], 0) +
      final.reduce((sum, x, i) => sum + x * problem.dFinal[i], 0);
  };
  [...problem.streams, problem.initial].forEach((values, which) => {
    const numeric = values.map((x, i) => {
      values[i] = x + 1e-4;
      const high = loss();
      values[i] = x - 1e-4;
      const low = loss();
      values[i] = x;
      return (high - low) / 2e-4;
    });
    assertClose([...gradients, dInitial][which], numeric, 1e-7, `input ${which}`);
  });
});

for (const { variant, kernels } of builds) {
  for (
    const [B, T, H, N] of [[2, 37, 3, 8], [1, 16, 2, 7], [1, 1, 1, 1], [1, 33, 2, 64], [2, 18, 1, 6], [
      1,
      20,
      1,
      128,
    ]]
  ) {
    Deno.test(`wkv7 [B=${B}, T=${T}, H=${H}, N=${N}] equals float64 and shares agree (${variant})`, () => {
      reset();
      const problem = recurrence(B, T, H, N);
      const expected = recur(problem);
      const put = (x: Float64Array) => block(x.length, (i) => x[i]);
      const [r, w, k, v, a, b] = problem.streams.map((x) => put(x).at);
      const initial = put(problem.initial), dy = put(problem.dy), dFinal = put(problem.dFinal);
      const states = block(B * H * Math.ceil(T / WKV7_CHUNK) * N * N);
      const y = block(B * T * H * N),
        sa = block(B * T * H * N),
        final = block(B * H * N * N),
        dInitial = block(B * H * N * N);
      const gradients = problem.streams.map((x) => block(x.length));
      const [dr, dw, dk, dv, da, db] = gradients.map((x) => x.at);
      const space = scratch(kernels.wkv7ScratchBytes(N));
      const run = (count: number) => {
        for (const x of [states, y, sa, final, dInitial, ...gradients]) x.f32.fill(NaN);
        for (const [from, to] of split(B * H, count)) {
          // deno-fmt-ignore
          kernels.wkv7Forward(r, w, k, v, a, b, initial.at, y.at, sa.at, states.at, final.at, T, H, N, from, to,
            space);
        }
        for (const [from, to] of split(B * H, count)) {
          // deno-fmt-ignore
          kernels.wkv7Backward(r, w, k, v, a, b, sa.at, states.at, dy.at, dFinal.at, dr, dw, dk, dv, da, db,
            dInitial.at, T, H, N, from, to, space);
        }
        return [y, final, dInitial, ...gradients].map((x) => x.f32.slice());
      };
      const whole = run(1);
      const wanted = [expected.y, expected.final, expected.dInitial, ...expected.gradients];
      whole.forEach((x, i) => assertClose(x, wanted[i], 2e-6, `result ${i}`));
      assert.deepEqual(run(2), whole);
      assert.deepEqual(run(3), whole);
    });
  }

  Deno.test(`wkv7Forward without states carries the state from call to call, in place (${variant})`, () => {
    reset();
    const [T, H, N] = [5, 2, 8];
    const problem = recurrence(1, T, H, N);
    const expected = recur({ ...problem, initial: new Float64Array(H * N * N) });
    const streams = problem.streams.map((x) => block(x.length, (i) => x[i]).at);
    const y = block(T * H * N),
      sa = block(T * H * N).at,
      state = block(H * N * N),
      space = scratch(kernels.wkv7ScratchBytes(N));
    for (let t = 0; t < T; t++) {
      const [r, w, k, v, a, b] = streams.map((x) => x + t * H * N * 4);
      const before = t === 0 ? 0 : state.at;
      // deno-fmt-ignore
      kernels.wkv7Forward(r, w, k, v, a, b, before, y.at + t * H * N * 4, sa, 0, state.at, 1, H, N, 0, H, space);
    }
    assertClose(y.f32, expected.y, 1e-6, "y");
    assertClose(state.f32, expected.final, 1e-6, "final state");
  });

  Deno.test(`wkv7Backward without dFinal and dInitial takes the first for zeros (${variant})`, () => {
    reset();
    const [T, H, N] = [19, 1, 8];
    const problem = {
      ...recurrence(1, T, H, N),
      dFinal: new Float64Array(N * N),
      initial: new Float64Array(N * N),
    };
    const expected = recur(problem);
    const [r, w, k, v, a, b] = problem.streams.map((x) => block(x.length, (i) => x[i]).at);
    const dy = block(T * N, (i) => problem.dy[i]), y = block(T * N), sa = block(T * N).at;
    const states = block(2 * N * N);
    const gradients = problem.streams.map((x) => block(x.length));
    const [dr, dw, dk, dv, da, db] = gradients.map((x) => x.at);
    const space = scratch(kernels.wkv7ScratchBytes(N));
    kernels.wkv7Forward(r, w, k, v, a, b, 0, y.at, sa, states.at, 0, T, H, N, 0, H, space);
    // deno-fmt-ignore
    kernels.wkv7Backward(r, w, k, v, a, b, sa, states.at, dy.at, 0, dr, dw, dk, dv, da, db, 0, T, H, N, 0, H,
      space);
    gradients.forEach((x, i) => assertClose(x.f32, expected.gradients[i], 2e-6, `gradient ${i}`));
  });
}
