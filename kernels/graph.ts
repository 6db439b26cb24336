/**
 * The graph: what is computed, before anything is allocated or run.
 *
 * There are two kinds of memory. A {@link Variable} lives on an engine between runs: weights, optimizer state,
 * the tokens of a batch, the loss that is read back. Every other {@link Tensor} is a value of one run, and the
 * plan decides where it lies. A program has no other inputs or outputs: it reads variables and updates variables,
 * in the order in which its nodes were created.
 *
 * One alphabet in all of `kernels/`: B batch, T time, M = B·T rows, C channels, H heads, N head size, F FFN width,
 * V vocabulary, R rank. A gradient is `dX`.
 *
 * @module
 */
import type { Op } from "./op.ts";

/** How elements are stored. bf16 and f16 are packed two in a 32-bit word, the first in the low half. */
export type StorageType = "f32" | "f16" | "bf16" | "i32";

/** Shape and storage of a tensor. */
export interface TensorType {
  /** Extents, the last one contiguous. */
  readonly shape: readonly number[];
  /** Storage of an element. */
  readonly dtype: StorageType;
}

/** Number of elements of a shape. */
export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Bytes of a tensor, rounded up to the 4 bytes that engines copy at least. */
export function bytesOf({ shape, dtype }: TensorType): number {
  const width = dtype === "f32" || dtype === "i32" ? 4 : 2;
  return Math.ceil(sizeOf(shape) * width / 4) * 4;
}

/** Ranges of a packed variable start at multiples of this many bytes, as WebGPU bindings must. */
const PACK_ALIGNMENT = 256;

/** Memory that an engine keeps between runs. It is an identity, not a place: each engine finds its own place for it. */
export class Variable implements TensorType {
  /** Names a piece of memory. */
  constructor(
    readonly name: string,
    readonly shape: readonly number[],
    readonly dtype: StorageType = "f32",
    /** Where this variable is a part of a larger one, which holds its memory. */
    readonly within?: { readonly pack: Variable; readonly byteOffset: number },
  ) {}

  /**
   * Lays many f32 variables out in one, so that an optimizer updates all of them in one pass.
   * @returns the whole, whose gaps are zero, and its parts in the order given.
   */
  static pack(
    name: string,
    parts: readonly { name: string; shape: readonly number[] }[],
  ): { whole: Variable; parts: Variable[] } {
    const offsets: number[] = [];
    let bytes = 0;
    for (const { shape } of parts) {
      offsets.push(bytes);
      bytes += Math.ceil(sizeOf(shape) * 4 / PACK_ALIGNMENT) * PACK_ALIGNMENT;
    }
    const whole = new Variable(name, [bytes / 4]);
    return {
      whole,
      parts: parts.map((part, i) =>
        new Variable(part.name, part.shape, "f32", { pack: whole, byteOffset: offsets[i]! })
      ),
    };
  }
}

/** A tensor of a graph: a variable as the graph sees it, or what a node computes. */
export class Tensor implements TensorType {
  /** Made by a graph. */
  constructor(
    readonly shape: readonly number[],
    readonly dtype: StorageType,
    readonly variable?: Variable,
  ) {}

  /** Number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** Elements of the last dimension. */
  get width(): number {
    return this.shape.at(-1) ?? 1;
  }

  /** The leading dimensions together. */
  get rows(): number {
    return sizeOf(this.shape.slice(0, -1));
  }
}

/** One application of an op. */
export interface Node<A = unknown> {
  /** What is applied. */
  readonly op: Op<A>;
  /** What the op is told besides its inputs. */
  readonly attributes: A;
  /** What it reads. */
  readonly inputs: readonly Tensor[];
  /** What it computes. */
  readonly outputs: readonly Tensor[];
  /** The recomputed block that the node belongs to, if any. */
  readonly block: number | undefined;
}

/** The inputs that running a node reads. */
export function inputsRead(node: Node): Tensor[] {
  return (node.op.reads?.(node) ?? node.inputs.keys().toArray()).map((i) => node.inputs[i]!);
}

/** Builds a list of nodes in the order in which they will run. */
export class Graph {
  /** The nodes, in the order in which they run. */
  readonly nodes: Node[] = [];
  /** Where the forward pass ends and a backward pass begins, once there is one. */
  loss: Tensor | undefined;
  readonly #variables = new Map<Variable, Tensor>();
  readonly #constants = new Set<Tensor>();
  #block: number | undefined;
  #blocks = 0;

  /** Whether nodes that are made now belong to a recomputed block. */
  get isRecomputing(): boolean {
    return this.#block !== undefined;
  }

  /** The variable as a tensor of this graph. */
  use(variable: Variable): Tensor {
    let tensor = this.#variables.get(variable);
    if (!tensor) {
      tensor = new Tensor(variable.shape, variable.dtype, variable);
      this.#variables.set(variable, tensor);
    }
    return tensor;
  }

  /** Has gradients take a computed tensor for a constant: nothing flows back through it. @returns the tensor */
  detach(tensor: Tensor): Tensor {
    this.#constants.add(tensor);
    return tensor;
  }

  /** Whether gradients take a tensor for a constant. */
  isDetached(tensor: Tensor): boolean {
    return this.#constants.has(tensor);
  }

  /**
   * Appends a node and returns its outputs.
   * @throws RangeError from the op if the inputs' shapes do not fit it.
   */
  add<A>(op: Op<A>, inputs: readonly Tensor[], attributes: A): Tensor[] {
    const outputs = op.outputs(inputs, attributes).map(({ shape, dtype }) => new Tensor(shape, dtype));
    this.nodes.push({ op: op as Op<unknown>, attributes, inputs, outputs, block: this.#block });
    return outputs;
  }

  /**
   * Nodes made inside `build` are computed again in the backward pass instead of being kept for it
   * (gradient checkpointing, Chen et al. 2016): memory for one block instead of for all.
   */
  recomputed<T>(build: () => T): T {
    if (this.#block !== undefined) throw new RangeError("A recomputed block cannot lie inside another");
    this.#block = this.#blocks++;
    try {
      return build();
    } finally {
      this.#block = undefined;
    }
  }
}
