/**
 * A model on an engine: its sizes, its file, and a variable for every weight.
 *
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import { type DType, toFloat32 } from "../formats/dtype.ts";
import { release, releasing } from "../formats/memory.ts";
import { openTensorFile, type TensorFile, type TensorInfo } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { bytesOf, type Graph, type StorageType, type Tensor, Variable } from "../kernels/graph.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { isMatrix, type ModelConfig, ModelError, readConfig, stateName, weightShapes } from "./config.ts";
import { type ModelState, Session } from "./session.ts";
import type { Wiring } from "./v7.ts";

/** Element types of weights that can be used. */
const WEIGHT_DTYPES: readonly DType[] = ["F32", "F16", "BF16", "F64"];

/** A loaded RWKV-7 model. Its engine memory is released by {@link Model.dispose}. */
export class Model {
  readonly #weights = new Map<string, Variable>();
  #disposed: (() => void)[] = [];
  #fingerprint = "";
  #session: Session | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(
    readonly config: ModelConfig,
    /** The file that it was read from, open for merging. */
    readonly file: TensorFile,
    readonly engine: Engine,
  ) {}

  /**
   * Reads a model into an engine, one tensor at a time, in the dtype of its file.
   * @param options.elsewhere weights that the caller keeps in variables of its own, because they train
   * @param options.onTensor called after each tensor with the number done and the number of all
   * @throws FormatError, ModelError
   */
  static load(
    path: string,
    engine: Engine,
    options: { elsewhere?: (name: string) => boolean; onTensor?: (done: number, all: number) => void } = {},
  ): Model {
    const file = openTensorFile(path);
    let model: Model | undefined;
    try {
      model = new Model(readModelConfig(file), file, engine);
      const names = [...weightShapes(model.config).keys()];
      requireRoom(file, names.filter((name) => !options.elsewhere?.(name)), engine);
      const hash = createHash("sha256");
      names.forEach((name, i) => {
        const info = file.tensors.get(name)!, bytes = file.readBytes(name);
        addToHash(hash, info, [bytes]);
        if (!options.elsewhere?.(name)) model!.#weights.set(name, placeWeight(info, bytes, engine));
        release(bytes);
        options.onTensor?.(i + 1, names.length);
      });
      model.#fingerprint = hash.digest("hex");
      return model;
    } catch (error) {
      if (model) model.dispose();
      else file.close();
      throw error;
    }
  }

  /** SHA-256 of the weights, as {@link fingerprint} gives it. */
  get fingerprint(): string {
    return this.#fingerprint;
  }

  /** The variable of a weight; undefined for one that is kept elsewhere. */
  weight(name: string): Variable | undefined {
    return this.#weights.get(name);
  }

  /** Names of all weights with their shapes in the file. */
  get shapes(): Map<string, number[]> {
    return weightShapes(this.config);
  }

  /** Number of parameters. */
  get parameters(): number {
    return [...this.shapes.values()].reduce((sum, shape) => sum + shape.reduce((a, b) => a * b, 1), 0);
  }

  /** How a graph reaches this model's weights, without any adapter. */
  wire(graph: Graph, overlay?: ReadonlyMap<string, Variable>): Wiring {
    return wireWeights(graph, this.config, new Map([...this.#weights, ...overlay ?? []]));
  }

  /**
   * Reads tokens and gives logits.
   * @param options.state where to go on from; a state given is not changed. Default: the beginning.
   * @param options.all logits after every token, [T, V], instead of after the last, [V]
   * @throws RangeError for no tokens or one outside the vocabulary
   */
  forward(
    tokens: ArrayLike<number>,
    options: { state?: ModelState; all?: boolean } = {},
  ): Promise<{ logits: Float32Array; state: ModelState }> {
    // One session serves all calls, so they take turns.
    const result = this.#turn.then(async () => {
      const session = this.#session ??= new Session(this.config, (graph) => this.wire(graph), this.engine);
      if (options.state) session.restore(options.state);
      else session.reset();
      const logits = await session.feed(tokens, options.all ? "all" : "last");
      return { logits, state: await session.state() };
    });
    this.#turn = result.catch(() => {});
    return result;
  }

  /** Registers what to do when the model is disposed of. */
  onDispose(action: () => void): void {
    this.#disposed.push(action);
  }

  /** Releases the weights and closes the file. The engine stays. */
  dispose(): void {
    this.#session?.dispose();
    this.#session = undefined;
    this.#weights.forEach((variable) => this.engine.free(variable));
    this.#weights.clear();
    this.file.close();
    this.#disposed.forEach((action) => action());
    this.#disposed = [];
  }

  /** Disposes of the model at the end of a `using` block. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** @throws ModelError if the weights named cannot all lie on the engine */
function requireRoom(file: TensorFile, names: readonly string[], engine: Engine): void {
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
  const needed = new Map<StorageType, number>();
  for (const name of names) {
    const { shape, ...info } = file.tensors.get(name)!, dtype = storageOf({ shape, ...info });
    needed.set(dtype, (needed.get(dtype) ?? 0) + bytesOf({ shape, dtype }));
  }
  for (const [dtype, bytes] of needed) {
    const room = engine.room(dtype);
    if (bytes <= room) continue;
    throw new ModelError(
      `Cannot use ${file.path} on the ${engine.name} engine: its ${dtype} weights take ${
        gigabytes(bytes)
      } and ` +
        `${gigabytes(room)} are left; use a GPU, a smaller model${
          dtype === "f32" ? " or the model in bf16" : ""
        }`,
    );
  }
}

/** Puts a weight on an engine, in the dtype of its file where that is a matrix. */
export function placeWeight(info: TensorInfo, bytes: Uint8Array<ArrayBuffer>, engine: Engine): Variable {
  const storage = storageOf(info),
    variable = new Variable(info.name, graphShape(info.name, info.shape), storage);
  engine.allocate(variable, storage === "f32" ? toFloat32(bytes, info.dtype) : bytes);
  return variable;
}

/** How a graph reaches weights on an engine, without any adapter. */
export function wireWeights(
  graph: Graph,
  config: ModelConfig,
  weights: ReadonlyMap<string, Variable>,
): Wiring {
  const weight = (name: string): Tensor => {
    const variable = weights.get(name);
    if (!variable) {
      throw new ModelError(`Cannot use weight "${name}": it is kept elsewhere and was not given`);
    }
    return graph.use(variable);
  };
  const linear = (site: string, x: Tensor) =>
    matmul(graph, x, weight(`${site}.weight`), { transposeB: true });
  const initialState = (layer: number) =>
    weights.has(stateName(layer)) ? weight(stateName(layer)) : undefined;
  return { graph, config, weight, linear, initialState };
}

/** Storage of a weight on an engine. */
function storageOf({ name, dtype }: TensorInfo): StorageType {
  if (!isMatrix(name)) return "f32";
  return dtype === "BF16" ? "bf16" : dtype === "F16" ? "f16" : "f32";
}

/** The shape that graphs use: vectors are `[size]` whatever ones and heads the file's shape has. */
export function graphShape(name: string, shape: readonly number[]): number[] {
  return isMatrix(name) ? [...shape] : [shape.reduce((a, b) => a * b, 1)];
}

/** Sizes of the model in a file, with its dtypes checked as well. @throws ModelError */
export function readModelConfig(file: TensorFile): ModelConfig {
  if (file.tensors.size === 0) {
    throw new ModelError(`Cannot use ${file.path}: it holds no tensors, so it is not a model`);
  }
  const config = readConfig(file.tensors, file.path);
  for (const name of weightShapes(config).keys()) {
    const { dtype } = file.tensors.get(name)!;
    if (!WEIGHT_DTYPES.includes(dtype)) {
      throw new ModelError(
        `Cannot use ${file.path}: tensor "${name}" is ${dtype}, and weights must be F32, F16 or BF16`,
      );
    }
  }
  return config;
}

/** Adds a tensor to a hash that tells base models apart. */
function addToHash(hash: Hash, { name, dtype, shape }: TensorInfo, pieces: Iterable<Uint8Array>): void {
  hash.update(`${name} ${dtype} [${shape}]\n`);
  for (const bytes of pieces) hash.update(bytes);
}

/** SHA-256 over names, dtypes, shapes and content of a model's weights in the official order, in hexadecimal. */
export function fingerprint(file: TensorFile): string {
  const hash = createHash("sha256");
  for (const name of weightShapes(readModelConfig(file)).keys()) {
    addToHash(hash, file.tensors.get(name)!, releasing(file.readPieces(name)));
  }
  return hash.digest("hex");
}
