/**
 * What a model carries from one chunk of long documents to the next: variables that a program reads at its beginning and
 * writes at its end.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import { type Graph, sizeOf, type Tensor, Variable } from "../kernels/graph.ts";
import { assign } from "../kernels/ops/update/op.ts";
import type { ModelConfig } from "../rwkv/config.ts";
import type { LayerState } from "../rwkv/v7.ts";

/** The names of a layer's state. */
const KINDS = ["attShift", "wkv", "ffnShift"] as const satisfies (keyof LayerState)[];

/** The state of B rows between chunks. */
export class CarriedState {
  /** Holds all of it. */
  readonly whole: Variable;
  readonly #layers: Record<keyof LayerState, Variable>[];

  constructor({ layers, channels: C, heads: H, headSize: N }: ModelConfig, B: number) {
    const widths = { attShift: C, wkv: H * N * N, ffnShift: C };
    const { whole, parts } = Variable.pack(
      "carried state",
      Array.from(
        { length: layers },
        (_, layer) => KINDS.map((kind) => ({ name: `carried.${layer}.${kind}`, shape: [B, widths[kind]] })),
      ).flat(),
    );
    this.whole = whole;
    this.#layers = Array.from(
      { length: layers },
      (_, layer) => ofKinds((_, i) => parts[KINDS.length * layer + i]!),
    );
  }

  /** The state as a graph reads it. */
  read(graph: Graph): Record<keyof LayerState, Tensor>[] {
    return this.#layers.map((layer) => ofKinds((kind) => graph.use(layer[kind])));
  }

  /** Replaces the state, when nothing in the graph will read it any more. */
  write(graph: Graph, after: readonly LayerState[]): void {
    this.#layers.forEach((layer, i) => KINDS.forEach((kind) => assign(graph, layer[kind], after[i]![kind])));
  }

  /** Sets it to the beginning of documents. */
  reset(engine: Engine): void {
    engine.write(this.whole, new Float32Array(sizeOf(this.whole.shape)));
  }
}

function ofKinds<T>(make: (kind: keyof LayerState, index: number) => T): Record<keyof LayerState, T> {
  return { attShift: make("attShift", 0), wkv: make("wkv", 1), ffnShift: make("ffnShift", 2) };
}
