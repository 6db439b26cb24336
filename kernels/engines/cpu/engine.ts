/**
 * The cpu engine: variables and values lie in one shared WebAssembly memory, and every op runs as SIMD kernels on all workers.
 *
 * @module
 */
import { type Engine, EngineError, type Executable, home } from "../../engine.ts";
import { bytesOf, type StorageType, type Tensor, type Variable } from "../../graph.ts";
import type { Program } from "../../plan.ts";
import { viewOf } from "../../views.ts";
import { aligned, Allocator, MAXIMUM_BYTES, MAXIMUM_PAGES } from "./allocator.ts";
import { type Command, LOWERINGS, scratchBytes } from "./lowering.ts";
import { leastWindow, WINDOW_BYTES } from "./outside.ts";
import { Pool } from "./pool.ts";
import { linkTape, MapCompiler, writeTape } from "./tape.ts";
import { loadKernels, type WasmKernels } from "./wasm/load.ts";

/**
 * Bytes of 16-bit weights that lie in the WebAssembly memory, where they are read in place; the rest of its 4 GiB is for values,
 * adapter and optimizer.
 */
const WEIGHTS_INSIDE = 2 ** 30;

/** Whether a storage is one of 16 bits, which no op writes. */
function isPacked(dtype: StorageType): boolean {
  return dtype === "bf16" || dtype === "f16";
}

/** Memory of the machine, where the program may know it. */
function machineBytes(): number | undefined {
  const name = { name: "sys", kind: "systemMemoryInfo" } as const;
  return Deno.permissions.querySync(name).state === "granted" ? Deno.systemMemoryInfo().total : undefined;
}

/** Runs programs on the processor. */
export class CpuEngine implements Engine {
  readonly name = "cpu";
  readonly description: string;
  readonly #memory = new WebAssembly.Memory({ initial: 16, maximum: MAXIMUM_PAGES, shared: true });
  readonly #allocator = new Allocator(this.#memory);
  readonly #kernels: WasmKernels;
  readonly #pool: Pool;
  readonly #compiler = new MapCompiler();
  readonly #variables = new Map<Variable, number>();
  /** Weights that lie outside of the memory. */
  readonly #outside = new Map<Variable, SharedArrayBuffer>();
  readonly #options: { readonly weightsInside: number; readonly windowBytes: number };
  #weightBytesInside = 0;
  #scratch: { bytes: number; at: number[] } = { bytes: 0, at: [] };

  /**
   * @param options.workers number of threads, the caller's counted; default all cores
   * @param options.weightsInside bytes of 16-bit weights that may lie in the WebAssembly memory; the others lie outside
   * @param options.windowBytes bytes of a worker's window to what lies outside
   */
  constructor(options: { workers?: number; weightsInside?: number; windowBytes?: number } = {}) {
    this.#options = { weightsInside: WEIGHTS_INSIDE, windowBytes: WINDOW_BYTES, ...options };
    const workers = options.workers ?? navigator.hardwareConcurrency;
    const { kernels, variant } = loadKernels(this.#memory);
    this.#kernels = kernels;
    this.#pool = new Pool(workers, this.#memory);
    const simd = variant === "relaxed" ? "SIMD with fused multiply-add" : "SIMD";
    this.description = `the processor, ${workers} ${
      workers === 1 ? "thread" : "threads"
    }, WebAssembly ${simd}`;
  }

  /** A map of more would hardly find registers for what it reads. */
  readonly operands = 32;
  readonly scratch = false;
  readonly joinsFolds = "f32";
  readonly keeps = "f32";

  get allocatedBytes(): number {
    const outside = this.#outside.values().reduce((sum, { byteLength }) => sum + byteLength, 0);
    return this.#allocator.usedBytes + outside;
  }

  room(dtype: StorageType): number {
    const left = (machineBytes() ?? Infinity) - this.allocatedBytes;
    if (isPacked(dtype)) return left;
    // What the first program will have the threads given.
    const scratch = scratchBytes([], this.#kernels) + (this.#outside.size ? this.#options.windowBytes : 0);
    const toCome = this.#pool.size * Math.max(0, scratch - this.#scratch.bytes);
    return Math.min(left, MAXIMUM_BYTES - this.#allocator.usedBytes) - toCome;
  }

  allocate(variable: Variable, content?: ArrayBufferView): void {
    if (variable.within) throw new EngineError(`Cannot allocate ${variable.name}: its pack holds it`);
    const bytes = bytesOf(variable);
    if (isPacked(variable.dtype) && this.#weightBytesInside + bytes > this.#options.weightsInside) {
      this.#outside.set(variable, new SharedArrayBuffer(bytes));
    } else {
      this.#place(variable);
    }
    if (content) this.write(variable, content);
  }

  /** Gives a variable a place in the memory. @returns its bytes, all 0 */
  #place(variable: Variable): Uint8Array {
    this.#variables.set(variable, this.#allocator.allocateZeros(bytesOf(variable), variable.name));
    if (isPacked(variable.dtype)) this.#weightBytesInside += bytesOf(variable);
    return this.#bytes(variable);
  }

  #address(variable: Variable): number {
    const { owner, byteOffset } = home(variable);
    const outside = this.#outside.get(owner);
    // An op that cannot read it there; nothing but `write` changes it, so there may be two of it.
    if (outside && !this.#variables.has(owner)) this.#place(owner).set(new Uint8Array(outside));
    const at = this.#variables.get(owner);
    if (at === undefined) throw new EngineError(`Cannot use ${variable.name}: it was not allocated`);
    return at + byteOffset;
  }

  #bytes(variable: Variable): Uint8Array {
    return new Uint8Array(this.#memory.buffer, this.#address(variable), bytesOf(variable));
  }

  write(variable: Variable, content: ArrayBufferView): void {
    const bytes = new Uint8Array(content.buffer, content.byteOffset, content.byteLength);
    const outside = this.#outside.get(variable);
    if (outside) new Uint8Array(outside).set(bytes);
    if (!outside || this.#variables.has(variable)) this.#bytes(variable).set(bytes);
  }

  read(variable: Variable): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(this.#bytes(variable).slice().buffer));
  }

  free(variable: Variable): void {
    this.#outside.delete(variable);
    const at = this.#variables.get(variable);
    if (at === undefined) return;
    this.#allocator.free(at);
    this.#variables.delete(variable);
    if (isPacked(variable.dtype)) this.#weightBytesInside -= bytesOf(variable);
  }

  async load(program: Program): Promise<Executable> {
    let workspace: number | undefined, id: number | undefined;
    const dispose = () => {
      if (id !== undefined) this.#pool.drop(id);
      id = undefined;
      // Once: what was freed may be another program's by now.
      if (workspace !== undefined) this.#allocator.free(workspace);
      workspace = undefined;
    };
    try {
      // One piece, as each time that the memory grows all threads are interrupted.
      let end = 0;
      const starts = program.slots.map((bytes) => (end += aligned(bytes)) - aligned(bytes));
      workspace = this.#allocator.allocate(end, "the values of a program");
      const slots = starts.map((start) => workspace! + start);
      const { commands, weights } = this.#lower(program, slots);
      const { tape, offsets } = writeTape(commands, this.#pool.size, this.#compiler, weights);
      const play = linkTape(tape, this.#memory, this.#kernels, 0);
      id = await this.#pool.load(tape);
      const steps = commands.map((command, i) => ({
        offset: offsets[i]!,
        shared: command.slice(1).some((call) => call),
      }));
      const run = () => {
        if (id === undefined) throw new EngineError("Cannot run a program that was disposed of");
        for (const { offset, shared } of steps) {
          if (shared) this.#pool.post(id, offset);
          try {
            play(offset);
          } finally {
            // Also after a failure: the next command must not be posted to workers that are still at this one.
            if (shared) this.#pool.join();
          }
        }
      };
      return { run, dispose, [Symbol.dispose]: dispose };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  /** @returns the commands of a program whose values lie in `slots`, and the weights outside that they name by index */
  #lower(program: Program, slots: readonly number[]): { commands: Command[]; weights: SharedArrayBuffer[] } {
    const weights = [...program.variables].filter((variable) => this.#outside.has(variable));
    const windowAt = aligned(scratchBytes(program.nodes, this.#kernels));
    const windowBytes = Math.max(this.#options.windowBytes, ...weights.map(leastWindow));
    this.#reserveScratch(windowAt + (weights.length ? windowBytes : 0));
    const address = (t: Tensor) => {
      const { of, byteOffset } = viewOf(program.views, t);
      if (of.variable) return this.#address(of.variable) + byteOffset;
      const place = program.placement.get(of);
      return place ? slots[place.slot]! + place.byteOffset + byteOffset : 0;
    };
    const outside = ({ variable }: Tensor) => {
      const index = variable ? weights.indexOf(variable) : -1;
      return index < 0 ? undefined : index;
    };
    const scratch = (worker: number) => this.#scratch.at[worker]!;
    const window = (worker: number) => [scratch(worker) + windowAt, windowBytes] as const;
    const commands = program.nodes.flatMap((node) => {
      const lowering = LOWERINGS[node.op.name];
      if (!lowering) throw new EngineError(`The cpu engine cannot run ${node.op.name}`);
      return lowering({ node, workers: this.#pool.size, address, outside, scratch, window });
    });
    return { commands, weights: weights.map((variable) => this.#outside.get(variable)!) };
  }

  /** Scratch of every worker, never smaller than what an earlier program was given. */
  #reserveScratch(bytes: number): void {
    if (bytes <= this.#scratch.bytes) return;
    // One piece, so that either every worker has its own or none has.
    const each = aligned(bytes);
    const first = this.#allocator.allocate(each * this.#pool.size, "the workers' scratch");
    this.#scratch = { bytes, at: Array.from({ length: this.#pool.size }, (_, i) => first + i * each) };
  }

  settle(): Promise<void> {
    return Promise.resolve();
  }

  dispose(): void {
    this.#pool.dispose();
    this.#variables.clear();
    this.#outside.clear();
  }
}
