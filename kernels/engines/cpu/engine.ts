/**
 * The cpu engine: variables and values lie in one shared WebAssembly memory, and every op runs as SIMD kernels on all workers.
 *
 * @module
 */
import { type Engine, EngineError, type Executable, home } from "../../engine.ts";
import { bytesOf, type Tensor, type Variable } from "../../graph.ts";
import type { Program } from "../../plan.ts";
import { Allocator, MAXIMUM_BYTES, MAXIMUM_PAGES } from "./allocator.ts";
import { LOWERINGS, scratchBytes } from "./lowering.ts";
import { Pool } from "./pool.ts";
import { linkTape, MapCompiler, writeTape } from "./tape.ts";
import { loadKernels, type WasmKernels } from "./wasm/load.ts";

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
  #scratch: { bytes: number; at: number[] } = { bytes: 0, at: [] };

  /** @param options.workers number of threads, the caller's counted; default all cores */
  constructor(options: { workers?: number } = {}) {
    const workers = options.workers ?? navigator.hardwareConcurrency;
    const { kernels, variant } = loadKernels(this.#memory);
    this.#kernels = kernels;
    this.#pool = new Pool(workers, this.#memory);
    const simd = variant === "relaxed" ? "SIMD with fused multiply-add" : "SIMD";
    this.description = `the processor, ${workers} ${
      workers === 1 ? "thread" : "threads"
    }, WebAssembly ${simd}`;
  }

  readonly limitBytes = MAXIMUM_BYTES;
  /** A map of more would hardly find registers for what it reads. */
  readonly operands = 32;

  get allocatedBytes(): number {
    return this.#allocator.usedBytes;
  }

  allocate(variable: Variable, content?: ArrayBufferView): void {
    if (variable.within) throw new EngineError(`Cannot allocate ${variable.name}: its pack holds it`);
    this.#variables.set(variable, this.#allocator.allocate(bytesOf(variable), variable.name));
    this.#bytes(variable).fill(0);
    if (content) this.write(variable, content);
  }

  #address(variable: Variable): number {
    const { owner, byteOffset } = home(variable);
    const at = this.#variables.get(owner);
    if (at === undefined) throw new EngineError(`Cannot use ${variable.name}: it was not allocated`);
    return at + byteOffset;
  }

  #bytes(variable: Variable): Uint8Array {
    return new Uint8Array(this.#memory.buffer, this.#address(variable), bytesOf(variable));
  }

  write(variable: Variable, content: ArrayBufferView): void {
    this.#bytes(variable).set(new Uint8Array(content.buffer, content.byteOffset, content.byteLength));
  }

  read(variable: Variable): Promise<Float32Array> {
    return Promise.resolve(new Float32Array(this.#bytes(variable).slice().buffer));
  }

  free(variable: Variable): void {
    const at = this.#variables.get(variable);
    if (at === undefined) return;
    this.#allocator.free(at);
    this.#variables.delete(variable);
  }

  async load(program: Program): Promise<Executable> {
    const slots: number[] = [];
    const dispose = () => slots.forEach((at) => this.#allocator.free(at));
    try {
      program.slots.forEach((bytes, i) =>
        slots.push(this.#allocator.allocate(bytes, `the values of a program (slot ${i})`))
      );
      this.#reserveScratch(scratchBytes(program.nodes, this.#kernels));
    } catch (error) {
      dispose();
      throw error;
    }
    const address = (t: Tensor) => {
      if (t.variable) return this.#address(t.variable);
      const slot = program.placement.get(t);
      return slot === undefined ? 0 : slots[slot]!;
    };
    const scratch = (worker: number) => this.#scratch.at[worker]!;
    const commands = program.nodes.flatMap((node) => {
      const lowering = LOWERINGS[node.op.name];
      if (!lowering) throw new EngineError(`The cpu engine cannot run ${node.op.name}`);
      return lowering({ node, workers: this.#pool.size, address, scratch });
    });
    const { tape, offsets } = writeTape(commands, this.#pool.size, this.#compiler);
    const play = linkTape(tape, this.#memory, this.#kernels, 0);
    const id = await this.#pool.load(tape);
    const steps = commands.map((command, i) => ({
      offset: offsets[i]!,
      shared: command.slice(1).some((call) => call),
    }));
    const run = () => {
      for (const { offset, shared } of steps) {
        if (shared) this.#pool.post(id, offset);
        play(offset);
        if (shared) this.#pool.join();
      }
    };
    const drop = () => (this.#pool.drop(id), dispose());
    return { run, dispose: drop, [Symbol.dispose]: drop };
  }

  /** Scratch of every worker, never smaller than what an earlier program was given. */
  #reserveScratch(bytes: number): void {
    if (bytes <= this.#scratch.bytes) return;
    const at = Array.from(
      { length: this.#pool.size },
      () => this.#allocator.allocate(bytes, "the workers' scratch"),
    );
    this.#scratch = { bytes, at };
  }

  settle(): Promise<void> {
    return Promise.resolve();
  }

  dispose(): void {
    this.#pool.dispose();
    this.#variables.clear();
  }
}
