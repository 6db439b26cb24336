/**
 * embedding: `out[m] = table[ids[m]]`; its gradient adds the rows of dOut up by id, in the order of the rows, without atomics.
 *
 * table [V, C] in any storage, ids i32 [M, 1]. An id outside the table reads as zeros. A table over the binding limit is taken
 * in ranges of its rows.
 *
 * @module
 */
import { bytesOf, type Graph, type Tensor } from "../../graph.ts";
import { elementGrid, type Op, shapeError, wgslReader, widened } from "../../op.ts";
import { rowRanges } from "../matmul/op.ts";
import shader from "./embedding.wgsl" with { type: "text" };
import gradientShader from "./embedding_gradient.wgsl" with { type: "text" };

const embeddingOp: Op<Record<never, never>> = {
  name: "embedding",
  outputs(inputs) {
    const [table, ids] = inputs;
    if (ids!.dtype !== "i32") throw shapeError("embedding", inputs, "ids must be i32");
    return [{ shape: [ids!.size, table!.width], dtype: "f32" }];
  },
  gradient({ graph, inputs: [table, ids], dOutputs: [d], wanted }) {
    return [
      wanted[0] ? graph.add(embeddingGradientOp, [ids!, d!], { V: table!.rows })[0] : undefined,
      undefined,
    ];
  },
  units: ({ inputs }) => inputs[1]!.size,
  cpu({ inputs, memory: [table, ids, out], start, end }) {
    const { rows: V, width: C, dtype } = inputs[0]!;
    for (let m = start; m < end; m++) {
      const id = ids![m]!;
      if (id < 0 || id >= V) out!.fill(0, m * C, (m + 1) * C);
      else out!.set(widened(table!.subarray(id * C, (id + 1) * C), dtype), m * C);
    }
  },
  webgpu({ inputs }, limits) {
    const { rows, width, dtype } = inputs[0]!;
    const M = inputs[1]!.size;
    return rowRanges(rows, bytesOf({ shape: [width * 2], dtype }) / 2, limits).map((range, i) => ({
      wgsl: wgslReader("table", 1, dtype) + shader,
      uniforms: [M, width, range.first, range.count, i === 0 ? 1 : 0],
      bindings: [
        {
          operand: 0,
          ...(range.count < rows ? { byteOffset: range.byteOffset, byteLength: range.byteLength } : {}),
        },
        { operand: 1 },
        { operand: 2 },
      ],
      workgroups: elementGrid(M * width, limits),
    }));
  },
};

/** inputs: ids [M, 1], dOut [M, C] → dTable [V, C] */
const embeddingGradientOp: Op<{ readonly V: number }> = {
  name: "embeddingGradient",
  outputs: ([, d], { V }) => [{ shape: [V, d!.width], dtype: "f32" }],
  units: ({ attributes }) => attributes.V,
  cpu({ inputs, memory: [ids, d, out], start, end }) {
    const C = inputs[1]!.width;
    out!.fill(0, start * C, end * C);
    for (let m = 0; m < inputs[0]!.size; m++) {
      const id = ids![m]!;
      if (id < start || id >= end) continue;
      for (let c = 0; c < C; c++) out![id * C + c]! += d![m * C + c]!;
    }
  },
  webgpu({ attributes: { V }, inputs }, limits) {
    const C = inputs[1]!.width;
    return rowRanges(V, C * 4, limits).map(({ first, count, byteOffset, byteLength }) => ({
      wgsl: gradientShader,
      uniforms: [inputs[0]!.size, C, first, count],
      bindings: [
        { operand: 0 },
        { operand: 1 },
        { operand: 2, ...(count < V ? { byteOffset, byteLength } : {}) },
      ],
      workgroups: elementGrid(count * C, limits),
    }));
  },
};

/** Rows of a table: table [V, C], ids i32 [M, 1] → [M, C]. */
export function embedding(graph: Graph, table: Tensor, ids: Tensor): Tensor {
  return graph.add(embeddingOp, [table, ids], {})[0]!;
}
