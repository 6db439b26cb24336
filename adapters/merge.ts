/**
 * Folding an adapter into a base model: tensor by tensor, in f32, rounded once to the base's dtype.
 *
 * @module
 */
import { fromFloat32, toFloat32 } from "../formats/dtype.ts";
import { type TensorFile, type TensorFormat, writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { linearSites, type Site } from "../rwkv/config.ts";
import { Model, readModelConfig } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { type Adapter, AdapterError, attach, checkFits, wireAdapter } from "./adapter.ts";

/** The weight of a site with the adapter folded in, f32 [out, in]. */
export function mergedWeight(adapter: Adapter, site: Site, weight: Float32Array): Float32Array {
  const { method, settings, tensors } = adapter;
  const names = Object.keys(method.parameters(site, settings));
  if (!tensors.has(`${site.name}.${names[0]}`)) return weight;
  const parameters = Object.fromEntries(
    names.map((name) => [name, tensors.get(`${site.name}.${name}`)!.data]),
  );
  const merged = method.merge({ site, settings, weight, parameters });
  const bad = merged.findIndex((x) => !Number.isFinite(x));
  if (bad >= 0) {
    throw new AdapterError(
      `The merged weight of ${site.name} is not finite at element ${bad}: the adapter is broken`,
    );
  }
  return merged;
}

/** Writes the merged model: the base's names, order, shapes and dtypes. @throws if the output exists and `force` is not set */
export function writeMerged(
  base: TensorFile,
  adapter: Adapter,
  output: string,
  options: { force?: boolean } = {},
): void {
  const config = readModelConfig(base);
  checkFits(adapter, config);
  const sites = new Map(linearSites(config).map((site) => [`${site.name}.weight`, site]));
  writeTensorFile(output, {
    format: formatOf(output, base.format),
    tensors: base.tensors.values(),
    read: ({ name, dtype }) => {
      const replaced = adapter.tensors.get(name);
      const site = sites.get(name);
      if (!site) return replaced ? fromFloat32(replaced.data, dtype) : base.readBytes(name);
      const weight = replaced?.data ?? toFloat32(base.readBytes(name), dtype);
      const merged = mergedWeight(adapter, site, weight);
      return merged === weight && !replaced ? base.readBytes(name) : fromFloat32(merged, dtype);
    },
    metadata: base.format === "safetensors" ? base.metadata : undefined,
    force: options.force,
  });
}

function formatOf(output: string, other: TensorFormat): TensorFormat {
  if (output.endsWith(".pth")) return "pth";
  return output.endsWith(".safetensors") ? "safetensors" : other;
}

/** How far a merged model is from base plus adapter. */
export interface MergeCheck {
  /** Largest difference of two logits on the probe. */
  readonly largestDifference: number;
  /** Largest logit on the probe, to compare with. */
  readonly largestLogit: number;
  /** What the difference should stay below, from the dtype that the weights were rounded to. */
  readonly bound: number;
}

/** Relative difference of logits that rounding the weights once explains. */
const ROUNDING = { F64: 1e-4, F32: 1e-4, F16: 2e-2, BF16: 1e-1 } as const;

/** Compares the logits of a merged model with those of base plus adapter after a probe of fixed tokens. */
export async function checkMerge(
  base: string,
  adapter: Adapter,
  merged: string,
  engine: Engine,
): Promise<MergeCheck> {
  const logitsOf = async (path: string, adapter?: Adapter) => {
    using model = Model.load(path, engine);
    using attachment = adapter && attach(adapter, model);
    const session = new Session(
      model.config,
      (graph) => attachment ? wireAdapter(graph, model, attachment) : model.wire(graph),
      engine,
    );
    // Fixed pseudo-random tokens (a linear congruence), so that any vocabulary is probed in the same way.
    const probe = Uint32Array.from(
      { length: 32 },
      (_, i) => (1103515245 * (i + 1) + 12345) % model.config.vocabulary,
    );
    const logits = await session.feed(probe, "all");
    session.dispose();
    return { logits, dtype: model.file.tensors.get("head.weight")!.dtype };
  };
  const unmerged = await logitsOf(base, adapter);
  const after = await logitsOf(merged);
  let largestDifference = 0, largestLogit = 0;
  unmerged.logits.forEach((x, i) => {
    largestDifference = Math.max(largestDifference, Math.abs(x - after.logits[i]!));
    largestLogit = Math.max(largestLogit, Math.abs(x));
  });
  const bound = ROUNDING[after.dtype as keyof typeof ROUNDING] * Math.max(1, largestLogit);
  return { largestDifference, largestLogit, bound };
}
