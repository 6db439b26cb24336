/**
 * First contents of an adapter whose method computes them on an engine.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import { linearSites, type ModelConfig } from "../rwkv/config.ts";
import type { Model } from "../rwkv/model.ts";
import { type Adapter, AdapterError } from "./adapter.ts";
import type { Noise } from "./method.ts";

/**
 * The adapter with its first contents, computed site by site; the adapter itself where its method has nothing to compute.
 * @param onSite told each site before its turn, with how many were done and how many there are
 * @throws AdapterError that names the weight which has none
 */
export async function initialised(
  adapter: Adapter,
  { config, file }: { readonly config: ModelConfig; readonly file: Model["file"] },
  engine: Engine,
  noise: Noise,
  onSite: (site: string, done: number, all: number) => void = () => {},
): Promise<Adapter> {
  using initialiser = adapter.method.initialiser?.(engine);
  if (!initialiser) return adapter;
  const tensors = new Map(adapter.tensors);
  const sites = linearSites(config).filter((site) => Object.keys(adapter.parametersAt(site)).length);
  for (const [done, site] of sites.entries()) {
    onSite(site.name, done, sites.length);
    const name = `${site.name}.weight`, weight = file.readFloat32(name);
    const call = { site, settings: adapter.settingsAt(site.name), noise, weight };
    const found = await initialiser.tensors(call).catch((error) => {
      if (!(error instanceof RangeError)) throw error;
      throw new AdapterError(
        `Cannot begin ${adapter.method.name} on ${file.path}: "${name}" ${error.message}`,
      );
    });
    for (const [tensor, data] of Object.entries(found)) {
      const full = `${site.name}.${tensor}`;
      tensors.set(full, { shape: tensors.get(full)!.shape, data });
    }
  }
  return adapter.withTensors(tensors);
}
