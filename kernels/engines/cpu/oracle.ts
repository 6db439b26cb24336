/**
 * The oracle: every op's plain TypeScript, in float64 by default. Slow and simple; the engines are measured against it.
 *
 * @module
 */
import { type Engine, EngineError, type Executable, home } from "../../engine.ts";
import { bytesOf, sizeOf, type StorageType, type Tensor, type Variable } from "../../graph.ts";
import type { NumberArray } from "../../op.ts";
import { LEAST_OPERANDS, type Program } from "../../plan.ts";

/** Runs programs in plain TypeScript. */
export class Oracle implements Engine {
  readonly name = "cpu";
  readonly description: string;
  readonly #variables = new Map<Variable, NumberArray>();
  #allocatedBytes = 0;

  /** @param precision 64 for float64 everywhere, 32 for float32 memory */
  constructor(readonly precision: 32 | 64 = 64) {
    this.description = `plain TypeScript, float${precision}`;
  }

  room(_dtype?: StorageType): number {
    return Infinity;
  }

  readonly operands = LEAST_OPERANDS;
  readonly scratch = false;

  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  #array(length: number, dtype: StorageType): NumberArray {
    if (dtype === "i32") return new Int32Array(length);
    if (dtype !== "f32") return new Uint16Array(length);
    return this.precision === 64 ? new Float64Array(length) : new Float32Array(length);
  }

  allocate(variable: Variable, content?: ArrayBufferView): void {
    if (variable.within) throw new EngineError(`Cannot allocate ${variable.name}: its pack holds it`);
    this.#variables.set(variable, this.#array(sizeOf(variable.shape), variable.dtype));
    this.#allocatedBytes += bytesOf(variable);
    if (content) this.write(variable, content);
  }

  #view(variable: Variable): NumberArray {
    const { owner, byteOffset } = home(variable);
    const memory = this.#variables.get(owner);
    if (!memory) throw new EngineError(`Cannot use ${variable.name}: it was not allocated`);
    return memory.subarray(byteOffset / 4, byteOffset / 4 + sizeOf(variable.shape));
  }

  write(variable: Variable, content: ArrayBufferView): void {
    const memory = this.#view(variable);
    if (memory instanceof Uint16Array) {
      new Uint8Array(memory.buffer).set(
        new Uint8Array(content.buffer, content.byteOffset, content.byteLength),
      );
    } else memory.set(content as Float32Array);
  }

  read(variable: Variable): Promise<Float32Array> {
    return Promise.resolve(Float32Array.from(this.#view(variable)));
  }

  free(variable: Variable): void {
    if (this.#variables.delete(variable)) this.#allocatedBytes -= bytesOf(variable);
  }

  load(program: Program): Promise<Executable> {
    // Every value has memory of its own, so that a mistake of the memory plan shows as a difference between engines.
    const values = new Map<Tensor, NumberArray>();
    const memoryOf = (t: Tensor): NumberArray => {
      if (t.variable) return this.#view(t.variable);
      const view = program.views.get(t), start = view ? view.byteOffset / 4 : 0;
      if (view) return memoryOf(view.of).subarray(start, start + t.size);
      let memory = values.get(t);
      if (!memory) values.set(t, memory = this.#array(t.size, t.dtype));
      return memory;
    };
    const run = () => {
      for (const node of program.nodes) {
        const { op, attributes, inputs, outputs } = node;
        const memory = [...inputs, ...outputs].map(memoryOf);
        op.cpu({ attributes, inputs, outputs, memory, start: 0, end: op.units(node) });
      }
    };
    const dispose = () => values.clear();
    return Promise.resolve({ run, dispose, [Symbol.dispose]: dispose });
  }

  settle(): Promise<void> {
    return Promise.resolve();
  }

  dispose(): void {
    this.#variables.clear();
    this.#allocatedBytes = 0;
  }
}
