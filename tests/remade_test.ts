/**
 * What is made again for the backward pass: only where that lowers the peak, only what is cheap, and the same numbers.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Graph, type Node, sizeOf, type Tensor, Variable } from "../kernels/graph.ts";
import { bytesAlive, livesOf } from "../kernels/lives.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { remakeAtWorst } from "../kernels/remade.ts";
import { randomNumbers } from "./engines.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

const mostOf = (nodes: readonly Node[]) => Math.max(...bytesAlive(livesOf(nodes), nodes.length));
/** Bytes of a matrix [64, 64]. */
const MATRIX = 64 * 64 * 4;

/** Nodes that read `given` once more when others are done, of which three matrices are alive at once. */
function waiting(give: (graph: Graph, x: Tensor) => Tensor, { lossFirst = true } = {}) {
  const graph = new Graph(),
    [x, lost, out] = ["x", "lost", "out"].map((name) => new Variable(name, [64, 64]));
  const start = graph.use(x!);
  const loss = () => assign(graph, lost!, graph.loss = map(graph, [start], (x) => x.square()));
  if (lossFirst) loss();
  const given = give(graph, start);
  const early = map(graph, [given], (x) => x.tanh());
  if (!lossFirst) loss();
  const square = matmul(graph, early, early), fourth = matmul(graph, square, square);
  assign(graph, out!, map(graph, [given, matmul(graph, fourth, square)], (a, b) => a.mul(b)));
  const remade = remakeAtWorst(graph.nodes, graph.loss!);
  return { made: remade.length - graph.nodes.length, before: mostOf(graph.nodes), after: mostOf(remade) };
}

Deno.test("remakeAtWorst + a map of what is there anyway: made again where it is read, and a quarter of the peak less", () => {
  const { made, before, after } = waiting((graph, x) => map(graph, [x], (x) => x.exp()));
  assert.deepEqual([made, before, after], [1, 4 * MATRIX, 3 * MATRIX]);
});

Deno.test("remakeAtWorst + a product of few terms: as a map", () => {
  const thin = (terms: number) =>
    waiting((graph) => {
      const [a, b] = [[64, terms], [terms, 64]].map((shape) => graph.use(new Variable("thin", shape)));
      return matmul(graph, a!, b!);
    });
  assert.deepEqual([thin(128).made, thin(256).made], [1, 0]);
});

Deno.test("remakeAtWorst + what would need as much to be kept for it: as it was", () => {
  const { made, before, after } = waiting((graph, x) => map(graph, [matmul(graph, x, x)], (x) => x.exp()));
  assert.deepEqual([made, after], [0, before]);
});

Deno.test("remakeAtWorst + what was made before the loss, or reads what is updated: as it was", () => {
  assert.equal(waiting((graph, x) => map(graph, [x], (x) => x.exp()), { lossFirst: false }).made, 0);
  const { made } = waiting((graph) => {
    const counter = new Variable("counter", [64, 64]), before = graph.use(counter);
    const given = map(graph, [before], (x) => x.exp());
    assign(graph, counter, map(graph, [before], (x) => x.add(1)));
    return given;
  });
  assert.equal(made, 0);
});

Deno.test("remakeAtWorst + a training step whose blocks are recomputed: less memory, and the same bits", async () => {
  const engine = new CpuEngine({ workers: 2 });
  using model = smallModel(engine);
  try {
    const { nodes, loss } = trainingGraph(model, { T: 40, adapter: true, recompute: true });
    const remade = remakeAtWorst(nodes, loss!);
    assert.ok(mostOf(remade) < mostOf(nodes), `${mostOf(remade)} of ${mostOf(nodes)}`);
    const results = async (nodes: readonly Node[]) => {
      const program = compile({ nodes, loss }, engine), random = randomNumbers(3);
      const own = [...program.variables].filter(({ name }) => model.weight(name) === undefined);
      for (const variable of own) {
        const content = Float32Array.from({ length: sizeOf(variable.shape) }, random);
        const tokens = Int32Array.from(content, (x) => Math.floor((x + 1) * 40));
        engine.allocate(variable, variable.dtype === "i32" ? tokens : content);
      }
      using executable = await engine.load(program);
      executable.run();
      const read = await Promise.all(
        own.map(async (variable) => [variable.name, await engine.read(variable)]),
      );
      own.forEach((variable) => engine.free(variable));
      return read;
    };
    assert.deepEqual(await results(remade), await results(nodes));
  } finally {
    engine.dispose();
  }
});
