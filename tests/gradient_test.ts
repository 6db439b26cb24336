/**
 * The backward pass as a whole: shared parts, recomputed blocks, shapes, and what cannot be differentiated.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, sizeOf, type Tensor, Variable } from "../kernels/graph.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { map, mapAll } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { reduceGroups, reduceRows } from "../kernels/ops/reduce/op.ts";
import { concatRows, sliceRows } from "../kernels/ops/rows/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { type Case, differentiate, uniform } from "./conformance.ts";
import { randomNumbers, relativeError } from "./engines.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

/** Graphs whose gradients are checked by finite differences. */
const GRAPHS: Case[] = [
  {
    name: "backward + a tensor that is used three times",
    inputs: [uniform([5, 7]), uniform([7, 7])],
    build(g, [x, w]) {
      const y = matmul(g, x!, w!), z = map(g, [y, x!], (y, x) => y.mul(x));
      return [map(g, [z, y, x!], (z, y, x) => z.add(y.square()).mul(x)), matmul(g, z, w!)];
    },
  },
  {
    name: "backward + a tensor with more uses than one sum takes",
    inputs: [uniform([3, 5])],
    build: (g, [x]) => Array.from({ length: 17 }, (_, i) => map(g, [x!], (x) => x.square().mul(i - 5))),
  },
  {
    name: "backward + both results of a node, used apart",
    inputs: [uniform([4, 6]), uniform([4, 6])],
    build(g, [x, y]) {
      const [a, b] = mapAll(g, [x!, y!], (x, y) => [x.mul(y), x.sub(y).exp()]) as [Tensor, Tensor];
      return [matmul(g, a, b, { transposeB: true }), map(g, [b], (b) => b.square())];
    },
  },
  {
    name: "backward + one result of a node that nothing uses",
    inputs: [uniform([4, 6])],
    build: (g, [x]) => [mapAll(g, [x!], (x) => [x.square(), x.exp()])[1]!],
  },
  {
    name: "backward + two recomputed blocks that share a tensor",
    inputs: [uniform([6, 5]), uniform([5, 5]), uniform([5])],
    build(g, [x, w, v]) {
      const block = (x: Tensor, first?: Tensor) =>
        g.recomputed(() => {
          const y = map(g, [matmul(g, x, w!), v!], (y, v) => y.add(v).tanh());
          return { x: map(g, [x, y, first ?? y], (x, y, first) => x.add(y.mul(first))), y };
        });
      const one = block(x!), two = block(one.x, one.y);
      return [map(g, [two.x, one.y], (x, y) => x.mul(y))];
    },
  },
  {
    name: "backward + tensors of one size and several shapes",
    inputs: [uniform([2, 6]), uniform([2, 6]), uniform([6, 4])],
    build(g, [a, b, x]) {
      // [6, 4] and [4, 6]: the gradient must come back as [4, 6] to be cut into rows of 6.
      return [map(g, [x!, concatRows(g, [a!, b!])], (x, y) => x.mul(y))];
    },
  },
  {
    name: "backward + sums over rows wider than the tensor's own",
    inputs: [uniform([6, 4])],
    build: (g, [x]) => [reduceRows(g, x!, [8])],
  },
  {
    name: "backward + sums of each row of a square",
    inputs: [uniform([4, 4])],
    build: (g, [x]) => [reduceGroups(g, x!, [4, 1])],
  },
];

for (const graph of GRAPHS) {
  Deno.test(`${graph.name}: as finite differences`, async () => {
    for (const { input, analytic, numeric, scale } of await differentiate(graph)) {
      assert.ok(
        Math.abs(analytic - numeric) <= 1e-6 * scale + 1e-9,
        `gradient ${input}: ${analytic} differs from ${numeric}`,
      );
    }
  });
}

const matrix = (graph: Graph, shape: number[], dtype?: "f32" | "bf16" | "i32") =>
  graph.use(new Variable("x", shape, dtype));

Deno.test("backward + tensors of every place: shapes as wanted, none where nothing depends", () => {
  const graph = new Graph();
  const x = matrix(graph, [2, 3, 4]), w = matrix(graph, [5, 4]), unrelated = matrix(graph, [3]);
  const between = matmul(graph, x, w, { transposeB: true });
  const loss = reduceGroups(graph, map(graph, [between], (y) => y.square()), [1]);
  const [dx, dw, dUnrelated, dBetween, dLoss] = backward(graph, loss, [x, w, unrelated, between, loss]);
  assert.deepEqual([dx?.shape, dw?.shape, dBetween?.shape, dLoss?.shape], [[2, 3, 4], [5, 4], [6, 5], [1]]);
  assert.equal(dUnrelated, undefined);
});

Deno.test("backward + max and step at their kinks: the derivative from below", async () => {
  const oracle = new Oracle(), graph = new Graph();
  const x = new Variable("x", [3]), out = new Variable("out", [3]);
  const y = map(graph, [graph.use(x)], (x) => x.relu().mul(2).add(x.step()));
  const [dx] = backward(graph, reduceGroups(graph, y, [1]), [graph.use(x)]);
  assign(graph, out, dx!);
  oracle.allocate(x, Float32Array.of(-1, 0, 1));
  oracle.allocate(out);
  (await oracle.load(compile(graph))).run();
  assert.deepEqual([...await oracle.read(out)], [0, 0, 2]);
});

Deno.test("backward + a detached tensor: a constant, and what leads only to it has no gradient", async () => {
  const oracle = new Oracle(), graph = new Graph();
  const x = new Variable("x", [3]), y = new Variable("y", [3]), out = new Variable("out", [3]);
  const held = graph.detach(map(graph, [graph.use(x), graph.use(y)], (x, y) => x.square().mul(y)));
  const loss = reduceGroups(graph, map(graph, [held, graph.use(x)], (held, x) => held.mul(x)), [1]);
  const [dx, dy, dHeld] = backward(graph, loss, [graph.use(x), graph.use(y), held]);
  assert.equal(dy, undefined);
  // It is no constant to who asks for its own gradient.
  assert.deepEqual(dHeld?.shape, [3]);
  assign(graph, out, dx!);
  oracle.allocate(x, Float32Array.of(-1, 2, 3));
  oracle.allocate(y, Float32Array.of(1, 2, 3));
  oracle.allocate(out);
  (await oracle.load(compile(graph))).run();
  assert.deepEqual([...await oracle.read(out)], [1, 8, 27]);
});

Deno.test("backward + a loss of several elements: error", () => {
  const graph = new Graph(), x = matrix(graph, [2, 3]);
  assert.throws(
    () => backward(graph, map(graph, [x], (x) => x.exp()), [x]),
    /^RangeError: A loss has one element.* 6$/,
  );
});

Deno.test("backward + ops without a gradient: errors that name them", () => {
  const cases: [RegExp, (graph: Graph) => { loss: Tensor; wanted: Tensor }][] = [
    [/Cannot differentiate sumOfSquares/, (graph) => {
      const x = matrix(graph, [4]);
      return { loss: sumOfSquares(graph, x), wanted: x };
    }],
    [/Cannot differentiate tokenShift by its carried row/, (graph) => {
      const carried = matrix(graph, [1, 4]);
      const [y] = tokenShift(graph, matrix(graph, [3, 4]), [matrix(graph, [4])], { T: 3, carried });
      return { loss: reduceGroups(graph, y!, [1]), wanted: carried };
    }],
    [/Cannot differentiate a transposed product by its first operand in 16 bits/, (graph) => {
      const a = matrix(graph, [3, 2]);
      const y = matmul(graph, a, matrix(graph, [3, 4], "bf16"), { transposeA: true });
      return { loss: reduceGroups(graph, y, [1]), wanted: a };
    }],
  ];
  for (const [message, build] of cases) {
    const graph = new Graph(), { loss, wanted } = build(graph);
    assert.throws(() => backward(graph, loss, [wanted]), { name: "RangeError", message });
  }
});

Deno.test("Graph.recomputed + a block inside another: error, and blocks can be made again", () => {
  const graph = new Graph();
  assert.throws(() => graph.recomputed(() => graph.recomputed(() => 0)), RangeError);
  assert.equal(graph.recomputed(() => 7), 7);
});

Deno.test("linearCrossEntropy + l2: the largest logit's gradient grows by l2 · weight · logit, the loss does not", async () => {
  const M = 5, C = 3, V = 11, l2 = 0.01;
  const random = randomNumbers(3), numbers = (n: number) => Float32Array.from({ length: n }, random);
  const h = numbers(M * C), w = numbers(V * C), weights = numbers(M);
  const results = await Promise.all([0, l2].map(async (l2) => {
    const oracle = new Oracle(), graph = new Graph();
    const variable = (shape: number[], content: ArrayBufferView, dtype?: "i32") => {
      const variable = new Variable("x", shape, dtype);
      oracle.allocate(variable, content);
      return variable;
    };
    const hidden = graph.use(variable([M, C], h)), head = graph.use(variable([V, C], w));
    const targets = graph.use(variable([M, 1], new Int32Array(M), "i32"));
    const loss = linearCrossEntropy(graph, hidden, head, targets, graph.use(variable([M, 1], weights)), {
      l2,
    });
    const lossOut = variable([1], new Float32Array(1)), dHidden = variable([M, C], new Float32Array(M * C));
    assign(graph, dHidden, backward(graph, loss, [hidden])[0]!);
    assign(graph, lossOut, loss);
    (await oracle.load(compile(graph))).run();
    return { loss: await oracle.read(lossOut), dHidden: await oracle.read(dHidden) };
  }));
  const wanted = new Float32Array(M * C);
  for (let m = 0; m < M; m++) {
    const row = (v: number) => Array.from({ length: C }, (_, c) => h[m * C + c]! * w[v * C + c]!);
    const logits = Array.from({ length: V }, (_, v) => row(v).reduce((a, b) => a + b));
    const best = logits.indexOf(Math.max(...logits));
    for (let c = 0; c < C; c++) wanted[m * C + c] = l2 * weights[m]! * logits[best]! * w[best * C + c]!;
  }
  const [without, wrapped] = results as [typeof results[0], typeof results[0]];
  assert.deepEqual(wrapped.loss, without.loss);
  assert.ok(relativeError(wrapped.dHidden.map((d, i) => d - without.dHidden[i]!), wanted) < 1e-5);
});

Deno.test("linearCrossEntropy + logits of several slices: loss and gradients of the whole", async () => {
  // A slice has room for 256 rows of so many logits.
  const M = 259, V = 65536, random = randomNumbers(4);
  const h = Float32Array.from({ length: M }, random), w = Float32Array.from({ length: V }, random);
  const weights = Float32Array.from({ length: M }, random),
    targets = Int32Array.from(h, (_, m) => V - 1 - m * m % V);
  let loss = 0;
  const dHidden = new Float64Array(M), dHead = new Float64Array(V);
  for (let m = 0; m < M; m++) {
    const z = Float64Array.from(w, (w) => h[m]! * w), sum = z.reduce((sum, z) => sum + Math.exp(z), 0);
    loss += weights[m]! * (Math.log(sum) - z[targets[m]!]!);
    for (let v = 0; v < V; v++) {
      const slope = weights[m]! * (Math.exp(z[v]!) / sum - (v === targets[m] ? 1 : 0));
      dHidden[m]! += slope * w[v]!;
      dHead[v]! += slope * h[m]!;
    }
  }
  const oracle = new Oracle(32), graph = new Graph();
  const variable = (name: string, content: Float32Array | Int32Array, dtype: "f32" | "i32" = "f32") => {
    const variable = new Variable(name, [content.length, 1], dtype);
    oracle.allocate(variable, content);
    return variable;
  };
  const hidden = graph.use(variable("hidden", h)), head = graph.use(variable("head", w));
  const results = [loss, dHidden, dHead].map((_, i) =>
    variable(`result ${i}`, new Float32Array([1, M, V][i]!))
  );
  const total = linearCrossEntropy(
    graph,
    hidden,
    head,
    graph.use(variable("targets", targets, "i32")),
    graph.use(variable("weights", weights)),
    { headTrains: true },
  );
  assert.equal(graph.nodes.filter(({ op }) => op.name === "crossEntropy").length, 2);
  const gradients = backward(graph, total, [hidden, head]);
  [total, ...gradients].forEach((value, i) => assign(graph, results[i]!, value!));
  (await oracle.load(compile(graph))).run();
  const wanted: ArrayLike<number>[] = [[loss], dHidden, dHead];
  for (const [i, result] of results.entries()) {
    const error = relativeError(await oracle.read(result), wanted[i]!);
    assert.ok(error < 1e-5, `result ${i}: normalised error ${error}`);
  }
});

/** Allocates content for a training step's variables, runs it, and reads its loss and gradients. */
async function resultsOf(program: Program, oracle: Oracle): Promise<Map<string, Float32Array>> {
  const random = randomNumbers(5), results = new Map<string, Float32Array>();
  const made = [...program.variables].filter(({ name }) =>
    /^(tokens|targets|weights|loss|gradient of .*)$/.test(name)
  );
  for (const variable of made) {
    const { dtype, shape } = variable;
    if (dtype === "i32") {
      oracle.allocate(
        variable,
        Int32Array.from({ length: shape[0]! }, (_, i) => i * 31 % 97),
      );
    } else oracle.allocate(variable, Float32Array.from({ length: sizeOf(shape) }, random));
  }
  const executable = await oracle.load(program);
  executable.run();
  for (const variable of made) {
    if (/^loss|^gradient/.test(variable.name)) results.set(variable.name, await oracle.read(variable));
    oracle.free(variable);
  }
  executable.dispose();
  return results;
}

Deno.test("Graph.recomputed + a model's blocks: every gradient bit for bit", async () => {
  const oracle = new Oracle();
  using model = smallModel(oracle);
  const wanted = await resultsOf(compile(trainingGraph(model)), oracle);
  const got = await resultsOf(compile(trainingGraph(model, { recompute: true })), oracle);
  assert.equal(wanted.size, 1 + model.shapes.size);
  for (const [name, values] of wanted) {
    assert.ok(values.some((x) => x !== 0), `${name} is zero`);
    assert.ok(values.every((x, i) => Object.is(x, got.get(name)![i])), `${name} differs`);
  }
});

Deno.test("Graph.recomputed + a model's blocks: a smaller workspace", () => {
  using model = smallModel(new Oracle());
  const [kept, again] = [false, true].map((recompute) =>
    compile(trainingGraph(model, { T: 100, adapter: true, recompute })).workspaceBytes
  ) as [number, number];
  // Of two blocks, one has to be there at a time.
  assert.ok(again < kept * 0.75, `${again} of ${kept} bytes`);
});

Deno.test("ops + operands that they cannot read: errors", () => {
  const cases: [string, (graph: Graph) => unknown][] = [
    ["map of sizes that do not fit", (g) => map(g, [matrix(g, [4, 6]), matrix(g, [5])], (x, y) => x.add(y))],
    [
      "map of rows that do not fit",
      (g) => map(g, [matrix(g, [4, 6]), matrix(g, [3, 2])], (x, y) => x.add(y)),
    ],
    ["matmul of inner sizes", (g) => matmul(g, matrix(g, [2, 3]), matrix(g, [2, 3]))],
    [
      "matmul of an addend",
      (g) => matmul(g, matrix(g, [2, 3]), matrix(g, [3, 2]), { addend: matrix(g, [5]) }),
    ],
    ["matmul of 16 bits first", (g) => matmul(g, matrix(g, [2, 3], "bf16"), matrix(g, [3, 2]))],
    ["matmul of integers", (g) => matmul(g, matrix(g, [2, 3]), matrix(g, [3, 2], "i32"))],
    ["reduceRows of ragged rows", (g) => reduceRows(g, matrix(g, [5, 3]), [4])],
    ["reduceRows to a matrix", (g) => reduceRows(g, matrix(g, [6, 4]), [2, 4])],
    ["reduceGroups to a vector", (g) => reduceGroups(g, matrix(g, [4, 4]), [4])],
    ["map of integers", (g) => map(g, [matrix(g, [4], "i32")], (x) => x.neg())],
    ["reduceRows of 16 bits", (g) => reduceRows(g, matrix(g, [6, 2], "bf16"), [2])],
    ["reduceGroups of ragged groups", (g) => reduceGroups(g, matrix(g, [5, 3]), [4])],
    ["reduceGroups of 16 bits", (g) => reduceGroups(g, matrix(g, [6, 2], "bf16"), [6, 1])],
    ["concatRows of widths", (g) => concatRows(g, [matrix(g, [2, 3]), matrix(g, [2, 4])])],
    ["concatRows of dtypes", (g) => concatRows(g, [matrix(g, [2, 3]), matrix(g, [2, 3], "i32")])],
    ["sliceRows past the end", (g) => sliceRows(g, matrix(g, [2, 3]), 1, 2)],
    ["sliceRows of 16 bits", (g) => sliceRows(g, matrix(g, [4, 2], "bf16"), 1, 2)],
    ["tokenShift of ragged sequences", (g) => tokenShift(g, matrix(g, [5, 3]), [matrix(g, [3])], { T: 2 })],
    ["tokenShift of 16 bits", (g) => tokenShift(g, matrix(g, [4, 2], "bf16"), [matrix(g, [2])], { T: 2 })],
    ["assign of another size", (g) => assign(g, new Variable("v", [3]), matrix(g, [4]))],
    ["assign of integers", (g) => assign(g, new Variable("v", [4]), matrix(g, [4], "i32"))],
    ["assign to integers", (g) => assign(g, new Variable("v", [4], "i32"), matrix(g, [4]))],
  ];
  const accepted = cases.flatMap(([name, build]) => {
    try {
      build(new Graph());
      return [name];
    } catch (error) {
      assert.ok(error instanceof RangeError, `${name}: ${error}`);
      return [];
    }
  });
  assert.deepEqual(accepted, []);
});
