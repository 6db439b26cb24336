/**
 * An adapter: the tensors that a method added to a model, and the weights of the model that trained along with them.
 * It lives in ordinary memory; `attach` in wiring.ts puts it on an engine beside a model.
 *
 * @module
 */
import { sizeOf } from "../kernels/graph.ts";
import { linearSites, type ModelConfig, type Site, stateShapes, weightShapes } from "../rwkv/config.ts";
import type { Model } from "../rwkv/model.ts";
import type { AdapterMethod, AdapterParameter, Noise, Settings } from "./method.ts";
import { type Originals, originalsOf } from "./originals.ts";
import { checkTargets, isTarget, patternValue, type Targets } from "./targets.ts";

/** A file or a request does not fit: one sentence with what, where and what to do. */
export class AdapterError extends Error {
  /** The class of the error. */
  override readonly name = "AdapterError";
}

/** A tensor in ordinary memory. */
export interface HostTensor {
  /** Extents, as in files. */
  readonly shape: readonly number[];
  /** Content, row-major. */
  readonly data: Float32Array;
}

/** The tensors that a method added, by name as in files: `blocks.0.att.key.bone`, or a weight's own name. */
export class Adapter {
  /** Holds tensors as they are; {@link checkFits} checks them against a model. */
  constructor(
    readonly method: AdapterMethod,
    readonly settings: Settings,
    readonly tensors: ReadonlyMap<string, HostTensor>,
    /** Fingerprint of the base model that it was made for, where it is known. */
    readonly base?: string,
    /** Checked settings of the sites, by name, that have others than {@link settings}. */
    readonly overrides: ReadonlyMap<string, Settings> = new Map(),
    /** The linear layers that it sits on. */
    readonly targets: Targets = {},
    /** How the conversations that it learnt were written, a name or a template, where there were any. */
    readonly promptFormat?: string,
    /** What the base model held where this one has weights of its own, as far as it is known. */
    readonly originals: Originals = new Map(),
    /** Whether its layers' weights lie [in, out] in the base model's file, as GPT-2's do; PEFT's `fan_in_fan_out`. */
    readonly fanInFanOut = false,
  ) {}

  /** The settings at a site. */
  settingsAt(site: string): Settings {
    return this.overrides.get(site) ?? this.settings;
  }

  /** The tensors that it has at a site; none where it does not sit. */
  parametersAt(site: Site): Readonly<Record<string, AdapterParameter>> {
    return isTarget(site, this.targets) ? this.method.parameters(site, this.settingsAt(site.name)) : {};
  }

  /** Every tensor that it has on a model, by name: those at the sites, and the weights that are the method's own. */
  parametersOn(config: ModelConfig): Map<string, AdapterParameter> {
    const atSites = linearSites(config).flatMap((site) =>
      Object.entries(this.parametersAt(site)).map(([name, parameter]) =>
        [`${site.name}.${name}`, parameter] as const
      )
    );
    return new Map([...atSites, ...this.method.weights?.(config, this.settings) ?? []]);
  }

  /** Number of numbers that it holds. */
  get size(): number {
    return [...this.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
  }

  /** The same adapter with other content. */
  withTensors(tensors: ReadonlyMap<string, HostTensor>): Adapter {
    return this.with({ tensors });
  }

  /** The same adapter but for what is given. */
  with(changed: Partial<Pick<Adapter, "tensors" | "base" | "promptFormat" | "originals">>): Adapter {
    const { method, settings, overrides, targets, fanInFanOut } = this;
    const { tensors, base, promptFormat, originals } = { ...this, ...changed };
    return new Adapter(
      ...[method, settings, tensors, base, overrides, targets, promptFormat, originals, fanInFanOut] as const,
    );
  }
}

/**
 * Weights whose names contain one of `parts`; "ln" gives the norms, and so on. The initial WKV state of a model that has none comes
 * with a part that says `time_state`.
 */
export function weightsNamed(config: ModelConfig, parts: readonly string[]): string[] {
  const names = [...weightShapes(config).keys()].filter((name) => parts.some((part) => name.includes(part)));
  if (!parts.some((part) => part.includes("time_state"))) return names;
  return [...new Set([...names, ...stateShapes(config).keys()])];
}

/** What a fresh adapter is made with. */
export interface NewAdapterOptions {
  /** Of the method. */
  readonly settings: Settings;
  /** Weights whose names contain one of these train too. */
  readonly trainParts: readonly string[];
  /** For methods that start from noise. */
  readonly noise: Noise;
  /** The linear layers that it sits on; all where nothing is said. */
  readonly targets?: Targets | undefined;
  /** Ranks of sites whose names end so, or match so, instead of the settings' own. */
  readonly rankPattern?: Readonly<Record<string, number>> | undefined;
  /** Alphas likewise. */
  readonly alphaPattern?: Readonly<Record<string, number>> | undefined;
  /** Leave zeros where the method computes first contents on an engine: `initialised` puts them in. */
  readonly deferred?: boolean | undefined;
}

/**
 * A fresh adapter for a model, with copies of the weights that train along.
 * @throws RangeError if settings, targets or patterns do not fit the model or each other
 */
export function newAdapter(
  model: { readonly config: ModelConfig; readonly file: Model["file"]; readonly fingerprint: string },
  method: AdapterMethod,
  options: NewAdapterOptions,
): Adapter {
  const { config, file } = model, { targets = {}, noise } = options;
  const deferred = options.deferred && method.initialiser;
  const sites = linearSites(config);
  checkTargets(targets, sites);
  const settings = method.configure(options.settings);
  const chosen = sites.filter((site) => isTarget(site, targets));
  const overrides = siteSettings(method, settings, chosen, options);
  const empty = new Adapter(method, settings, new Map(), model.fingerprint, overrides, targets);
  const tensors = new Map<string, HostTensor>();
  for (const site of chosen) {
    method.checkFresh?.(site, empty.settingsAt(site.name));
    const weight = () => file.readFloat32(`${site.name}.weight`);
    for (const [name, { shape, initial }] of Object.entries(empty.parametersAt(site))) {
      const data = (deferred ? undefined : initial?.(noise, weight)) ?? new Float32Array(sizeOf(shape));
      tensors.set(`${site.name}.${name}`, { shape, data });
    }
  }
  const own = method.weights?.(config, settings) ?? new Map<string, AdapterParameter>();
  for (const name of new Set([...own.keys(), ...weightsNamed(config, options.trainParts)])) {
    tensors.set(name, baseWeight(name, config, file));
  }
  return empty.with({ tensors, originals: originalsOf(tensors.keys(), file) });
}

/** A weight of the base model, or zeros for an initial state that it lacks. */
export function baseWeight(name: string, config: ModelConfig, file: Model["file"]): HostTensor {
  const shape = possibleWeights(config).get(name)!;
  return { shape, data: file.tensors.has(name) ? file.readFloat32(name) : new Float32Array(sizeOf(shape)) };
}

/** Settings of the sites that patterns speak of. @throws RangeError if a pattern speaks of none */
function siteSettings(
  method: AdapterMethod,
  settings: Settings,
  sites: readonly Site[],
  { rankPattern = {}, alphaPattern = {} }: NewAdapterOptions,
): Map<string, Settings> {
  const overrides = new Map<string, Settings>();
  for (const { name } of sites) {
    const r = patternValue(rankPattern, name), alpha = patternValue(alphaPattern, name);
    if (r === undefined && alpha === undefined) continue;
    const changed = {
      ...settings,
      ...(r === undefined ? {} : { r }),
      ...(alpha === undefined ? {} : { alpha }),
    };
    overrides.set(name, method.configure(changed));
  }
  for (const [what, pattern] of Object.entries({ rank: rankPattern, alpha: alphaPattern })) {
    const idle = Object.keys(pattern).find((key) =>
      !sites.some(({ name }) => patternValue({ [key]: true }, name))
    );
    if (idle !== undefined) {
      throw new RangeError(`The ${what} pattern "${idle}" matches no linear layer that the adapter sits on`);
    }
  }
  return overrides;
}

/** What a method draws that draws nothing. */
const NO_NOISE: Noise = { uniform: () => NaN, normal: () => NaN };

/** The tensors of an adapter at a site, those that it lacks and that follow from the base weight included. */
export function tensorsAt(
  adapter: Adapter,
  site: Site,
  weight: () => Float32Array,
): Record<string, HostTensor> {
  return Object.fromEntries(
    Object.entries(adapter.parametersAt(site)).map(([name, { shape, derived, initial }]) => {
      const known = adapter.tensors.get(`${site.name}.${name}`);
      return [name, known ?? { shape, data: derived ? initial!(NO_NOISE, weight) : new Float32Array(0) }];
    }),
  );
}

/**
 * The adapter with every tensor that follows from the weights that it meets.
 * @param weightOf reads the weight of a site, f32 [out, in]: the base model's, changed by the adapters that stack below
 */
export function withDerived(
  adapter: Adapter,
  config: ModelConfig,
  weightOf: (site: Site) => Float32Array,
): Adapter {
  const all = linearSites(config).flatMap((site) =>
    Object.entries(tensorsAt(adapter, site, () => weightOf(site)))
      .map(([name, tensor]) => [`${site.name}.${name}`, tensor] as const)
  );
  return adapter.withTensors(new Map([...adapter.tensors, ...all]));
}

/** Every weight that a model has or may have, with its shape in files. */
function possibleWeights(config: ModelConfig): Map<string, number[]> {
  return new Map([...weightShapes(config), ...stateShapes(config)]);
}

/**
 * Checks that every tensor of an adapter has its place in a model, in the right shape, and that none is missing.
 * @throws AdapterError that names up to five tensors
 */
export function checkFits(adapter: Adapter, config: ModelConfig): void {
  const { method, tensors } = adapter;
  const complain = (what: string, names: readonly string[], remedy = "") => {
    const shown = names.slice(0, 5).map((name) => `"${name}"`).join(", ");
    const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
    return new AdapterError(
      `The ${method.name} adapter does not fit the model: ${what} ${shown}${more}${remedy}`,
    );
  };
  const own = adapter.parametersOn(config), weights = possibleWeights(config);
  const unplaced: string[] = [], misshapen: string[] = [];
  for (const [name, { shape }] of tensors) {
    const wanted = own.get(name)?.shape ?? weights.get(name);
    if (!wanted) unplaced.push(name);
    else if (shape.length !== wanted.length || shape.some((extent, i) => extent !== wanted[i])) {
      misshapen.push(`${name} [${shape}] for [${wanted}]`);
    }
  }
  if (unplaced.length) throw complain("it has no place for", unplaced);
  if (misshapen.length) throw complain("shapes differ:", misshapen);
  const missing = [...own].filter(([name, { derived }]) => !derived && !tensors.has(name)).map(([name]) =>
    name
  );
  if (![...own.keys()].some((name) => tensors.has(name))) {
    throw new AdapterError(`The ${method.name} adapter holds no tensor for any linear layer`);
  }
  const bare = missing.filter((name) => {
    if (weights.has(name)) return false;
    const site = name.slice(0, name.lastIndexOf("."));
    return ![...tensors.keys()].some((other) => own.has(other) && other.startsWith(`${site}.`));
  });
  const remedy = bare.length === missing.length
    ? "; if it is meant to sit on some layers only, name them with --target_modules"
    : "";
  if (missing.length) throw complain("it lacks", missing, remedy);
}

/** Checks that an adapter was made for a base model, where it says. @throws AdapterError */
export function checkBase(adapter: Adapter, fingerprint: string, base: string): void {
  if (!adapter.base || adapter.base === fingerprint) return;
  throw new AdapterError(
    `The ${adapter.method.name} adapter was trained on another model than ${base}: give the one that it was trained on`,
  );
}
