/**
 * The programs of a run: gradients of one micro-batch, the update, and the loss of a batch that is only measured.
 *
 * @module
 */
import type { Adapter } from "../adapters/adapter.ts";
import { wireAdapter } from "../adapters/wiring.ts";
import type { Engine } from "../kernels/engine.ts";
import { bytesOf, Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { backward } from "../kernels/gradient.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { constant, map } from "../kernels/ops/map/op.ts";
import { adamW, ADAMW_SETTINGS, sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { bytesAfter, compile, type Program } from "../kernels/plan.ts";
import type { Model } from "../rwkv/model.ts";
import { forwardV7 } from "../rwkv/v7.ts";
import { CarriedState } from "./carried_state.ts";
import { type Batch, inParts } from "./data/batches.ts";
import { chunksOf } from "./data/chunks.ts";
import { OptionError } from "./options.ts";
import type { Trainables } from "./trainables.ts";

/**
 * What losses and gradients are multiplied by while they are computed, for a step of `total` counted targets: a power of two, so
 * that it changes no bit in f32, that lifts one target's gradient well above the smallest f16 which matrix units can tell from 0.
 */
function lossScale(total: number): number {
  return 2 ** (Math.round(Math.log2(total)) + 4);
}

/**
 * Numbers of a value [B·T, C] over which a micro-batch is computed in parts: 64 MiB, which is more than the caches of GPUs hold and
 * enough rows for their products.
 */
const MOST_NUMBERS = 2 ** 24;

/** Into how many parts of equally many rows a micro-batch is divided, which take the memory of one. */
export function partsOf(B: number, T: number, C: number): number {
  let parts = 1;
  while (parts < B && (B % parts || B / parts * T * C > MOST_NUMBERS)) parts++;
  return parts;
}

/** What the programs are made for. */
export interface ProgramOptions {
  readonly model: Model;
  /** Undefined where the weights themselves train. */
  readonly adapter: Adapter | undefined;
  readonly trainables: Trainables;
  readonly B: number;
  /** Positions that are computed at once. */
  readonly T: number;
  /** Whether rows may be longer than T and come in chunks, from one of which to the next the state is carried. */
  readonly carried?: boolean;
  /** Lengths below T that micro-batches may have as well. */
  readonly shorter?: readonly number[];
  /** Whether documents share rows. */
  readonly packed?: boolean;
  readonly recompute: boolean;
  /** Strength of L2Wrap. */
  readonly l2: number;
  /** Fixes which inputs adapters drop. */
  readonly seed: number;
  /** Parts in which a micro-batch is computed; as its size asks for, where the engine saves memory at the price of bits. */
  readonly parts?: number;
}

/** The variables by which programs of B·T positions are given a micro-batch. */
class Feed {
  readonly inputs: Variable;
  readonly targets: Variable;
  readonly weights: Variable;
  /** Undefined where each row is one document. */
  readonly keep: Variable | undefined;

  constructor(M: number, packed: boolean) {
    this.inputs = new Variable("inputs", [M, 1], "i32");
    this.targets = new Variable("targets", [M, 1], "i32");
    this.weights = new Variable("target weights", [M, 1]);
    this.keep = packed ? new Variable("keep", [M, 1]) : undefined;
  }

  get variables(): Variable[] {
    return [this.inputs, this.targets, this.weights, ...(this.keep ? [this.keep] : [])];
  }

  /** Gives a micro-batch of a step of `total` counted targets. */
  write(engine: Engine, batch: Batch, total: number): void {
    engine.write(this.inputs, batch.inputs);
    engine.write(this.targets, batch.targets);
    engine.write(this.weights, batch.mask.map((counted) => counted * (lossScale(total) / total)));
    if (this.keep) engine.write(this.keep, batch.keep ?? new Float32Array(batch.mask.length).fill(1));
  }
}

/** Planned programs and the variables by which they are fed and read. */
export class Programs {
  readonly gradients: Program;
  readonly update: Program;
  readonly loss: Program;
  /** Bytes of the values that {@link gradients} keeps from its forward for its backward pass. */
  readonly savedBytes: number;
  /** Gradients of shorter micro-batches. */
  readonly #shorter: { feed: Feed; gradients: Program }[];
  readonly #feed: Feed;
  /** Changed for every micro-batch, so that each drops other inputs. */
  readonly #dropoutSeed = new Variable("dropout seed", [1], "i32");
  readonly #seed: number;
  /** Undefined where rows come whole. */
  readonly #carried: CarriedState | undefined;
  readonly #sizes: { readonly B: number; readonly T: number; readonly parts: number };
  readonly #settings = new Variable("optimizer settings", [ADAMW_SETTINGS.length]);
  readonly #sum = new Variable("loss so far", [1]);
  readonly #report: { whole: Variable; parts: Variable[] };
  readonly #engine: Engine;

  constructor(options: ProgramOptions) {
    const { model, B, T, packed = false, shorter = [] } = options;
    this.#engine = model.engine;
    const divides = this.#engine.keeps === "f16" && !options.carried;
    const parts = options.parts ?? (divides ? partsOf(B, T, model.config.channels) : 1), rows = B / parts;
    this.#feed = new Feed(rows * T, packed);
    this.#seed = options.seed;
    this.#sizes = { B, T, parts };
    this.#carried = options.carried ? new CarriedState(model.config, B) : undefined;
    this.#report = Variable.pack("report", [{ name: "loss", shape: [1] }, {
      name: "gradient norm",
      shape: [1],
    }]);
    const { graph, loss } = this.#gradientGraph(options, this.#feed);
    this.gradients = compile(graph, this.#engine);
    this.savedBytes = bytesAfter(this.gradients, loss);
    this.update = compile(this.#updateGraph(options.trainables), this.#engine);
    const measuring = this.#lossGraph(options, this.#feed, false);
    this.#carried?.write(measuring.graph, measuring.state);
    this.loss = compile(measuring.graph, this.#engine);
    this.#shorter = shorter.map((T) => {
      const feed = new Feed(rows * T, packed), { graph } = this.#gradientGraph({ ...options, T }, feed);
      return { feed, gradients: compile(graph, this.#engine) };
    });
  }

  #lossGraph(
    { model, adapter, trainables, T, recompute, l2 }: ProgramOptions,
    feed: Feed,
    trains: boolean,
  ) {
    const graph = new Graph();
    const { variables } = trainables;
    const seed = trains ? graph.use(this.#dropoutSeed) : undefined;
    const wiring = adapter
      ? wireAdapter(graph, model, { adapter, variables }, { seed })
      : model.wire(graph, variables);
    if (this.#carried && wiring.initialState(0)) {
      throw new OptionError(
        "--train_type infctx begins every document without a state, and this model or adapter has one of its own: leave it out",
      );
    }
    const { hidden, state } = forwardV7(wiring, graph.use(feed.inputs), {
      T,
      recompute,
      ...(this.#carried ? { state: this.#carried.read(graph) } : {}),
      keep: feed.keep && graph.use(feed.keep),
    });
    const loss = linearCrossEntropy(
      graph,
      hidden,
      wiring.weight("head.weight"),
      graph.use(feed.targets),
      graph.use(feed.weights),
      { l2, headTrains: variables.has("head.weight") },
    );
    accumulate(graph, this.#sum, loss);
    return { graph, loss, state };
  }

  #gradientGraph(options: ProgramOptions, feed: Feed): { graph: Graph; loss: Tensor } {
    const { graph, loss, state } = this.#lossGraph(options, feed, true);
    const parameters = [...options.trainables.parameters];
    const gradients = backward(graph, loss, parameters.map(([, variable]) => graph.use(variable)));
    parameters.forEach(([name], i) => {
      if (gradients[i]) accumulate(graph, options.trainables.gradient(name), gradients[i]);
    });
    this.#carried?.write(graph, state);
    return { graph, loss };
  }

  #updateGraph({ groups }: Trainables): Graph {
    const graph = new Graph();
    const squares = groups.map(({ g }) => sumOfSquares(graph, graph.use(g)));
    const norm = squares.reduce((a, b) => map(graph, [a, b], (a, b) => a.add(b)));
    const root = map(graph, [norm], (x) => x.sqrt());
    for (const group of groups) adamW(graph, group, root, this.#settings);
    assign(graph, this.#report.parts[0]!, graph.use(this.#sum));
    assign(graph, this.#report.parts[1]!, root);
    assign(graph, this.#sum, constant(graph, [1], 0));
    return graph;
  }

  /** Into how many parts, one run of {@link gradients} each, a micro-batch is divided. */
  get parts(): number {
    return this.#sizes.parts;
  }

  /** Bytes of the variables that programs are fed and read by. */
  get variableBytes(): number {
    return this.#variables.reduce((sum, variable) => sum + bytesOf(variable), 0);
  }

  /** Bytes that a step needs beyond the model's and the trainables' variables. */
  get bytes(): number {
    const workspace = this.gradients.workspaceBytes + this.update.workspaceBytes;
    return this.variableBytes + workspace + this.shorterBytes;
  }

  /** Bytes of the values of shorter micro-batches, which are beside those of whole ones. */
  get shorterBytes(): number {
    return this.#shorter.reduce((sum, { gradients }) => sum + gradients.workspaceBytes, 0);
  }

  /** The variables that are not the trainables'. */
  get #variables(): Variable[] {
    const fed = [this.#feed, ...this.#shorter.map(({ feed }) => feed)].flatMap(({ variables }) => variables);
    const carried = this.#carried ? [this.#carried.whole] : [];
    return [...fed, ...carried, this.#dropoutSeed, this.#settings, this.#sum, this.#report.whole];
  }

  /** Makes the programs ready. */
  async load(): Promise<LoadedPrograms> {
    this.#variables.forEach((variable) => this.#engine.allocate(variable));
    const gradients = await this.#engine.load(this.gradients);
    const byLength = new Map([[this.#feed.inputs.shape[0]!, { feed: this.#feed, gradients }]]);
    for (const { feed, gradients } of this.#shorter) {
      byLength.set(feed.inputs.shape[0]!, { feed, gradients: await this.#engine.load(gradients) });
    }
    const update = await this.#engine.load(this.update);
    /** The batch as programs take it: in chunks from the beginning of its documents, in parts, or whole. */
    const pieces = (batch: Batch) => {
      if (!this.#carried) return inParts(batch, this.#sizes.parts);
      this.#carried.reset(this.#engine);
      return chunksOf(batch, this.#sizes.B, this.#sizes.T);
    };
    let scale = 1;
    const report = async () => {
      const unit = scale;
      const values = await this.#engine.read(this.#report.whole);
      return { loss: values[0]! / unit, norm: values[this.#report.parts[1]!.within!.byteOffset / 4]! / unit };
    };
    return {
      accumulate: (batch, total, index) => {
        scale = lossScale(total);
        pieces(batch).forEach((piece, chunk) => {
          const { feed, gradients } = byLength.get(piece.inputs.length)!;
          const seed = Math.imul(this.#seed, 0x9e3779b1) + index + Math.imul(chunk, 0x85ebca6b);
          feed.write(this.#engine, piece, total);
          this.#engine.write(this.#dropoutSeed, Int32Array.of(seed));
          gradients.run();
        });
      },
      update: (settings) => {
        const values = { ...settings, gradientScale: 1 / scale };
        this.#engine.write(this.#settings, Float32Array.from(ADAMW_SETTINGS, (name) => values[name]));
        update.run();
        return report();
      },
      measure: async (batches) => {
        const total = batches.reduce((sum, { counted }) => sum + counted, 0);
        this.#engine.write(this.#sum, new Float32Array(1));
        // Loaded for as long as it takes: measuring is rare, and its memory is better left to the step.
        using loss = await this.#engine.load(this.loss);
        // One batch after the other, as cutting one up begins its state afresh.
        for (const piece of batches.values().flatMap(pieces)) {
          this.#feed.write(this.#engine, piece, total);
          loss.run();
        }
        const [value] = await this.#engine.read(this.#sum);
        this.#engine.write(this.#sum, new Float32Array(1));
        return value! / lossScale(total);
      },
      [Symbol.dispose]: () => {
        byLength.forEach(({ gradients }) => gradients.dispose());
        update.dispose();
        this.#variables.forEach((variable) => this.#engine.free(variable));
      },
    };
  }
}

/** Programs that are ready to run. */
export interface LoadedPrograms extends Disposable {
  /** Adds the gradients of a micro-batch, number `index` of the run, as part of a step of `total` counted targets. */
  accumulate(batch: Batch, total: number, index: number): void;
  /** Applies the gradients. @returns mean loss and global gradient norm of the step, when they are known */
  update(
    settings: Readonly<Record<Exclude<typeof ADAMW_SETTINGS[number], "gradientScale">, number>>,
  ): Promise<{ loss: number; norm: number }>;
  /** Mean loss over the counted targets of all batches, without training. */
  measure(batches: readonly Batch[]): Promise<number>;
}
