/**
 * The smaller WebAssembly kernels against plain float64: both builds, ragged sizes, and shares that
 * must not change a bit.
 *
 * @module
 */
import assert from "node:assert/strict";
import { DTYPE, SUM_PART } from "../kernels/engines/cpu/wasm/load.ts";
import { assertClose, block, builds, memory, random, reset, shared, split } from "./wasm_memory.ts";

const noise = (length: number) => block(length, random);
const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const sum = (n: number, f: (i: number) => number) => range(n).reduce((total, i) => total + f(i), 0);

for (const { variant, kernels } of builds) {
  for (const [rows, C, groups] of [[3, 37, 1], [5, 24, 2], [2, 21, 3], [7, 64, 1], [3, 4, 4]]) {
    Deno.test(`norm and normGradient of [${rows}, ${C}] in ${groups} groups equal float64 (${variant})`, () => {
      reset();
      const n = C / groups, units = rows * groups, eps = 1e-3;
      const x = block(rows * C, () => 3 + random()), weight = noise(C), bias = noise(C), dy = noise(rows * C);
      const y = block(rows * C), dx = block(rows * C), means = block(units), rstds = block(units);
      shared(units, [y, means, rstds], (start, end) =>
        // deno-fmt-ignore
        kernels.norm(x.at, weight.at, bias.at, y.at, means.at, rstds.at, C, groups, eps, start, end));
      shared(units, [dx], (start, end) =>
        // deno-fmt-ignore
        kernels.normGradient(x.at, weight.at, means.at, rstds.at, dy.at, dx.at, C, groups, start, end));
      const wantedY = new Float64Array(rows * C), wantedDx = new Float64Array(rows * C);
      for (const unit of range(units)) {
        const at = unit * n, c = (unit % groups) * n;
        const mean = sum(n, (i) => x.f32[at + i]) / n;
        const rstd = 1 / Math.sqrt(sum(n, (i) => (x.f32[at + i] - mean) ** 2) / n + eps);
        const normal = range(n).map((i) => (x.f32[at + i] - mean) * rstd);
        const g = range(n).map((i) => dy.f32[at + i] * weight.f32[c + i]);
        const projection = sum(n, (i) => g[i] * normal[i]) / n, meanG = sum(n, (i) => g[i]) / n;
        for (const i of range(n)) {
          wantedY[at + i] = normal[i] * weight.f32[c + i] + bias.f32[c + i];
          wantedDx[at + i] = rstd * (g[i] - meanG - normal[i] * projection);
        }
      }
      assertClose(y.f32, wantedY, 2e-6, "y");
      assertClose(dx.f32, wantedDx, n > 1 ? 5e-6 : 1, "dx");
    });
  }

  Deno.test(`crossEntropy equals float64, in place too, and weighs rows (${variant})`, () => {
    const [M, V, l2] = [5, 2055, 1e-3];
    const weights = [0.5, 0, 1, -2, 1e-4], chosen = [0, 7, V - 1, 2052, 1030];
    for (const strength of [0, l2]) {
      reset();
      const original = Float32Array.from({ length: M * V }, () => 8 * random());
      original.fill(NaN, V, 2 * V); // a row of weight 0 is not looked at
      original[2 * V + 40] = original[2 * V + 2054] = 9; // a tie: the first one is pulled
      const logits = block(M * V, (i) => original[i]), loss = block(M), dLogits = block(M * V);
      const weight = block(M, (i) => weights[i]), targets = block(M);
      new Int32Array(memory.buffer, targets.at, M).set(chosen);
      const run = (d: number) => (start: number, end: number) =>
        kernels.crossEntropy(logits.at, targets.at, weight.at, loss.at, d, V, strength, start, end);
      const [losses, gradient] = shared(M, [loss, dLogits], run(dLogits.at));
      assert.deepEqual(shared(M, [loss], run(0)), [losses]);
      run(logits.at)(0, M);
      assert.deepEqual(logits.f32.slice(), gradient);

      for (const m of range(M)) {
        const z = original.subarray(m * V, (m + 1) * V), got = gradient.subarray(m * V, (m + 1) * V);
        if (weights[m] === 0) {
          assert.equal(losses[m], 0);
          assert.ok(got.every((x) => x === 0));
          continue;
        }
        const max = z.reduce((a, b) => Math.max(a, b)), best = z.indexOf(max);
        const total = z.reduce((a, b) => a + Math.exp(b - max), 0);
        const entropy = weights[m] * (Math.log(total) + max - z[chosen[m]]);
        assertClose([losses[m]], [entropy], 1e-6, `loss ${m}`);
        const wanted = Float64Array.from(
          z,
          (x, i) =>
            weights[m] *
            (Math.exp(x - max) / total - (i === chosen[m] ? 1 : 0) + (i === best ? strength * max : 0)),
        );
        assertClose(got, wanted, 1e-6, `gradient ${m}`);
      }
    }
  });

  Deno.test(`crossEntropy with a target outside the vocabulary gives NaN (${variant})`, () => {
    reset();
    const logits = noise(8),
      weight = block(2, () => 1),
      loss = block(2),
      dLogits = block(8),
      targets = block(2);
    new Int32Array(memory.buffer, targets.at, 2).set([4, -1]);
    kernels.crossEntropy(logits.at, targets.at, weight.at, loss.at, dLogits.at, 4, 0, 0, 2);
    assert.ok([...loss.f32, ...dLogits.f32].every(Number.isNaN));
  });

  Deno.test(`crossEntropy keeps its accuracy over 65536 logits far from zero (${variant})`, () => {
    reset();
    const V = 65536;
    const logits = block(V, () => 200 + 3 * random()),
      loss = block(1),
      weight = block(1, () => 1),
      target = block(1);
    new Int32Array(memory.buffer, target.at, 1)[0] = 65535;
    kernels.crossEntropy(logits.at, target.at, weight.at, loss.at, 0, V, 0, 0, 1);
    const wanted = Math.log(sum(V, (i) => Math.exp(logits.f32[i] - logits.f32[V - 1])));
    assertClose(loss.f32, [wanted], 3e-7, "loss");
  });

  Deno.test(`adamW equals float64 over three steps, with and without clipping (${variant})`, () => {
    for (const [size, clip] of [[0.5, 1], [4, 1]]) {
      reset();
      const n = 37, [lr, beta1, beta2, eps, wd, rate, decay] = [1e-2, 0.9, 0.99, 1e-8, 0.1, 2, 0.5];
      const p = noise(n),
        g = block(n),
        m = block(n, () => 0),
        v = block(n, () => 0),
        norm = block(1, () => size);
      const P = Float64Array.from(p.f32), m64 = new Float64Array(n), v64 = new Float64Array(n);
      const scale = size > clip ? clip / size : 1;
      for (const step of [1, 2, 3]) {
        const settings = block(
          9,
          (i) => [lr, beta1, beta2, eps, wd, 1 - beta1 ** step, 1 - beta2 ** step, clip, 1][i],
        );
        const gradients = range(n).map((i) => Math.fround(i % 5 === 0 ? 0 : random()));
        for (const i of range(n)) {
          const s = gradients[i] * scale;
          m64[i] = beta1 * m64[i] + (1 - beta1) * s;
          v64[i] = beta2 * v64[i] + (1 - beta2) * s * s;
          const move = m64[i] / (1 - beta1 ** step) / (Math.sqrt(v64[i] / (1 - beta2 ** step)) + eps);
          P[i] -= lr * rate * (move + wd * decay * P[i]);
        }
        const before = [p, m, v].map((x) => x.f32.slice());
        const results = [1, 2, 3].map((count) => {
          [p, m, v].forEach((x, k) => x.f32.set(before[k]));
          g.f32.set(gradients);
          // deno-fmt-ignore
          split(n, count).forEach(([start, end]) =>
            kernels.adamW(p.at, g.at, m.at, v.at, norm.at, settings.at, rate, decay, start, end));
          return [p, g, m, v].map((x) => x.f32.slice());
        });
        assert.deepEqual(results[1], results[0]);
        assert.deepEqual(results[2], results[0]);
        assert.ok(g.f32.every((x) => x === 0));
      }
      assertClose(p.f32, P, 1e-6, "p");
      assertClose(m.f32, m64, 1e-6, "m");
      assertClose(v.f32, v64, 1e-5, "v"); // 1 − 0.99 in f32
    }
  });

  Deno.test(`adamW with a norm that is not finite only clears the gradient (${variant})`, () => {
    reset();
    const [p, g, m, v] = range(4).map(() => noise(9));
    const before = [p, m, v].map((x) => x.f32.slice());
    const settings = block(8, () => 0.5);
    for (const size of [NaN, Infinity]) {
      const norm = block(1, () => size);
      g.f32.fill(1);
      kernels.adamW(p.at, g.at, m.at, v.at, norm.at, settings.at, 1, 1, 0, 9);
      assert.deepEqual([p, m, v].map((x) => x.f32.slice()), before);
      assert.deepEqual([...g.f32], Array(9).fill(0));
    }
  });

  Deno.test(`reduceGroups, reduceRows, accumulate and sumOfSquares equal float64 (${variant})`, () => {
    for (const [rows, width] of [[1, 1], [9, 3], [6, 70], [3, 2055]]) {
      reset();
      const x = noise(rows * width), byRow = block(rows), byColumn = block(width);
      shared(rows, [byRow], (a, b) => kernels.reduceGroups(x.at, byRow.at, width, a, b));
      assertClose(byRow.f32, range(rows).map((i) => sum(width, (j) => x.f32[i * width + j])), 1e-6, "groups");
      shared(width, [byColumn], (a, b) => kernels.reduceRows(x.at, byColumn.at, rows, width, a, b));
      assertClose(
        byColumn.f32,
        range(width).map((j) => sum(rows, (i) => x.f32[i * width + j])),
        1e-6,
        "rows",
      );
      const before = byColumn.f32.slice();
      split(width, 3).forEach(([a, b]) => kernels.accumulate(x.at, byColumn.at, a, b));
      assert.deepEqual(byColumn.f32.slice(), before.map((y, j) => y + x.f32[j]));
    }
    reset();
    const n = 2 * SUM_PART + 7, x = noise(n), parts = block(3);
    shared(3, [parts], (a, b) => kernels.sumOfSquares(x.at, n, parts.at, a, b));
    const wanted = range(3).map((k) => sum(n, (i) => Math.floor(i / SUM_PART) === k ? x.f32[i] ** 2 : 0));
    assert.deepEqual([...parts.f32], wanted.map(Math.fround));
  });

  Deno.test(`tokenShift, its gradient and previousRow keep sequences apart (${variant})`, () => {
    for (const [B, T, C] of [[2, 3, 9], [1, 1, 4], [3, 5, 16]]) {
      for (const carries of [false, true]) {
        reset();
        const M = B * T, x = noise(M * C), mix = noise(C), carried = noise(B * C), out = block(M * C);
        const from = carries ? carried.at : 0;
        const before = Float32Array.from({ length: M * C }, (_, i) => {
          const row = Math.floor(i / C);
          return row % T ? x.f32[i - C] : carries ? carried.f32[row / T * C + i % C] : 0;
        });
        shared(M, [out], (a, b) => kernels.previousRow(x.at, from, out.at, T, C, a, b));
        assert.deepEqual(out.f32.slice(), before);
        shared(M, [out], (a, b) => kernels.tokenShift(x.at, mix.at, from, out.at, T, C, a, b));
        const shifted = before.map((y, i) => x.f32[i] + (y - x.f32[i]) * mix.f32[i % C]);
        assertClose(out.f32, shifted, 1e-6, "tokenShift");
        const next = (i: number) => Math.floor(i / C) % T === T - 1 ? 0 : x.f32[i + C] * mix.f32[i % C];
        const dx = out.f32.map((_, i) => x.f32[i] * (1 - mix.f32[i % C]) + next(i));
        shared(M, [out], (a, b) => kernels.tokenShiftGradient(x.at, mix.at, out.at, T, C, 0, a, b));
        assertClose(out.f32, dx, 1e-6, "gradient");
        split(M, 2).forEach(([a, b]) => kernels.tokenShiftGradient(x.at, mix.at, out.at, T, C, 1, a, b));
        assertClose(out.f32, dx.map((y) => 2 * y), 1e-6, "gradient added");
      }
    }
  });

  Deno.test(`fold and tile handle ragged shards (${variant})`, () => {
    for (const [M, K, R] of [[2, 7, 3], [3, 8, 4], [1, 5, 9], [2, 23, 1]]) {
      reset();
      const x = noise(M * K), folded = block(M * R), tiled = block(M * K);
      shared(M, [folded], (a, b) => kernels.fold(x.at, folded.at, K, R, a, b));
      const wanted = range(M * R).map((i) =>
        sum(K, (k) => k % R === i % R ? x.f32[Math.floor(i / R) * K + k] : 0)
      );
      assertClose(folded.f32, wanted, 1e-6, "fold");
      shared(M, [tiled], (a, b) => kernels.tile(folded.at, tiled.at, R, K, a, b));
      assert.deepEqual(
        [...tiled.f32],
        range(M * K).map((i) => folded.f32[Math.floor(i / K) * R + i % K % R]),
      );
    }
  });

  Deno.test(`embedding widens rows and its gradient adds them up by id (${variant})`, () => {
    reset();
    const [V, C] = [5, 7], ids = [3, 0, 5, 3, -1, 4], M = ids.length;
    const at = block(M).at, out = block(M * C), table = block(V * C), d = noise(M * C), dTable = block(V * C);
    new Int32Array(memory.buffer, at, M).set(ids);
    const words = new Uint16Array(memory.buffer, table.at, V * C).map(() => 0x3c00 + 300 * random());
    for (const dtype of Object.values(DTYPE)) {
      if (dtype === DTYPE.f32) table.f32.set(range(V * C).map(random));
      else new Uint16Array(memory.buffer, table.at, V * C).set(words);
      const values = dtype === DTYPE.f32
        ? table.f32
        : dtype === DTYPE.f16
        ? Float32Array.from(new Float16Array(words.buffer))
        : new Float32Array(Uint32Array.from(words, (x) => x << 16).buffer);
      shared(M, [out], (a, b) => kernels.embedding(table.at, dtype, at, out.at, V, C, a, b));
      const wanted = range(M * C).map((i) => values[ids[Math.floor(i / C)] * C + i % C] ?? 0);
      assert.deepEqual([...out.f32], wanted.map((x, i) => ids[Math.floor(i / C)] in range(V) ? x : 0));
    }
    shared(V, [dTable], (a, b) => kernels.embeddingGradient(at, d.at, dTable.at, M, C, a, b));
    const wanted = range(V * C).map((i) =>
      sum(M, (m) => ids[m] === Math.floor(i / C) ? d.f32[m * C + i % C] : 0)
    );
    assertClose(dTable.f32, wanted, 1e-6, "gradient");
  });
}
