/**
 * Sums over one side of a matrix.
 *
 * reduceRows: `out[j] = Σ_i x[i·width + j]`, over rows, for the gradient of a vector that was repeated for every row.
 * reduceGroups: `out[i] = Σ_j x[i·group + j]`, over neighbours, for sums within a head.
 *
 * @module
 */
import { type Graph, sizeOf, type Tensor } from "../../graph.ts";
import { grid, type Op, requireF32, shapeError, stride } from "../../op.ts";
import rowsShader from "./reduce_rows.wgsl" with { type: "text" };
import groupsShader from "./reduce_groups.wgsl" with { type: "text" };
import { constant, repeat } from "../map/op.ts";

interface ReduceAttributes {
  readonly shape: readonly number[];
}

/** Rows that the first pass of reduceRows adds up before the second adds the parts. */
const ROWS_A_PART = 64;

/** Rows of a width that a tensor has. */
function rowsOf(x: Tensor, width: number): number {
  return width ? x.size / width : 0;
}

const reduceRowsOp: Op<ReduceAttributes> = {
  name: "reduceRows",
  outputs(inputs, { shape }) {
    requireF32("reduceRows", inputs);
    const width = sizeOf(shape), rows = rowsOf(inputs[0]!, width);
    if (shape.length !== 1 || !Number.isInteger(rows)) {
      throw shapeError("reduceRows", inputs, `rows of ${width}`);
    }
    return [{ shape, dtype: "f32" }, { shape: [Math.ceil(rows / ROWS_A_PART), width], dtype: "f32" }];
  },
  gradient({ graph, inputs, dOutputs }) {
    const width = dOutputs[0]!.size;
    return [repeat(graph, dOutputs[0]!, [rowsOf(inputs[0]!, width), width])];
  },
  units: ({ outputs }) => outputs[0]!.size,
  cpu({ inputs, outputs, memory: [x, out], start, end }) {
    const width = outputs[0]!.size, rows = inputs[0]!.size / width;
    for (let j = start; j < end; j++) {
      let total = 0;
      for (let i = 0; i < rows; i++) total += x![i * width + j]!;
      out![j] = total;
    }
  },
  webgpu({ inputs, outputs }, limits) {
    const width = outputs[0]!.size, rows = inputs[0]!.size / width, parts = Math.ceil(rows / ROWS_A_PART);
    const pass = (from: number, to: number, rows: number, part: number, parts: number) => ({
      wgsl: rowsShader,
      uniforms: [rows, width, part, parts],
      bindings: [{ operand: from }, { operand: to }],
      workgroups: grid(Math.ceil(width * parts / 64), limits),
    });
    return [pass(0, 2, rows, ROWS_A_PART, parts), pass(2, 1, parts, parts, 1)];
  },
};

const reduceGroupsOp: Op<ReduceAttributes> = {
  name: "reduceGroups",
  outputs(inputs, { shape }) {
    requireF32("reduceGroups", inputs);
    // A vector would be taken for one number a column when its gradient is repeated, so groups come as rows of groups.
    if (inputs[0]!.size % sizeOf(shape) || (shape.length < 2 && sizeOf(shape) > 1)) {
      throw shapeError("reduceGroups", inputs, `equal groups for [rows, groups], not [${shape}]`);
    }
    return [{ shape, dtype: "f32" }];
  },
  gradient({ graph, inputs, dOutputs }) {
    const d = dOutputs[0]!;
    if (inputs[0]!.size === 0) return [constant(graph, inputs[0]!.shape, 0)];
    return [repeat(graph, d, d.size === 1 ? inputs[0]!.shape : [d.rows, inputs[0]!.size / d.rows])];
  },
  units: ({ outputs }) => outputs[0]!.size,
  cpu({ inputs, outputs, memory: [x, out], start, end }) {
    const group = inputs[0]!.size / outputs[0]!.size;
    for (let i = start; i < end; i++) {
      let total = 0;
      for (let j = 0; j < group; j++) total += x![i * group + j]!;
      out![i] = total;
    }
  },
  webgpu({ inputs, outputs }, limits) {
    const groups = outputs[0]!.size, { count, type } = stride(inputs[0]!.size / groups);
    const size = inputs[0]!.size / groups / count;
    const lanes = Math.min(256, 2 ** Math.ceil(Math.log2(Math.max(1, size))));
    const sum = count === 4 ? "x.x + x.y + x.z + x.w" : "x";
    return [{
      wgsl: `const LANES = ${lanes}u;\nalias Element = ${type};\n` +
        `fn sum_of(x: Element) -> f32 { return ${sum}; }\n${groupsShader}`,
      uniforms: [groups, size],
      bindings: [{ operand: 0 }, { operand: 1 }],
      workgroups: grid(Math.ceil(groups * lanes / 256), limits),
    }];
  },
};

/** Sum over rows: x of any shape with a multiple of the size of the vector `shape` → `shape`. */
export function reduceRows(graph: Graph, x: Tensor, shape: readonly number[]): Tensor {
  return graph.add(reduceRowsOp, [x], { shape })[0]!;
}

/** Sum over neighbours: x → `shape`, [rows, groups] or [1], each entry the sum of x.size / size neighbours. */
export function reduceGroups(graph: Graph, x: Tensor, shape: readonly number[]): Tensor {
  return graph.add(reduceGroupsOp, [x], { shape })[0]!;
}
