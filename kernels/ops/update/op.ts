/**
 * The ops that write variables: assign (`variable = value`) and accumulate (`variable += value`).
 *
 * @module
 */
import type { Graph, Tensor, Variable } from "../../graph.ts";
import { grid, type Op, requireF32, shapeError } from "../../op.ts";
import { home } from "../../engine.ts";
import { repeat } from "../map/op.ts";
import { rowRanges } from "../matmul/op.ts";
import shader from "./update.wgsl" with { type: "text" };

/** inputs: variable, value */
const updateOp: Op<{ readonly add: boolean }> = {
  name: "update",
  mutates: [0],
  outputs(inputs) {
    const [variable, value] = inputs;
    requireF32("update", inputs);
    if (!variable!.variable) throw shapeError("update", inputs, "a variable comes first");
    if (variable!.size !== value!.size) throw shapeError("update", inputs, "sizes must be equal");
    return [];
  },
  units: ({ inputs }) => inputs[0]!.size,
  cpu({ attributes: { add }, memory: [variable, value], start, end }) {
    if (add) { for (let i = start; i < end; i++) variable![i]! += value![i]!; }
    else variable!.set(value!.subarray(start, end), start);
  },
  webgpu({ attributes: { add }, inputs }, limits) {
    return rowRanges(inputs[0]!.size, 4, limits).map(({ count, byteOffset, byteLength }) => ({
      wgsl: shader,
      uniforms: [count, add ? 1 : 0],
      bindings: [{ operand: 0, byteOffset, byteLength }, { operand: 1, byteOffset, byteLength }],
      workgroups: grid(Math.ceil(count / 64), limits),
    }));
  },
};

/** WebGPU forbids reading and writing one buffer in one dispatch, so a value out of the variable's own memory is copied first. */
function apart(graph: Graph, variable: Variable, value: Tensor): Tensor {
  const same = value.variable && home(value.variable).owner === home(variable).owner;
  return same ? repeat(graph, value, value.shape) : value;
}

/** Sets a variable to a value of its size. */
export function assign(graph: Graph, variable: Variable, value: Tensor): void {
  graph.add(updateOp, [graph.use(variable), apart(graph, variable, value)], { add: false });
}

/** Adds a value of its size to a variable. */
export function accumulate(graph: Graph, variable: Variable, value: Tensor): void {
  graph.add(updateOp, [graph.use(variable), apart(graph, variable, value)], { add: true });
}
