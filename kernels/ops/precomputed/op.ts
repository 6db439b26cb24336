/**
 * precomputed: a scalar whose gradients were computed along with it, so that nothing need be kept for the backward pass.
 *
 * Its value is a copy of the scalar; its gradient with respect to each given tensor is the given one times dOut.
 * Running it reads only the scalar: where no gradient is asked for, the nodes that would compute them are left out.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { type Op, shapeError } from "../../op.ts";
import { map } from "../map/op.ts";
import copyShader from "../rows/copy.wgsl" with { type: "text" };

/** inputs: value, then pairs of tensor and gradient */
const precomputedOp: Op<Record<never, never>> = {
  name: "precomputed",
  outputs(inputs) {
    if (inputs[0]!.size !== 1) throw shapeError("precomputed", inputs, "the value must be one number");
    return [{ shape: inputs[0]!.shape, dtype: "f32" }];
  },
  gradient({ graph, inputs, dOutputs: [d], wanted }) {
    return inputs.map((_, i) =>
      i % 2 === 1 && wanted[i]
        ? map(graph, [inputs[i + 1]!, d!], (gradient, d) => gradient.mul(d))
        : undefined
    );
  },
  reads: () => [0],
  units: () => 1,
  cpu({ memory }) {
    memory.at(-1)![0] = memory[0]![0]!;
  },
  webgpu({ inputs }) {
    return [{
      wgsl: `alias Element = f32;\n${copyShader}`,
      uniforms: [1, 0, 0],
      bindings: [{ operand: 0 }, { operand: inputs.length }],
      workgroups: [1, 1, 1],
    }];
  },
};

/** Attaches gradients to a scalar that was computed together with them. */
export function precomputed(
  graph: Graph,
  value: Tensor,
  gradients: readonly { of: Tensor; gradient: Tensor }[],
): Tensor {
  return graph.add(
    precomputedOp,
    [value, ...gradients.flatMap(({ of, gradient }) => [of, gradient])],
    {},
  )[0]!;
}
