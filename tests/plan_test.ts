/**
 * The memory plan, against a simulation that knows nothing of lives and slots but what a run does with them.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { bytesOf, Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { sliceRows, splitRows } from "../kernels/ops/rows/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { wkv7 } from "../kernels/ops/wkv7/op.ts";
import { bytesAfter, compile, type Program } from "../kernels/plan.ts";
import { viewOf } from "../kernels/views.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

/** Follows a run node by node: what each slot holds, and whether each input is still there when it is read. */
function simulate({ nodes, slots, placement, views }: Program): void {
  const held = slots.map(() => new Map<Tensor, { start: number; end: number }>());
  nodes.forEach((node, at) => {
    const { op, inputs, outputs } = node;
    const read = op.reads?.(node) ?? inputs.map((_, i) => i);
    const used = new Set<number>();
    for (const i of read) {
      const t = viewOf(views, inputs[i]!).of;
      if (t.variable) continue;
      const { slot } = placement.get(t)!;
      assert.ok(held[slot]!.has(t), `node ${at}, ${op.name}: input ${i} is not in slot ${slot} any more`);
      used.add(slot);
    }
    for (const t of outputs) {
      const { slot, byteOffset: start } = placement.get(t)!, end = start + bytesOf(t);
      assert.ok(
        !used.has(slot),
        `node ${at}, ${op.name}: an output lies in slot ${slot} with another operand`,
      );
      assert.ok(start % 256 === 0 && end <= slots[slot]!, `node ${at}, ${op.name}: beyond slot ${slot}`);
      used.add(slot);
      held[slot]!.forEach((other, old) => other.start < end && start < other.end && held[slot]!.delete(old));
      held[slot]!.set(t, { start, end });
    }
  });
}

for (const adapter of [false, true]) {
  for (const recompute of [false, true]) {
    const what = `${adapter ? "an adapter" : "all weights"}${recompute ? ", blocks recomputed" : ""}`;
    Deno.test(`compile + a training step of ${what}: every value is there when it is read`, () => {
      using model = smallModel(new Oracle());
      const program = compile(trainingGraph(model, { adapter, recompute }));
      assert.ok(program.nodes.length > 200);
      simulate(program);
      assert.equal(program.workspaceBytes, program.slots.reduce((a, b) => a + b, 0));
      const values = program.nodes.flatMap(({ outputs }) => outputs);
      assert.equal(program.placement.size, values.length);
      const sum = values.reduce((sum, t) => sum + bytesOf(t), 0);
      assert.ok(
        program.workspaceBytes < sum / 2,
        `${program.workspaceBytes} of ${sum}: memory is hardly shared`,
      );
    });
  }
}

Deno.test("compile + a chain of ten values: two slots", () => {
  const graph = new Graph(), x = new Variable("x", [8, 8]);
  let t = graph.use(x);
  for (let i = 0; i < 10; i++) t = map(graph, [t], (x) => x.exp());
  assign(graph, x, t);
  const program = compile(graph, { fused: false });
  simulate(program);
  assert.deepEqual(program.slots, [256, 256]);
});

Deno.test("compile + a value that is read once more at the end: kept until then", () => {
  const graph = new Graph(), x = new Variable("x", [4]);
  const first = map(graph, [graph.use(x)], (x) => x.exp());
  let t = first;
  for (let i = 0; i < 3; i++) t = map(graph, [t], (x) => x.tanh());
  assign(graph, x, map(graph, [first, t], (x, y) => x.add(y)));
  simulate(compile(graph, { fused: false }));
});

Deno.test("compile + small values while a large slot is free: side by side in it, but never with what their node reads", () => {
  const graph = new Graph(), x = new Variable("x", [8, 64]), vector = new Variable("vector", [64]);
  const keep = (t: Tensor, name: string) => assign(graph, new Variable(name, t.shape), t);
  keep(map(graph, [graph.use(x)], (x) => x.exp()), "large");
  const [a, b] = [1, 2].map((i) => map(graph, [graph.use(vector)], (x) => x.mul(i))) as [Tensor, Tensor];
  const c = map(graph, [a], (x) => x.tanh());
  [a, b, c].forEach((t, i) => keep(t, `kept ${i}`));
  const program = compile(graph, { fused: false });
  simulate(program);
  assert.deepEqual(program.slots, [2048, 256]);
  const at = [a, b, c].map((t) => program.placement.get(t)!.slot);
  assert.notEqual(at[0], at[2]);
});

Deno.test("compile + rows of a value that can be bound: no node, no slot, and the value stays until they were read", () => {
  const graph = new Graph(), x = new Variable("x", [6, 64]);
  const whole = map(graph, [graph.use(x)], (x) => x.exp());
  const last = splitRows(graph, whole, 3)[2]!, row = sliceRows(graph, last, 1, 1);
  const first = map(graph, [last], (x) => x.tanh());
  let t = first;
  for (let i = 0; i < 3; i++) t = map(graph, [t], (x) => x.tanh());
  [t, row, whole].forEach((t, i) => assign(graph, new Variable(`kept ${i}`, t.shape), t));
  const program = compile(graph, { fused: false });
  simulate(program);
  assert.equal(program.nodes.map(({ op }) => op.name).join(" "), "map map map map map update update update");
  assert.deepEqual(program.views.get(last), { of: whole, byteOffset: 1024 });
  assert.deepEqual(program.views.get(row), { of: whole, byteOffset: 1280 });
  assert.deepEqual(program.slots, [1536, 512, 512]);
  assert.equal(bytesAfter(program, first), 1536 + 512);
});

Deno.test("compile + rows that no device can bind where they begin: copied, all that one node takes", () => {
  const graph = new Graph(), x = new Variable("x", [4, 32]);
  const whole = map(graph, [graph.use(x)], (x) => x.exp());
  const quarters = splitRows(graph, whole, 4), [even, odd] = [2, 1].map((i) => sliceRows(graph, whole, i, 1));
  [...quarters, even!, odd!, whole].forEach((t, i) => assign(graph, new Variable(`kept ${i}`, t.shape), t));
  const program = compile(graph);
  simulate(program);
  assert.deepEqual([...program.views.keys()], [even]);
  assert.deepEqual(
    program.nodes.map(({ op }) => op.name).filter((name) => name !== "update"),
    ["map", "concatRowsGradient", "sliceRows"],
  );
});

Deno.test("compile + a few rows that are read long after the whole: copied, or the whole would have to stay", () => {
  for (const rows of [1, 3]) {
    const graph = new Graph(), x = graph.use(new Variable("x", [6, 64]));
    const whole = map(graph, [x], (x) => x.exp()), last = sliceRows(graph, whole, 6 - rows, rows);
    const other = map(graph, [map(graph, [whole], (x) => x.tanh())], (x) => x.square());
    [other, last].forEach((t, i) => assign(graph, new Variable(`kept ${i}`, t.shape), t));
    const program = compile(graph, { fused: false });
    simulate(program);
    assert.equal(program.views.has(last), rows === 3);
  }
});

Deno.test("compile + rows of a variable: a view unless something updates the variable", () => {
  for (const updates of [false, true]) {
    const graph = new Graph(), x = new Variable("x", [4, 64]), out = new Variable("out", [2, 64]);
    const rows = sliceRows(graph, graph.use(x), 2, 2);
    if (updates) accumulate(graph, x, map(graph, [graph.use(x)], (x) => x.mul(2)));
    assign(graph, out, rows);
    const program = compile(graph);
    simulate(program);
    assert.equal(program.views.has(rows), !updates);
    assert.ok(program.variables.has(x));
  }
});

Deno.test("compile + an engine without scratch: no memory for it", () => {
  const graph = new Graph(), out = new Variable("out", [5, 8]);
  const [r, w, k, v, a, b] = [..."rwkvab"].map((name) => graph.use(new Variable(name, [5, 8]))) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];
  assign(graph, out, wkv7(graph, { r, w, k, v, a, b }, { T: 5, N: 4 }).y);
  const [withIt, without] = [true, false].map((scratch) => compile(graph, { scratch })) as [Program, Program];
  const { op, outputs } = without.nodes[0]!;
  outputs.forEach((t, i) => assert.equal(without.placement.has(t), !op.scratch!.includes(i), `output ${i}`));
  assert.equal(withIt.placement.size, without.placement.size + op.scratch!.length);
  assert.ok(without.workspaceBytes < withIt.workspaceBytes);
});

Deno.test("compile + nodes that lead to no variable: left out with their variables", () => {
  const graph = new Graph();
  const [x, unused, out] = ["x", "unused", "out"].map((name) => new Variable(name, [4, 4])) as [
    Variable,
    Variable,
    Variable,
  ];
  const y = map(graph, [graph.use(x)], (x) => x.exp());
  matmul(graph, y, graph.use(unused));
  assign(graph, out, y);
  const program = compile(graph);
  assert.deepEqual(program.nodes.map(({ op }) => op.name), ["map", "update"]);
  assert.deepEqual([...program.variables], [x, out]);
  assert.equal(program.placement.size, 1);
});

Deno.test("compile + an input that serves a gradient only: its node is left out", () => {
  using model = smallModel(new Oracle());
  // The loss alone: nothing asks for the gradients that linearCrossEntropy computes beside it.
  const graph = trainingGraph(model, { T: 4 });
  const loss = graph.nodes.filter(({ op, inputs }) =>
    op.name === "update" && inputs[0]!.variable!.name === "loss"
  );
  const forward = graph.nodes.slice(0, 1 + graph.nodes.findIndex(({ op }) => op.name === "precomputed"));
  const program = compile({ nodes: [...forward, ...loss] });
  const last = program.nodes.slice(-5).map(({ op }) => op.name);
  assert.deepEqual(last, ["matmul", "crossEntropy", "reduceGroups", "precomputed", "update"]);
});

Deno.test("Variable.pack + parts of odd sizes: aligned, apart, and within the whole", () => {
  const { whole, parts } = Variable.pack(
    "pack",
    [1, 64, 65, 3].map((n, i) => ({ name: `${i}`, shape: [n] })),
  );
  const offsets = parts.map(({ within }) => within!.byteOffset);
  assert.deepEqual(offsets, [0, 256, 512, 1024]);
  assert.ok(parts.every(({ within }) => within!.pack === whole));
  assert.deepEqual(whole.shape, [1280 / 4]);
});
