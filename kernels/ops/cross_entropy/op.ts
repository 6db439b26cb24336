/**
 * Cross-entropy of a linear head whose logits are never all stored.
 *
 * crossEntropy: for each row, `loss = weight · (logsumexp(z) − z[target])` and, in the same pass,
 * `dZ = weight · (softmax(z) − onehot(target))`; rows of weight 0 give exact zeros. With `l2` > 0 (RWKV's L2Wrap) the largest
 * logit of each row also gets `l2 · weight · max(z)`, the gradient of ½·l2·max², while the loss stays the cross-entropy.
 *
 * linearCrossEntropy walks the rows in slices: logits, loss, gradient of the hidden rows and of the head, then the next slice
 * in the same memory.
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { float, grid, type Op, requireF32, shapeError, stride, wgslHalves, writable } from "../../op.ts";
import { constant } from "../map/op.ts";
import { matmul } from "../matmul/op.ts";
import { precomputed } from "../precomputed/op.ts";
import { reduceGroups } from "../reduce/op.ts";
import { concatRows, sliceRows } from "../rows/op.ts";
import shader from "./cross_entropy.wgsl" with { type: "text" };

interface CrossEntropyAttributes {
  readonly l2: number;
}

/** inputs: logits [M, V], targets i32 [M, 1], weights [M, 1] → loss [M, 1], dLogits [M, V] */
const crossEntropyOp: Op<CrossEntropyAttributes> = {
  name: "crossEntropy",
  outputs(inputs) {
    requireF32("crossEntropy", inputs, [1]);
    const [logits, targets, weights] = inputs;
    if (targets!.size !== logits!.rows || weights!.size !== logits!.rows || targets!.dtype !== "i32") {
      throw shapeError("crossEntropy", inputs, `${logits!.rows} i32 targets and weights are needed`);
    }
    return [{ shape: [logits!.rows, 1], dtype: "f32" }, { shape: logits!.shape, dtype: "f32" }];
  },
  writesHalves: ({ inputs: [logits] }) => logits!.width % 4 === 0 ? [1] : [],
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes: { l2 }, inputs, memory: [logits, targets, weights, loss, d], start, end }) {
    const V = inputs[0]!.width;
    const put = writable(d!);
    for (let m = start; m < end; m++) {
      const at = m * V, weight = weights![m]!, target = targets![m]!;
      if (weight === 0) {
        loss![m] = 0;
        put.fill(0, at, at + V);
        continue;
      }
      let best = 0;
      for (let i = 1; i < V; i++) if (logits![at + i]! > logits![at + best]!) best = i;
      const max = logits![at + best]!;
      let sum = 0;
      for (let i = 0; i < V; i++) sum += Math.exp(logits![at + i]! - max);
      loss![m] = weight * (Math.log(sum) + max - logits![at + target]!);
      for (let i = 0; i < V; i++) {
        let slope = Math.exp(logits![at + i]! - max) / sum;
        if (i === target) slope -= 1;
        if (i === best) slope += l2 * max;
        put[at + i] = weight * slope;
      }
    }
  },
  webgpu({ attributes: { l2 }, inputs, outputs }, limits) {
    const { rows, width } = inputs[0]!, { count } = stride(width);
    const stored = outputs[1]!.dtype === "f16"
      ? "alias Stored = vec2<u32>;\nfn stored(x: Element) -> Stored { return " +
        `${wgslHalves("x")}; }`
      : "alias Stored = Element;\nfn stored(x: Element) -> Stored { return x; }";
    return [{
      wgsl: `${count === 4 ? FOURS : ONES}\n${stored}\nconst LANES = ${width > 4096 ? 256 : 64}u;\n${shader}`,
      uniforms: [rows, width / count, float(l2)],
      bindings: [0, 1, 2, 3, 4].map((operand) => ({ operand })),
      workgroups: grid(rows, limits),
    }];
  },
};

/** What the shader needs to know of an element of four numbers. */
const FOURS = `
alias Element = vec4<f32>;
const COUNT = 4u;
fn most_of(z: Element) -> f32 { return max(max(z.x, z.y), max(z.z, z.w)); }
fn place_of(z: Element, value: f32) -> u32 {
  return select(select(select(3u, 2u, z.z == value), 1u, z.y == value), 0u, z.x == value);
}
fn at(z: Element, i: u32) -> f32 { return z[i]; }
fn sum_of(z: Element) -> f32 { return z.x + z.y + z.z + z.w; }
fn chosen(i: u32, place: u32) -> Element {
  return select(Element(), Element(1.0), vec4(0u, 1u, 2u, 3u) + i * COUNT == vec4(place));
}`;

/** The same of one number. */
const ONES = `
alias Element = f32;
const COUNT = 1u;
fn most_of(z: Element) -> f32 { return z; }
fn place_of(z: Element, value: f32) -> u32 { return 0u; }
fn at(z: Element, i: u32) -> f32 { return z; }
fn sum_of(z: Element) -> f32 { return z; }
fn chosen(i: u32, place: u32) -> Element { return select(0.0, 1.0, i == place); }`;

/** Bytes of logits that one slice of rows takes, where that is at least {@link LEAST_SHARE} of the rows. */
const SLICE_BYTES = 32 * 1024 * 1024;
/** The same of a head with rows so short that products of few rows of logits leave a GPU idle. */
const SLICE_BYTES_OF_SHORT = 64 * 1024 * 1024, SHORT = 1024;
/** Products of few rows leave a GPU idle, so many rows are walked in few slices: of a large batch this is little memory. */
const LEAST_SHARE = 1 / 8;

/**
 * Weighted cross-entropy of `hidden · headᵀ` against the targets.
 * @param hidden [M, C]
 * @param head [V, C], any storage
 * @param targets i32 [M, 1]
 * @param weights [M, 1]; for a mean, one over the number of counted targets where a target counts, else 0
 * @param options.l2 strength of L2Wrap, 0 for none
 * @param options.headTrains whether the head's gradient will be asked for
 * @returns the weighted sum, [1]
 */
export function linearCrossEntropy(
  graph: Graph,
  hidden: Tensor,
  head: Tensor,
  targets: Tensor,
  weights: Tensor,
  options: { l2?: number; headTrains?: boolean } = {},
): Tensor {
  const M = hidden.rows, V = head.rows;
  const sliceBytes = hidden.width > SHORT ? SLICE_BYTES : SLICE_BYTES_OF_SHORT;
  const rows = Math.max(1, Math.min(M, Math.floor(Math.max(sliceBytes / (V * 4), M * LEAST_SHARE))));
  const losses: Tensor[] = [], dHidden: Tensor[] = [];
  let dHead: Tensor | undefined;
  for (let first = 0; first < M; first += rows) {
    const count = Math.min(rows, M - first);
    const h = sliceRows(graph, hidden, first, count);
    const logits = matmul(graph, h, head, { transposeB: true });
    const [loss, dLogits] = graph.add(
      crossEntropyOp,
      [logits, sliceRows(graph, targets, first, count), sliceRows(graph, weights, first, count)],
      { l2: options.l2 ?? 0 },
    );
    losses.push(loss!);
    dHidden.push(matmul(graph, dLogits!, head));
    if (options.headTrains) {
      dHead = matmul(graph, dLogits!, h, { transposeA: true, ...(dHead ? { addend: dHead } : {}) });
    }
  }
  if (M === 0) {
    losses.push(constant(graph, [1], 0));
    dHidden.push(constant(graph, hidden.shape, 0));
    if (options.headTrains) dHead = constant(graph, head.shape, 0);
  }
  const total = reduceGroups(graph, concatRows(graph, losses), [1]);
  const gradients = [{ of: hidden, gradient: concatRows(graph, dHidden) }];
  if (dHead) gradients.push({ of: head, gradient: dHead });
  return precomputed(graph, total, gradients);
}
