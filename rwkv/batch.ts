/**
 * Many sequences that are read together, a token of each at a time: what serving runs.
 *
 * Every sequence has a row, and the rows of one part of the state lie one below the other, so a program for the first B rows
 * reads and updates them in place. There is a program for each power of two, made when it is first needed; rows that nobody
 * uses are computed along and mean nothing.
 *
 * @module
 */
import type { Engine, Executable } from "../kernels/engine.ts";
import { Graph, sizeOf, Variable } from "../kernels/graph.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import type { ModelConfig } from "./config.ts";
import { byLayer, type ModelState, stateParts } from "./session.ts";
import { forwardV7, type Wiring } from "./v7.ts";

interface Step {
  readonly executable: Executable;
  readonly tokens: Variable;
  readonly logits: Variable;
}

/** Rows of sequences on an engine. */
export class Batch {
  readonly #steps = new Map<number, Step>();
  /** Each part of the state, [rows, …]. */
  readonly #parts: readonly Variable[];
  /** Where each part starts in a {@link ModelState}. */
  readonly #offsets: readonly number[];
  readonly #stateSize: number;

  /**
   * @param wire how a graph reaches the weights, adapters included
   * @param engine where the weights are
   * @param rows sequences at most
   */
  constructor(
    readonly config: ModelConfig,
    readonly wire: (graph: Graph) => Wiring,
    readonly engine: Engine,
    readonly rows: number,
  ) {
    const one = Variable.pack("state", stateParts(config, 1));
    this.#offsets = one.parts.map(({ within }) => within!.byteOffset / 4);
    this.#stateSize = one.whole.shape[0]!;
    this.#parts = stateParts(config, rows).map(({ name, shape }) => new Variable(name, shape));
    try {
      this.#parts.forEach((part) => engine.allocate(part));
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  async #step(B: number): Promise<Step> {
    const known = this.#steps.get(B);
    if (known) return known;
    const graph = new Graph();
    const wiring = this.wire(graph);
    const tokens = new Variable("tokens", [B, 1], "i32");
    const logits = new Variable("logits", [B, this.config.vocabulary]);
    const used = this.#parts.map((part) => rowsOf(part, 0, B));
    const { hidden, state } = forwardV7(wiring, graph.use(tokens), {
      T: 1,
      state: byLayer(used.map((part) => graph.use(part))),
    });
    assign(graph, logits, matmul(graph, hidden, wiring.weight("head.weight"), { transposeB: true }));
    byLayer(used).forEach((layer, i) => {
      assign(graph, layer.attShift, state[i]!.attShift);
      assign(graph, layer.wkv, state[i]!.wkv);
      assign(graph, layer.ffnShift, state[i]!.ffnShift);
    });
    this.engine.allocate(tokens);
    this.engine.allocate(logits);
    const step = { executable: await this.engine.load(compile(graph, this.engine)), tokens, logits };
    this.#steps.set(B, step);
    return step;
  }

  /**
   * Reads one token in each of the first rows.
   * @param tokens of rows 0, 1, …; where a row is not in use any token of the vocabulary
   * @returns logits after each, [tokens.length, V]
   */
  async step(tokens: readonly number[]): Promise<Float32Array> {
    const B = Math.min(this.rows, 2 ** Math.ceil(Math.log2(tokens.length)));
    const step = await this.#step(B);
    const all = new Int32Array(B);
    all.set(tokens);
    this.engine.write(step.tokens, all);
    step.executable.run();
    return await this.engine.read(step.logits);
  }

  /** What a row carries now. */
  async state(row: number): Promise<ModelState> {
    const data = new Float32Array(this.#stateSize);
    const parts = await Promise.all(this.#parts.map((part) => this.engine.read(rowsOf(part, row, 1))));
    parts.forEach((part, i) => data.set(part, this.#offsets[i]));
    return { data };
  }

  /** Sets a row to a state that a session or a batch of the same model gave. */
  restore(row: number, { data }: ModelState): void {
    this.#parts.forEach((part, i) => {
      const view = rowsOf(part, row, 1), start = this.#offsets[i]!;
      this.engine.write(view, data.subarray(start, start + sizeOf(view.shape)));
    });
  }

  /** Releases programs and rows. */
  dispose(): void {
    for (const { executable, tokens, logits } of this.#steps.values()) {
      executable.dispose();
      this.engine.free(tokens);
      this.engine.free(logits);
    }
    this.#steps.clear();
    this.#parts.forEach((part) => this.engine.free(part));
  }
}

/** Rows `first` to `first + count` of a part of the state. Only a range from row 0 may be bound in a program. */
function rowsOf(part: Variable, first: number, count: number): Variable {
  const width = part.shape[1]!;
  return new Variable(part.name, [count, width], "f32", { pack: part, byteOffset: first * width * 4 });
}
