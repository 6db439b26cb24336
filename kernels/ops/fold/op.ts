/**
 * fold: `out[m, j] = Σ_b x[m, b·R + j]`, the sum of a row's shards of R elements, the last one ragged; the input side of Bone
 * (arXiv 2409.15371, equation 4). tile: `out[m, i] = x[m, i mod R]`, its gradient and inverse in shape.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { grid, type Op, shapeError, stride, unrolled, wgslFours, wgslReader, widened } from "../../op.ts";
import foldShader from "./fold.wgsl" with { type: "text" };
import tileShader from "./tile.wgsl" with { type: "text" };

interface WidthAttributes {
  /** Elements of an output row. */
  readonly width: number;
}

/** A shader for rows of K and of `width`, and how many outputs, of one number or four, a workgroup of it makes. */
type Shader = (K: number, width: number) => { readonly wgsl: string; readonly outputs: number };

function widthOp(
  name: string,
  shader: Shader,
  row: (width: number, K: number, at: (i: number) => number, j: number) => number,
  inverse: (graph: Graph, x: Tensor, width: number) => Tensor,
): Op<WidthAttributes> {
  return {
    name,
    outputs(inputs, { width }) {
      const [x] = inputs;
      if (x!.dtype !== "f32" && x!.dtype !== "f16") throw shapeError(name, inputs, "f32 or f16 is needed");
      return [{ shape: [inputs[0]!.rows, width], dtype: "f32" }];
    },
    gradient: ({ graph, inputs: [x], dOutputs: [d] }) => [inverse(graph, d!, x!.width)],
    readsHalves: ({ inputs: [x] }) => x!.width % 8 === 0 ? [0] : [],
    units: ({ outputs }) => outputs[0]!.rows,
    cpu({ attributes: { width }, inputs, memory, start, end }) {
      const K = inputs[0]!.width, x = widened(memory[0]!, inputs[0]!.dtype), out = memory[1]!;
      for (let m = start; m < end; m++) {
        const at = (i: number) => x[m * K + i]!;
        for (let j = 0; j < width; j++) out[m * width + j] = row(width, K, at, j);
      }
    },
    webgpu({ attributes: { width }, inputs, outputs }, limits) {
      const K = inputs[0]!.width, { count, type } = stride(width, K), size = outputs[0]!.size / count;
      const { wgsl, outputs: made } = shader(K, width), { dtype } = inputs[0]!;
      return [{
        wgsl: [
          `alias Element = ${type};`,
          count === 4 ? wgslFours("x", 1, dtype) : wgslReader("x", 1, dtype),
          `fn x_of(i: u32) -> Element { return ${count === 4 ? "x_four" : "x_at"}(i); }`,
          wgsl,
        ].join("\n"),
        uniforms: [size, width / count, K / count],
        bindings: [{ operand: 0 }, { operand: 1 }],
        workgroups: grid(Math.ceil(size / made), limits),
      }];
    },
  };
}

/** Threads of a workgroup of fold, and the most of them that share an output. */
const THREADS = 256, MOST_LANES = 16;

/** Threads share an output where each has four shards to read, or more. The number depends on a row alone, as do the bits of sums. */
const sharedFold: Shader = (K, width) => {
  const lanes = Math.min(MOST_LANES, 2 ** Math.ceil(Math.log2(Math.max(1, K / width / 4))));
  return {
    wgsl: `const THREADS = ${THREADS}u;\nconst LANES = ${lanes}u;\n${unrolled(foldShader, "LANES", lanes)}`,
    outputs: THREADS / lanes,
  };
};

/** The op; use {@link fold}. */
export const foldOp: Op<WidthAttributes> = widthOp("fold", sharedFold, (width, K, at, j) => {
  let total = 0;
  for (let i = j; i < K; i += width) total += at(i);
  return total;
}, (graph, d, width) => tile(graph, d, width));

/** The op; use {@link tile}. */
export const tileOp: Op<WidthAttributes> = widthOp(
  "tile",
  () => ({ wgsl: tileShader, outputs: 256 }),
  (_, K, at, j) => at(j % K),
  (graph, d, width) => fold(graph, d, width),
);

/** Sum of shards: x [M, K] → [M, R]. */
export function fold(graph: Graph, x: Tensor, R: number): Tensor {
  return graph.add(foldOp, [x], { width: R })[0]!;
}

/** Repetition of shards: x [M, R] → [M, K]. */
export function tile(graph: Graph, x: Tensor, K: number): Tensor {
  return graph.add(tileOp, [x], { width: K })[0]!;
}
