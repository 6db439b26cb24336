/**
 * Nodes that do the same to several things, joined: as many results, the same numbers, and only where a device and the memory allow it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { Graph, type StorageType, type Tensor, Variable } from "../kernels/graph.ts";
import { addTile } from "../kernels/ops/add_tile/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { contentOf, stored, uniform } from "./conformance.ts";
import { randomNumbers, relativeError, resultsOf, testOnEngines, toleranceOn } from "./engines.ts";

const LIMITS = { bindingBytes: 2 ** 27, workgroups: 65535, workgroupBytes: 16384 };
const count = ({ nodes }: Program, name: string) => nodes.filter(({ op }) => op.name === name).length;

/** A graph under construction, with what its variables hold and the variables that take its results. */
function subject() {
  const graph = new Graph(), random = randomNumbers(9);
  const content = new Map<Variable, ArrayBufferView>(), results: Variable[] = [];
  return {
    ...{ graph, content, results },
    input(shape: number[], dtype: StorageType = "f32"): Tensor {
      const variable = new Variable(`input ${content.size}`, shape, dtype);
      content.set(variable, contentOf(dtype === "f32" ? uniform(shape) : stored(dtype, shape), random));
      return graph.use(variable);
    },
    give(t: Tensor): void {
      const result = new Variable(`result ${results.length}`, [t.size]);
      results.push(result);
      content.set(result, new Float32Array(t.size));
      assign(graph, result, map(graph, [t], (x) => x.mul(2)));
    },
  };
}

/** Three weights of one shape and one of another, each with its tile. */
function weights(O: number, K: number, R: number, dtype: StorageType) {
  const made = subject();
  const sums = [O, O, 2 * O, O].map((rows) =>
    addTile(made.graph, made.input([rows, K], dtype), made.input([R, rows]), "f16")
  );
  sums.forEach((t) => made.give(t));
  return made;
}

/** Six mixes, with a row before the first or without. */
function mixes(C: number, carried: boolean) {
  const made = subject(), x = made.input([10, C]);
  const options = { T: 5, ...(carried ? { carried: made.input([2, C]) } : {}) };
  const shifted = tokenShift(made.graph, x, Array.from({ length: 6 }, () => made.input([C])), options);
  shifted.forEach((t) => made.give(t));
  return made;
}

const SUBJECTS = [
  ...([[20, 64, 16, "bf16"], [9, 44, 12, "f16"], [8, 40, 8, "f32"]] as const).map(([O, K, R, dtype]) =>
    ["addTile", `${O}×${K} in ${dtype}, ${R} to a tile`, weights(O, K, R, dtype), 4, 2] as const
  ),
  ...[[24, true], [7, false]].map(([C, carried]) =>
    ["tokenShift", `${C} channels`, mixes(C as number, carried as boolean), 2, 1] as const
  ),
];
for (const [op, what, made, before, after] of SUBJECTS) {
  testOnEngines(`joined + ${op}, ${what}: as the oracle without`, async (engine) => {
    const alone = compile(made.graph), joined = compile(made.graph, { operands: 16, limits: LIMITS });
    assert.deepEqual([alone, joined].map((program) => count(program, op)), [before, after]);
    if (engine.operands < 16) return;
    const { content, results } = made;
    const wanted = await resultsOf(new Oracle(), alone, content, results);
    const got = await resultsOf(engine, joined, content, results);
    wanted.forEach((values, i) => {
      // WGSL leaves open to which of its two neighbours in f16 a sum is rounded: they are up to 2⁻¹⁰ of it apart.
      const error = relativeError(got[i]!, values);
      const allowed = toleranceOn(engine, op === "addTile" ? 1e-3 : 1e-6);
      assert.ok(error <= allowed, `result ${i}: normalised error ${error}`);
    });
  }, { processor: false });
}

Deno.test("joined + what a device cannot bind at once: as it was", () => {
  const { graph } = mixes(8, false);
  assert.equal(count(compile(graph, { operands: 8, limits: LIMITS }), "tokenShift"), 2);
  assert.equal(count(compile(graph, { operands: 16 }), "tokenShift"), 2, "an engine without shaders");
});

Deno.test("joined + values that are read one after the other: as it was, for two would be alive", () => {
  const made = subject();
  for (let i = 0; i < 2; i++) made.give(addTile(made.graph, made.input([8, 16]), made.input([8, 8])));
  assert.equal(count(compile(made.graph, { operands: 16, limits: LIMITS }), "addTile"), 2);
});

Deno.test("joined + a weight that changes between: as it was", () => {
  const made = subject();
  const [w, v] = [made.input([8, 16]), made.input([8, 16])],
    [d, e] = [made.input([8, 8]), made.input([8, 8])];
  const one = addTile(made.graph, w, d);
  accumulate(made.graph, v.variable!, map(made.graph, [w], (w) => w.mul(3)));
  [one, addTile(made.graph, v, e)].forEach((t) => made.give(t));
  assert.equal(count(compile(made.graph, { operands: 16, limits: LIMITS }), "addTile"), 2);
});
