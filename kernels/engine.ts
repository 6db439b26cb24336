/**
 * What an engine is: a place for variables, and something that replays programs. Engines give the same results up to rounding.
 *
 * @module
 */
import type { Node, StorageType, Tensor, Variable } from "./graph.ts";
import type { DeviceLimits } from "./op.ts";
import type { Program } from "./plan.ts";

/** A program made ready on an engine. */
export interface Executable extends Disposable {
  /** Runs the program once. On a device it only submits: reading a variable waits for it. Creates nothing. */
  run(): void;
  /** Releases the memory that the program's values lie in. */
  dispose(): void;
}

/** Runs programs. Its memory is released by `dispose`, never by the garbage collector alone. */
export interface Engine {
  /** Which kind it is. */
  readonly name: "cpu" | "webgpu";
  /** What it runs on, for people. */
  readonly description: string;
  /** Bytes that the engine holds now: variables and the values of loaded programs. */
  readonly allocatedBytes: number;
  /** Bytes that it can still take for variables and values of a storage; Infinity where that is not known. */
  room(dtype: StorageType): number;
  /** Operands that one node of a program for it may have. */
  readonly operands: number;
  /** Whether its programs need memory for what ops call scratch. */
  readonly scratch: boolean;
  /** Storage of weights that it makes so that there are fewer products (`folds.ts`); not given where that is no gain. */
  readonly joinsFolds?: "f32" | "f16" | undefined;
  /** Storage of what a forward pass leaves for the backward pass (`kept.ts`); where it is not given, all is left as it is. */
  readonly keeps?: "f32" | "f16" | undefined;
  /** Storage to which products round what they multiply, so that it is written in that (`halves.ts`), if they do. */
  readonly rounds?: "f16" | undefined;
  /** What one shader may be given; not there where there are no shaders. */
  readonly limits?: DeviceLimits;
  /** Which of an op's lowerings programs were given, by op and shapes, where there are several. */
  readonly lowerings?: ReadonlyMap<string, string>;
  /** Gives programs these lowerings from now on, without measuring; what they do not name is chosen as ever. */
  keepTo?(lowerings: ReadonlyMap<string, string>): void;
  /** Gives a variable memory, with this content or zeros. Parts of a pack get it with the pack. */
  allocate(variable: Variable, content?: ArrayBufferView): void;
  /** Overwrites a variable from its first element on. 16-bit variables take their raw bytes. */
  write(variable: Variable, content: ArrayBufferView): void;
  /** The content of an f32 variable after everything that was run before the call. */
  read(variable: Variable): Promise<Float32Array>;
  /** Takes a variable's memory back. */
  free(variable: Variable): void;
  /**
   * Prepares a program: memory for its values, and whatever compiling it needs.
   * @throws EngineError that names the op, if the device refuses
   */
  load(program: Program): Promise<Executable>;
  /** Waits until everything that was run is done. */
  settle(): Promise<void>;
  /** Releases everything. */
  dispose(): void;
}

/** The engine cannot go on: a device that was lost, out of memory, or refused a program. */
export class EngineError extends Error {
  /** The class of the error. */
  override readonly name = "EngineError";
}

/** The pack that holds a variable, or the variable itself, and where in it the variable starts. */
export function home(variable: Variable): { owner: Variable; byteOffset: number } {
  const { within } = variable;
  return within ? { owner: within.pack, byteOffset: within.byteOffset } : { owner: variable, byteOffset: 0 };
}

/** The variable whose memory holds a tensor; undefined for a value, which lies in a slot. */
export function ownerOf({ variable }: Tensor): Variable | undefined {
  return variable && home(variable).owner;
}

/** The variables in whose memory nodes change something. */
export function updatedBy(nodes: readonly Node[]): Set<Variable | undefined> {
  return new Set(nodes.flatMap(({ op, inputs }) => op.mutates?.map((i) => ownerOf(inputs[i]!)) ?? []));
}
