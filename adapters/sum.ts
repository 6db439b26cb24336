/**
 * Weighted sums of adapters: one adapter that adds Σ weight · ΔW.
 *
 * That is exact for methods that add the same whatever the weight is: they say what they add as a product of thin matrices, so that
 * the sum is a LoRA whose ranks are added up. Adapters of one method that is linear in its tensors, alike in settings and layers,
 * keep their method.
 *
 * @module
 */
import { linearSites, type ModelConfig, type Site } from "../rwkv/config.ts";
import { Adapter, AdapterError, checkFits, type HostTensor } from "./adapter.ts";
import { plusProduct } from "./lora/product.ts";
import type { LowRank, Settings } from "./method.ts";
import { adapterMethod } from "./registry.ts";

/** An adapter and how much of it. */
export interface Term {
  /** What adds. */
  readonly adapter: Adapter;
  /** Its factor; negative takes away. */
  readonly weight: number;
}

/**
 * The adapter that adds the weighted sum of what others add.
 * @throws AdapterError if one does not fit the model, adds what depends on the weight that it meets, or brings weights of its own
 */
export function weightedSum(config: ModelConfig, terms: readonly Term[]): Adapter {
  if (!terms.length) throw new AdapterError("A weighted sum needs at least one adapter: none was given");
  for (const { adapter, weight } of terms) requireSummable(adapter, weight, config);
  const bases = new Set(terms.flatMap(({ adapter }) => adapter.base ?? []));
  if (bases.size > 1) {
    throw new AdapterError("The adapters were trained on different models, so no model fits their sum");
  }
  const [base] = bases;
  return alike(terms, config) ? sumOfTensors(terms, base) : sumOfProducts(terms, config, base);
}

function requireSummable(adapter: Adapter, weight: number, config: ModelConfig): void {
  const { method, tensors } = adapter;
  if (!Number.isFinite(weight)) {
    throw new AdapterError(
      `The weight of the ${method.name} adapter in a sum must be a number: it is ${weight}`,
    );
  }
  checkFits(adapter, config);
  if (!method.lowRank) {
    throw new AdapterError(
      `A weighted sum with a ${method.name} adapter is not exact: what it changes is no matrix that is added whatever the weight is; ` +
        "stack it with the others, or merge them one after the other",
    );
  }
  const own = adapter.parametersOn(config);
  const weightName = [...tensors.keys()].find((name) => !own.has(name));
  if (weightName !== undefined) {
    throw new AdapterError(
      `A weighted sum with an adapter that brings weights of the model, such as "${weightName}", is not exact: ` +
        "take them out, or use one such adapter at a time",
    );
  }
}

/** Whether the tensors themselves may be added up. */
function alike([first, ...others]: readonly Term[], config: ModelConfig): boolean {
  const { adapter } = first!;
  const said = (adapter: Adapter) =>
    linearSites(config).map((site) =>
      Object.keys(adapter.parametersAt(site)).length ? JSON.stringify(adapter.settingsAt(site.name)) : ""
    ).join();
  return adapter.method.isLinear === true &&
    others.every((other) => other.adapter.method === adapter.method && said(other.adapter) === said(adapter));
}

function sumOfTensors(terms: readonly Term[], base: string | undefined): Adapter {
  const { adapter } = terms[0]!;
  const tensors = [...adapter.tensors].map(([name, { shape, data }]) => {
    const sum = Float32Array.from(
      data,
      (_, i) =>
        terms.reduce((total, { adapter, weight }) => total + weight * adapter.tensors.get(name)!.data[i]!, 0),
    );
    return [name, { shape, data: sum }] as const;
  });
  return new Adapter(
    ...[
      adapter.method,
      adapter.settings,
      new Map(tensors),
      base,
      adapter.overrides,
      adapter.targets,
    ] as const,
  );
}

function sumOfProducts(terms: readonly Term[], config: ModelConfig, base: string | undefined): Adapter {
  const tensors = new Map<string, HostTensor>(), ranks = new Map<string, number>();
  for (const site of linearSites(config)) {
    const products = terms.flatMap(({ adapter, weight }) => {
      const names = Object.keys(adapter.parametersAt(site));
      if (!names.length) return [];
      const parameters = Object.fromEntries(
        names.map((name) => [name, adapter.tensors.get(`${site.name}.${name}`)!.data]),
      );
      const settings = adapter.settingsAt(site.name);
      return [{ ...adapter.method.lowRank!({ site, settings, parameters }), scale: weight }];
    });
    if (!products.length) continue;
    const { A, B, r } = joined(products, site);
    tensors.set(`${site.name}.lora_A`, { shape: [r, site.in], data: A });
    tensors.set(`${site.name}.lora_B`, { shape: [site.out, r], data: B });
    ranks.set(site.name, r);
  }
  const method = adapterMethod("lora");
  const settingsOf = (r: number): Settings => method.configure({ r, alpha: r });
  const common = [...ranks.values()][0]!;
  const overrides = new Map(
    [...ranks].filter(([, r]) => r !== common).map(([name, r]) => [name, settingsOf(r)]),
  );
  const everywhere = ranks.size === linearSites(config).length;
  const targets = everywhere ? {} : { target_modules: [...ranks.keys()] };
  return new Adapter(method, settingsOf(common), tensors, base, overrides, targets);
}

/** Products side by side as one; where its rank would be over the site's width, the sum itself beside ones on a diagonal. */
function joined(products: readonly (LowRank & { scale: number })[], site: Site): LowRank {
  const r = products.reduce((sum, product) => sum + product.r, 0), width = Math.min(site.in, site.out);
  if (r > width) return diagonal(plusProduct(new Float32Array(site.out * site.in), site, products), site);
  const A = new Float32Array(r * site.in), B = new Float32Array(site.out * r);
  let at = 0;
  for (const product of products) {
    A.set(product.A, at * site.in);
    for (let o = 0; o < site.out; o++) {
      for (let k = 0; k < product.r; k++) B[o * r + at + k] = product.scale * product.B[o * product.r + k]!;
    }
    at += product.r;
  }
  return { A, B, r };
}

/** A matrix [out, in] as a product with the identity. */
function diagonal(sum: Float32Array, site: Site): LowRank {
  const r = Math.min(site.in, site.out), ones = new Float32Array(r * r);
  for (let i = 0; i < r; i++) ones[i * (r + 1)] = 1;
  return site.out <= site.in ? { A: sum, B: ones, r } : { A: ones, B: sum, r };
}
