/**
 * Products with folds that join products with weights: the same numbers from fewer products, only where it pays and is allowed.
 *
 * @module
 */
import assert from "node:assert/strict";
import { backward } from "../kernels/gradient.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import type { Engine } from "../kernels/engine.ts";
import { Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { fold } from "../kernels/ops/fold/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";

const count = ({ nodes }: Program, name: string) => nodes.filter(({ op }) => op.name === name).length;

/** A Bone layer of K to O channels between two maps, its output and the gradients of its input and of D, for M rows. */
function layer(M: number, K: number, O: number, R: number, change?: (graph: Graph, d: Variable) => void) {
  const graph = new Graph();
  const given = { x: [M, K], w: [O, K], d: [R, O], p: [M, O] };
  const variables = Object.fromEntries(
    Object.entries(given).map((
      [name, shape],
    ) => [name, new Variable(name, shape, name === "w" ? "bf16" : "f32")]),
  ) as Record<keyof typeof given, Variable>;
  const [input, w, d, p] = Object.values(variables).map((v) => graph.use(v)) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  const x = map(graph, [input], (x) => x.tanh());
  const base = matmul(graph, x, w, { transposeB: true });
  const added = matmul(graph, fold(graph, x, R), d);
  const y = map(graph, [base, added], (y, added) => y.add(added));
  change?.(graph, variables.d);
  const loss = reduceGroups(graph, map(graph, [y, p], (y, p) => y.mul(p)), [1]);
  const results = new Map([
    ["y", y] as const,
    ...backward(graph, loss, [input, d]).map((t, i) => [["gradient of x", "gradient of d"][i]!, t!] as const),
  ]);
  const kept = [...results].map(([name, t]) => {
    const variable = new Variable(name, t.shape);
    assign(graph, variable, t);
    return variable;
  });
  return { graph, variables: Object.values(variables), kept };
}

async function run(
  engine: Engine,
  { graph, variables, kept }: ReturnType<typeof layer>,
  joinsFolds: "f32" | "f16" | undefined,
) {
  const random = randomNumbers(5);
  for (const variable of [...variables, ...kept]) {
    const numbers = Float32Array.from({ length: variable.shape.reduce((a, b) => a * b, 1) }, random);
    const halves = Uint16Array.from(new Uint32Array(numbers.buffer), (bits) => bits >>> 16);
    engine.allocate(variable, variable.dtype === "bf16" ? halves : numbers);
  }
  const program = compile(graph, { operands: engine.operands, scratch: engine.scratch, joinsFolds });
  using executable = await engine.load(program);
  executable.run();
  const results = await Promise.all(kept.map((variable) => engine.read(variable)));
  [...variables, ...kept].forEach((variable) => engine.free(variable));
  return { program, results };
}

for (const [M, K, O, R] of [[130, 24, 40, 8], [300, 50, 21, 16], [520, 12, 9, 12]] as const) {
  testOnEngines(`joinFolds + ${M} rows, ${K} to ${O} channels, shards of ${R}: as apart`, async (engine) => {
    const storage = engine instanceof CpuEngine ? "f32" : "f16";
    const apart = await run(engine, layer(M, K, O, R), undefined),
      joined = await run(engine, layer(M, K, O, R), storage);
    assert.deepEqual([count(apart.program, "matmul"), count(joined.program, "matmul")], [5, 3]);
    // Once for both directions, or once for each.
    assert.ok([1, 2].includes(count(joined.program, "addTile")));
    assert.equal(count(joined.program, "tile"), 0);
    joined.results.forEach((values, i) => {
      const error = relativeError(values, apart.results[i]!);
      // Rounding W' to f16 changes each of its elements by up to 2⁻¹² of it.
      assert.ok(error < (storage === "f16" ? 4e-4 : 1e-6), `result ${i}: normalised error ${error}`);
    });
  });
}

Deno.test("joinFolds + weights outside of the memory: the same bits", async () => {
  const engines = [{}, { weightsInside: 0, windowBytes: 4096 }].map((more) =>
    new CpuEngine({ workers: 2, ...more })
  );
  try {
    const [inside, outside] = await Promise.all(
      engines.map((engine) => run(engine, layer(300, 50, 90, 16), "f32")),
    );
    assert.deepEqual(outside!.results, inside!.results);
  } finally {
    engines.forEach((engine) => engine.dispose());
  }
});

Deno.test("joinFolds + few rows, or a D that changes in between: apart", () => {
  const few = compile(layer(20, 50, 21, 16).graph, { joinsFolds: "f32" });
  assert.equal(count(few, "addTile"), 0);
  const changing = layer(
    300,
    50,
    21,
    16,
    (graph, d) => accumulate(graph, d, map(graph, [graph.use(d)], (d) => d.mul(2))),
  );
  assert.equal(count(compile(changing.graph, { joinsFolds: "f32" }), "addTile"), 0);
});
