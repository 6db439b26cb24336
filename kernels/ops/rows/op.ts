/**
 * sliceRows: rows `first` to `first + count` of a matrix; concatRows: matrices one below the other. Each is the other's gradient.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { grid, type Op, shapeError } from "../../op.ts";
import { constant } from "../map/op.ts";
import copyShader from "./copy.wgsl" with { type: "text" };

const sliceRowsOp: Op<{ readonly first: number; readonly count: number }> = {
  name: "sliceRows",
  outputs(inputs, { first, count }) {
    const { rows, width, dtype } = inputs[0]!;
    if (dtype === "f16" || dtype === "bf16") {
      throw shapeError("sliceRows", inputs, "rows of 16 bits cannot be cut");
    }
    if (first < 0 || first + count > rows) {
      throw shapeError("sliceRows", inputs, `rows ${first}+${count} of ${rows}`);
    }
    return [{ shape: [count, width], dtype }];
  },
  gradient({ graph, attributes: { first, count }, inputs: [x], dOutputs: [d] }) {
    const { rows, width } = x!;
    const zeros = (n: number) => n ? [constant(graph, [n, width], 0)] : [];
    return [concatRows(graph, [...zeros(first), d!, ...zeros(rows - first - count)])];
  },
  units: ({ outputs }) => outputs[0]!.size,
  cpu({ attributes: { first }, outputs, memory: [x, out], start, end }) {
    const offset = first * outputs[0]!.width;
    out!.set(x!.subarray(offset + start, offset + end), start);
  },
  webgpu({ attributes: { first }, inputs, outputs }, limits) {
    const size = outputs[0]!.size;
    return [{
      wgsl: `alias Element = ${inputs[0]!.dtype};\n${copyShader}`,
      uniforms: [size, first * outputs[0]!.width, 0],
      bindings: [{ operand: 0 }, { operand: 1 }],
      workgroups: grid(Math.ceil(size / 64), limits),
    }];
  },
};

const concatRowsOp: Op<Record<never, never>> = {
  name: "concatRows",
  outputs(inputs) {
    const { width, dtype } = inputs[0]!;
    if (inputs.some((t) => t.width !== width)) throw shapeError("concatRows", inputs, "widths must be equal");
    if (inputs.some((t) => t.dtype !== dtype) || dtype === "f16" || dtype === "bf16") {
      throw shapeError("concatRows", inputs, "one storage of 32 bits is needed");
    }
    return [{ shape: [inputs.reduce((rows, t) => rows + t.rows, 0), width], dtype }];
  },
  gradient({ graph, inputs, dOutputs: [d], wanted }) {
    let first = 0;
    return inputs.map((t, i) => {
      const slice = wanted[i] ? sliceRows(graph, d!, first, t.rows) : undefined;
      first += t.rows;
      return slice;
    });
  },
  units: () => 1,
  cpu({ memory, inputs }) {
    let at = 0;
    inputs.forEach((t, i) => {
      memory.at(-1)!.set(memory[i]!.subarray(0, t.size), at);
      at += t.size;
    });
  },
  webgpu({ inputs }, limits) {
    let at = 0;
    return inputs.map((t, operand) => {
      const pass = {
        wgsl: `alias Element = ${t.dtype};\n${copyShader}`,
        uniforms: [t.size, 0, at],
        bindings: [{ operand }, { operand: inputs.length }],
        workgroups: grid(Math.ceil(t.size / 64), limits),
      };
      at += t.size;
      return pass;
    });
  },
};

/** Rows `first` to `first + count` of x, as [count, width]. */
export function sliceRows(graph: Graph, x: Tensor, first: number, count: number): Tensor {
  if (first === 0 && count === x.rows) return x;
  return graph.add(sliceRowsOp, [x], { first, count })[0]!;
}

/** Matrices of one width, one below the other. */
export function concatRows(graph: Graph, parts: readonly Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : graph.add(concatRowsOp, parts, {})[0]!;
}
