/**
 * Expressions emitted as WebAssembly against plain float64: every operation, every way to broadcast, the ends of the number
 * range, and shares that must not change a bit.
 *
 * @module
 */
import assert from "node:assert/strict";
import { emitMap, loadMap, type MapInput } from "../kernels/engines/cpu/wasm/emit.ts";
import type { WasmKernels } from "../kernels/engines/cpu/wasm/load.ts";
import { Expression, straightLine } from "../kernels/ops/map/expression.ts";
import { assertClose, block, builds, memory, random, reset, shared } from "./wasm_memory.ts";

const x = Expression.input(0), y = Expression.input(1), z = Expression.input(2);
const noise = (length: number) => block(length, random);
const range = (n: number) => Array.from({ length: n }, (_, i) => i);
const sigmoid = (x: number) => x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x));

/** Emits and runs expressions, over uneven shares. */
function evaluate(
  kernels: WasmKernels,
  expressions: Expression[],
  inputs: (MapInput & { at: number })[],
  size: number,
): Float32Array[] {
  const binary = emitMap({ ...straightLine(expressions), inputs, size });
  const run = loadMap(new WebAssembly.Module(binary), memory, kernels);
  const outputs = expressions.map(() => block(size));
  const addresses = [...inputs, ...outputs].map((operand) => operand.at);
  return shared(size, outputs, (start, end) => run(start, end, ...addresses));
}

for (const { variant, kernels } of builds) {
  Deno.test(`emitMap evaluates every operation, with several results (${variant})`, () => {
    reset();
    const n = 39, a = noise(n), b = block(n, () => 1.5 + random());
    const operations: [Expression, (x: number, y: number) => number][] = [
      [x.add(y), (x, y) => x + y],
      [x.sub(y), (x, y) => x - y],
      [x.mul(y), (x, y) => x * y],
      [x.div(y), (x, y) => x / y],
      [x.max(y), Math.max],
      [x.max(0.25), (x) => Math.max(x, 0.25)],
      [Expression.constant(0.25).max(x), (x) => Math.max(x, 0.25)],
      [x.neg(), (x) => -x],
      [x.step(), (x) => x > 0 ? 1 : 0],
      [y.sqrt(), (_, y) => Math.sqrt(y)],
      [x.exp(), Math.exp],
      [y.log(), (_, y) => Math.log(y)],
      [x.tanh(), Math.tanh],
      [x.sigmoid(), (x) => 1 / (1 + Math.exp(-x))],
      [
        x.mul(y).add(1).sigmoid().mul(-0.60653066).exp(),
        (x, y) => Math.exp(-0.60653066 / (1 + Math.exp(-x * y - 1))),
      ],
      [x, (x) => x],
      [Expression.constant(-3.5), () => -3.5],
    ];
    const inputs = [a, b].map(({ at }) => ({ at, divisor: 1, modulus: n }));
    evaluate(kernels, operations.map(([expression]) => expression), inputs, n).forEach((result, k) => {
      assertClose(result, range(n).map((i) => operations[k][1](a.f32[i], b.f32[i])), 3e-7, `operation ${k}`);
    });
  });

  Deno.test(`emitMap broadcasts rows, groups and scalars of any length (${variant})`, () => {
    for (const [rows, C, G] of [[3, 8, 2], [4, 7, 7], [2, 15, 3], [5, 1, 1], [1, 64, 4], [6, 10, 1]]) {
      reset();
      const n = rows * C, full = noise(n), row = noise(C), group = noise(rows * G), scalar = noise(1);
      const inputs = [
        { ...full, divisor: 1, modulus: n },
        { ...row, divisor: 1, modulus: C },
        { ...group, divisor: C / G, modulus: rows * G },
        { ...scalar, divisor: n, modulus: 1 },
        { at: 0, divisor: 1, modulus: 3 }, // not read
      ];
      const [result] = evaluate(kernels, [x.mul(y).add(z).mul(Expression.input(3))], inputs, n);
      const wanted = range(n).map((i) =>
        (full.f32[i] * row.f32[i % C] + group.f32[Math.floor(i * G / C)]) * scalar.f32[0]
      );
      assertClose(result, wanted, 2e-7, `[${rows}, ${C}] with ${G} groups`);
    }
  });

  Deno.test(`emitMap widens bf16 and f16 inputs, dense, repeated and grouped (${variant})`, () => {
    for (const [rows, C, G] of [[3, 8, 2], [2, 15, 3], [1, 5, 1]]) {
      reset();
      const n = rows * C;
      for (const dtype of ["bf16", "f16"] as const) {
        const stored = [n, C, rows * G, 1].map((length) => {
          const { at } = noise(Math.ceil(length / 2));
          const words = new Uint16Array(memory.buffer, at, length);
          words.forEach((_, i) => words[i] = 0x3c00 + 0x3ff * (random() + 1) | (i & 1) << 15);
          const values = dtype === "f16"
            ? Float32Array.from(new Float16Array(words.slice().buffer))
            : new Float32Array(Uint32Array.from(words, (x) => x << 16).buffer);
          return { at, values };
        });
        const places = [[1, n], [1, C], [C / G, rows * G], [n, 1]];
        const inputs = stored.map(({ at }, k) => ({
          at,
          dtype,
          divisor: places[k][0],
          modulus: places[k][1],
        }));
        const [result] = evaluate(kernels, [x.mul(y).add(z).mul(Expression.input(3))], inputs, n);
        const wanted = range(n).map((i) => {
          const [a, b, c, d] = stored.map(({ values }, k) =>
            values[Math.floor(i / places[k][0]) % places[k][1]]
          );
          return (a * b + c) * d;
        });
        assertClose(result, wanted, 2e-7, `${dtype} [${rows}, ${C}] with ${G} groups`);
      }
    }
  });

  Deno.test(`emitMap keeps NaN, infinities and the limits of the functions (${variant})`, () => {
    reset();
    const values = [
      NaN,
      -Infinity,
      -1e30,
      -104,
      -88,
      -0.625,
      -1e-30,
      0,
      1e-40,
      1e-30,
      0.625,
      1,
      88,
      89,
      1e30,
      Infinity,
    ];
    const a = block(values.length, (i) => values[i]), exact = [...a.f32];
    const expressions = [x.exp(), x.log(), x.tanh(), x.sigmoid(), x.max(0)];
    const functions = [
      Math.exp,
      Math.log,
      Math.tanh,
      sigmoid,
      (x: number) => Math.max(x, 0),
    ];
    const inputs = [{ at: a.at, divisor: 1, modulus: values.length }];
    evaluate(kernels, expressions, inputs, values.length).forEach((result, k) => {
      exact.forEach((value, i) => {
        const wanted = Math.fround(functions[k](value));
        if (!Number.isFinite(wanted) || wanted === 0) {
          assert.equal(result[i], wanted, `function ${k} of ${value}`);
        } // One unit of a subnormal is more than any relative bound.
        else {assert.ok(
            Math.abs(result[i] - wanted) <= 3e-7 * Math.abs(wanted) + 1.5e-45,
            `function ${k} of ${value}`,
          );}
      });
    });
  });

  Deno.test(`exp, log, tanh and sigmoid are within 3e-7 over all of f32 (${variant})`, () => {
    reset();
    const n = 100_003, bits = Math.floor(2 ** 32 / n);
    const a = block(n);
    new Uint32Array(memory.buffer, a.at, n).set(range(n).map((i) => i * bits));
    const names = ["exp", "log", "tanh", "sigmoid"] as const;
    const functions = [
      Math.exp,
      Math.log,
      Math.tanh,
      sigmoid,
    ];
    const results = evaluate(
      kernels,
      names.map((name) => x[name]()),
      [{ at: a.at, divisor: 1, modulus: n }],
      n,
    );
    results.forEach((result, k) => {
      const worst = range(n).reduce((worst, i) => {
        const wanted = functions[k](a.f32[i]);
        if (!(Math.abs(wanted) > 1.2e-38 && Math.abs(wanted) < 3.4e38)) return worst;
        return Math.max(worst, Math.abs(result[i] - wanted) / Math.abs(wanted));
      }, 0);
      assert.ok(worst <= 3e-7, `${names[k]}: relative error ${worst}`);
    });
  });
}

Deno.test("emitMap gives equal bytes for equal programs", () => {
  const program = {
    ...straightLine([Expression.input(0).exp()]),
    inputs: [{ divisor: 1, modulus: 4 }],
    size: 4,
  };
  assert.deepEqual(emitMap(program), emitMap(structuredClone(program)));
});
