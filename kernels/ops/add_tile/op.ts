/**
 * addTile: `out[o, i] = w[o, i] + d[i mod R, o]`, a weight with what folds of its input are multiplied by: `x·wᵀ + fold(x)·d` is
 * `x·outᵀ`. It serves the plan (`folds.ts`), after gradients were taken, and so has none.
 *
 * w [O, K] in any storage, d [R, O]; out [O, K] in f32, or in f16 for products that round it to that anyway.
 *
 * @module
 */
import type { Graph, Node, StorageType, Tensor } from "../../graph.ts";
import {
  elementGrid,
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

/** The op; inputs: w, d, and where nodes were joined more of the same shapes and storage, each pair with an output. */
export const addTileOp: Op<AddTileAttributes> = {
  name: "addTile",
  outputs(inputs, { dtype }) {
    const [w, d] = inputs;
    if (d!.width !== w!.rows || d!.dtype !== "f32" || w!.dtype === "i32") {
      throw shapeError("addTile", inputs, "a weight [out, in] and f32 [R, out]");
    }
    return [{ shape: [w!.rows, w!.width], dtype }];
  },
  joined(one, other) {
    const isAlike = hasShards(one) && [0, 1].every((i) => {
      const [a, b] = [one.inputs[i]!, other.inputs[i]!];
      return a.dtype === b.dtype && a.rows === b.rows && a.width === b.width;
    });
    if (!isAlike || one.attributes.dtype !== other.attributes.dtype) return undefined;
    return {
      ...one,
      inputs: [...one.inputs, ...other.inputs],
      outputs: [...one.outputs, ...other.outputs],
    };
  },
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes, inputs, outputs, memory, start, end }) {
    const { rows: O, width: K, dtype } = inputs[0]!, R = inputs[1]!.rows, sums = new Float64Array(K);
    outputs.forEach((_, z) => {
      const d = memory[2 * z + 1]!, out = memory[inputs.length + z]!;
      const weight = widened(memory[2 * z]!.subarray(start * K, end * K), dtype);
      for (let o = start; o < end; o++) {
        for (let i = 0; i < K; i++) sums[i] = weight[(o - start) * K + i]! + d[(i % R) * O + o]!;
        out.set(attributes.dtype === "f16" ? new Uint16Array(new Float16Array(sums).buffer) : sums, o * K);
      }
    });
  },
  webgpu(node, limits) {
    const { attributes: { dtype }, inputs, outputs } = node, [w, d] = inputs;
    const { rows: O, width: K } = w!, R = d!.rows, { size } = outputs[0]!, half = dtype === "f16";
    const bindings = [...inputs, ...outputs].map((_, operand) => ({ operand }));
    if (hasShards(node)) {
      const count = K % 8 === 0 && R % 8 === 0 ? 8 : 4;
      const span = R * Math.ceil(K / R / SHARDS), threads = ROWS * Math.ceil(O / ROWS) * span / count;
      const [x, y] = grid(Math.ceil(threads / THREADS), limits);
      return [{
        wgsl: `const SHARDS = ${SHARDS}u;\nconst ROWS = ${ROWS}u;\nconst THREADS = ${THREADS}u;\n` +
          neighbours(count, w!.dtype, half, outputs.length) + unrolled(shards, "SHARDS", SHARDS),
        uniforms: [span, K, R, O],
        bindings,
        workgroups: [x, y, outputs.length],
      }];
    }
    const words = half ? Math.ceil(size / 2) : size;
    return [{
      wgsl: wgslReader("w", 1, w!.dtype) + declarations +
        `@group(0) @binding(3) var<storage, read_write> out: array<${
          half ? "u32" : "f32"
        }>;      // (O, K)\n` +
        "fn sum(i: u32) -> f32 { return w_at(i) + d[((i % p.K) % p.R) * p.O + i / p.K]; }\n" +
        forEachElement([
          half
            ? `out[i] = pack2x16float(vec2(sum(2u * i), sum(min(2u * i + 1u, ${size - 1}u))));`
            : "out[i] = sum(i);",
        ]),
      uniforms: [words, K, R, O],
      bindings,
      workgroups: elementGrid(words, limits),
    }];
  },
};

/** Whether rows and shards are fours of numbers. */
const hasShards = ({ inputs: [w, d] }: Node<AddTileAttributes>) => w!.width % 4 === 0 && d!.rows % 4 === 0;

/** Shards that a thread adds to, neighbouring rows that neighbouring threads have, and threads of a workgroup. */
const SHARDS = 4, ROWS = 8, THREADS = 256;

/** WGSL that shards.wgsl wants, for four or eight neighbours at a time and so many w, d and out. */
function neighbours(count: 4 | 8, dtype: StorageType, half: boolean, pairs: number): string {
  const [type, reader, read, added, fours] = count === 8
    ? ["mat2x4<f32>", wgslEights, "eight", "Numbers(tile_four(z, j, o), tile_four(z, j + 4u, o))", [
      "x[0]",
      "x[1]",
    ]]
    : ["vec4<f32>", wgslFours, "four", "tile_four(z, j, o)", ["x"]];
  const packed = fours.map((four) => `pack2x16float(${four}.xy), pack2x16float(${four}.zw)`);
  const out = half ? `vec${count / 2}<u32>` : type;
  const each = (statement: (z: number) => string) =>
    `switch z { ${
      Array.from({ length: pairs }, (_, z) => `${z ? `case ${z}u` : "default"}: { ${statement(z)} }`).join(
        " ",
      )
    } }`;
  const declared = Array.from({ length: pairs }, (_, z) =>
    reader(`w${z}`, 2 * z + 1, dtype) +
    `@group(0) @binding(${2 * z + 2}) var<storage, read> d${z}: array<f32>;                 // (R, O)\n` +
    `@group(0) @binding(${
      2 * pairs + z + 1
    }) var<storage, read_write> out${z}: array<${out}>;    // (O, K)\n`);
  return declared.join("") +
    `const COUNT = ${count}u;\nalias Numbers = ${type};\n` +
    `fn w_numbers(z: u32, i: u32) -> Numbers { ${each((z) => `return w${z}_${read}(i);`)} }\n` +
    `fn d_at(z: u32, i: u32) -> f32 { ${each((z) => `return d${z}[i];`)} }\n` +
    `fn tile_numbers(z: u32, j: u32, o: u32) -> Numbers { return ${added}; }\n` +
    `fn put_out(z: u32, i: u32, x: Numbers) { ${
      each((z) => `out${z}[i] = ${half ? `${out}(${packed})` : "x"};`)
    } }\n`;
}

/** A weight [O, K] plus d [R, O] repeated along K: [O, K], in f32 or in the storage given. */
export function addTile(graph: Graph, w: Tensor, d: Tensor, dtype: "f32" | "f16" = "f32"): Tensor {
  return graph.add(addTileOp, [w, d], { dtype })[0]!;
}
