/**
 * How each op runs as WebAssembly: which kernel, with which arguments, for which share of each worker.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import { type Node, sizeOf, type StorageType, type Tensor } from "../../graph.ts";
import { type DropoutAttributes, dropThreshold } from "../../ops/dropout/op.ts";
import { straightLine } from "../../ops/map/expression.ts";
import { type BlockMatmulAttributes, blockStrides } from "../../ops/block_matmul/op.ts";
import { broadcast, type MapAttributes } from "../../ops/map/op.ts";
import { extents, type MatmulAttributes } from "../../ops/matmul/op.ts";
import type { UpdateAttributes } from "../../ops/update/op.ts";
import { type Wkv7Attributes, wkv7Sizes } from "../../ops/wkv7/op.ts";
import type { KernelName } from "./tape.ts";
import { emitDropout, emitMap } from "./wasm/emit.ts";
import { DTYPE, LAYOUT, SUM_PART, type WasmKernels } from "./wasm/load.ts";

/** One kernel call of one worker; a map is called by its emitted module. */
export interface KernelCall {
  readonly kernel: KernelName | Uint8Array<ArrayBuffer>;
  readonly args: readonly number[];
}

/** A command: the calls of each worker, which it makes one after another; one without work has none. */
export type Command = readonly (KernelCall | readonly KernelCall[] | undefined)[];

/** What a lowering is given. */
export interface LoweringCall {
  readonly node: Node;
  readonly workers: number;
  /** Byte address of a tensor; 0 for an input that is not read. */
  address(t: Tensor): number;
  /** The number among the program's weights of one that lies outside of the memory. */
  outside(t: Tensor): number | undefined;
  /** Byte address of `worker`'s own scratch. */
  scratch(worker: number): number;
  /** Byte address and length of `worker`'s window to what lies outside. */
  window(worker: number): readonly [number, number];
}

type Lowering = (call: LoweringCall) => Command[];

/** A command of less work than this (roughly nanoseconds) is one worker's: sharing it would cost more than it saves. */
const ALONE = 10_000;

/**
 * Splits `units` among the workers, in multiples of `grain`.
 * @param work of one unit, roughly in nanoseconds
 */
function share(
  { workers }: LoweringCall,
  units: number,
  { grain = 1, work }: { grain?: number; work: number },
  call: (start: number, end: number, worker: number) => Command[number],
): Command {
  const grains = Math.ceil(units / grain);
  const used = units * work < ALONE ? 1 : workers;
  const edge = (k: number) => Math.min(units, Math.round(grains * k / used) * grain);
  return Array.from({ length: used }, (_, i) => i).map((worker) => {
    const start = edge(worker), end = edge(worker + 1);
    return start < end ? call(start, end, worker) : undefined;
  });
}

/** Shares of a kernel whose last two arguments are the share. */
function shared(
  call: LoweringCall,
  kernel: KernelCall["kernel"],
  args: readonly number[],
  units: number,
  options: { grain?: number; work: number },
): Command {
  return share(call, units, options, (start, end) => ({ kernel, args: [...args, start, end] }));
}

/** Copies elements of 4 bytes. */
function copy(call: LoweringCall, from: number, to: number, size: number): Command {
  return share(call, size, { grain: 1024, work: 0.2 }, (start, end) => ({
    kernel: "copy",
    args: [from + start * 4, to + start * 4, (end - start) * 4],
  }));
}

const storage: Partial<Record<StorageType, number>> = DTYPE;

const matmul: Lowering = (call) => {
  const { node, address, outside, scratch, window } = call;
  const { M, N, K } = extents(node.inputs, node.attributes as MatmulAttributes);
  const { transposeA, transposeB } = node.attributes as MatmulAttributes;
  const [a, b, addend] = node.inputs as [Tensor, Tensor, Tensor?];
  const out = address(node.outputs[0]!);
  const layout = LAYOUT[`${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`];
  const columns = M <= 64 || N > M;
  const units = columns ? N : M;
  const options = { grain: columns ? 8 : 4, work: M * N * K / units / 20 };
  const index = outside(b);
  // The addend is added after all terms of the product, as in every engine: then a product of zeros changes no bit.
  return [share(call, units, options, (start, end, worker) => {
    const before = [layout, storage[b.dtype]!, address(a), a.width];
    const after = [
      ...[b.width, out, N, M, K, 0, addend ? address(addend) : 0],
      ...(columns ? [0, M, start, end] : [start, end, 0, N]),
      scratch(worker),
    ];
    if (index === undefined) return { kernel: "matmul", args: [...before, address(b), ...after] };
    return { kernel: "matmulOutside", args: [index, ...window(worker), ...before, ...after] };
  })];
};

/** The rows of all blocks, shared as if they were one product's, so that workers wait for each other once. */
const blockMatmul: Lowering = (call) => {
  const { node, address, scratch } = call;
  const attributes = node.attributes as BlockMatmulAttributes;
  const { G, M, N, K, transposeA, transposeB } = attributes;
  const [a, b] = node.inputs as [Tensor, Tensor];
  const strides = blockStrides(attributes);
  const layout = LAYOUT[`${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`];
  const product = (g: number, first: number, last: number, worker: number): KernelCall => {
    const operands = [a, b, node.outputs[0]!].flatMap((t, i) => {
      const width = t.dtype === "f32" ? 4 : 2;
      return [address(t) + g * strides[i]!.block * width, strides[i]!.row];
    });
    return {
      kernel: "matmul",
      args: [layout, storage[b.dtype]!, ...operands, M, K, 0, 0, first, last, 0, N, scratch(worker)],
    };
  };
  const options = { grain: M % 4 ? 1 : 4, work: N * K / 20 };
  return [share(call, G * M, options, (start, end, worker) => {
    const calls: KernelCall[] = [];
    for (let at = start; at < end;) {
      const g = Math.floor(at / M), first = at - g * M, last = Math.min(M, first + end - at);
      calls.push(product(g, first, last, worker));
      at += last - first;
    }
    return calls;
  })];
};

const wkv7: Lowering = (call) => {
  const { node, address, scratch } = call;
  const { T, N } = node.attributes as Wkv7Attributes;
  const { B, H } = wkv7Sizes(node.inputs[0]!, { T, N });
  const streams = node.inputs.slice(0, 6).map(address),
    initial = node.inputs[6] ? address(node.inputs[6]) : 0;
  const [y, states, final, sa] = node.outputs.slice(0, 4).map(address) as [number, number, number, number];
  const pointers = [...streams, initial, y, sa, states, final];
  return [share(call, B * H, { work: T * N * N / 4 }, (start, end, worker) => ({
    kernel: "wkv7Forward",
    args: [...pointers, T, H, N, start, end, scratch(worker)],
  }))];
};

const wkv7Gradient: Lowering = (call) => {
  const { node, address, scratch } = call;
  const { T, N } = node.attributes as Wkv7Attributes;
  const [states, dy, sa] = node.inputs.slice(6, 9).map(address) as [number, number, number];
  const [dV, dColumns, dInitial] = node.outputs as [Tensor, Tensor, Tensor];
  const { B, H } = wkv7Sizes(node.inputs[0]!, { T, N });
  const [dR, dW, dK, dA, dB] = [0, 1, 2, 3, 4].map((i) => address(dColumns) + i * dV.size * 4);
  const pointers = [
    ...node.inputs.slice(0, 6).map(address),
    ...[sa, states, dy, node.inputs[9] ? address(node.inputs[9]) : 0],
    ...[dR!, dW!, dK!, address(dV), dA!, dB!, address(dInitial)],
  ];
  return [share(call, B * H, { work: T * N * N }, (start, end, worker) => ({
    kernel: "wkv7Backward",
    args: [...pointers, T, H, N, start, end, scratch(worker)],
  }))];
};

const map: Lowering = (call) => {
  const { node, address } = call;
  const { shape, results } = node.attributes as MapAttributes;
  if (node.outputs.some(({ dtype }) => dtype !== "f32")) {
    throw new EngineError("map writes f32 on a processor");
  }
  const size = sizeOf(shape);
  const line = straightLine(results);
  const inputs = node.inputs.map((t) => ({
    ...broadcast(t.shape, shape)!,
    dtype: t.dtype as keyof typeof DTYPE,
  }));
  const module = emitMap({ ...line, inputs, size });
  const addresses = [...node.inputs, ...node.outputs].map(address);
  return [share(call, size, { grain: 64, work: 0.3 + line.steps.length * 0.2 }, (start, end) => ({
    kernel: module,
    args: [start, end, ...addresses],
  }))];
};

const norm: Lowering = (call) => {
  const { node, address } = call;
  const { groups, eps } = node.attributes as { groups: number; eps: number };
  const C = node.inputs[0]!.width, units = node.inputs[0]!.rows * groups;
  const pointers = [...node.inputs, ...node.outputs].map(address);
  return [shared(call, "norm", [...pointers, C, groups, eps], units, { work: C / groups })];
};

const normGradient: Lowering = (call) => {
  const { node, address } = call;
  const { groups } = node.attributes as { groups: number };
  const C = node.inputs[0]!.width, units = node.inputs[0]!.rows * groups;
  const pointers = [...node.inputs, ...node.outputs].map(address);
  return [shared(call, "normGradient", [...pointers, C, groups], units, { work: C / groups })];
};

const crossEntropy: Lowering = (call) => {
  const { node, address } = call;
  const { l2 } = node.attributes as { l2: number };
  const { rows, width: V } = node.inputs[0]!;
  const pointers = [...node.inputs, ...node.outputs].map(address);
  return [shared(call, "crossEntropy", [...pointers, V, l2], rows, { work: 4 * V })];
};

const adamW: Lowering = (call) => {
  const { node, address } = call;
  const { rate, decay } = node.attributes as { rate: number; decay: number };
  const args = [...node.inputs.map(address), rate, decay];
  return [shared(call, "adamW", args, node.inputs[0]!.size, { grain: 64, work: 2 })];
};

const sumOfSquares: Lowering = (call) => {
  const { node, address } = call;
  const [x, out, parts] = [node.inputs[0]!, ...node.outputs] as [Tensor, Tensor, Tensor];
  return [
    shared(call, "sumOfSquares", [address(x), x.size, address(parts)], parts.size, { work: SUM_PART / 4 }),
    shared(call, "reduceGroups", [address(parts), address(out), parts.size], 1, { work: parts.size }),
  ];
};

const reduceGroups: Lowering = (call) => {
  const { node, address } = call;
  const x = node.inputs[0]!, out = node.outputs[0]!, group = x.size / out.size;
  return [shared(call, "reduceGroups", [address(x), address(out), group], out.size, { work: group / 4 })];
};

const reduceRows: Lowering = (call) => {
  const { node, address } = call;
  const x = node.inputs[0]!, width = node.outputs[0]!.size, rows = x.size / width;
  const args = [address(x), address(node.outputs[0]!), rows, width];
  return [shared(call, "reduceRows", args, width, { grain: 16, work: rows / 4 })];
};

const update: Lowering = (call) => {
  const { node, address } = call;
  const { add, starts } = node.attributes as UpdateAttributes;
  const [variable, ...values] = node.inputs as [Tensor, ...Tensor[]];
  return values.map((value, k) => {
    const [from, to] = [address(value), address(variable) + starts[k]! * 4];
    if (!add) return copy(call, from, to, value.size);
    return shared(call, "accumulate", [from, to], value.size, { grain: 64, work: 0.3 });
  });
};

const tokenShift: Lowering = (call) => {
  const { node, address } = call;
  const { T, mixes } = node.attributes as { T: number; mixes: number };
  const x = node.inputs[0]!, carried = node.inputs[mixes + 1];
  return node.outputs.map((out, i) => {
    const args = [
      address(x),
      address(node.inputs[i + 1]!),
      carried ? address(carried) : 0,
      address(out),
      T,
      x.width,
    ];
    return shared(call, "tokenShift", args, x.rows, { work: x.width / 2 });
  });
};

const tokenShiftGradient: Lowering = (call) => {
  const { node, address } = call;
  const { T, mixes } = node.attributes as { T: number; mixes: number };
  const dx = node.outputs[0]!;
  return Array.from({ length: mixes }, (_, i) => {
    const args = [
      address(node.inputs[i]!),
      address(node.inputs[mixes + i]!),
      address(dx),
      T,
      dx.width,
      i ? 1 : 0,
    ];
    return shared(call, "tokenShiftGradient", args, dx.rows, { work: dx.width / 2 });
  });
};

const previousRow: Lowering = (call) => {
  const { node, address } = call;
  const { T } = node.attributes as { T: number };
  const [x, carried] = node.inputs as [Tensor, Tensor?];
  const args = [address(x), carried ? address(carried) : 0, address(node.outputs[0]!), T, x.width];
  return [shared(call, "previousRow", args, x.rows, { work: x.width / 4 })];
};

const fold: Lowering = (call) => {
  const { node, address } = call;
  const x = node.inputs[0]!, out = node.outputs[0]!;
  return [
    shared(call, node.op.name as "fold" | "tile", [address(x), address(out), x.width, out.width], x.rows, {
      work: Math.max(x.width, out.width) / 4,
    }),
  ];
};

const sliceRows: Lowering = (call) => {
  const { node, address } = call;
  const { first } = node.attributes as { first: number };
  const out = node.outputs[0]!;
  return [copy(call, address(node.inputs[0]!) + first * out.width * 4, address(out), out.size)];
};

const concatRows: Lowering = (call) => {
  const { node, address } = call;
  let at = address(node.outputs[0]!);
  return node.inputs.map((t) => {
    const command = copy(call, address(t), at, t.size);
    at += t.size * 4;
    return command;
  });
};

const concatRowsGradient: Lowering = (call) => {
  const { node, address } = call;
  let at = address(node.inputs[0]!);
  return node.outputs.map((t) => {
    const command = copy(call, at, address(t), t.size);
    at += t.size * 4;
    return command;
  });
};

const dropout: Lowering = (call) => {
  const { node, address } = call;
  const { share: dropped, salt } = node.attributes as DropoutAttributes;
  const module = emitDropout({ salt, threshold: dropThreshold(dropped), scale: 1 / (1 - dropped) });
  const addresses = [...node.inputs, ...node.outputs].map(address);
  return [share(call, node.outputs[0]!.size, { grain: 64, work: 3 }, (start, end) => ({
    kernel: module,
    args: [start, end, ...addresses],
  }))];
};

const embedding: Lowering = (call) => {
  const { node, address, outside, window } = call;
  const [table, ids] = node.inputs as [Tensor, Tensor];
  const args = [storage[table.dtype]!, address(ids), address(node.outputs[0]!), table.rows, table.width];
  const index = outside(table);
  return [
    share(
      call,
      ids.size,
      { work: table.width },
      (start, end, worker) =>
        index === undefined
          ? { kernel: "embedding", args: [address(table), ...args, start, end] }
          : { kernel: "embeddingOutside", args: [index, window(worker)[0], ...args, start, end] },
    ),
  ];
};

const addTile: Lowering = (call) => {
  const { node, address, outside, window } = call;
  const [w, d] = node.inputs as [Tensor, Tensor];
  if (node.outputs[0]!.dtype !== "f32") throw new EngineError("addTile writes f32 on a processor");
  const width = w.dtype === "f32" ? 4 : 2, index = outside(w);
  const args = [storage[w.dtype]!, address(d), address(node.outputs[0]!), w.width, d.rows, w.rows];
  return [
    share(
      call,
      w.rows,
      { work: w.width },
      (start, end, worker) =>
        index === undefined
          ? { kernel: "addTile", args: [address(w) + start * w.width * width, ...args, start, end] }
          : { kernel: "addTileOutside", args: [index, ...window(worker), ...args, start, end] },
    ),
  ];
};

const embeddingGradient: Lowering = (call) => {
  const { node, address } = call;
  const { V } = node.attributes as { V: number };
  const [ids, d] = node.inputs as [Tensor, Tensor];
  const args = [address(ids), address(d), address(node.outputs[0]!), d.rows, d.width];
  return [shared(call, "embeddingGradient", args, V, { work: d.size / V + d.width })];
};

const precomputed: Lowering = (call) => {
  const { node, address } = call;
  return [copy(call, address(node.inputs[0]!), address(node.outputs[0]!), 1)];
};

/** How every op runs, by name. */
export const LOWERINGS: Readonly<Record<string, Lowering>> = {
  adamW,
  addTile,
  blockMatmul,
  concatRows,
  concatRowsGradient,
  crossEntropy,
  dropout,
  embedding,
  embeddingGradient,
  fold,
  map,
  matmul,
  norm,
  normGradient,
  precomputed,
  previousRow,
  reduceGroups,
  reduceRows,
  sliceRows,
  sumOfSquares,
  tile: fold,
  tokenShift,
  tokenShiftGradient,
  update,
  wkv7,
  wkv7Gradient,
};

/** Bytes of scratch that each worker needs for a program's nodes. */
export function scratchBytes(nodes: readonly Node[], kernels: WasmKernels): number {
  const headSizes = nodes.filter((node) => node.op.name.startsWith("wkv7")).map((node) =>
    kernels.wkv7ScratchBytes((node.attributes as Wkv7Attributes).N)
  );
  return Math.max(kernels.matmulScratchBytes(), ...headSizes);
}
