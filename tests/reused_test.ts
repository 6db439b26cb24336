/**
 * Weights that are made once where they were made twice: the same numbers, and no more memory at the peak.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { joinFolds } from "../kernels/folds.ts";
import { Graph, type Node, sizeOf, type Tensor, Variable } from "../kernels/graph.ts";
import { bytesAlive, livesOf } from "../kernels/lives.ts";
import { addTile } from "../kernels/ops/add_tile/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { reuseWeights } from "../kernels/reused.ts";
import { randomNumbers } from "./engines.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

const mostOf = (nodes: readonly Node[]) => Math.max(...bytesAlive(livesOf(nodes), nodes.length));
const weights = (nodes: readonly Node[]) => nodes.filter(({ op }) => op.name === "addTile").length;

/** A graph that multiplies with the same weight twice, and with what `between` makes of the first product. */
function twice(between: (graph: Graph, x: Tensor) => Tensor) {
  const graph = new Graph(), out = new Variable("out", [64, 64]);
  const [x, w, d] = [[64, 64], [64, 64], [8, 64]].map((shape) => graph.use(new Variable("given", shape)));
  const first = matmul(graph, x!, addTile(graph, w!, d!), { transposeB: true });
  assign(graph, out, matmul(graph, between(graph, first), addTile(graph, w!, d!)));
  return graph.nodes;
}

Deno.test("reuseWeights + a weight that is made again while there is room: made once", () => {
  const nodes = twice((_, x) => x), reusing = reuseWeights(nodes);
  assert.deepEqual([weights(nodes), weights(reusing)], [2, 1]);
  assert.equal(mostOf(reusing), mostOf(nodes));
});

Deno.test("reuseWeights + a weight for which the peak would be higher: made again", () => {
  const nodes = twice((graph, x) => {
    const square = matmul(graph, x, x), fourth = matmul(graph, square, x);
    return matmul(graph, square, fourth, { addend: x });
  });
  assert.equal(weights(reuseWeights(nodes)), 2);
});

for (const recompute of [false, true]) {
  const what = recompute ? ", blocks recomputed" : "";
  Deno.test(`reuseWeights + a training step${what}: as many weights or fewer, the same bits`, async () => {
    const oracle = new Oracle(32);
    using model = smallModel(oracle);
    const { nodes, loss } = trainingGraph(model, { T: 40, adapter: true, recompute });
    const joined = joinFolds(nodes, "f16"), reusing = reuseWeights(joined);
    assert.ok(weights(joined) > 12);
    assert.ok(weights(reusing) <= weights(joined) - (recompute ? 4 : 0));
    assert.ok(mostOf(reusing) <= mostOf(joined));
    const results = async (nodes: readonly Node[]) => {
      const program = compile({ nodes, loss }), random = randomNumbers(3);
      const own = [...program.variables].filter(({ name }) => model.weight(name) === undefined);
      for (const variable of own) {
        const content = Float32Array.from({ length: sizeOf(variable.shape) }, random);
        const tokens = Int32Array.from(content, (x) => Math.floor((x + 1) * 40));
        oracle.allocate(variable, variable.dtype === "i32" ? tokens : content);
      }
      using executable = await oracle.load(program);
      executable.run();
      const read = await Promise.all(
        own.map(async (variable) => [variable.name, await oracle.read(variable)]),
      );
      own.forEach((variable) => oracle.free(variable));
      return read;
    };
    assert.deepEqual(await results(reusing), await results(joined));
  });
}
