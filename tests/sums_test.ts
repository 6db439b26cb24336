/**
 * Sums that end in products: the same numbers, fewer nodes, no more memory.
 *
 * @module
 */
import assert from "node:assert/strict";
import { backward } from "../kernels/gradient.ts";
import { Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { concatRows } from "../kernels/ops/rows/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { randomNumbers, relativeError, testOnEngines, toleranceOn } from "./engines.ts";

const SIZE = 24;

/** Variables by name, a graph that assigns `build`'s value to the last of them. */
function graphOf(build: (graph: Graph, x: (name: string) => Tensor) => Tensor) {
  const variables = new Map<string, Variable>(), graph = new Graph();
  const x = (name: string) => {
    if (!variables.has(name)) variables.set(name, new Variable(name, [SIZE, SIZE]));
    return graph.use(variables.get(name)!);
  };
  const value = build(graph, x), result = new Variable("result", value.shape);
  assign(graph, result, value);
  return { graph, variables, result };
}

const names = ({ graph }: { graph: Graph }) => compile(graph).nodes.map(({ op }) => op.name).join(" ");
const add = (graph: Graph, ...terms: Tensor[]) => map(graph, terms, (...x) => x.reduce((a, b) => a.add(b)));

Deno.test("addInProducts + a residual branch: one product with an addend", () => {
  const sum = graphOf((g, x) => add(g, x("a"), matmul(g, x("b"), x("c"))));
  assert.equal(names(sum), "matmul update");
});

Deno.test("addInProducts + three products and two other terms: one map for the two, then a chain of products", () => {
  const sum = graphOf((g, x) =>
    add(g, matmul(g, x("a"), x("b")), x("c"), matmul(g, x("d"), x("e")), x("f"), matmul(g, x("g"), x("h")))
  );
  assert.equal(names(sum), "map matmul matmul matmul update");
});

Deno.test("addInProducts + a product that something else reads too: left alone", () => {
  const sum = graphOf((g, x) => {
    const product = matmul(g, x("a"), x("b"));
    return map(g, [add(g, product, x("c")), product], (sum, product) => sum.mul(product));
  });
  assert.equal(names(sum), "matmul map update");
});

Deno.test("addInProducts + a product before another term is known: moved to after it", () => {
  const sum = graphOf((g, x) => {
    const product = matmul(g, x("a"), x("b"));
    return add(g, product, reduceGroups(g, x("c"), [SIZE, SIZE]));
  });
  assert.equal(names(sum), "reduceGroups matmul update");
});

Deno.test("addInProducts + a move for which more would be kept than it saves: left alone", () => {
  const sum = graphOf((g, x) => {
    const wide = concatRows(g, [x("a"), x("a")]), tall = concatRows(g, [x("b"), x("b")]);
    const product = matmul(g, wide, tall, { transposeA: true });
    return add(g, product, reduceGroups(g, x("c"), [SIZE, SIZE]));
  });
  assert.equal(names(sum), "concatRows concatRows matmul reduceGroups map update");
});

Deno.test("addInProducts + the same product twice: left alone", () => {
  const sum = graphOf((g, x) => {
    const product = matmul(g, x("a"), x("b"));
    return map(g, [product, product], (a, b) => a.add(b));
  });
  assert.match(names(sum), /^matmul map update$/);
});

testOnEngines("addInProducts + sums of products and their gradients: as without it", async (engine) => {
  const random = randomNumbers(3);
  const { graph, variables, result } = graphOf((g, x) => {
    const branch = add(
      g,
      x("a"),
      matmul(g, x("b"), x("c")),
      matmul(g, x("a"), x("d")),
      matmul(g, x("b"), x("d")),
    );
    const loss = reduceGroups(g, map(g, [branch, x("b")], (y, b) => y.mul(y).mul(b)), [1]);
    const [da, db] = backward(g, loss, [x("a"), x("b")]);
    return add(g, da!, db!);
  });
  const content = new Map(
    [...variables.values()].map((variable) =>
      [variable, Float32Array.from({ length: SIZE * SIZE }, random)] as const
    ),
  );
  content.forEach((values, variable) => engine.allocate(variable, values));
  engine.allocate(result);
  try {
    using executable = await engine.load(compile(graph));
    executable.run();
    const got = await engine.read(result);
    // The same in float64: y = a + b·c + a·d + b·d, the loss is Σ y²·b.
    const [a, b, c, d] = ["a", "b", "c", "d"].map((name) => content.get(variables.get(name)!)!) as [
      Float32Array,
      Float32Array,
      Float32Array,
      Float32Array,
    ];
    const product = (x: ArrayLike<number>, y: ArrayLike<number>, transposed = false) =>
      Float64Array.from({ length: SIZE * SIZE }, (_, at) => {
        const i = Math.floor(at / SIZE), j = at % SIZE;
        let sum = 0;
        for (let k = 0; k < SIZE; k++) {
          sum += x[i * SIZE + k]! * (transposed ? y[j * SIZE + k]! : y[k * SIZE + j]!);
        }
        return sum;
      });
    const [bc, ad, bd] = [product(b, c), product(a, d), product(b, d)];
    const y = a.map((value, i) => value + bc[i]! + ad[i]! + bd[i]!);
    const dy = Float64Array.from(y, (value, i) => 2 * value * b[i]!);
    const [dyc, dyd] = [product(dy, c, true), product(dy, d, true)];
    const wanted = Float64Array.from(y, (value, i) => dy[i]! + 2 * dyd[i]! + dyc[i]! + value * value);
    assert.ok(relativeError(got, wanted) < toleranceOn(engine, 2e-6), `${relativeError(got, wanted)}`);
  } finally {
    content.forEach((_, variable) => engine.free(variable));
    engine.free(result);
  }
});
