/**
 * Reading text with a carried state: what generation and evaluation run.
 *
 * A stretch of tokens is read in pieces whose lengths are powers of two, so that a handful of programs serves every length
 * and the state never leaves the engine between pieces.
 *
 * @module
 */
import type { Engine, Executable } from "../kernels/engine.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { sliceRows } from "../kernels/ops/rows/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import type { ModelConfig } from "./config.ts";
import { forwardV7, type LayerState, startingState, type Wiring } from "./v7.ts";

/** Longest piece that is read at once. */
export const LONGEST = 128;

/** Longest piece of which only the loss is wanted: no logits are read back, so a longer one costs nothing but its values. */
const LONGEST_SCORED = 512;

/** Which rows' logits a piece gives. */
type Logits = "none" | "last" | "all";

/** What a model carries after a stretch of text, as plain numbers: copy it, store it, or go on from it. */
export interface ModelState {
  /** Of every layer: last row of the time mix, WKV state, last row of the channel mix. */
  readonly data: Float32Array;
}

/** A program that reads a piece and gives the loss of its targets. */
interface ScoredPiece {
  readonly executable: Executable;
  readonly tokens: Variable;
  readonly targets: Variable;
  readonly weights: Variable;
  readonly loss: Variable;
}

/** What B sequences carry, part by part: of every layer the last row of the time mix, the WKV state, the last row of the channel mix. */
export function stateParts(
  { layers, channels: C, heads: H, headSize: N }: ModelConfig,
  B: number,
): { name: string; shape: number[] }[] {
  return Array.from({ length: layers }, (_, layer) => [
    { name: `state.${layer}.attShift`, shape: [B, C] },
    { name: `state.${layer}.wkv`, shape: [B, H * N * N] },
    { name: `state.${layer}.ffnShift`, shape: [B, C] },
  ]).flat();
}

/** The parts of {@link stateParts}, or anything made of each, layer by layer. */
export function byLayer<T>(parts: readonly T[]): { [K in keyof LayerState]: T }[] {
  return Array.from({ length: parts.length / 3 }, (_, layer) => {
    const [attShift, wkv, ffnShift] = parts.slice(3 * layer, 3 * layer + 3) as [T, T, T];
    return { attShift, wkv, ffnShift };
  });
}

interface Piece {
  readonly executable: Executable;
  readonly tokens: Variable;
  readonly logits: Variable | undefined;
}

/** One sequence being read. */
export class Session {
  readonly #pieces = new Map<string, Piece>();
  readonly #scored = new Map<number, ScoredPiece>();
  readonly #state: { whole: Variable; parts: Variable[] };
  /** Writes the state that a text begins with over zeros; undefined until it is needed. */
  #beginning: Executable | undefined;
  /** Whether nothing was read since the beginning, so that the state has still to be set. */
  #fresh = true;

  /**
   * @param wire how a graph reaches the weights, adapters included
   * @param engine where the weights are
   */
  constructor(
    readonly config: ModelConfig,
    readonly wire: (graph: Graph) => Wiring,
    readonly engine: Engine,
  ) {
    this.#state = Variable.pack("state", stateParts(config, 1));
    engine.allocate(this.#state.whole);
  }

  /** Sets the state that a text begins with, if nothing was read yet. */
  async #begin(): Promise<void> {
    if (!this.#fresh) return;
    this.#fresh = false;
    this.engine.write(this.#state.whole, new Float32Array(this.#state.whole.shape[0]!));
    if (!this.#beginning) {
      const graph = new Graph(), wiring = this.wire(graph);
      this.#layers((variable) => variable).forEach(({ wkv }, layer) => {
        const state = startingState(wiring, layer, 1);
        if (state) assign(graph, wkv, state);
      });
      this.#beginning = await this.engine.load(compile(graph, this.engine));
    }
    this.#beginning.run();
  }

  async #piece(T: number, logits: Logits): Promise<Piece> {
    const key = `${T} ${logits}`;
    const known = this.#pieces.get(key);
    if (known) return known;
    const graph = new Graph();
    const wiring = this.wire(graph);
    const tokens = new Variable("tokens", [T, 1], "i32");
    const state = this.#layers((variable) => graph.use(variable));
    const result = forwardV7(wiring, graph.use(tokens), { T, state });
    let output: Variable | undefined;
    if (logits !== "none") {
      const rows = logits === "all" ? result.hidden : sliceRows(graph, result.hidden, T - 1, 1);
      output = new Variable("logits", [rows.rows, this.config.vocabulary]);
      this.engine.allocate(output);
      assign(graph, output, matmul(graph, rows, wiring.weight("head.weight"), { transposeB: true }));
    }
    this.#carry(graph, result.state);
    this.engine.allocate(tokens);
    const piece = { executable: await this.engine.load(compile(graph, this.engine)), tokens, logits: output };
    this.#pieces.set(key, piece);
    return piece;
  }

  /** As {@link #piece}, with the loss instead of logits, which never leave the engine. */
  async #scoredPiece(T: number): Promise<ScoredPiece> {
    const known = this.#scored.get(T);
    if (known) return known;
    const graph = new Graph(), wiring = this.wire(graph);
    const fed = {
      tokens: new Variable("tokens", [T, 1], "i32"),
      targets: new Variable("targets", [T, 1], "i32"),
      weights: new Variable("target weights", [T, 1]),
    };
    const state = this.#layers((variable) => graph.use(variable));
    const result = forwardV7(wiring, graph.use(fed.tokens), { T, state });
    const [targets, weights] = [graph.use(fed.targets), graph.use(fed.weights)];
    const loss = new Variable("loss", [1]);
    const head = wiring.weight("head.weight");
    assign(graph, loss, linearCrossEntropy(graph, result.hidden, head, targets, weights));
    this.#carry(graph, result.state);
    [...Object.values(fed), loss].forEach((variable) => this.engine.allocate(variable));
    const piece = { executable: await this.engine.load(compile(graph, this.engine)), ...fed, loss };
    this.#scored.set(T, piece);
    return piece;
  }

  /** Keeps what each layer carries out. */
  #carry(graph: Graph, state: readonly LayerState[]): void {
    const variables = this.#layers((variable) => variable);
    state.forEach((layer, i) => {
      assign(graph, variables[i]!.attShift, layer.attShift);
      assign(graph, variables[i]!.wkv, layer.wkv);
      assign(graph, variables[i]!.ffnShift, layer.ffnShift);
    });
  }

  #layers<T>(f: (variable: Variable) => T): { [K in keyof LayerState]: T }[] {
    return byLayer(this.#state.parts.map(f));
  }

  /**
   * Reads tokens, going on from where the session is.
   * @param logits "last" for those after the last token, [V]; "all" for every token's, [T, V]
   * @throws RangeError for no tokens, or one outside the vocabulary
   */
  async feed(tokens: ArrayLike<number>, logits: "last" | "all" = "last"): Promise<Float32Array> {
    const V = this.config.vocabulary;
    this.#check(tokens);
    await this.#begin();
    const result = new Float32Array(logits === "all" ? tokens.length * V : V);
    for (let done = 0; done < tokens.length;) {
      const left = tokens.length - done;
      const T = Math.min(LONGEST, 2 ** Math.floor(Math.log2(left)));
      const piece = await this.#piece(T, logits === "all" ? "all" : T === left ? "last" : "none");
      this.engine.write(piece.tokens, Int32Array.from(Array.prototype.slice.call(tokens, done, done + T)));
      piece.executable.run();
      if (piece.logits) result.set(await this.engine.read(piece.logits), logits === "all" ? done * V : 0);
      done += T;
    }
    return result;
  }

  /**
   * Reads tokens, going on from where the session is, and gives the loss of what follows them.
   * @param tokens one more than are read: each of the others is the target of the one before it
   * @param counts whether target `i`, the token at `i + 1`, counts
   * @returns the sum of −log p over the targets that count, in nats
   * @throws RangeError for fewer than two tokens, or one outside the vocabulary
   */
  async score(tokens: ArrayLike<number>, counts: (i: number) => boolean = () => true): Promise<number> {
    this.#check(tokens);
    if (tokens.length < 2) throw new RangeError("Cannot score a single token: nothing comes before it");
    await this.#begin();
    let sum = 0;
    for (let done = 0; done + 1 < tokens.length;) {
      const T = Math.min(LONGEST_SCORED, 2 ** Math.floor(Math.log2(tokens.length - 1 - done)));
      const piece = await this.#scoredPiece(T);
      this.engine.write(piece.tokens, Int32Array.from({ length: T }, (_, i) => tokens[done + i]!));
      this.engine.write(piece.targets, Int32Array.from({ length: T }, (_, i) => tokens[done + i + 1]!));
      this.engine.write(piece.weights, Float32Array.from({ length: T }, (_, i) => counts(done + i) ? 1 : 0));
      piece.executable.run();
      sum += (await this.engine.read(piece.loss))[0]!;
      done += T;
    }
    return sum;
  }

  /** @throws RangeError for no tokens, or one outside the vocabulary */
  #check(tokens: ArrayLike<number>): void {
    const V = this.config.vocabulary;
    if (tokens.length === 0) throw new RangeError("Cannot read an empty list of tokens: give at least one");
    for (let i = 0; i < tokens.length; i++) {
      const token = tokens[i]!;
      if (!Number.isInteger(token) || token < 0 || token >= V) {
        throw new RangeError(`Cannot read token ${token} at position ${i}: the vocabulary has ${V}`);
      }
    }
  }

  /** Forgets everything read so far. */
  reset(): void {
    this.#fresh = true;
  }

  /** What is carried now. */
  async state(): Promise<ModelState> {
    await this.#begin();
    return { data: await this.engine.read(this.#state.whole) };
  }

  /** Goes on from a state that this model gave. @throws RangeError for a state of another size */
  restore({ data }: ModelState): void {
    if (data.length !== this.#state.whole.shape[0]) {
      throw new RangeError(
        `Cannot restore a state of ${data.length} numbers: this model's has ${this.#state.whole.shape[0]}`,
      );
    }
    this.#fresh = false;
    this.engine.write(this.#state.whole, data);
  }

  /** Releases programs and state. */
  dispose(): void {
    for (const { executable, tokens, logits } of this.#pieces.values()) {
      executable.dispose();
      this.engine.free(tokens);
      if (logits) this.engine.free(logits);
    }
    this.#pieces.clear();
    for (const { executable, ...variables } of this.#scored.values()) {
      executable.dispose();
      Object.values(variables).forEach((variable) => this.engine.free(variable));
    }
    this.#scored.clear();
    this.#beginning?.dispose();
    this.engine.free(this.#state.whole);
  }
}
