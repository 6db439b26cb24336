/**
 * sliceRows: rows `first` to `first + count` of a matrix; concatRows: matrices one below the other, whose gradient takes them apart.
 * Rows that begin where a device can bind them are views for which nothing runs, unless few would keep many alive (`views.ts`).
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import {
  type DeviceLimits,
  elementGrid,
  forEachElement,
  type Op,
  type Pass,
  shapeError,
  stride,
} from "../../op.ts";
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
  views: ({ attributes: { first } }) => [first],
  units: ({ outputs }) => outputs[0]!.size,
  cpu({ attributes: { first }, outputs, memory: [x, out], start, end }) {
    const offset = first * outputs[0]!.width;
    out!.set(x!.subarray(offset + start, offset + end), start);
  },
  webgpu({ attributes: { first }, inputs, outputs }, limits) {
    const { size, width } = outputs[0]!, start = first * width, { count } = stride(size, start);
    const dtype = inputs[0]!.dtype;
    return [{
      wgsl: `alias Element = ${count === 4 ? `vec4<${dtype}>` : dtype};\n${copyShader}`,
      uniforms: [size / count, start / count, 0],
      bindings: [{ operand: 0 }, { operand: 1 }],
      workgroups: elementGrid(size / count, limits),
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
  gradient({ graph, inputs, dOutputs: [d] }) {
    return graph.add(concatRowsGradientOp, [d!], { rows: inputs.map((t) => t.rows) });
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
    return copies(inputs, { whole: inputs.length, firstPart: 0, join: true }, limits);
  },
};

const concatRowsGradientOp: Op<{ readonly rows: readonly number[] }> = {
  name: "concatRowsGradient",
  outputs([whole], { rows }) {
    return rows.map((count) => ({ shape: [count, whole!.width], dtype: whole!.dtype }));
  },
  views({ attributes: { rows } }) {
    let first = 0;
    return rows.map((count) => (first += count) - count);
  },
  units: () => 1,
  cpu({ memory, outputs }) {
    let at = 0;
    outputs.forEach((t, i) => {
      memory[i + 1]!.set(memory[0]!.subarray(at, at + t.size));
      at += t.size;
    });
  },
  webgpu({ outputs }, limits) {
    return copies(outputs, { whole: 0, firstPart: 1, join: false }, limits);
  },
};

/** Parts that one pass copies: with the whole they are eight storage bindings. */
const PARTS_A_PASS = 7;

/** Passes between a matrix and the parts that it consists of; operands `firstPart` and those after it are the parts. */
function copies(
  parts: readonly Tensor[],
  { whole, firstPart, join }: { whole: number; firstPart: number; join: boolean },
  limits: DeviceLimits,
): Pass[] {
  const full = parts.map(({ size }, i) => ({ size, operand: firstPart + i })).filter(({ size }) => size > 0);
  const wide = full.every(({ size }) => size % 4 === 0) ? 4 : 1;
  const element = parts[0]!.dtype;
  const passes: Pass[] = [];
  for (let first = 0, at = 0; first < full.length; first += PARTS_A_PASS) {
    const now = full.slice(first, first + PARTS_A_PASS), ends: number[] = [];
    let size = 0;
    for (const part of now) ends.push(size += part.size / wide);
    const line = (_: unknown, i: number) => {
      const part = `part${i}[i${i ? ` - p.end${i - 1}` : ""}]`, there = "whole[p.at + i]";
      return `if (i < p.end${i}) { ${join ? `${there} = ${part}` : `${part} = ${there}`}; return; }`;
    };
    const binding = (name: string, at: number, written: boolean) =>
      `@group(0) @binding(${at}) var<storage, ${written ? "read_write" : "read"}> ${name}: array<Element>;`;
    passes.push({
      wgsl: [
        `alias Element = ${wide === 4 ? `vec4<${element}>` : element};`,
        `struct Parameters { size: u32, at: u32, ${now.map((_, i) => `end${i}: u32`).join(", ")} }`,
        "@group(0) @binding(0) var<uniform> p: Parameters;",
        binding("whole", 1, join),
        ...now.map((_, i) => binding(`part${i}`, i + 2, !join)),
        forEachElement(now.map(line)),
      ].join("\n"),
      uniforms: [size, at, ...ends],
      bindings: [whole, ...now.map(({ operand }) => operand)].map((operand) => ({ operand })),
      workgroups: elementGrid(size, limits),
    });
    at += size;
  }
  return passes;
}

/** Rows `first` to `first + count` of x, as [count, width]. */
export function sliceRows(graph: Graph, x: Tensor, first: number, count: number): Tensor {
  if (first === 0 && count === x.rows) return x;
  return graph.add(sliceRowsOp, [x], { first, count })[0]!;
}

/** Matrices of one width, one below the other. */
export function concatRows(graph: Graph, parts: readonly Tensor[]): Tensor {
  return parts.length === 1 ? parts[0]! : graph.add(concatRowsOp, parts, {})[0]!;
}

/** A matrix taken apart into `count` of as many rows each. */
export function splitRows(graph: Graph, x: Tensor, count: number): Tensor[] {
  return graph.add(concatRowsGradientOp, [x], { rows: new Array<number>(count).fill(x.rows / count) });
}
