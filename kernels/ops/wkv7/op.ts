/**
 * wkv7: RWKV-7's recurrence (Peng et al., arXiv 2503.14456). Per head, with a state S of N value rows by N key columns:
 *
 *     sa = S a;   S ← S · diag(w) + sa ⊗ b + v ⊗ k;   y = S r
 *
 * The six streams r, w, k, v, a, b are [B·T, C]; w is the decay itself, in [0, 1): where w and a are 0 the state begins afresh, as it does between documents
 * that share a row. The state at the start of every {@link CHUNK} steps is kept, and the backward pass recomputes the steps
 * between from it: it never divides by the decay. On a GPU see `webgpu.ts`.
 *
 * Backward, with dS the gradient of the state after step t:
 *
 *     dr = Sₜᵀ dy;  dS += dy ⊗ r;  dw = Σ_rows dS · Sₜ₋₁;  dk = dSᵀ v;  dv = dS k;  db = dSᵀ sa;  dsa = dS b;
 *     da = Sₜ₋₁ᵀ dsa;  dS ← dS · diag(w) + dsa ⊗ a
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import { type NumberArray, type Op, requireF32, shapeError } from "../../op.ts";
import { constant } from "../map/op.ts";
import { splitRows } from "../rows/op.ts";
import { type Streams, wkv7Backward, wkv7Forward } from "./cpu.ts";
import { backwardPasses, forwardPasses, solvedSize } from "./webgpu.ts";

/** Steps between kept states. */
export const CHUNK = 16;

/** T steps of heads of N channels. */
export interface Wkv7Attributes {
  readonly T: number;
  readonly N: number;
}

/** Sizes of one call, from a stream [B·T, C]. */
export function wkv7Sizes(stream: Tensor, { T, N }: Wkv7Attributes): {
  B: number;
  H: number;
  C: number;
  chunks: number;
} {
  return { B: stream.rows / T, H: stream.width / N, C: stream.width, chunks: Math.ceil(T / CHUNK) };
}

/**
 * inputs: r, w, k, v, a, b, and the initial state where it is not zero → y, kept states, final state, sa of every step, and as a
 * GPU's scratch solved blocks
 */
const wkv7Op: Op<Wkv7Attributes> = {
  name: "wkv7",
  scratch: [4],
  outputs(inputs, attributes) {
    requireF32("wkv7", inputs);
    const { B, H, C, chunks } = wkv7Sizes(inputs[0]!, attributes);
    const { T, N } = attributes, streams = inputs.slice(0, 6), initial = inputs[6];
    const alike = streams.every(({ rows, width }) => rows === B * T && width === C);
    if (!Number.isInteger(B) || !Number.isInteger(H) || !alike) {
      throw shapeError("wkv7", inputs, `six streams of rows in multiples of T = ${T} and heads of ${N}`);
    }
    if (initial && initial.size !== B * H * N * N) {
      throw shapeError("wkv7", inputs, `the state must be [${B}, ${H}·${N}·${N}]`);
    }
    return [
      { shape: [B * T, C], dtype: "f32" },
      { shape: [B * H, chunks * N * N], dtype: "f32" },
      { shape: [B, H * N * N], dtype: "f32" },
      { shape: [B * T, C], dtype: "f32" },
      { shape: [B * H, chunks * solvedSize(N)], dtype: "f32" },
    ];
  },
  gradient({ graph, attributes, inputs, outputs: [y, states, , sa], dOutputs, wanted }) {
    const dy = dOutputs[0] ?? constant(graph, y!.shape, 0);
    const given = [...inputs.slice(0, 6), states!, dy, sa!, ...(dOutputs[2] ? [dOutputs[2]] : [])];
    const [dV, dColumns, dInitial] = graph.add(wkv7GradientOp, given, attributes);
    const [dR, dW, dK, dA, dB] = splitRows(graph, dColumns!, 5);
    return [dR, dW, dK, dV, dA, dB, wanted[6] ? dInitial : undefined];
  },
  units: (node) => heads(node.inputs[0]!, node.attributes),
  cpu({ attributes, inputs, memory, start, end }) {
    const initial = inputs[6] && memory[6];
    const [y, states, final, sa] = memory.slice(inputs.length) as [
      NumberArray,
      NumberArray,
      NumberArray,
      NumberArray,
    ];
    const sizes = { ...wkv7Sizes(inputs[0]!, attributes), ...attributes, start, end };
    wkv7Forward({ ...sizes, streams: streamsOf(memory), initial, y, states, final, sa });
  },
  webgpu: (node, limits) => forwardPasses(node, limits),
};

/**
 * inputs: r, w, k, v, a, b, kept states, dy, sa, and the gradient of the final state where it is not zero → dV, dR dW dK dA dB one
 * below the other, gradient of the initial state, and as a GPU's scratch gradients of the states where chunks end and of sa, and
 * solved blocks
 */
const wkv7GradientOp: Op<Wkv7Attributes> = {
  name: "wkv7Gradient",
  scratch: [3, 4, 5],
  outputs(inputs, attributes) {
    const { B, H, C, chunks } = wkv7Sizes(inputs[0]!, attributes);
    const { T, N } = attributes;
    return [
      { shape: [B * T, C], dtype: "f32" },
      { shape: [5 * B * T, C], dtype: "f32" },
      { shape: [B, H * N * N], dtype: "f32" },
      { shape: [B * H, chunks * N * N], dtype: "f32" },
      { shape: [B * T, C], dtype: "f32" },
      { shape: [B * H, chunks * solvedSize(N)], dtype: "f32" },
    ];
  },
  units: (node) => heads(node.inputs[0]!, node.attributes),
  cpu({ attributes, inputs, memory, start, end }) {
    const [states, dy] = memory.slice(6) as [NumberArray, NumberArray], dFinal = inputs[9] && memory[9];
    const [dV, dColumns, dInitial] = memory.slice(inputs.length) as [NumberArray, NumberArray, NumberArray];
    const sizes = { ...wkv7Sizes(inputs[0]!, attributes), ...attributes, start, end };
    const [r, w, k, a, b] = [0, 1, 2, 3, 4].map((i) =>
      dColumns.subarray(i * dV.length, (i + 1) * dV.length)
    ) as [
      NumberArray,
      NumberArray,
      NumberArray,
      NumberArray,
      NumberArray,
    ];
    const dStreams = { r, w, k, v: dV, a, b };
    wkv7Backward({ ...sizes, streams: streamsOf(memory), states, dy, dFinal, dStreams, dInitial });
  },
  webgpu: (node, limits) => backwardPasses(node, limits),
};

function streamsOf(memory: readonly NumberArray[]): Streams {
  const [r, w, k, v, a, b] = memory as [
    NumberArray,
    NumberArray,
    NumberArray,
    NumberArray,
    NumberArray,
    NumberArray,
  ];
  return { r, w, k, v, a, b };
}

function heads(stream: Tensor, attributes: Wkv7Attributes): number {
  const { B, H } = wkv7Sizes(stream, attributes);
  return B * H;
}

/** The six streams of the recurrence, each [B·T, C]; w is the decay itself, 0 (with a) where the state begins afresh. */
export interface Wkv7Streams {
  readonly r: Tensor;
  readonly w: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly a: Tensor;
  readonly b: Tensor;
}

/**
 * RWKV-7's recurrence over T steps.
 * @param options.state initial state [B, H·N·N] in the order head, value row, key column; zero where it is not given
 * @returns y [B·T, C] and the final state [B, H·N·N]; without steps, where T is 0, no rows and the initial state
 */
export function wkv7(
  graph: Graph,
  { r, w, k, v, a, b }: Wkv7Streams,
  options: { T: number; N: number; state?: Tensor },
): { y: Tensor; state: Tensor } {
  const { T, N } = options;
  if (T === 0 && options.state) return { y: r, state: options.state };
  const initial = options.state ? [options.state] : [];
  const [y, , state] = graph.add(wkv7Op, [r, w, k, v, a, b, ...initial], { T, N });
  return { y: y!, state: state! };
}
