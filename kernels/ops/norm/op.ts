/**
 * norm: `y = (x − mean) · rstd · weight + bias` over groups of neighbours, with `rstd = 1 / sqrt(variance + eps)` and the
 * biased variance. One group over the whole width is LayerNorm (Ba et al. 2016); H groups are RWKV's GroupNorm.
 *
 * x [M, C], weight and bias [C]; the mean and rstd of every group, [M, G], are outputs too, for the gradient:
 * with `x̂ = (x − mean) · rstd` and `g = dY · weight`, `dX = rstd · (g − mean(g) − x̂ · mean(g · x̂))`.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import {
  type DeviceLimits,
  float,
  grid,
  type Op,
  type Pass,
  requireF32,
  shapeError,
  stride,
  unrolled,
} from "../../op.ts";
import { map } from "../map/op.ts";
import { reduceRows } from "../reduce/op.ts";
import forwardShader from "./norm.wgsl" with { type: "text" };
import gradientShader from "./norm_gradient.wgsl" with { type: "text" };
import totalShader from "./total.wgsl" with { type: "text" };

interface NormAttributes {
  readonly groups: number;
  readonly eps: number;
}

/** Threads of a workgroup, and elements of a group that each of them takes while there are threads enough. */
const THREADS = 256, ELEMENTS = 4;

/** Elements that a thread keeps in registers; where more are its share, loops are left to the driver, which puts them in memory. */
const MOST_IN_REGISTERS = 8;

/** How a shader is run that has threads share groups of n numbers. */
interface Grouping {
  /** Of all rows. */
  readonly total: number;
  /** Of one row. */
  readonly groups: number;
  readonly n: number;
  /** What it sums over a group. */
  readonly sum: "f32" | "vec2<f32>";
  /** The uniforms after the first three. */
  readonly uniforms: readonly number[];
}

/** The pass of a shader by which each workgroup takes as many groups as it has threads for. */
function grouped(shader: string, { total, groups, n, sum, uniforms }: Grouping, limits: DeviceLimits): Pass {
  const { count, type } = stride(n), size = n / count;
  const depth = Math.ceil(Math.log2(Math.max(1, size / ELEMENTS)));
  const LANES = Math.min(THREADS, 2 ** depth), ROOTS = 2 ** Math.ceil(Math.log2(LANES) / 2);
  const LEAVES = LANES / ROOTS, HELD = Math.max(1, Math.ceil(size / LANES));
  const totalOf = unrolled(unrolled(totalShader, "ROOTS", ROOTS), "LEAVES", LEAVES);
  return {
    wgsl: Object.entries({ THREADS, LANES, ROOTS, LEAVES, HELD, COUNT: count })
      .map(([name, value]) => `const ${name} = ${value}u;\n`).join("") +
      `alias Element = ${type};\nalias Sum = ${sum};\n` +
      `fn sum_of(x: Element) -> f32 { return ${count === 4 ? "x.x + x.y + x.z + x.w" : "x"}; }\n` +
      totalOf + (HELD <= MOST_IN_REGISTERS ? unrolled(shader, "HELD", HELD) : shader),
    uniforms: [total, groups, size, ...uniforms],
    bindings: [0, 1, 2, 3, 4, 5].map((operand) => ({ operand })),
    workgroups: grid(Math.ceil(total * LANES / THREADS), limits),
  };
}

/** The op; use {@link norm}. */
export const normOp: Op<NormAttributes> = {
  name: "norm",
  outputs(inputs, { groups }) {
    requireF32("norm", inputs);
    const [x, weight, bias] = inputs;
    if (weight!.size !== x!.width || bias!.size !== x!.width) {
      throw shapeError("norm", inputs, `weight and bias must have ${x!.width} elements`);
    }
    if (x!.width % groups) throw shapeError("norm", inputs, `${groups} groups must divide the width`);
    const perGroup = { shape: [x!.rows, groups], dtype: "f32" } as const;
    return [{ shape: x!.shape, dtype: "f32" }, perGroup, perGroup];
  },
  gradient(
    { graph, attributes, inputs: [x, weight, bias], outputs: [, mean, rstd], dOutputs: [dy], wanted },
  ) {
    const dx = wanted[0]
      ? graph.add(normGradientOp, [x!, weight!, mean!, rstd!, dy!], attributes)[0]
      : undefined;
    const weighted = () =>
      map(graph, [x!, mean!, rstd!, dy!], (x, mean, rstd, dy) => x.sub(mean).mul(rstd).mul(dy));
    return [
      dx,
      wanted[1] ? reduceRows(graph, weighted(), weight!.shape) : undefined,
      wanted[2] ? reduceRows(graph, dy!, bias!.shape) : undefined,
    ];
  },
  units: ({ outputs }) => outputs[1]!.size,
  cpu({ attributes: { groups, eps }, inputs, memory: [x, weight, bias, y, means, rstds], start, end }) {
    const n = inputs[0]!.width / groups;
    for (let group = start; group < end; group++) {
      const at = group * n, c = (group % groups) * n;
      let mean = 0, variance = 0;
      for (let i = 0; i < n; i++) mean += x![at + i]!;
      mean /= n;
      for (let i = 0; i < n; i++) variance += (x![at + i]! - mean) ** 2;
      const rstd = 1 / Math.sqrt(variance / n + eps);
      for (let i = 0; i < n; i++) y![at + i] = (x![at + i]! - mean) * rstd * weight![c + i]! + bias![c + i]!;
      means![group] = mean;
      rstds![group] = rstd;
    }
  },
  webgpu({ attributes: { groups, eps }, inputs, outputs }, limits) {
    const total = outputs[1]!.size, n = inputs[0]!.width / groups;
    return [grouped(forwardShader, { total, groups, n, sum: "f32", uniforms: [float(eps)] }, limits)];
  },
};

const normGradientOp: Op<NormAttributes> = {
  name: "normGradient",
  outputs: ([x]) => [{ shape: x!.shape, dtype: "f32" }],
  units: ({ inputs }) => inputs[2]!.size,
  cpu({ attributes: { groups }, inputs, memory: [x, weight, means, rstds, dy, dx], start, end }) {
    const n = inputs[0]!.width / groups;
    for (let group = start; group < end; group++) {
      const at = group * n, c = (group % groups) * n;
      const mean = means![group]!, rstd = rstds![group]!;
      let sum = 0, projection = 0;
      for (let i = 0; i < n; i++) {
        const g = dy![at + i]! * weight![c + i]!;
        sum += g;
        projection += g * (x![at + i]! - mean) * rstd;
      }
      for (let i = 0; i < n; i++) {
        const g = dy![at + i]! * weight![c + i]!;
        dx![at + i] = rstd * (g - sum / n - (x![at + i]! - mean) * rstd * projection / n);
      }
    }
  },
  webgpu({ attributes: { groups }, inputs }, limits) {
    const total = inputs[2]!.size, n = inputs[0]!.width / groups;
    return [grouped(gradientShader, { total, groups, n, sum: "vec2<f32>", uniforms: [] }, limits)];
  },
};

/** Normalises groups of neighbours: x [M, C], weight [C], bias [C] → [M, C]. LayerNorm with one group. */
export function norm(
  graph: Graph,
  x: Tensor,
  weight: Tensor,
  bias: Tensor,
  options: { groups?: number; eps: number },
): Tensor {
  return graph.add(normOp, [x, weight, bias], { groups: options.groups ?? 1, eps: options.eps })[0]!;
}
