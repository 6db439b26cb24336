/**
 * addTile: `out[o, i] = w[o, i] + d[i mod R, o]`, a weight with what folds of its input are multiplied by: `x·wᵀ + fold(x)·d` is
 * `x·outᵀ`. It serves the plan (`folds.ts`), after gradients were taken, and so has none.
 *
 * w [O, K] in any storage, d [R, O].
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { forEachElement, grid, type Op, shapeError, wgslReader, widened } from "../../op.ts";
import declarations from "./add_tile.wgsl" with { type: "text" };

/** The op; inputs: w, d. */
export const addTileOp: Op<Record<never, never>> = {
  name: "addTile",
  outputs(inputs) {
    const [w, d] = inputs;
    if (d!.width !== w!.rows || d!.dtype !== "f32" || w!.dtype === "i32") {
      throw shapeError("addTile", inputs, "a weight [out, in] and f32 [R, out]");
    }
    return [{ shape: [w!.rows, w!.width], dtype: "f32" }];
  },
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ inputs, memory: [w, d, out], start, end }) {
    const { rows: O, width: K, dtype } = inputs[0]!, R = inputs[1]!.rows;
    const weight = widened(w!.subarray(start * K, end * K), dtype);
    for (let o = start; o < end; o++) {
      for (let i = 0; i < K; i++) out![o * K + i] = weight[(o - start) * K + i]! + d![(i % R) * O + o]!;
    }
  },
  webgpu({ inputs: [w, d], outputs }, limits) {
    const size = outputs[0]!.size;
    return [{
      wgsl: wgslReader("w", 1, w!.dtype) + declarations +
        forEachElement(["out[i] = w_at(i) + d[((i % p.K) % p.R) * p.O + i / p.K];"]),
      uniforms: [size, w!.width, d!.rows, w!.rows],
      bindings: [{ operand: 0 }, { operand: 1 }, { operand: 2 }],
      workgroups: grid(Math.ceil(size / 64), limits),
    }];
  },
};

/** A weight [O, K] plus d [R, O] repeated along K: [O, K]. */
export function addTile(graph: Graph, w: Tensor, d: Tensor): Tensor {
  return graph.add(addTileOp, [w, d], {})[0]!;
}
