/**
 * The optimizer's ops.
 *
 * sumOfSquares: `Σ x²`, for the global gradient norm.
 *
 * adamW (Loshchilov and Hutter, arXiv 1711.05101), over variables p, g, m, v of one size, all f32:
 *
 *     s = clip / norm where norm > clip, else 1;   m ← β₁ m + (1 − β₁) s g;   v ← β₂ v + (1 − β₂) (s g)²
 *     p ← p − lr · ( (m / bias₁) / (sqrt(v / bias₂) + eps) + decay · p );   g ← 0
 *
 * A norm that is not finite leaves p, m and v as they are and only clears g, so that one bad batch cannot ruin a run.
 *
 * @module
 */
import type { Graph, Tensor, Variable } from "../../graph.ts";
import { type DeviceLimits, elementGrid, grid, type Op, requireF32, shapeError } from "../../op.ts";
import { rowRanges } from "../matmul/op.ts";
import adamShader from "./adamw.wgsl" with { type: "text" };
import squaresShader from "./sum_of_squares.wgsl" with { type: "text" };

/** Elements that one part of the sum of squares adds up. */
const PART = 4096;

const sumOfSquaresOp: Op<Record<never, never>> = {
  name: "sumOfSquares",
  outputs(inputs) {
    requireF32("sumOfSquares", inputs);
    return [{ shape: [1], dtype: "f32" }, { shape: [Math.ceil(inputs[0]!.size / PART)], dtype: "f32" }];
  },
  units: () => 1,
  cpu({ inputs, memory: [x, out] }) {
    let total = 0;
    for (let i = 0; i < inputs[0]!.size; i++) total += x![i]! * x![i]!;
    out![0] = total;
  },
  webgpu({ inputs, outputs }, limits) {
    const parts = outputs[1]!.size;
    return [
      ...inRanges(inputs[0]!.size, limits).map(({ first, count, byteOffset, byteLength }) => ({
        wgsl: `const SQUARE = true;\n${squaresShader}`,
        uniforms: [count, PART, first / PART],
        bindings: [{ operand: 0, byteOffset, byteLength }, { operand: 2 }],
        workgroups: grid(Math.ceil(count / PART), limits),
      })),
      {
        wgsl: `const SQUARE = false;\n${squaresShader}`,
        uniforms: [parts, parts, 0],
        bindings: [{ operand: 2 }, { operand: 1 }],
        workgroups: [1, 1, 1],
      },
    ];
  },
};

/** Ranges within the binding limit that start at multiples of a part. */
function inRanges(size: number, limits: DeviceLimits) {
  const step = Math.floor(limits.bindingBytes / 4 / PART) * PART;
  return rowRanges(size, 4, { ...limits, bindingBytes: step * 4 });
}

/** Order of the settings in their variable. */
export const ADAMW_SETTINGS = [
  "learningRate",
  "beta1",
  "beta2",
  "eps",
  "weightDecay",
  "biasCorrection1",
  "biasCorrection2",
  "clip",
  "gradientScale",
] as const;

/** inputs: p, g, m, v, norm [1], settings [9] */
const adamWOp: Op<{ readonly rate: number; readonly decay: number }> = {
  name: "adamW",
  mutates: [0, 1, 2, 3],
  outputs(inputs) {
    const size = inputs[0]!.size;
    if (inputs.slice(0, 4).some((t) => t.size !== size || !t.variable)) {
      throw shapeError("adamW", inputs, "four variables of one size");
    }
    return [];
  },
  units: ({ inputs }) => inputs[0]!.size,
  cpu({ attributes: { rate, decay }, memory: [p, g, m, v, norms, settings], start, end }) {
    const [lr, beta1, beta2, eps, weightDecay, bias1, bias2, clip, unit] = settings as unknown as number[];
    const norm = norms![0]! * unit!;
    if (!Number.isFinite(norm)) {
      g!.fill(0, start, end);
      return;
    }
    const scale = (norm > clip! ? clip! / norm : 1) * unit!;
    for (let i = start; i < end; i++) {
      const gradient = g![i]! * scale;
      const m1 = beta1! * m![i]! + (1 - beta1!) * gradient;
      const v1 = beta2! * v![i]! + (1 - beta2!) * gradient * gradient;
      const step = m1 / bias1! / (Math.sqrt(v1 / bias2!) + eps!) + weightDecay! * decay * p![i]!;
      p![i]! -= lr! * rate * step;
      m![i] = m1;
      v![i] = v1;
      g![i] = 0;
    }
  },
  webgpu({ attributes: { rate, decay }, inputs }, limits) {
    return rowRanges(inputs[0]!.size, 4, limits).map(({ count, byteOffset, byteLength }) => ({
      wgsl: `const RATE = f32(${rate});\nconst DECAY = f32(${decay});\n${adamShader}`,
      uniforms: [count],
      bindings: [
        ...[0, 1, 2, 3].map((operand) => ({ operand, byteOffset, byteLength })),
        { operand: 4 },
        { operand: 5 },
      ],
      workgroups: elementGrid(count, limits),
    }));
  },
};

/** Sum of squares of all elements, [1]. */
export function sumOfSquares(graph: Graph, x: Tensor): Tensor {
  return graph.add(sumOfSquaresOp, [x], {})[0]!;
}

/** Parameters with their gradient and moments, which train alike. */
export interface AdamWGroup {
  readonly p: Variable;
  readonly g: Variable;
  readonly m: Variable;
  readonly v: Variable;
  /** Multiplies the learning rate. */
  readonly rate: number;
  /** Multiplies the weight decay. */
  readonly decay: number;
}

/**
 * One AdamW update of a group.
 * @param norm global norm of all gradients as they are stored, [1]
 * @param settings variable [9] in the order of {@link ADAMW_SETTINGS}; stored gradients and their norm are multiplied by
 *   `gradientScale` first
 */
export function adamW(graph: Graph, group: AdamWGroup, norm: Tensor, settings: Variable): void {
  const inputs = [group.p, group.g, group.m, group.v].map((variable) => graph.use(variable));
  graph.add(adamWOp, [...inputs, norm, graph.use(settings)], { rate: group.rate, decay: group.decay });
}
