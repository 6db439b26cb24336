/**
 * dropout (Srivastava et al., 2014): `out[i] = x[i] / (1 − share)`, or zero where the hash of seed, salt and i falls below the share.
 *
 * The seed is a variable, so that a replayed program drops other elements every time; the hash is whole-number arithmetic, so that
 * every engine drops the same ones. The gradient drops what the op dropped.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { elementGrid, float, forEachElement, type Op, requireF32, shapeError } from "../../op.ts";

/** What to drop. */
export interface DropoutAttributes {
  /** Share of elements that become zero, from 0 to below 1. */
  readonly share: number;
  /** Tells places of one graph apart. */
  readonly salt: number;
}

/** Below this of 2³², an element is dropped. */
export function dropThreshold(share: number): number {
  return Math.floor(share * 2 ** 32);
}

/** A bijection of 32-bit words without visible pattern ("lowbias32", Wellons 2018). */
function mixed(x: number): number {
  x = Math.imul(x ^ x >>> 16, 0x7feb352d);
  x = Math.imul(x ^ x >>> 15, 0x846ca68b);
  return (x ^ x >>> 16) >>> 0;
}

const MIXED = `fn mixed(word: u32) -> u32 {
  var x = word;
  x = (x ^ (x >> 16u)) * 0x7feb352du;
  x = (x ^ (x >> 15u)) * 0x846ca68bu;
  return x ^ (x >> 16u);
}`;

/** inputs: x, seed */
const dropoutOp: Op<DropoutAttributes> = {
  name: "dropout",
  outputs(inputs, { share }) {
    requireF32("dropout", inputs, [1]);
    if (inputs[1]!.dtype !== "i32" || inputs[1]!.size !== 1) {
      throw shapeError("dropout", inputs, "the seed must be one whole number");
    }
    if (!(share >= 0 && share < 1)) {
      throw new RangeError(`Cannot drop a share of ${share}: it must be below 1`);
    }
    return [{ shape: inputs[0]!.shape, dtype: "f32" }];
  },
  gradient: ({ graph, attributes, inputs, dOutputs: [d] }) => [
    graph.add(dropoutOp, [d!, inputs[1]!], attributes)[0],
    undefined,
  ],
  units: ({ outputs }) => outputs[0]!.size,
  cpu({ attributes: { share, salt }, memory: [x, seed, out], start, end }) {
    const key = mixed(seed![0]! + salt | 0), threshold = dropThreshold(share), scale = 1 / (1 - share);
    for (let i = start; i < end; i++) out![i] = mixed(mixed(i) + key | 0) < threshold ? 0 : x![i]! * scale;
  },
  webgpu({ attributes: { share, salt }, outputs }, limits) {
    const wgsl = [
      "struct Parameters { size: u32, salt: u32, threshold: u32, scale: f32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      "@group(0) @binding(1) var<storage, read> x: array<f32>;",
      "@group(0) @binding(2) var<storage, read> seed: array<i32>;",
      "@group(0) @binding(3) var<storage, read_write> out: array<f32>;",
      MIXED,
      forEachElement([
        "let key = mixed(u32(seed[0]) + p.salt);",
        "out[i] = select(x[i] * p.scale, 0.0, mixed(mixed(i) + key) < p.threshold);",
      ]),
    ].join("\n");
    const size = outputs[0]!.size;
    return [{
      wgsl,
      uniforms: [size, salt, dropThreshold(share), float(1 / (1 - share))],
      bindings: [{ operand: 0 }, { operand: 1 }, { operand: 2 }],
      workgroups: elementGrid(size, limits),
    }];
  },
};

/** The salt of a text (FNV-1a). */
function saltOf(text: string): number {
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193);
  return hash >>> 0;
}

/**
 * x with a share of its elements set to zero and the others divided by 1 − share.
 * @param seed i32 [1]
 * @param options.salt another text, other elements
 * @throws RangeError for a share outside [0, 1)
 */
export function dropout(
  graph: Graph,
  x: Tensor,
  seed: Tensor,
  { share, salt }: { share: number; salt: string },
): Tensor {
  return graph.add(dropoutOp, [x, seed], { share, salt: saltOf(salt) })[0]!;
}
