/**
 * Fusing: the same numbers from fewer nodes, and never at the price of memory, of order or of computing twice.
 *
 * @module
 */
import assert from "node:assert/strict";
import { backward } from "../kernels/gradient.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { bytesOf, Graph, inputsRead, type Node, type Tensor, Variable } from "../kernels/graph.ts";
import { straightLine } from "../kernels/ops/map/expression.ts";
import { constant, map, type MapAttributes, repeat } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { sliceRows } from "../kernels/ops/rows/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { viewOf } from "../kernels/views.ts";
import { run } from "./conformance.ts";
import { CASES } from "./conformance_cases.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

const names = (nodes: readonly Node[]) => nodes.map(({ op }) => op.name).join(" ");
const maps = (nodes: readonly Node[]) => nodes.filter(({ op }) => op.name === "map");
const steps = (node: Node) => straightLine((node.attributes as MapAttributes).results).steps;

/** Most bytes of values that are alive at once. */
function most({ nodes, views }: Program): number {
  const last = new Map<Tensor, number>();
  const used = (node: Node) => [...inputsRead(node), ...node.outputs].map((t) => viewOf(views, t).of);
  nodes.forEach((node, at) => used(node).forEach((t) => last.set(t, at)));
  let alive = 0, most = 0;
  nodes.forEach((node, at) => {
    for (const t of node.outputs) alive += bytesOf(t);
    most = Math.max(most, alive);
    for (const t of new Set(used(node))) {
      if (!t.variable && last.get(t) === at) alive -= bytesOf(t);
    }
  });
  return most;
}

/** A graph over variables x and y of a shape, with what is kept of it in variables. */
function graphOf(shape: readonly number[], build: (g: Graph, x: Tensor, y: Tensor) => readonly Tensor[]) {
  const graph = new Graph(), given = ["x", "y"].map((name) => new Variable(name, shape));
  const kept = build(graph, graph.use(given[0]!), graph.use(given[1]!));
  kept.forEach((t, i) => assign(graph, new Variable(`kept ${i}`, t.shape), t));
  return graph;
}

Deno.test("fuse + every case on the cpu engine: the same bits", async () => {
  const engine = new CpuEngine({ workers: 1 });
  try {
    for (const testCase of CASES) {
      const wanted = await run(engine, testCase, { fused: false }), got = await run(engine, testCase);
      for (const [result, values] of wanted) {
        const differing = values.findIndex((x, i) => !Object.is(x, got.get(result)![i]));
        assert.equal(differing, -1, `${testCase.name}: ${result} differs at ${differing}`);
      }
    }
  } finally {
    engine.dispose();
  }
});

for (const recompute of [false, true]) {
  testOnEngines(
    `fuse + a training step${recompute ? ", blocks recomputed" : ""}: the same gradients`,
    async (engine) => {
      using model = smallModel(engine);
      const results = async (fused: boolean) => {
        const random = randomNumbers(3), graph = trainingGraph(model, { T: 8, adapter: true, recompute });
        const program = compile(graph, { operands: engine.operands, fused });
        const own = [...program.variables].filter(({ name, within }) =>
          !within && model.weight(name) === undefined
        );
        for (const variable of own) {
          const size = variable.shape.reduce((a, b) => a * b, 1);
          const content = Array.from({ length: size }, random);
          const tokens = Int32Array.from(content, (x) => Math.floor((x + 1) * 40));
          engine.allocate(variable, variable.dtype === "i32" ? tokens : Float32Array.from(content));
        }
        (await engine.load(program)).run();
        const read = new Map<string, Float32Array>();
        for (const variable of own.filter(({ name }) => /^(gradient|loss)/.test(name))) {
          read.set(variable.name, await engine.read(variable));
        }
        own.forEach((variable) => engine.free(variable));
        return read;
      };
      const wanted = await results(false), got = await results(true);
      assert.ok(wanted.size > 12);
      for (const [name, values] of wanted) {
        const error = relativeError(got.get(name)!, values);
        // A device may contract products and sums of one shader as it likes.
        assert.ok(error <= (engine.name === "webgpu" ? 2e-6 : 0), `${name} differs by ${error}`);
      }
    },
  );
}

Deno.test("fuse + a training step: a fifth fewer maps or a third, and no more memory", () => {
  using model = smallModel(new Oracle());
  for (const recompute of [false, true]) {
    const graph = trainingGraph(model, { adapter: true, recompute });
    const plain = compile(graph, { fused: false });
    for (const [operands, share] of [[8, 0.8], [32, 0.7]] as const) {
      const fused = compile(graph, { operands });
      assert.ok(maps(fused.nodes).length <= share * maps(plain.nodes).length);
      assert.ok(most(fused) <= most(plain));
      assert.ok(fused.workspaceBytes <= 1.05 * plain.workspaceBytes);
      assert.ok(
        fused.nodes.every(({ op, inputs, outputs }) =>
          op.name !== "map" || inputs.length + outputs.length <= operands
        ),
      );
    }
  }
});

Deno.test("fuse + a chain of maps: one node", () => {
  const graph = graphOf([8, 8], (g, x) => {
    let t = x;
    for (let i = 0; i < 10; i++) t = map(g, [t], (x) => x.exp());
    return [t];
  });
  assert.equal(names(compile(graph).nodes), "map update");
});

Deno.test("fuse + a value that others read too: computed once", () => {
  const graph = graphOf([8, 8], (g, x, y) => {
    const e = map(g, [x], (x) => x.exp());
    return [matmul(g, e, y), map(g, [e, y], (e, y) => e.mul(y)), map(g, [e], (e) => e.add(1))];
  });
  const { nodes } = compile(graph);
  assert.equal(maps(nodes).flatMap(steps).filter(({ op }) => op === "exp").length, 1);
  assert.equal(maps(nodes).length, 1);
});

Deno.test("fuse + one number a row for many columns: not computed for each column", () => {
  const graph = graphOf([8, 64], (g, x) => {
    const norm = map(g, [reduceGroups(g, x, [8, 2])], (s) => s.exp());
    return [map(g, [x, norm], (x, n) => x.mul(n))];
  });
  assert.equal(names(compile(graph).nodes), "reduceGroups map map update");
});

Deno.test("fuse + one number repeated: read where it is used", () => {
  const graph = graphOf([8, 64], (g, x) => {
    const sums = reduceGroups(g, x, [8, 2]);
    return [map(g, [x, repeat(g, sums, [8, 64])], (x, s) => x.mul(s))];
  });
  assert.equal(names(compile(graph).nodes), "reduceGroups map update");
});

Deno.test("fuse + shapes of one size in which a vector repeats differently: apart", () => {
  const graph = new Graph(), v = graph.use(new Variable("v", [4])), w = graph.use(new Variable("w", [8]));
  const x = graph.use(new Variable("x", [8, 4]));
  const one = map(graph, [x, v], (x, v) => x.add(v));
  const two = graph.add(maps(graph.nodes)[0]!.op, [one, w], {
    ...maps(graph.nodes)[0]!.attributes as MapAttributes,
    shape: [4, 8],
  });
  assign(graph, new Variable("kept", [4, 8]), two[0]!);
  assert.equal(names(compile(graph).nodes), "map map update");
});

Deno.test("fuse + constants: within the expressions that read them", () => {
  const graph = graphOf([8, 8], (g, x) => {
    const one = constant(g, [1], 1.5), many = constant(g, [8, 8], 2);
    return [map(g, [x, one, many], (x, a, b) => x.mul(a).add(b)), matmul(g, x, many)];
  });
  const { nodes } = compile(graph);
  assert.deepEqual(maps(nodes).map(({ inputs }) => inputs.length).sort(), [0, 1]);
});

Deno.test("fuse + a gradient that is handed on unchanged: no copy", () => {
  const graph = graphOf([8, 8], (g, x, y) => {
    const loss = reduceGroups(g, map(g, [matmul(g, x, y), matmul(g, y, x)], (a, b) => a.add(b)), [1]);
    return backward(g, loss, [x]).map((t) => t!);
  });
  const copies = maps(compile(graph).nodes).filter((node) => steps(node).length === 1);
  assert.ok(copies.every(({ inputs }) => inputs.every(({ size }) => size === 1)));
});

Deno.test("fuse + a variable that is updated in between: read before or after as it was", async () => {
  const oracle = new Oracle();
  const x = new Variable("x", [4]), out = new Variable("out", [2, 4]);
  const graph = new Graph(), tensor = graph.use(x);
  const before = map(graph, [tensor], (x) => x.mul(10));
  assign(graph, x, constant(graph, [4], 7));
  const after = map(graph, [tensor], (x) => x.mul(100));
  const rows = map(graph, [before, after], (a, b) => a.add(b));
  assign(graph, out, map(graph, [rows, constant(graph, [2, 4], 1)], (r, one) => r.mul(one)));
  oracle.allocate(x, Float32Array.of(1, 2, 3, 4));
  oracle.allocate(out);
  (await oracle.load(compile(graph))).run();
  assert.deepEqual([...(await oracle.read(out)).subarray(0, 4)], [710, 720, 730, 740]);
});

testOnEngines("fuse + accumulations to the parts of a pack: gathered, each in its place", async (engine) => {
  const sizes = [3, 70, 1, 300, 64, 5, 6, 7, 8];
  const { whole, parts } = Variable.pack("pack", sizes.map((n, i) => ({ name: `${i}`, shape: [n] })));
  const twice = parts[1]!;
  const graph = new Graph();
  // Something larger is needed elsewhere, so that values may wait until all are there.
  const large = new Variable("large", [1024]);
  assign(graph, large, map(graph, [graph.use(large)], (x) => x.exp()));
  const values = sizes.map((n, i) => constant(graph, [n], i + 1)), more = constant(graph, [70], 1000);
  parts.forEach((part, i) => accumulate(graph, part, values[i]!));
  accumulate(graph, twice, more);
  engine.allocate(whole, new Float32Array(whole.shape[0]!).fill(0.5));
  engine.allocate(large);
  try {
    const program = compile(graph, engine);
    assert.equal(program.nodes.filter(({ op }) => op.name === "update").length, 3);
    (await engine.load(program)).run();
    for (const [i, part] of parts.entries()) {
      const wanted = i + 1.5 + (part === twice ? 1000 : 0);
      assert.deepEqual(new Set(await engine.read(part)), new Set([wanted]), `part ${i}`);
    }
  } finally {
    engine.free(whole);
    engine.free(large);
  }
});

Deno.test("fuse + maps that could share a pass if there were more memory: apart", () => {
  const graph = graphOf([64, 64], (g, x, y) => {
    const shared = matmul(g, x, y);
    // At most four values are alive at once: one pass for both products would need the two that it multiplies together.
    const first = map(g, [shared, matmul(g, x, x)], (a, b) => a.mul(b));
    const second = map(g, [shared, matmul(g, y, y)], (a, b) => a.mul(b));
    return [first, second].map((t) => reduceGroups(g, t, [1]));
  });
  const program = compile(graph, { operands: 32 });
  assert.equal(maps(program.nodes).length, 2);
  assert.equal(most(program), 4 * 64 * 64 * 4);
});

Deno.test("fuse + maps of which one reads rows of a larger value: apart, where the whole would have to wait", () => {
  const graph = graphOf([64, 64], (g, x, y) => {
    const half = map(g, [sliceRows(g, matmul(g, x, y), 0, 32)], (x) => x.exp());
    const square = matmul(g, x, x), fourth = matmul(g, square, square);
    return [reduceGroups(g, map(g, [half, sliceRows(g, fourth, 32, 32)], (a, b) => a.mul(b)), [1])];
  });
  const program = compile(graph, { operands: 32 });
  assert.equal(program.views.size, 2);
  assert.equal(maps(program.nodes).length, 2);
  assert.equal(most(program), 2.5 * 64 * 64 * 4);
});
