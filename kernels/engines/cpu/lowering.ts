/**
 * Which ops run as WebAssembly, and with which arguments each worker calls the kernel.
 *
 * @module
 */
import type { Node, StorageType, Tensor } from "../../graph.ts";
import { extents, type MatmulAttributes } from "../../ops/matmul/op.ts";
import { type Wkv7Attributes, wkv7Sizes } from "../../ops/wkv7/op.ts";
import { DTYPE, LAYOUT, type WasmKernels } from "./wasm/load.ts";

/** What workers can call: kernels of the module, and a plain copy (from, to, bytes). */
export const KERNEL_NAMES = ["copy", "matmul", "wkv7Forward", "wkv7Backward"] as const;

/** Name of one of them. */
export type KernelName = typeof KERNEL_NAMES[number];

/** One kernel call of one worker. */
export interface KernelCall {
  readonly kernel: KernelName;
  readonly args: readonly number[];
}

/** What a lowering is given. */
export interface LoweringCall {
  readonly node: Node;
  readonly workers: number;
  /** Byte address of a tensor. */
  address(t: Tensor): number;
  /** Byte address of `worker`'s own scratch. */
  scratch(worker: number): number;
}

/** Calls in order, each a list by worker; a worker without work has none. */
type Lowering = (call: LoweringCall) => (KernelCall | undefined)[][];

/** Equal shares of `units` in multiples of `grain`, one for each worker. */
function shares(units: number, grain: number, workers: number): [number, number][] {
  const grains = Math.ceil(units / grain);
  return Array.from({ length: workers }, (_, i) => {
    const edge = (k: number) => Math.min(units, Math.round(grains * k / workers) * grain);
    return [edge(i), edge(i + 1)];
  });
}

function each(
  units: number,
  grain: number,
  workers: number,
  call: (start: number, end: number, worker: number) => KernelCall,
): (KernelCall | undefined)[] {
  return shares(units, grain, workers).map(([start, end], worker) => start < end ? call(start, end, worker) : undefined);
}

/** A product of fewer multiplications than this is one worker's: sharing it would cost more than it saves. */
const ALONE = 1 << 16;

const storage: Partial<Record<StorageType, number>> = DTYPE;

const matmul: Lowering = ({ node, workers, address, scratch }) => {
  const { M, N, K } = extents(node.inputs, node.attributes as MatmulAttributes);
  const { transposeA, transposeB } = node.attributes as MatmulAttributes;
  const [a, b, addend] = node.inputs as [Tensor, Tensor, Tensor?];
  const out = node.outputs[0]!;
  const layout = LAYOUT[`${transposeA ? "T" : "N"}${transposeB ? "T" : "N"}`];
  const calls: (KernelCall | undefined)[][] = [];
  const used = M * N * K < ALONE ? 1 : workers;
  if (addend) {
    calls.push(each(M * N, 1024, used, (start, end) => ({
      kernel: "copy",
      args: [address(addend) + start * 4, address(out) + start * 4, (end - start) * 4],
    })));
  }
  const byColumns = M <= 64 || N > M;
  calls.push(each(byColumns ? N : M, byColumns ? 8 : 64, used, (start, end, worker) => ({
    kernel: "matmul",
    args: [
      layout,
      storage[b.dtype]!,
      address(a),
      a.width,
      address(b),
      b.width,
      address(out),
      N,
      M,
      K,
      addend ? 1 : 0,
      ...(byColumns ? [0, M, start, end] : [start, end, 0, N]),
      scratch(worker),
    ],
  })));
  return calls;
};

/** Addresses of the six stacked streams. */
function streams(stacked: Tensor, at: number): number[] {
  return [0, 1, 2, 3, 4, 5].map((i) => at + i * stacked.size / 6 * 4);
}

const wkv7: Lowering = ({ node, workers, address, scratch }) => {
  const attributes = node.attributes as Wkv7Attributes;
  const [stacked, initial] = node.inputs as [Tensor, Tensor];
  const { B, H } = wkv7Sizes(stacked, attributes);
  return [each(B * H, 1, workers, (start, end, worker) => ({
    kernel: "wkv7Forward",
    args: [
      ...streams(stacked, address(stacked)),
      address(initial),
      ...node.outputs.map(address),
      attributes.T,
      H,
      attributes.N,
      start,
      end,
      scratch(worker),
    ],
  }))];
};

const wkv7Gradient: Lowering = ({ node, workers, address, scratch }) => {
  const attributes = node.attributes as Wkv7Attributes;
  const [stacked, ...others] = node.inputs as [Tensor, Tensor, Tensor, Tensor];
  const [dStreams, dInitial] = node.outputs as [Tensor, Tensor];
  const { B, H } = wkv7Sizes(stacked, attributes);
  return [each(B * H, 1, workers, (start, end, worker) => ({
    kernel: "wkv7Backward",
    args: [
      ...streams(stacked, address(stacked)),
      ...others.map(address),
      ...streams(dStreams, address(dStreams)),
      address(dInitial),
      attributes.T,
      H,
      attributes.N,
      start,
      end,
      scratch(worker),
    ],
  }))];
};

/** The ops that run as WebAssembly, by name. */
export const LOWERINGS: Readonly<Record<string, Lowering>> = { matmul, wkv7, wkv7Gradient };

/** Bytes of scratch that each worker needs for a program's nodes. */
export function scratchBytes(nodes: readonly Node[], kernels: WasmKernels): number {
  const headSizes = nodes.filter((node) => node.op.name.startsWith("wkv7")).map((node) =>
    kernels.wkv7ScratchBytes((node.attributes as Wkv7Attributes).N)
  );
  return Math.max(kernels.matmulScratchBytes(), ...headSizes);
}
