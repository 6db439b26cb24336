/**
 * Folding an adapter into a base model: tensor by tensor, in f32, rounded once to the base's dtype.
 *
 * @module
 */
import { fromFloat32, toFloat32 } from "../formats/dtype.ts";
import {
  openTensorFile,
  type TensorFile,
  type TensorFormat,
  type TensorInfo,
  writeTensorFile,
} from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { linearSites, type ModelConfig, type Site, stateShapes } from "../rwkv/config.ts";
import { Model, readModelConfig } from "../rwkv/model.ts";
import { PROMPT_FORMAT } from "../rwkv/prompt_format.ts";
import { Session } from "../rwkv/session.ts";
import { type Adapter, AdapterError, checkFits } from "./adapter.ts";
import type { AdapterMerge, Settings } from "./method.ts";
import { attach, wireAdapter } from "./wiring.ts";

/** What {@link AdapterMethod.merge} is given at a site; undefined where the adapter does not sit on it. */
function mergeCall(adapter: Adapter, site: Site, weight: Float32Array): AdapterMerge<Settings> | undefined {
  const names = Object.keys(adapter.parametersAt(site));
  if (!names.length) return undefined;
  const parameters = Object.fromEntries(
    names.map((name) => [name, adapter.tensors.get(`${site.name}.${name}`)!.data]),
  );
  return { site, settings: adapter.settingsAt(site.name), weight, parameters };
}

/** The weight of a site as it was before the adapter was folded in, f32 [out, in]. @throws RangeError where it cannot be had back */
export function unmergedWeight(adapter: Adapter, site: Site, weight: Float32Array): Float32Array {
  const { method } = adapter, call = mergeCall(adapter, site, weight);
  if (!call) return weight;
  if (!method.unmerge) {
    throw new RangeError(
      `What ${method.name} changed cannot be taken out of a weight again: start from the base model`,
    );
  }
  return method.unmerge(call);
}

/** The weight of a site with the adapter folded in, f32 [out, in]. */
export function mergedWeight(adapter: Adapter, site: Site, weight: Float32Array): Float32Array {
  const call = mergeCall(adapter, site, weight);
  if (!call) return weight;
  const merged = adapter.method.merge(call);
  const bad = merged.findIndex((x) => !Number.isFinite(x));
  if (bad >= 0) {
    throw new AdapterError(
      `The merged weight of ${site.name} is not finite at element ${bad}: the adapter is broken`,
    );
  }
  return merged;
}

/** Initial states that the base model lacks: they come after its own tensors, in the dtype of its matrices. */
function addedTensors(base: TensorFile, { tensors }: Adapter, config: ModelConfig): TensorInfo[] {
  const { dtype } = base.tensors.get("blocks.0.att.key.weight")!;
  return [...stateShapes(config)].filter(([name]) => tensors.has(name) && !base.tensors.has(name))
    .map(([name, shape]) => ({ name, shape, dtype }));
}

/** Writes the merged model: the base's names, order, shapes and dtypes, and the initial states that were tuned. @throws if the output exists and `force` is not set */
export function writeMerged(
  base: TensorFile,
  adapter: Adapter,
  output: string,
  options: { force?: boolean; format?: TensorFormat } = {},
): void {
  const config = readModelConfig(base);
  checkFits(adapter, config);
  const sites = new Map(linearSites(config).map((site) => [`${site.name}.weight`, site]));
  writeTensorFile(output, {
    format: options.format ?? base.format,
    tensors: [...base.tensors.values(), ...addedTensors(base, adapter, config)],
    read: ({ name, dtype }) => {
      const replaced = adapter.tensors.get(name);
      const site = sites.get(name);
      if (!site) return replaced ? fromFloat32(replaced.data, dtype) : base.readBytes(name);
      const weight = replaced?.data ?? toFloat32(base.readBytes(name), dtype);
      const merged = mergedWeight(adapter, site, weight);
      return merged === weight && !replaced ? base.readBytes(name) : fromFloat32(merged, dtype);
    },
    metadata: mergedMetadata(base, adapter),
    force: options.force,
  });
}

/** The format of an output: after its extension, else the other's. */
export function formatOf(output: string, other: TensorFormat): TensorFormat {
  if (output.endsWith(".pth")) return "pth";
  return output.endsWith(".safetensors") ? "safetensors" : other;
}

/** What a merged model's file says: what the base's says, and how the conversations that the adapter learnt are written. */
export function mergedMetadata(base: Pick<TensorFile, "metadata">, adapter: Adapter): Map<string, string> {
  const { promptFormat } = adapter;
  return new Map([
    ...base.metadata,
    ...(promptFormat === undefined ? [] : [[PROMPT_FORMAT, promptFormat] as const]),
  ]);
}

/** How far a merged model is from base plus adapter, on a text that base plus adapter writes itself. */
export interface MergeCheck {
  /** Largest difference of two logits. */
  readonly largestDifference: number;
  /** ‖merged − base plus adapter‖ / ‖base plus adapter‖ over all logits. */
  readonly relativeError: number;
  /** What the relative error may be, from the dtype that the weights were rounded to. */
  readonly bound: number;
}

/** Relative error of the logits that rounding the weights once explains, with room. */
const ROUNDING = { F64: 1e-4, F32: 1e-4, F16: 4e-3, BF16: 3e-2 } as const;
/** Tokens that the two are compared on. */
const PROBE_TOKENS = 32;

/** Compares the logits of a merged model with those of base plus adapter. */
export async function checkMerge(
  base: string,
  adapter: Adapter,
  merged: string,
  engine: Engine,
): Promise<MergeCheck> {
  // The likeliest text after an end of document: tokens that a model never met would amplify rounding beyond any use.
  const probe = [0];
  const wanted: Float32Array[] = [];
  await withSession(base, adapter, engine, async (session) => {
    for (let i = 0; i < PROBE_TOKENS; i++) {
      const logits = await session.feed([probe[i]!]);
      wanted.push(logits);
      probe.push(logits.indexOf(Math.max(...logits)));
    }
  });
  const found = await withSession(
    merged,
    undefined,
    engine,
    (session) => session.feed(probe.slice(0, -1), "all"),
  );
  let largestDifference = 0, differences = 0, squares = 0;
  wanted.forEach((logits, i) =>
    logits.forEach((x, j) => {
      const difference = Math.abs(x - found[i * logits.length + j]!);
      largestDifference = Math.max(largestDifference, difference);
      differences += difference ** 2;
      squares += x ** 2;
    })
  );
  using file = openTensorFile(merged);
  const { dtype } = file.tensors.get("blocks.0.att.key.weight")!;
  const bound = ROUNDING[dtype as keyof typeof ROUNDING];
  return { largestDifference, relativeError: Math.sqrt(differences / squares), bound };
}

async function withSession<T>(
  path: string,
  adapter: Adapter | undefined,
  engine: Engine,
  use: (session: Session) => Promise<T>,
): Promise<T> {
  using model = Model.load(path, engine);
  using attachment = adapter && attach(adapter, model);
  const session = new Session(
    model.config,
    (graph) => attachment ? wireAdapter(graph, model, attachment) : model.wire(graph),
    engine,
  );
  try {
    return await use(session);
  } finally {
    session.dispose();
  }
}
