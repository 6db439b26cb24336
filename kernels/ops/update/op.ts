/**
 * The ops that write variables: assign (`variable = value`) and accumulate (`variable += value`). Accumulations to several parts
 * of one pack can be gathered into one node.
 *
 * @module
 */
import { type Graph, type Node, Tensor, type Variable } from "../../graph.ts";
import { elementGrid, forEachElement, type Op, type Pass, requireF32, shapeError } from "../../op.ts";
import { home } from "../../engine.ts";
import { repeat } from "../map/op.ts";
import { rowRanges } from "../matmul/op.ts";

/** How a variable is updated, and the element of it at which each value starts. */
export interface UpdateAttributes {
  readonly add: boolean;
  readonly starts: readonly number[];
}

/** inputs: variable, values… */
const updateOp: Op<UpdateAttributes> = {
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
  cpu({ attributes: { add, starts }, inputs, memory: [variable, ...values], start, end }) {
    starts.forEach((at, k) => {
      const low = Math.max(start, at), high = Math.min(end, at + inputs[k + 1]!.size), value = values[k]!;
      if (add) { for (let i = low; i < high; i++) variable![i]! += value[i - at]!; }
      else if (low < high) variable!.set(value.subarray(low - at, high - at), low);
    });
  },
  webgpu({ attributes: { add, starts }, inputs }, limits) {
    const sizes = inputs.slice(1).map(({ size }) => size);
    const first = Math.min(...starts), last = Math.max(...starts.map((start, k) => start + sizes[k]!));
    const wgsl = (count: number) => shader(count, add);
    if (starts.length > 1 && (last - first) * 4 <= limits.bindingBytes) {
      const total = sizes.reduce((a, b) => a + b, 0);
      const variable = { operand: 0, byteOffset: first * 4, byteLength: (last - first) * 4 };
      return [{
        wgsl: wgsl(sizes.length),
        uniforms: [total, ...sizes.flatMap((size, k) => [size, starts[k]! - first])],
        bindings: [variable, ...sizes.map((_, k) => ({ operand: k + 1 }))],
        workgroups: elementGrid(total, limits),
      }];
    }
    return sizes.flatMap((size, k): Pass[] =>
      rowRanges(size, 4, limits).map(({ count, byteOffset, byteLength }) => ({
        wgsl: wgsl(1),
        uniforms: [count, count, 0],
        bindings: [
          { operand: 0, byteOffset: starts[k]! * 4 + byteOffset, byteLength },
          { operand: k + 1, byteOffset, byteLength },
        ],
        workgroups: elementGrid(count, limits),
      }))
    );
  },
};

/** WGSL that takes each thread to the value that its element lies in, and to its place in the variable. */
function shader(values: number, add: boolean): string {
  const each = Array.from({ length: values }, (_, k) => k);
  return [
    `struct Parameters { size: u32, ${each.map((k) => `size${k}: u32, start${k}: u32`).join(", ")} }`,
    "@group(0) @binding(0) var<uniform> p: Parameters;",
    "@group(0) @binding(1) var<storage, read_write> variable: array<f32>;",
    ...each.map((k) => `@group(0) @binding(${k + 2}) var<storage, read> value${k}: array<f32>;`),
    forEachElement([
      "var j = i;",
      ...each.flatMap((k) => [
        `if (j < p.size${k}) { variable[p.start${k} + j] ${add ? "+=" : "="} value${k}[j]; return; }`,
        `j -= p.size${k};`,
      ]),
    ]),
  ].join("\n");
}

/** Whether a node is an accumulation. */
export function isAccumulation(node: Node): node is Node<UpdateAttributes> {
  return node.op === updateOp && (node.attributes as UpdateAttributes).add;
}

/** The memory that an accumulation changes, and the elements of it, first and past the last. */
function target({ inputs: [variable, ...values], attributes: { starts } }: Node<UpdateAttributes>) {
  const { owner, byteOffset } = home(variable!.variable!);
  const ranges = values.map(({ size }, k) => {
    const start = byteOffset / 4 + starts[k]!;
    return { start, end: start + size };
  });
  return { owner, ranges };
}

/** Whether two nodes are accumulations of computed values to elements that they do not share. */
export function areApart(a: Node, b: Node): boolean {
  if (!isAccumulation(a) || !isAccumulation(b)) return false;
  const [one, two] = [target(a), target(b)];
  const isFree = [a, b].every(({ inputs }) => inputs.slice(1).every((value) => !value.variable));
  return isFree && one.ranges.every((x) => two.ranges.every((y) => x.end <= y.start || y.end <= x.start));
}

/** Two accumulations to parts of one pack as one node; undefined if the nodes are not. */
export function gathered(first: Node, second: Node): Node | undefined {
  if (!isAccumulation(first) || !isAccumulation(second) || !areApart(first, second)) return undefined;
  const [one, two] = [target(first), target(second)];
  if (one.owner !== two.owner) return undefined;
  const attributes = { add: true, starts: [...one.ranges, ...two.ranges].map(({ start }) => start) };
  const pack = new Tensor(one.owner.shape, one.owner.dtype, one.owner);
  const node: Node<UpdateAttributes> = {
    ...second,
    attributes,
    inputs: [pack, ...first.inputs.slice(1), ...second.inputs.slice(1)],
  };
  return node as Node;
}

/** WebGPU forbids reading and writing one buffer in one dispatch, so a value out of the variable's own memory is copied first. */
function apart(graph: Graph, variable: Variable, value: Tensor): Tensor {
  const same = value.variable && home(value.variable).owner === home(variable).owner;
  return same ? repeat(graph, value, value.shape) : value;
}

/** Sets a variable to a value of its size. */
export function assign(graph: Graph, variable: Variable, value: Tensor): void {
  graph.add(updateOp, [graph.use(variable), apart(graph, variable, value)], { add: false, starts: [0] });
}

/** Adds a value of its size to a variable. */
export function accumulate(graph: Graph, variable: Variable, value: Tensor): void {
  graph.add(updateOp, [graph.use(variable), apart(graph, variable, value)], { add: true, starts: [0] });
}
