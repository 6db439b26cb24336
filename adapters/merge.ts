/**
 * Folding an adapter into the weight of one linear layer, and taking it out again, in f32.
 *
 * @module
 */
import type { Site } from "../rwkv/config.ts";
import { type Adapter, AdapterError, tensorsAt } from "./adapter.ts";
import type { AdapterMerge, Settings } from "./method.ts";

/** What {@link AdapterMethod.merge} is given at a site; undefined where the adapter does not sit on it. */
function mergeCall(adapter: Adapter, site: Site, weight: Float32Array): AdapterMerge<Settings> | undefined {
  const tensors = Object.entries(tensorsAt(adapter, site, () => weight));
  if (!tensors.length) return undefined;
  const parameters = Object.fromEntries(tensors.map(([name, { data }]) => [name, data]));
  return { site, settings: adapter.settingsAt(site.name), weight, parameters };
}

/** The weight of a site as it was before the adapter was folded in, f32 [out, in]. @throws RangeError where it cannot be had back */
export function unmergedWeight(adapter: Adapter, site: Site, weight: Float32Array): Float32Array {
  const { method } = adapter, call = mergeCall(adapter, site, weight);
  if (!call) return weight;
  const derived = Object.entries(adapter.parametersAt(site)).find(([name, { derived }]) =>
    derived && !adapter.tensors.has(`${site.name}.${name}`)
  );
  if (derived) {
    throw new RangeError(
      `The ${method.name} adapter cannot be taken out of ${site.name}: it lacks "${
        derived[0]
      }", which only the base weight tells; start from the base model`,
    );
  }
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
