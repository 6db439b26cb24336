/**
 * Weights outside of the cpu engine's 4 GiB memory: the same results as within it, through windows that are far too small.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { Graph, type StorageType, Variable } from "../kernels/graph.ts";
import { embedding } from "../kernels/ops/embedding/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { Model } from "../rwkv/model.ts";
import { computeGradients } from "../training/gradients.ts";
import { type Case, fixed, given, run, stored, uniform } from "./conformance.ts";
import { CASES } from "./conformance_cases.ts";
import { relativeError } from "./engines.ts";
import { BF16_PATH } from "./small_model.ts";

function product(M: number, N: number, K: number, dtype: "bf16" | "f16", ta: boolean, tb: boolean): Case {
  const a = uniform(ta ? [K, M] : [M, K]);
  return {
    name: `matmul + ${M}×${N}×${K} ${dtype} ${ta ? "T" : "N"}${tb ? "T" : "N"}`,
    // The gradient of a transposed product by its first operand is not to be had in 16 bits.
    inputs: [ta ? fixed(a) : a, stored(dtype, tb ? [N, K] : [K, N]), uniform([M, N])],
    build: (g, [a, b, addend]) => [
      matmul(g, a!, b!, { transposeA: ta, transposeB: tb }),
      matmul(g, a!, b!, { transposeA: ta, transposeB: tb, addend: addend! }),
    ],
  };
}

const LARGE: Case[] = [
  ...[false, true].flatMap((ta) =>
    [false, true].flatMap((tb) => [
      product(65, 44, 700, "bf16", ta, tb),
      product(5, 37, 513, "f16", ta, tb),
      product(90, 10, 0, "bf16", ta, tb),
    ])
  ),
  {
    name: "embedding + ids repeated and outside a table of some rows",
    inputs: [stored("f16", [11, 130]), given([3, 0, 10, 3, -1, 11, 3, 7], [8, 1], "i32")],
    build: (g, [table, ids]) => [embedding(g, table!, ids!)],
  },
  {
    name: "map + a matrix of 16 bits, which only a copy within the memory serves",
    inputs: [uniform([9, 7]), stored("bf16", [9, 7]), uniform([4, 9])],
    build: (g, [x, w, a]) => [map(g, [x!, w!], (x, w) => x.mul(w)), matmul(g, a!, w!)],
  },
];

for (const windowBytes of [4096, 32768]) {
  Deno.test(`CpuEngine + weights outside, windows of ${windowBytes} bytes: the same bits`, async () => {
    const inside = new CpuEngine({ workers: 1 });
    const outside = [1, 3].map((workers) => new CpuEngine({ workers, weightsInside: 0, windowBytes }));
    try {
      const packed = [...CASES, ...LARGE].filter(({ inputs }) =>
        inputs.some(({ dtype }) => dtype === "bf16" || dtype === "f16")
      );
      assert.ok(packed.length > LARGE.length + 5);
      for (const testCase of packed) {
        const wanted = await run(inside, testCase);
        for (const engine of outside) {
          const got = await run(engine, testCase);
          for (const [result, values] of wanted) {
            const differing = values.findIndex((x, i) => !Object.is(x, got.get(result)![i]));
            assert.equal(differing, -1, `${testCase.name}: ${result} differs at ${differing}`);
          }
        }
      }
    } finally {
      [inside, ...outside].forEach((engine) => engine.dispose());
    }
  });
}

Deno.test("CpuEngine + a product of one row that K's windows divide: as within, up to rounding", async () => {
  const [inside, outside] = [{}, { weightsInside: 0, windowBytes: 4096 }].map((more) =>
    new CpuEngine({ workers: 2, ...more })
  ) as [CpuEngine, CpuEngine];
  try {
    const one = product(1, 40, 1000, "bf16", false, false);
    const wanted = await run(inside, one), got = await run(outside, one);
    for (const [result, values] of wanted) assert.ok(relativeError(got.get(result)!, values) < 1e-6, result);
  } finally {
    [inside, outside].forEach((engine) => engine.dispose());
  }
});

Deno.test("CpuEngine + one to three rows through windows that divide K, 1 to 7 workers: the same bits", async () => {
  for (const M of [1, 2, 3]) {
    const results: Float32Array[] = [];
    for (const workers of [1, 2, 3, 7]) {
      const engine = new CpuEngine({ workers, weightsInside: 0, windowBytes: 32768 });
      try {
        results.push((await run(engine, product(M, 233, 1000, "bf16", false, false))).get("output 0")!);
      } finally {
        engine.dispose();
      }
    }
    for (const other of results.slice(1)) assert.deepEqual(other, results[0], `${M} rows`);
  }
});

Deno.test("CpuEngine + a row that is longer than the window: the window grows", async () => {
  const inside = new CpuEngine({ workers: 1 });
  const outside = new CpuEngine({ workers: 2, weightsInside: 0, windowBytes: 64 });
  try {
    for (const [ta, tb] of [[false, false], [false, true], [true, true]] as const) {
      const one = product(5, 37, 513, "bf16", ta, tb);
      assert.deepEqual(await run(outside, one), await run(inside, one));
    }
  } finally {
    [inside, outside].forEach((engine) => engine.dispose());
  }
});

Deno.test("CpuEngine + a weight outside: counted as held, and given back", () => {
  const engine = new CpuEngine({ workers: 1, weightsInside: 0 });
  try {
    const weight = new Variable("weight", [64, 64], "bf16"), before = engine.allocatedBytes;
    engine.allocate(weight, new Uint16Array(64 * 64));
    assert.equal(engine.allocatedBytes, before + 64 * 64 * 2);
    engine.free(weight);
    assert.equal(engine.allocatedBytes, before);
    assert.ok(engine.room("bf16") >= engine.room("f32") && engine.room("f32") <= 2 ** 32);
  } finally {
    engine.dispose();
  }
});

Deno.test("CpuEngine.room + values that fill it: loaded with the threads' scratch and windows, and not with 64 bytes more", async () => {
  for (const outside of [false, true]) {
    const engine = new CpuEngine({ workers: 7, weightsInside: outside ? 0 : Infinity });
    try {
      const [x, y] = [[8, 64], [8, 32]].map((shape) => new Variable("", shape)) as [Variable, Variable];
      const weight = new Variable("weight", [32, 64], "bf16"), graph = new Graph();
      [x, y, weight].forEach((variable) => engine.allocate(variable));
      assign(graph, y, matmul(graph, graph.use(x), graph.use(weight), { transposeB: true }));
      const program = compile(graph, engine), most = engine.room("f32") - program.workspaceBytes;
      const filled = (bytes: number) => ({ ...program, slots: [...program.slots, bytes] });
      await assert.rejects(engine.load(filled(most + 64)), /Out of memory/);
      (await engine.load(filled(most))).run();
    } finally {
      engine.dispose();
    }
  }
});

Deno.test("computeGradients + a bf16 model outside: every gradient as within", async () => {
  const tokens = [Array.from({ length: 21 }, (_, i) => (i * 31 + 5) % 97)];
  const gradients = async (weightsInside: number) => {
    const engine = new CpuEngine({ workers: 2, weightsInside });
    try {
      using model = Model.load(BF16_PATH, engine);
      return await computeGradients(model, { tokens });
    } finally {
      engine.dispose();
    }
  };
  const wanted = await gradients(Infinity), got = await gradients(0);
  assert.equal(got.loss, wanted.loss);
  for (const [name, values] of wanted.gradients) assert.deepEqual(got.gradients.get(name), values, name);
});

Deno.test("Model.load + an engine without room for the weights: one sentence before anything is allocated", () => {
  class Full extends Oracle {
    override room(dtype?: StorageType): number {
      return dtype === "bf16" ? 1e5 : Infinity;
    }
  }
  const engine = new Full();
  assert.throws(() => Model.load(BF16_PATH, engine), {
    name: "ModelError",
    message: /: its bf16 weights take [\d.]+ GB and 0\.00 GB are left; use a GPU, a smaller model$/,
  });
  assert.equal(engine.allocatedBytes, 0);
});
