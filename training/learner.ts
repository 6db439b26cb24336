/**
 * What learns: a model with its adapter, the tensors that train, and the programs of a step. It writes samples and results.
 *
 * @module
 */
import { join } from "node:path";
import { Adapter } from "../adapters/adapter.ts";
import { saveAdapter } from "../adapters/file.ts";
import { saveInitial } from "../adapters/rwkv_peft.ts";
import { wireAdapter } from "../adapters/wiring.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { sizeOf } from "../kernels/graph.ts";
import { generateTokens } from "../rwkv/generate.ts";
import type { Model } from "../rwkv/model.ts";
import { Answer, PROMPT_FORMAT, promptFor, promptFormat } from "../rwkv/prompt_format.ts";
import { Session } from "../rwkv/session.ts";
import { streamDecoder, type Tokenizer } from "../rwkv/tokenizer/tokenizer.ts";
import { random } from "./data/random.ts";
import type { TrainSettings } from "./options.ts";
import { Programs } from "./programs.ts";
import type { Start } from "./start.ts";
import { Trainables } from "./trainables.ts";

/** Tokens of a sample. */
const SAMPLE_TOKENS = 160;
/** L2Wrap's strength in RWKV-LM. */
const L2WRAP = 1e-4;

/** A model that trains. */
export class Learner {
  readonly trainables: Trainables;
  readonly programs: Programs;
  /** Undefined where the weights themselves train. */
  readonly #adapter: Adapter | undefined;

  constructor(
    readonly model: Model,
    { tensors }: Start,
    readonly settings: TrainSettings,
    /** How the conversations that it learns are written, where there are any. */
    readonly promptFormat?: string,
    /** Lengths below ctxLen that its micro-batches may have. */
    readonly shorter: readonly number[] = [],
  ) {
    this.#adapter = tensors instanceof Adapter
      ? tensors.with({ base: model.fingerprint, ...(promptFormat === undefined ? {} : { promptFormat }) })
      : undefined;
    this.trainables = new Trainables(tensors, model.config, model.engine, {
      layerwise: settings.layerwiseLr,
    });
    this.programs = this.plan();
  }

  /** Plans programs of the settings' sizes, or of others. Nothing is allocated. */
  plan(sizes: { B?: number; T?: number; recompute?: boolean } = {}): Programs {
    const { microBsz, ctxLen, gradCp, l2wrap, dataload, trainType, chunkCtx } = this.settings;
    const carried = trainType === "infctx";
    return new Programs({
      model: this.model,
      adapter: this.#adapter,
      trainables: this.trainables,
      B: microBsz,
      T: carried ? Math.min(chunkCtx, ctxLen) : ctxLen,
      carried,
      shorter: sizes.T === undefined && !carried ? this.shorter : [],
      packed: dataload === "pack",
      recompute: gradCp,
      l2: l2wrap ? L2WRAP : 0,
      seed: this.settings.randomSeed,
      ...sizes,
    });
  }

  /** Whether the weights themselves train, without an adapter. */
  get trainsWeights(): boolean {
    return !this.#adapter;
  }

  /** Where everything lies. */
  get engine(): Engine {
    return this.model.engine;
  }

  /** PEFT's line on what trains. */
  describe(): string {
    const count = (tensors: Iterable<{ shape: readonly number[] }>) =>
      [...tensors].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const added = [...this.#adapter?.tensors ?? []].filter(([name]) => !this.model.shapes.has(name));
    const trainable = count(this.trainables.parameters.values());
    const all = this.model.parameters + count(added.map(([, tensor]) => tensor));
    // What languages have for it takes 20 ms to load.
    const grouped = (n: number) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
    const share = (100 * trainable / all).toFixed(4);
    return `trainable params: ${grouped(trainable)} || all params: ${grouped(all)} || trainable%: ${share}`;
  }

  /**
   * Text that follows a prompt, the prompt included: always from the same random numbers. Where conversations are learnt, the prompt
   * is what a user says.
   */
  async sample(tokenizer: Tokenizer, prompt: string): Promise<string> {
    const { model, settings } = this;
    const { variables } = this.trainables;
    const adapter = this.#adapter;
    const session = new Session(
      model.config,
      (graph) => adapter ? wireAdapter(graph, model, { adapter, variables }) : model.wire(graph, variables),
      this.engine,
    );
    const draw = random(settings.randomSeed, "sample");
    const says = prompt.trim() !== "" ? this.promptFormat : undefined;
    const format = promptFormat(says ?? "plain");
    const given = promptFor(format, prompt),
      answer = new Answer(format.stops),
      decoder = streamDecoder(tokenizer);
    let text = given;
    const options = {
      count: SAMPLE_TOKENS,
      sampling: { temperature: 0.8, topP: 0.9 },
      uniform: () => draw.uniform(),
    };
    try {
      for await (const token of generateTokens(session, tokenizer.encode(given), options)) {
        text += answer.push(decoder.push(token));
        if (answer.ended) return text;
      }
    } finally {
      session.dispose();
    }
    return text + answer.push(decoder.end()) + answer.end();
  }

  /** Writes what the adapter began with into a folder, where it keeps that. */
  saveInitial(folder: string): void {
    if (this.#adapter) saveInitial(this.#adapter, folder, { force: true });
  }

  /** Writes the adapter, or the model in its file's dtypes, into a folder. @returns the path */
  async save(folder: string): Promise<string> {
    const tensors = await this.trainables.read("p");
    if (this.#adapter) {
      const path = join(folder, "adapter.pth");
      const all = new Map([...this.#adapter.tensors, ...tensors]);
      saveAdapter(this.#adapter.withTensors(all), path, { force: true });
      return path;
    }
    const { file } = this.model;
    const path = join(folder, file.format === "pth" ? "model.pth" : "model.safetensors");
    writeTensorFile(path, {
      format: file.format,
      tensors: file.tensors.values(),
      read: ({ name, dtype }) => {
        const trained = tensors.get(name);
        return trained ? fromFloat32(trained.data, dtype) : file.readBytes(name);
      },
      metadata: new Map([
        ...file.metadata,
        ...(this.promptFormat === undefined ? [] : [[PROMPT_FORMAT, this.promptFormat] as const]),
      ]),
      force: true,
    });
    return path;
  }

  /** Releases what trains and the model. */
  dispose(): void {
    this.trainables.dispose();
    this.model.dispose();
  }
}
