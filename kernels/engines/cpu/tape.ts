/**
 * A tape: the kernel calls of a program as numbers in shared memory, so that posting one to the workers is posting an offset.
 *
 * @module
 */
import type { Command, KernelCall } from "./lowering.ts";
import { MemoryView } from "./memory_view.ts";
import { OUTSIDE_KERNEL_NAMES, outsideKernels } from "./outside.ts";
import { loadMap } from "./wasm/emit.ts";
import type { WasmKernels } from "./wasm/load.ts";

/** What workers can call: kernels of the module, a plain copy (from, to, bytes), and kernels on weights outside of the memory. */
export const KERNEL_NAMES = [
  "accumulate",
  "adamW",
  "addTile",
  "copy",
  "crossEntropy",
  "embedding",
  "embeddingGradient",
  "fold",
  "matmul",
  "norm",
  "normGradient",
  "previousRow",
  "reduceGroups",
  "reduceRows",
  "sumOfSquares",
  "tile",
  "tokenShift",
  "tokenShiftGradient",
  "wkv7Backward",
  "wkv7Forward",
  ...OUTSIDE_KERNEL_NAMES,
] as const;

/** Name of one of them. */
export type KernelName = typeof KERNEL_NAMES[number];

/**
 * Commands, each for each worker the number of words of its calls and then the calls, [kernel, number of arguments, arguments…];
 * kernels past the named ones are the tape's maps.
 */
export interface Tape {
  readonly words: Float64Array<SharedArrayBuffer>;
  readonly maps: readonly WebAssembly.Module[];
  /** Weights outside of the memory, which calls name by index. */
  readonly weights: readonly SharedArrayBuffer[];
}

/** Compiles maps; equal ones once. */
export class MapCompiler {
  readonly #modules = new Map<string, WebAssembly.Module>();

  /** The module of an emitted map. */
  module(bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module {
    const key = bytes.toBase64();
    let module = this.#modules.get(key);
    if (!module) this.#modules.set(key, module = new WebAssembly.Module(bytes));
    return module;
  }
}

/** Writes commands for a number of workers. @returns the tape, and where each command starts */
export function writeTape(
  commands: readonly Command[],
  workers: number,
  compiler: MapCompiler,
  weights: readonly SharedArrayBuffer[],
): { tape: Tape; offsets: number[] } {
  const numbers: number[] = [];
  const maps = new Map<WebAssembly.Module, number>();
  const numberOf = (kernel: KernelCall["kernel"]) => {
    if (typeof kernel === "string") return KERNEL_NAMES.indexOf(kernel);
    const module = compiler.module(kernel);
    if (!maps.has(module)) maps.set(module, KERNEL_NAMES.length + maps.size);
    return maps.get(module)!;
  };
  const offsets = commands.map((command) => {
    const offset = numbers.length;
    for (let worker = 0; worker < workers; worker++) {
      const calls = [command[worker] ?? []].flat() as KernelCall[];
      numbers.push(calls.reduce((words, { args }) => words + 2 + args.length, 0));
      for (const { kernel, args } of calls) numbers.push(numberOf(kernel), args.length, ...args);
    }
    return offset;
  });
  const words = new Float64Array(new SharedArrayBuffer(numbers.length * 8));
  words.set(numbers);
  return { tape: { words, maps: [...maps.keys()], weights }, offsets };
}

/** Links a tape to a worker's kernels. @returns what does worker `worker`'s share of the command at an offset */
export function linkTape(
  { words, maps, weights }: Tape,
  memory: WebAssembly.Memory,
  kernels: WasmKernels,
  worker: number,
): (offset: number) => void {
  const view = new MemoryView(memory);
  const copy = (from: number, to: number, bytes: number) => {
    view.bytes(Math.max(from, to) + bytes).copyWithin(to, from, from + bytes);
  };
  const own = { ...kernels, copy, ...outsideKernels(view, kernels, weights) };
  const table = [
    ...KERNEL_NAMES.map((name) => own[name]),
    ...maps.map((module) => loadMap(module, memory, kernels)),
  ] as ((...args: number[]) => void)[];
  return (offset) => {
    let at = offset;
    for (let i = 0; i < worker; i++) at += 1 + words[at]!;
    const end = at + 1 + words[at]!;
    for (at += 1; at < end; at += 2 + words[at + 1]!) {
      table[words[at]!]!(...words.subarray(at + 2, at + 2 + words[at + 1]!));
    }
  };
}
