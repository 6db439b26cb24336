/**
 * addTile: `out[o, i] = w[o, i] + d[i mod R, o]`, a weight with what folds of its input are multiplied by: `x·wᵀ + fold(x)·d` is
 * `x·outᵀ`. It serves the plan (`folds.ts`), after gradients were taken, and so has none.
 *
 * w [O, K] in any storage, d [R, O]; out [O, K] in f32, or in f16 for products that round it to that anyway.
 *
 * @module
 */
import type { Graph, StorageType, Tensor } from "../../graph.ts";
import {
  forEachElement,
  grid,
  type Op,
  shapeError,
  unrolled,
  wgslEights,
  wgslFours,
  wgslReader,
  widened,
} from "../../op.ts";
import declarations from "./add_tile.wgsl" with { type: "text" };
import shards from "./shards.wgsl" with { type: "text" };

interface AddTileAttributes {
  /** Storage of the sum. */
  readonly dtype: "f32" | "f16";
}

/** The op; inputs: w, d. */
export const addTileOp: Op<AddTileAttributes> = {
  name: "addTile",
  outputs(inputs, { dtype }) {
    const [w, d] = inputs;
    if (d!.width !== w!.rows || d!.dtype !== "f32" || w!.dtype === "i32") {
      throw shapeError("addTile", inputs, "a weight [out, in] and f32 [R, out]");
    }
    return [{ shape: [w!.rows, w!.width], dtype }];
  },
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes, inputs, memory: [w, d, out], start, end }) {
    const { rows: O, width: K, dtype } = inputs[0]!, R = inputs[1]!.rows;
    const weight = widened(w!.subarray(start * K, end * K), dtype);
    const sums = new Float64Array(K);
    for (let o = start; o < end; o++) {
      for (let i = 0; i < K; i++) sums[i] = weight[(o - start) * K + i]! + d![(i % R) * O + o]!;
      out!.set(attributes.dtype === "f16" ? new Uint16Array(new Float16Array(sums).buffer) : sums, o * K);
    }
  },
  webgpu({ attributes: { dtype }, inputs: [w, d], outputs }, limits) {
    const { rows: O, width: K } = w!, R = d!.rows, { size } = outputs[0]!, half = dtype === "f16";
    const bindings = [{ operand: 0 }, { operand: 1 }, { operand: 2 }];
    if (K % 4 === 0 && R % 4 === 0) {
      const count = K % 8 === 0 && R % 8 === 0 ? 8 : 4;
      const span = R * Math.ceil(K / R / SHARDS), threads = ROWS * Math.ceil(O / ROWS) * span / count;
      return [{
        wgsl: `const SHARDS = ${SHARDS}u;\nconst ROWS = ${ROWS}u;\nconst THREADS = ${THREADS}u;\n` +
          neighbours(count, w!.dtype, half) + unrolled(shards, "SHARDS", SHARDS),
        uniforms: [span, K, R, O],
        bindings,
        workgroups: grid(Math.ceil(threads / THREADS), limits),
      }];
    }
    const words = half ? Math.ceil(size / 2) : size;
    return [{
      wgsl: wgslReader("w", 1, w!.dtype) + declarations + bindingOf(half ? "u32" : "f32") +
        "fn sum(i: u32) -> f32 { return w_at(i) + d[((i % p.K) % p.R) * p.O + i / p.K]; }\n" +
        forEachElement([
          half
            ? `out[i] = pack2x16float(vec2(sum(2u * i), sum(min(2u * i + 1u, ${size - 1}u))));`
            : "out[i] = sum(i);",
        ]),
      uniforms: [words, K, R, O],
      bindings,
      workgroups: grid(Math.ceil(words / 64), limits),
    }];
  },
};

/** Shards that a thread adds to, neighbouring rows that neighbouring threads have, and threads of a workgroup. */
const SHARDS = 4, ROWS = 8, THREADS = 256;

/** WGSL that shards.wgsl wants, for four or eight neighbours at a time. */
function neighbours(count: 4 | 8, dtype: StorageType, half: boolean): string {
  const [type, reader, read, added, fours] = count === 8
    ? ["mat2x4<f32>", wgslEights, "w_eight(i)", "Numbers(tile_four(j, o), tile_four(j + 4u, o))", [
      "x[0]",
      "x[1]",
    ]]
    : ["vec4<f32>", wgslFours, "w_four(i)", "tile_four(j, o)", ["x"]];
  const packed = fours.map((four) => `pack2x16float(${four}.xy), pack2x16float(${four}.zw)`);
  const out = half ? `vec${count / 2}<u32>` : type;
  return reader("w", 1, dtype) + bindingOf(out) +
    `const COUNT = ${count}u;\nalias Numbers = ${type};\n` +
    `fn w_numbers(i: u32) -> Numbers { return ${read}; }\n` +
    `fn tile_numbers(j: u32, o: u32) -> Numbers { return ${added}; }\n` +
    `fn stored(x: Numbers) -> ${out} { return ${half ? `${out}(${packed})` : "x"}; }\n`;
}

const bindingOf = (type: string) =>
  `@group(0) @binding(3) var<storage, read_write> out: array<${type}>;                // (O, K)\n`;

/** A weight [O, K] plus d [R, O] repeated along K: [O, K], in f32 or in the storage given. */
export function addTile(graph: Graph, w: Tensor, d: Tensor, dtype: "f32" | "f16" = "f32"): Tensor {
  return graph.add(addTileOp, [w, d], { dtype })[0]!;
}
