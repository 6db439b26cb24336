/**
 * Training from scratch: a fresh model is written to the run's base file, then trained whole like any other.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeTensorFile } from "../formats/tensor_file.ts";
import { weightShapes } from "../rwkv/config.ts";
import { freshConfig, type FreshModel, initialWeights } from "../rwkv/initialise.ts";
import { random } from "./data/random.ts";
import { planTraining, type TrainingPlan } from "./dry_run.ts";
import { OptionError, type TrainOptions } from "./options.ts";
import type { TrainListeners, TrainResult } from "./listeners.ts";
import { holdRun, requireReplaceable } from "./run_folder.ts";
import { train } from "./trainer.ts";

/** Options of a run from scratch: those of training, and the sizes of the model. */
export interface PretrainOptions extends Omit<TrainOptions, "loadModel" | "peft"> {
  /** Layers. */
  nLayer: number;
  /** Channels. */
  nEmbd: number;
  /** Vocabulary: 256 for bytes, 65536 for World. */
  vocabSize?: number;
  /** Channels of a head. */
  headSize?: number;
  /** Where the fresh model goes. Default: `<projDir>-init.safetensors`. */
  initModel?: string;
}

/** RWKV-LM's values for a small model, where nothing else is said. */
const DEFAULTS = {
  lrInit: 1e-3,
  lrFinal: 1e-5,
  weightDecay: 0.1,
  warmupSteps: 10,
  ctxLen: 512,
  samplePrompt: "\n",
};

/** Writes a fresh model in bf16 and trains all of it. */
export async function pretrain(
  options: PretrainOptions,
  listeners: TrainListeners = {},
): Promise<TrainResult> {
  const { nLayer, nEmbd, vocabSize = 256, headSize = 64, initModel, ...others } = options;
  if (others.resume !== undefined) return await train(others, listeners);
  if (others.projDir === undefined) throw new OptionError("Name the run folder with --proj_dir");
  const path = initModel ?? freshModelPath(others.projDir);
  if (existsSync(others.projDir)) {
    // Said before a model is replaced that a run at work there began with.
    requireReplaceable(others.projDir, others.force);
    holdRun(others.projDir)[Symbol.dispose]();
  }
  writeFreshModel(
    path,
    { layers: nLayer, channels: nEmbd, headSize, vocabulary: vocabSize },
    others.randomSeed ?? 42,
    others.force,
  );
  return await train({ ...DEFAULTS, ...others, loadModel: path, peft: "none" }, listeners);
}

/**
 * Plans a run from scratch as {@link planTraining} does. A model of zeros stands for the fresh one, as it takes the same memory
 * and time; nothing is left of it.
 */
export async function planPretraining(
  options: PretrainOptions,
  listeners: TrainListeners = {},
): Promise<TrainingPlan> {
  const { nLayer, nEmbd, vocabSize = 256, headSize = 64, initModel, ...others } = options;
  if (others.resume !== undefined) return await planTraining(others, listeners);
  if (others.projDir === undefined) throw new OptionError("Name the run folder with --proj_dir");
  const path = `${initModel ?? freshModelPath(others.projDir)}.${crypto.randomUUID()}.planned`;
  const config = freshConfig({ layers: nLayer, channels: nEmbd, headSize, vocabulary: vocabSize });
  try {
    writeTensorFile(path, {
      format: "safetensors",
      tensors: [...weightShapes(config)].map(([name, shape]) => ({ name, shape, dtype: "BF16" })),
      read: ({ shape }) => new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)),
      force: true,
    });
    return await planTraining({ ...DEFAULTS, ...others, loadModel: path, peft: "none" }, listeners);
  } finally {
    if (existsSync(path)) Deno.removeSync(path);
  }
}

/** Where the fresh model of a run goes that was given no place for it. */
export function freshModelPath(projDir: string): string {
  return `${projDir}-init.safetensors`;
}

/** Writes a model with fresh weights, in bf16. @throws if the path exists and `force` is not set */
export function writeFreshModel(path: string, sizes: FreshModel, seed: number, force = false): void {
  const config = freshConfig(sizes);
  const initial = initialWeights(config, random(seed, "initial weights"));
  writeTensorFile(path, {
    format: path.endsWith(".pth") ? "pth" : "safetensors",
    tensors: [...weightShapes(config)].map(([name, shape]) => ({ name, shape, dtype: "BF16" })),
    read: ({ name }) => fromFloat32(initial(name), "BF16"),
    force,
  });
}
