/**
 * A training run, from options to a folder: read, plan, measure, train, save, measure again.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  Adapter,
  checkBase,
  checkFits,
  loadAdapter,
  newAdapter,
  saveAdapter,
  weightsNamed,
  wireAdapter,
} from "../adapters/adapter.ts";
import type { AdapterMethod, Settings } from "../adapters/method.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeFileAtomic } from "../formats/atomic.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { bytesOf, sizeOf } from "../kernels/graph.ts";
import { generateTokens } from "../rwkv/generate.ts";
import { Model, readModelConfig } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { chooseTokenizer } from "../rwkv/tokenizer/choose.ts";
import type { Tokenizer } from "../rwkv/tokenizer/tokenizer.ts";
import { listCheckpoints, loadCheckpoint, saveCheckpoint } from "./checkpoint.ts";
import { Batches } from "./data/batches.ts";
import { readDocuments } from "./data/documents.ts";
import { random } from "./data/random.ts";
import { splitHeldOut } from "./data/split.ts";
import { requireOneSample } from "./data/windows.ts";
import { Metrics } from "./metrics.ts";
import { OptionError, settle, type TrainOptions, type TrainSettings } from "./options.ts";
import { Programs } from "./programs.ts";
import {
  fileDigest,
  freeFolder,
  placed,
  readRun,
  requireSameInputs,
  resumedSettings,
  RUN_VERSION,
  type RunConfig,
} from "./run_folder.ts";
import { learningRate } from "./schedule.ts";
import { Trainables } from "./trainables.ts";

/** What is known after a step. */
export interface StepReport {
  /** From 1. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Mean cross-entropy over the step's counted targets, in nats. */
  readonly loss: number;
  /** Of the step. */
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  /** Targets of the step. */
  readonly tokens: number;
  /** Targets a second, in this step. */
  readonly tokensPerSecond: number;
  /** Estimate of what is left. */
  readonly secondsLeft: number;
}

/** What a run says of itself on the way. */
export interface TrainListeners {
  /** Every step, in order. */
  onStep?: (report: StepReport) => void;
  /** Phases, findings and results, one sentence each. */
  onMessage?: (message: string) => void;
  /** Asked after every step: true saves and stops. */
  shouldStop?: () => boolean;
}

/** What a run came to. */
export interface TrainResult {
  /** The run folder. */
  readonly projDir: string;
  /** The adapter, or the model where every weight trained. */
  readonly output: string;
  /** Steps that it has taken. */
  readonly steps: number;
  /** Mean loss of the last step. */
  readonly loss: number;
  /** Mean loss on held-out text; undefined where none is held out. */
  readonly heldOut: { readonly before: number; readonly after: number } | undefined;
  /** Text from the prompt; undefined without a prompt. */
  readonly samples: { readonly before: string; readonly after: string } | undefined;
  /** Whether it ended because it was asked to stop. */
  readonly stopped: boolean;
}

/** Tokens of a sample. */
const SAMPLE_TOKENS = 160;
/** Batches that the held-out loss is measured on, at most. */
const HELD_OUT_BATCHES = 16;
/** L2Wrap's strength in RWKV-LM. */
const L2WRAP = 1e-4;

/** Trains an adapter, or a whole model, and leaves everything in the run folder. */
export async function train(
  options: TrainOptions = {},
  listeners: TrainListeners = {},
): Promise<TrainResult> {
  const { onMessage = () => {} } = listeners;
  const previous = options.resume === undefined ? undefined : readRun(options.resume);
  const settings = previous ? resumedSettings(previous.settings, options) : settle(options, freeFolder);
  const projDir = options.resume ?? settings.projDir;
  if (!previous && existsSync(projDir) && !options.force) {
    throw new OptionError(
      `The run folder ${projDir} exists: name another with --proj_dir, or replace it with --force`,
    );
  }

  const method = settings.peft === "none" ? undefined : adapterMethod(settings.peft);
  const start = prepare(settings, method);
  const { engine, reason } = await chooseEngine(settings.engine);
  onMessage(reason);
  try {
    const { tokenizer, batches, heldOut } = await readText(settings, start.config.vocabulary, onMessage);
    const model = Model.load(settings.loadModel, engine, {
      elsewhere: (name) => start.adapter.tensors.has(name),
    });
    if (start.adapter instanceof Adapter) checkBase(start.adapter, model.fingerprint, settings.loadModel);
    const config: RunConfig = {
      version: RUN_VERSION,
      settings: placed(settings),
      model: model.fingerprint,
      data: fileDigest(settings.dataFile),
    };
    if (previous) requireSameInputs(previous, config, options.resume!);
    const run = new Run(model, method, start.adapter, settings, tokenizer, engine);
    const resuming = previous !== undefined;
    return await run.train(
      projDir,
      config,
      batches,
      heldOut,
      resuming,
      { ...listeners, onMessage },
      options.force,
    );
  } finally {
    engine.dispose();
  }
}

/** Reads the text and cuts it into batches and what is held out. */
async function readText(settings: TrainSettings, vocabulary: number, onMessage: (message: string) => void) {
  const { loadModel, dataFile, dataType, vocab, ctxLen, microBsz, randomSeed } = settings;
  const tokenizer = await chooseTokenizer({
    vocabulary,
    modelPath: loadModel,
    ...(vocab === undefined ? {} : { vocab }),
  });
  const { documents, summary } = await readDocuments(dataFile, tokenizer, { dataType });
  requireOneSample(documents, ctxLen, dataFile);
  const split = splitHeldOut(documents, { ctxLen, seed: randomSeed, fraction: settings.heldOut });
  const batches = new Batches({ documents: split.train, ctxLen, microBsz, seed: randomSeed });
  onMessage(
    `Text: ${summary.documents} documents, ${summary.tokens} tokens (${tokenizer.name}) in ${dataFile}; ` +
      `${batches.tokensPerEpoch} targets an epoch in ${batches.batchesPerEpoch} micro-batches` +
      (batches.skipped ? `; ${batches.skipped} documents of under two tokens skipped` : ""),
  );
  return { tokenizer, batches, heldOut: split.heldOut };
}

/** Reads sizes and makes the tensors that will train. @throws in one sentence where settings and model do not fit */
function prepare(settings: TrainSettings, method: AdapterMethod | undefined) {
  using file = openTensorFile(settings.loadModel);
  const config = readModelConfig(file);
  const hostTensor = (name: string) =>
    [name, { shape: file.tensors.get(name)!.shape, data: file.readFloat32(name) }] as const;
  if (!method) {
    const tensors = new Map(weightsNamed(config, [""]).map(hostTensor));
    return { config, adapter: { tensors } };
  }
  const { load, given } = methodSettings(settings);
  if (load) {
    const adapter = loadAdapter(load, { loraAlpha: settings.loraConfig.lora_alpha! });
    checkFits(adapter, config);
    const others = weightsNamed(config, settings.trainParts).filter((name) => !adapter.tensors.has(name)).map(
      hostTensor,
    );
    return { config, adapter: adapter.withTensors(new Map([...adapter.tensors, ...others])) };
  }
  const adapter = newAdapter({ config, file, fingerprint: "" }, method, {
    settings: given,
    trainParts: settings.trainParts,
    noise: random(settings.randomSeed, "adapter"),
  });
  return { config, adapter };
}

/** A method's own settings, and the adapter to go on from. */
function methodSettings(
  { peft, boneConfig, loraConfig, peftConfig }: TrainSettings,
): { load?: string; given: Settings } {
  const load = (path: string | undefined) => path ? { load: path } : {};
  if (peft === "bone") return { ...load(boneConfig.bone_load), given: { r: boneConfig.bone_r } };
  if (peft !== "lora") return { given: peftConfig ?? {} };
  return { ...load(loraConfig.lora_load), given: { r: loraConfig.lora_r, alpha: loraConfig.lora_alpha } };
}

/** One run in progress. */
class Run {
  readonly #trainables: Trainables;
  readonly #adapter: Adapter | undefined;
  readonly #programs: Programs;

  constructor(
    readonly model: Model,
    method: AdapterMethod | undefined,
    start: Pick<Adapter, "tensors"> | Adapter,
    readonly settings: TrainSettings,
    readonly tokenizer: Tokenizer,
    readonly engine: Engine,
  ) {
    this.#adapter = method &&
      new Adapter(method, (start as Adapter).settings, start.tensors, model.fingerprint);
    this.#trainables = new Trainables(start, model.config, engine, { layerwise: settings.layerwiseLr });
    this.#programs = new Programs({
      model,
      adapter: this.#adapter,
      trainables: this.#trainables,
      B: settings.microBsz,
      T: settings.ctxLen,
      recompute: settings.gradCp,
      l2: settings.l2wrap ? L2WRAP : 0,
    });
  }

  async train(
    projDir: string,
    config: RunConfig,
    batches: Batches,
    heldOutDocuments: readonly Uint32Array[],
    resuming: boolean,
    listeners: TrainListeners & { onMessage: (message: string) => void },
    force = false,
  ): Promise<TrainResult> {
    const { settings, engine } = this;
    const { onMessage } = listeners;
    this.#explain(onMessage);
    using programs = await this.#programs.load();
    let first = 0;
    if (resuming) {
      const [newest] = listCheckpoints(projDir);
      if (newest) first = loadCheckpoint(newest.path, this.#trainables);
      onMessage(
        newest
          ? `Resumed at step ${first} from ${newest.path}`
          : `No checkpoint in ${projDir}: starting again`,
      );
    } else {
      if (force && existsSync(projDir)) Deno.removeSync(projDir, { recursive: true });
      Deno.mkdirSync(projDir, { recursive: true });
    }
    writeFileAtomic(join(projDir, "config.json"), JSON.stringify(config, null, 2) + "\n", { force: true });

    const planned = this.#plannedSteps(batches);
    const steps = settings.maxSteps ?? planned;
    const heldOut = heldOutDocuments.length
      ? new Batches({
        documents: heldOutDocuments,
        ctxLen: settings.ctxLen,
        microBsz: settings.microBsz,
        seed: 0,
        shuffle: false,
      })
      : undefined;
    const measure = async () => {
      if (!heldOut) return NaN;
      const count = Math.min(heldOut.batchesPerEpoch, HELD_OUT_BATCHES);
      return await programs.measure(Array.from({ length: count }, (_, i) => heldOut.at(i)));
    };

    using metrics = new Metrics(join(projDir, "metrics.jsonl"), first);
    const before = { loss: await measure(), sample: await this.#sample() };
    if (heldOut) onMessage(`Held-out loss before: ${before.loss.toFixed(4)}`);
    if (!resuming) metrics.write({ step: 0, heldOutLoss: before.loss, sample: before.sample });

    const { loss, last, stopped } = await this.#loop(
      programs,
      batches,
      first,
      steps,
      planned,
      projDir,
      metrics,
      listeners,
    );
    onMessage(`Memory in use: ${megabytes(engine.allocatedBytes)}`);
    const after = { loss: await measure(), sample: await this.#sample() };
    metrics.write({ step: last, heldOutLoss: after.loss, sample: after.sample });
    const output = await this.#saveResult(projDir);
    this.#trainables.dispose();
    this.model.dispose();
    return {
      projDir,
      output,
      steps: last,
      loss,
      heldOut: heldOut && { before: before.loss, after: after.loss },
      samples: before.sample === undefined ? undefined : { before: before.sample, after: after.sample! },
      stopped,
    };
  }

  #plannedSteps(batches: Batches): number {
    const { epochSteps = batches.batchesPerEpoch, epochCount, accumulateGradBatches } = this.settings;
    return Math.ceil(epochSteps * epochCount / accumulateGradBatches);
  }

  async #loop(
    programs: Awaited<ReturnType<Programs["load"]>>,
    batches: Batches,
    first: number,
    steps: number,
    planned: number,
    projDir: string,
    metrics: Metrics,
    { onStep, shouldStop, onMessage }: TrainListeners & { onMessage: (message: string) => void },
  ) {
    const { settings } = this;
    const { accumulateGradBatches: many, epochSteps = batches.batchesPerEpoch, epochSave, saveSteps, keep } =
      settings;
    const stepsAnEpoch = Math.max(1, Math.round(epochSteps / many));
    const started = performance.now();
    let loss = NaN, step = first, tokensSoFar = 0, stopped = false;
    let time = started;
    while (step < steps && !stopped) {
      const micro = Array.from({ length: many }, (_, i) => batches.at(step * many + i));
      const tokens = micro.reduce((sum, { counted }) => sum + counted, 0);
      micro.forEach((batch) => programs.accumulate(batch, tokens));
      const rate = learningRate(settings, step, planned);
      const report = await programs.update({
        learningRate: rate,
        beta1: settings.beta1,
        beta2: settings.beta2,
        eps: settings.adamEps,
        weightDecay: settings.weightDecay,
        biasCorrection1: 1 - settings.beta1 ** (step + 1),
        biasCorrection2: 1 - settings.beta2 ** (step + 1),
        clip: settings.gradientClipVal,
      });
      step++;
      tokensSoFar += tokens;
      loss = report.loss;
      if (!Number.isFinite(loss)) {
        throw new Error(
          `The loss is ${loss} at step ${step} (micro-batch ${
            (step - 1) * many
          }): lower --lr_init; the last good ` +
            `checkpoint is ${listCheckpoints(projDir)[0]?.path ?? "none"}`,
        );
      }
      const now = performance.now();
      const seconds = (now - started) / 1000;
      const line = {
        step,
        steps,
        loss,
        learningRate: rate,
        gradientNorm: report.norm,
        tokens,
        tokensPerSecond: tokens / ((now - time) / 1000),
        secondsLeft: seconds / (step - first) * (steps - step),
      };
      time = now;
      metrics.write(line);
      onStep?.(line);
      stopped = shouldStop?.() ?? false;
      const due = step % (stepsAnEpoch * epochSave) === 0 ||
        (saveSteps !== undefined && step % saveSteps === 0);
      if (due || stopped || step === steps) await saveCheckpoint(projDir, step, this.#trainables, keep);
    }
    const seconds = (performance.now() - started) / 1000;
    if (step > first) {
      onMessage(
        `Trained ${step - first} steps in ${seconds.toFixed(1)} s, ${
          Math.round(tokensSoFar / seconds)
        } tokens/s`,
      );
    }
    return { loss, last: step, stopped };
  }

  /** Says what trains and what memory that takes, before any of it is allocated. @throws OptionError if it cannot fit */
  #explain(onMessage: (message: string) => void): void {
    const { engine, model, settings } = this;
    const count = (tensors: Iterable<{ shape: readonly number[] }>) =>
      [...tensors].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const trainable = count(this.#trainables.parameters.values());
    const added = [...this.#adapter?.tensors ?? []].filter(([name]) => !model.shapes.has(name));
    onMessage(trainableLine(trainable, model.parameters + count(added.map(([, tensor]) => tensor))));

    const { gradients, bytes } = this.#programs;
    const held = engine.allocatedBytes, limit = engine.limitBytes ?? Infinity;
    const largest = Math.max(...gradients.slots, ...[...gradients.variables].map(bytesOf));
    onMessage(
      `Memory: ${megabytes(held)} for weights, adapter and optimizer, ${
        megabytes(bytes)
      } for the values of a step ` +
        `(largest single tensor ${megabytes(largest)})`,
    );
    if (held + bytes > limit) {
      const fits = Math.floor(settings.microBsz * (limit - held) / bytes);
      const advice = fits >= 1
        ? `use --micro_bsz ${fits}`
        : `lower --ctx_len${settings.gradCp ? "" : " or use --grad_cp 1"}`;
      throw new OptionError(
        `A step needs ${megabytes(held + bytes)} and the ${engine.name} engine holds at most ${
          megabytes(limit)
        }: ${advice}`,
      );
    }
  }

  async #sample(): Promise<string | undefined> {
    const { samplePrompt } = this.settings;
    if (samplePrompt === "") return undefined;
    const { model, tokenizer, engine } = this;
    const variables = this.#trainables.parameters;
    const adapter = this.#adapter;
    const session = new Session(
      model.config,
      (graph) => adapter ? wireAdapter(graph, model, { adapter, variables }) : model.wire(graph, variables),
      engine,
    );
    const draw = random(this.settings.randomSeed, "sample");
    const tokens: number[] = [];
    const options = {
      count: SAMPLE_TOKENS,
      sampling: { temperature: 0.8, topP: 0.9 },
      uniform: () => draw.uniform(),
    };
    for await (const token of generateTokens(session, tokenizer.encode(samplePrompt), options)) {
      tokens.push(token);
    }
    session.dispose();
    return samplePrompt + tokenizer.decode(tokens);
  }

  /** Writes the adapter, or the model in its file's dtypes. @returns the path */
  async #saveResult(projDir: string): Promise<string> {
    const tensors = await this.#trainables.read("p");
    if (this.#adapter) {
      const path = join(projDir, "adapter.pth");
      saveAdapter(this.#adapter.withTensors(tensors), path, { force: true });
      return path;
    }
    const { file } = this.model;
    const path = join(projDir, file.format === "pth" ? "model.pth" : "model.safetensors");
    writeTensorFile(path, {
      format: file.format,
      tensors: file.tensors.values(),
      read: ({ name, dtype }) => {
        const trained = tensors.get(name);
        return trained ? fromFloat32(trained.data, dtype) : file.readBytes(name);
      },
      force: true,
    });
    return path;
  }
}

/** PEFT's line on what trains. */
export function trainableLine(trainable: number, all: number): string {
  const grouped = (n: number) => n.toLocaleString("en-US");
  const share = (100 * trainable / all).toFixed(4);
  return `trainable params: ${grouped(trainable)} || all params: ${grouped(all)} || trainable%: ${share}`;
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
