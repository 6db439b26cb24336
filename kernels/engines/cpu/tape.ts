/**
 * A tape: the kernel calls of a program as numbers in shared memory, so that posting one to the workers is posting an offset.
 *
 * @module
 */
import { KERNEL_NAMES, type KernelCall } from "./lowering.ts";
import type { WasmKernels } from "./wasm/load.ts";

/** Where each command starts; a command is, for each worker, [kernel, number of arguments, arguments…], kernel −1 for none. */
export interface Tape {
  readonly words: Float64Array<SharedArrayBuffer>;
  readonly offsets: readonly number[];
}

/** Writes commands, each a list of calls by worker. */
export function writeTape(commands: readonly (readonly (KernelCall | undefined)[])[]): Tape {
  const numbers: number[] = [];
  const offsets = commands.map((calls) => {
    const offset = numbers.length;
    for (const call of calls) {
      if (call) numbers.push(KERNEL_NAMES.indexOf(call.kernel), call.args.length, ...call.args);
      else numbers.push(-1, 0);
    }
    return offset;
  });
  const words = new Float64Array(new SharedArrayBuffer(numbers.length * 8));
  words.set(numbers);
  return { words, offsets };
}

/** Gives the function that does worker `worker`'s share of the command at an offset of a tape. */
export function player(
  memory: WebAssembly.Memory,
  kernels: WasmKernels,
  worker: number,
): (words: Float64Array, offset: number) => void {
  const copy = (from: number, to: number, bytes: number) =>
    new Uint8Array(memory.buffer).copyWithin(to, from, from + bytes);
  const table = KERNEL_NAMES.map((name) => name === "copy" ? copy : kernels[name]) as ((...args: number[]) => void)[];
  return (words, offset) => {
    let at = offset;
    for (let i = 0; i < worker; i++) at += 2 + words[at + 1]!;
    const kernel = words[at]!, count = words[at + 1]!;
    if (kernel >= 0) table[kernel]!(...words.subarray(at + 2, at + 2 + count));
  };
}
