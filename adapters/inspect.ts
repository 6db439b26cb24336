/**
 * What a file is, said from its names, shapes and descriptions alone: a model or an adapter, of what version, sizes, method and dtype.
 *
 * @module
 */
import { type DType, tensorByteLength } from "../formats/dtype.ts";
import { modelIn, openTensorFile, type TensorFile, type TensorFormat } from "../formats/tensor_file.ts";
import { readConfig } from "../rwkv/config.ts";
import { officialName } from "../rwkv/names.ts";
import type { Adapter } from "./adapter.ts";
import { loadAdapter, SITE_TENSOR } from "./file.ts";
import { ADAPTER_TENSOR } from "./fit.ts";
import { requireFit } from "./merge_adapter.ts";
import type { AdapterHints, Settings } from "./method.ts";
import { ORIGINALS } from "./originals.ts";
import { peftFolder, weightsIn } from "./peft/read.ts";

/** What a model is. */
export interface ModelSummary {
  /** `RWKV-7`, `RWKV-6`, …, or undefined for a model of another kind. */
  readonly version: string | undefined;
  /** What RWKV calls the size, such as `1.5B`, where it is one of its sizes. */
  readonly size: string | undefined;
  /** Whose names the tensors have, for an RWKV model. */
  readonly names: "official" | "Hugging Face" | undefined;
  /** Number of blocks. */
  readonly layers: number | undefined;
  /** Channels. */
  readonly channels: number | undefined;
  /** Width of the channel mix. */
  readonly ffn: number | undefined;
  /** Heads and their size. */
  readonly heads: readonly [count: number, size: number] | undefined;
  /** Words of the vocabulary. */
  readonly vocabulary: number | undefined;
  /** Widths of RWKV-7's low-rank pairs. */
  readonly ranks: Readonly<Record<string, number>> | undefined;
  /** Whether a tuned initial state is part of it. */
  readonly hasState: boolean;
  /** What keeps it from being used here, in one sentence. */
  readonly problem: string | undefined;
}

/** What an adapter is. */
export interface AdapterSummary {
  /** Name of the method; undefined where only a hint could tell. */
  readonly method: string | undefined;
  /** Whose file it is: PEFT and its type, RWKV-PEFT, or this project. */
  readonly origin: string;
  /** Settings of the method. */
  readonly settings: Settings;
  /** Ranks of the layers, least and most. */
  readonly ranks: readonly [number, number] | undefined;
  /** Linear layers that it sits on, by the last parts of their names, with how many there are of each. */
  readonly layers: ReadonlyMap<string, number>;
  /** Weights that trained along. */
  readonly weights: readonly string[];
  /** How many of them the file keeps as the base model had them, so that they can be taken out of a merged model. */
  readonly originals: number;
  /** SHA-256 of its base model, where it says. */
  readonly base: string | undefined;
  /** Blocks, channels and width of the channel mix of the models that it fits, as far as it shows. */
  readonly fits: {
    readonly layers: number;
    readonly channels?: number;
    readonly ffn?: number;
    readonly size?: string;
  };
  /** What is not known of it, in one sentence. */
  readonly problem: string | undefined;
}

/** What a file is. */
export interface Inspection {
  /** Path of what was read. */
  readonly path: string;
  /** Format. */
  readonly format: TensorFormat;
  /** Number of files. */
  readonly files: number;
  /** Number of tensors. */
  readonly tensors: number;
  /** Number of numbers. */
  readonly parameters: number;
  /** Bytes of all tensors. */
  readonly bytes: number;
  /** How many tensors there are of each element type. */
  readonly dtypes: ReadonlyMap<DType, number>;
  /** What every name begins with and is left out. */
  readonly prefix: string;
  /** The first names. */
  readonly first: readonly string[];
  /** Texts that the file carries. */
  readonly metadata: ReadonlyMap<string, string>;
  /** What it is, where it is a model. */
  readonly model?: ModelSummary;
  /** What it is, where it is an adapter. */
  readonly adapter?: AdapterSummary;
}

/** Sizes that RWKV comes in: layers and channels. */
const SIZES: Readonly<Record<string, string>> = {
  "12x768": "0.1B",
  "24x1024": "0.4B",
  "24x2048": "1.5B",
  "32x2560": "2.9B",
  "32x4096": "7B",
  "61x4096": "14B",
};

const STATE = /^blocks\.\d+\.att\.time_state$/;

/**
 * Says what a file is.
 * @param path a `.pth` or safetensors file, an index, a model's folder or a PEFT directory
 * @throws FormatError where it is none of these; AdapterError for a folder that is no adapter and no model
 */
export function inspect(path: string, hints: AdapterHints = {}): Inspection {
  const folder = modelIn(path) === undefined ? peftFolder(path) : undefined;
  using file = openTensorFile(folder === undefined ? path : weightsIn(folder));
  const infos = [...file.tensors.values()], names = infos.map(({ name }) => file.prefix + name);
  const count = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
  const dtypes = new Map<DType, number>();
  for (const { dtype } of infos) dtypes.set(dtype, (dtypes.get(dtype) ?? 0) + 1);
  const hasLayers = names.some((name) => /\.(key|k_proj|q_proj)\.weight$/.test(name));
  const isAdapter = folder !== undefined || file.metadata.has("wishbone") ||
    names.some((name) => ADAPTER_TENSOR.test(name)) ||
    !hasLayers && infos.some(({ name }) => STATE.test(name));
  return {
    path: folder ?? file.path,
    format: file.format,
    files: Math.max(1, file.shards.length),
    tensors: infos.length,
    parameters: infos.reduce((sum, { shape }) => sum + count(shape), 0),
    bytes: infos.reduce((sum, { dtype, shape }) => sum + (tensorByteLength(dtype, shape) ?? 0), 0),
    dtypes,
    prefix: file.prefix,
    first: names.slice(0, 3),
    metadata: new Map([...file.metadata].filter(([key]) => key !== ORIGINALS)),
    ...(isAdapter ? { adapter: adapterSummary(path, file, hints) } : { model: modelSummary(file) }),
  };
}

/** Whether an adapter fits a model file, as a sentence of what does not; undefined if it does. */
export function misfit(path: string, base: string, hints: AdapterHints = {}): string | undefined {
  using file = openTensorFile(base);
  return problemOf(() => requireFit(loadAdapter(path, hints), file));
}

function problemOf(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return (error as Error).message;
  }
}

function modelSummary(file: TensorFile): ModelSummary {
  const shapes = new Map([...file.tensors.values()].map(({ name, shape }) => {
    const full = file.prefix + name;
    return [officialName(full) ?? full.replace(/^(model\.)+/, ""), shape] as const;
  }));
  const names = [...shapes.keys()];
  const layers = 1 + Math.max(-1, ...names.map((name) => Number(/(?:^|\.)(\d+)\./.exec(name)?.[1] ?? -1)));
  const has = (name: string) => shapes.has(`blocks.0.att.${name}`);
  const version = has("r_k")
    ? "RWKV-7"
    : has("time_maa_x")
    ? "RWKV-6"
    : has("gate.weight")
    ? "RWKV-5"
    : has("time_decay")
    ? "RWKV-4 or RWKV-5"
    : undefined;
  const isOfficial = file.tensors.has("blocks.0.ln1.weight") || file.tensors.has("blocks.0.att.key.weight");
  const [vocabulary, channels] = shapes.get("emb.weight") ?? shapes.get("embed_tokens.weight") ?? [];
  const heads = shapes.get("blocks.0.att.r_k") ?? shapes.get("blocks.0.att.time_faaaa");
  const rank = (name: string) => shapes.get(`blocks.1.att.${name}`) ?? shapes.get(`blocks.0.att.${name}`);
  const narrow = (name: string) => rank(name)?.[isOfficial ? 1 : 0] ?? 0;
  return {
    version,
    size: version && SIZES[`${layers}x${channels}`],
    names: version ? (isOfficial ? "official" : "Hugging Face") : undefined,
    layers: layers || undefined,
    channels,
    ffn: shapes.get("blocks.0.ffn.key.weight")?.[0],
    heads: heads?.length === 2 ? [heads[0]!, heads[1]!] : undefined,
    vocabulary,
    ranks: version === "RWKV-7" && rank("w1")
      ? { w: narrow("w1"), a: narrow("a1"), v: narrow("v1"), g: narrow("g1") }
      : undefined,
    hasState: names.some((name) => STATE.test(name)),
    problem: problemOf(() => readConfig(file.tensors, file.path)),
  };
}

function adapterSummary(path: string, file: TensorFile, hints: AdapterHints): AdapterSummary {
  let adapter: Adapter | undefined;
  const problem = problemOf(() => adapter = loadAdapter(path, hints));
  const names = [...file.tensors.keys()].map((name) => file.prefix + name);
  const at = new Map<string, Map<string, readonly number[]>>(), weights: string[] = [];
  const listed = adapter
    ? [...adapter.tensors].map(([name, { shape }]) => [name, shape] as const)
    : [...file.tensors.values()].map(({ name, shape }) => [name, shape] as const);
  for (const [name, shape] of listed) {
    const dot = name.lastIndexOf("."), site = name.slice(0, dot);
    if (!ADAPTER_TENSOR.test(name) && !SITE_TENSOR.test(name)) weights.push(name);
    else at.set(site, (at.get(site) ?? new Map()).set(name.slice(dot + 1), shape));
  }
  const layers = new Map<string, number>();
  for (const site of at.keys()) {
    const kind = site.replace(/^.*?(\d+)\./, "");
    layers.set(kind, (layers.get(kind) ?? 0) + 1);
  }
  const ranks = adapter
    ? [...at.keys()].map((site) => adapter!.settingsAt(site).r).filter((r): r is number =>
      typeof r === "number"
    )
    : [];
  return {
    method: adapter?.method.name,
    origin: originOf(names, file),
    settings: adapter?.settings ?? {},
    ranks: ranks.length ? [Math.min(...ranks), Math.max(...ranks)] : undefined,
    layers,
    weights,
    originals: adapter?.originals.size ?? 0,
    base: adapter?.base,
    fits: fitsOf(at, weights, adapter),
    problem,
  };
}

function originOf(names: readonly string[], file: TensorFile): string {
  const has = (ending: RegExp) => names.some((name) => ending.test(name));
  if (file.metadata.has("wishbone")) return "Wishbone";
  if (has(/\.miss_block(\.default)?$/)) return "Hugging Face PEFT, MISS";
  if (has(/\.bone_block(\.default)?$/)) return "Hugging Face PEFT, BONE";
  if (has(/\.lora_A(\.default)?\.weight$/)) return "Hugging Face PEFT, LORA";
  if (has(/\.disha$/)) return "RWKV-PEFT, February to October 2025";
  if (has(/\.gbmm$/)) return "RWKV-PEFT's forerunner of August 2024";
  if (has(/\.bone$/)) return "RWKV-PEFT, until February 2025";
  return "RWKV-PEFT";
}

/** Sizes of the models that an adapter fits. */
function fitsOf(
  at: ReadonlyMap<string, ReadonlyMap<string, readonly number[]>>,
  weights: readonly string[],
  adapter: Adapter | undefined,
): AdapterSummary["fits"] {
  const numbers = [...at.keys(), ...weights].map((name) => Number(/(?:^|\.)(\d+)\./.exec(name)?.[1] ?? -1));
  const layers = 1 + Math.max(-1, ...numbers);
  const outOf = (end: RegExp) => {
    const site = [...at].find(([name]) => end.test(name));
    if (!site) return undefined;
    const [, tensors] = site, settings = adapter?.settingsAt(site[0]) ?? {};
    const B = tensors.get("lora_B");
    if (B) return B[0];
    const bone = tensors.get("bone");
    if (!bone || settings.mini_r !== undefined) return undefined;
    if (bone.length === 2) return bone[1];
    return settings.axis === "out" || end.source.includes("att") ? bone[0]! * bone[1]! : undefined;
  };
  const norm = weights.map((name) => adapter?.tensors.get(name)?.shape).find((shape) => shape?.length === 1);
  const state = weights.find((name) => STATE.test(name));
  const [H = 0, N = 0] = state === undefined ? [] : adapter?.tensors.get(state)?.shape ?? [];
  const channels = outOf(/att\.(receptance|key|value|output)$/) ?? norm?.[0] ?? (H * N || undefined);
  const ffn = outOf(/ffn\.key$/);
  const size = SIZES[`${layers}x${channels}`];
  return {
    layers,
    ...(channels === undefined ? {} : { channels }),
    ...(ffn === undefined ? {} : { ffn }),
    ...(size === undefined ? {} : { size }),
  };
}
