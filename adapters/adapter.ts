/**
 * An adapter: the tensors that a method added to a model, and the weights of the model that trained along with them.
 * It lives in ordinary memory; {@link attach} puts it on an engine beside a model.
 *
 * @module
 */
import { toFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { type Graph, sizeOf, Variable } from "../kernels/graph.ts";
import { linearSites, type ModelConfig, type Site, weightShapes } from "../rwkv/config.ts";
import { graphShape, type Model } from "../rwkv/model.ts";
import type { Wiring } from "../rwkv/v7.ts";
import type { AdapterHints, AdapterMethod, AdapterParameter, Noise, Settings } from "./method.ts";
import { adapterMethod, adapterMethods } from "./registry.ts";

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

/** Version of the description that saved adapters carry. */
const DESCRIPTION_VERSION = 1;

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
  ) {}

  /** The settings at a site. */
  settingsAt(site: string): Settings {
    return this.overrides.get(site) ?? this.settings;
  }

  /** Number of numbers that it holds. */
  get size(): number {
    return [...this.tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
  }

  /** The same adapter with other content. */
  withTensors(tensors: ReadonlyMap<string, HostTensor>): Adapter {
    return new Adapter(this.method, this.settings, tensors, this.base, this.overrides);
  }
}

/** Splits `blocks.0.att.key.bone` into site and tensor; undefined for a weight's own name. */
function atSite(name: string, sites: ReadonlyMap<string, Site>): { site: Site; tensor: string } | undefined {
  const dot = name.lastIndexOf(".");
  const site = sites.get(name.slice(0, dot));
  const tensor = name.slice(dot + 1);
  return site && tensor !== "weight" && tensor !== "bias" ? { site, tensor } : undefined;
}

function sitesByName(config: ModelConfig): Map<string, Site> {
  return new Map(linearSites(config).map((site) => [site.name, site]));
}

/** Weights whose names contain one of `parts`; "ln" gives the norms, and so on. */
export function weightsNamed(config: ModelConfig, parts: readonly string[]): string[] {
  return [...weightShapes(config).keys()].filter((name) => parts.some((part) => name.includes(part)));
}

/**
 * A fresh adapter on every linear layer of a model, with copies of the weights that train along.
 * @param options.settings of the method
 * @param options.trainParts weights whose names contain one of these train too
 * @param options.noise for methods that start from noise
 * @throws RangeError if the settings do not fit the model
 */
export function newAdapter(
  model: { readonly config: ModelConfig; readonly file: Model["file"]; readonly fingerprint: string },
  method: AdapterMethod,
  options: { settings: Settings; trainParts: readonly string[]; noise: Noise },
): Adapter {
  const settings = method.configure(options.settings);
  const tensors = new Map<string, HostTensor>();
  for (const site of linearSites(model.config)) {
    for (const [name, { shape, initial }] of Object.entries(method.parameters(site, settings))) {
      const data = initial?.(options.noise) ?? new Float32Array(sizeOf(shape));
      tensors.set(`${site.name}.${name}`, { shape, data });
    }
  }
  for (const name of weightsNamed(model.config, options.trainParts)) {
    tensors.set(name, { shape: weightShapes(model.config).get(name)!, data: model.file.readFloat32(name) });
  }
  return new Adapter(method, settings, tensors, model.fingerprint);
}

/**
 * Checks that every tensor of an adapter has its place in a model, in the right shape, and that none is missing.
 * @throws AdapterError that names up to five tensors
 */
export function checkFits(adapter: Adapter, config: ModelConfig): void {
  const { method, tensors } = adapter;
  const sites = sitesByName(config), weights = weightShapes(config);
  const complain = (what: string, names: readonly string[]) => {
    const shown = names.slice(0, 5).map((name) => `"${name}"`).join(", ");
    const more = names.length > 5 ? ` and ${names.length - 5} more` : "";
    return new AdapterError(`The ${method.name} adapter does not fit the model: ${what} ${shown}${more}`);
  };
  const used = new Set<string>();
  const unplaced: string[] = [], misshapen: string[] = [];
  for (const [name, { shape }] of tensors) {
    const place = atSite(name, sites);
    let wanted: readonly number[] | undefined = weights.get(name);
    if (place) {
      used.add(place.site.name);
      const settings = adapter.settingsAt(place.site.name);
      const parameters: Readonly<Record<string, AdapterParameter>> = method.parameters(place.site, settings);
      wanted = parameters[place.tensor]?.shape;
    }
    if (!wanted) unplaced.push(name);
    else if (shape.length !== wanted.length || shape.some((extent, i) => extent !== wanted![i])) {
      misshapen.push(`${name} [${shape}] for [${wanted}]`);
    }
  }
  if (unplaced.length) throw complain("it has no place for", unplaced);
  if (misshapen.length) throw complain("shapes differ:", misshapen);
  if (!used.size) throw new AdapterError(`The ${method.name} adapter holds no tensor for any linear layer`);
  const missing = [...used].flatMap((site) =>
    Object.keys(method.parameters(sites.get(site)!, adapter.settingsAt(site))).map((tensor) =>
      `${site}.${tensor}`
    )
  ).filter((name) => !tensors.has(name));
  if (missing.length) throw complain("it lacks", missing);
}

/** Checks that an adapter was made for a base model, where it says. @throws AdapterError */
export function checkBase(adapter: Adapter, fingerprint: string, base: string): void {
  if (!adapter.base || adapter.base === fingerprint) return;
  throw new AdapterError(
    `The ${adapter.method.name} adapter was trained on another model than ${base}: give the one that it was trained on`,
  );
}

/** An adapter on an engine: a variable for each of its tensors. */
export interface Attachment {
  readonly adapter: Adapter;
  readonly variables: ReadonlyMap<string, Variable>;
}

/** Puts an adapter on the engine of a model. @throws AdapterError if it does not fit the model */
export function attach(adapter: Adapter, { config, engine }: Model): Attachment & Disposable {
  checkFits(adapter, config);
  const variables = new Map<string, Variable>();
  for (const [name, { shape, data }] of adapter.tensors) {
    const variable = new Variable(name, adapterShape(name, shape, config));
    engine.allocate(variable, data);
    variables.set(name, variable);
  }
  return {
    adapter,
    variables,
    [Symbol.dispose]: () => variables.forEach((variable) => engine.free(variable)),
  };
}

/** The shape that graphs use for a tensor of an adapter. */
export function adapterShape(name: string, shape: readonly number[], config: ModelConfig): readonly number[] {
  return weightShapes(config).has(name) ? graphShape(name, shape) : shape;
}

/** How a graph reaches a model with an adapter. */
export function wireAdapter(graph: Graph, model: Model, { adapter, variables }: Attachment): Wiring {
  const { method } = adapter;
  const base = model.wire(graph, variables);
  const sites = sitesByName(model.config);
  const linear = (name: string, x: ReturnType<Graph["use"]>) => {
    const site = sites.get(name)!, settings = adapter.settingsAt(name);
    const tensors = Object.keys(method.parameters(site, settings));
    if (!variables.has(`${name}.${tensors[0]}`)) return base.linear(name, x);
    const parameters = Object.fromEntries(tensors.map((t) => [t, graph.use(variables.get(`${name}.${t}`)!)]));
    const weight = base.weight(`${name}.weight`);
    return method.forward({
      graph,
      site,
      settings,
      x,
      base: (x) => base.linear(name, x),
      weight,
      parameters,
    });
  };
  return { ...base, linear };
}

/** Saves an adapter as `.pth` or safetensors, after the extension of the path. @throws if the path exists and `force` is not set */
export function saveAdapter(adapter: Adapter, path: string, options: { force?: boolean } = {}): void {
  const { method, settings, base, tensors, overrides } = adapter;
  const description = JSON.stringify({
    version: DESCRIPTION_VERSION,
    method: method.name,
    settings,
    base,
    ...(overrides.size ? { overrides: Object.fromEntries(overrides) } : {}),
  });
  writeTensorFile(path, {
    format: path.endsWith(".pth") ? "pth" : "safetensors",
    tensors: [...tensors].map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
    read: ({ name }) => {
      const { data } = tensors.get(name)!;
      return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
    },
    metadata: new Map([["wishbone", description]]),
    force: options.force,
  });
}

/**
 * Loads an adapter from a `.pth` or safetensors file with keys `<site>.<tensor>`.
 * The method and its settings come from the description in the file, or else from the names and shapes.
 * @throws FormatError, AdapterError
 */
export function loadAdapter(path: string, hints: AdapterHints = {}): Adapter {
  using file = openTensorFile(path);
  const tensors = new Map<string, HostTensor>();
  for (const { name, dtype, shape } of file.tensors.values()) {
    // "disha" is what RWKV-PEFT called the same tensor from February to October 2025.
    const known = name.replace(/\.disha$/, ".bone");
    tensors.set(known, { shape, data: toFloat32(file.readBytes(name), dtype) });
  }
  const { method, settings, base, overrides } = described(file.metadata.get("wishbone"), path) ??
    recognised(tensors, path, hints);
  return new Adapter(method, settings, tensors, base, overrides);
}

type Description = {
  method: AdapterMethod;
  settings: Settings;
  base?: string;
  overrides?: ReadonlyMap<string, Settings>;
};

/** The description that a file carries, which may be anybody's; undefined where there is none. */
function described(text: string | undefined, path: string): Description | undefined {
  if (text === undefined) return undefined;
  const unusable = (why: string) => new AdapterError(`Cannot load ${path}: its description ${why}`);
  let description: unknown;
  try {
    description = JSON.parse(text);
  } catch {
    throw unusable("is not JSON");
  }
  const isObject = (value: unknown): value is Record<string, unknown> =>
    typeof value === "object" && value !== null && !Array.isArray(value);
  if (!isObject(description)) throw unusable("is not an object");
  const { version, method, settings, base, overrides = {} } = description;
  if (version !== DESCRIPTION_VERSION) {
    throw unusable(`has version ${JSON.stringify(version)}, and this Wishbone reads ${DESCRIPTION_VERSION}`);
  }
  if (typeof method !== "string" || !isObject(settings)) throw unusable("names no method and settings");
  if (!isObject(overrides) || !Object.values(overrides).every(isObject)) {
    throw unusable("has no list of overrides");
  }
  const known = adapterMethod(method);
  return {
    method: known,
    settings: known.configure(settings),
    overrides: new Map(
      Object.entries(overrides).map(([site, settings]) => [site, known.configure(settings as Settings)]),
    ),
    ...(typeof base === "string" && base ? { base } : {}),
  };
}

function recognised(
  tensors: ReadonlyMap<string, HostTensor>,
  path: string,
  hints: AdapterHints,
): Description {
  const perSite = new Map<string, Record<string, readonly number[]>>();
  for (const [name, { shape }] of tensors) {
    const match = /^(blocks\.\d+\.(?:att|ffn)\.(?:receptance|key|value|output))\.(?!weight$|bias$)(.+)$/.exec(
      name,
    );
    if (match) perSite.set(match[1]!, { ...perSite.get(match[1]!), [match[2]!]: shape });
  }
  if (!perSite.size) {
    throw new AdapterError(
      `Cannot load ${path}: it holds no adapter tensors such as "blocks.0.att.key.bone"`,
    );
  }
  const found: { site: string; method: AdapterMethod; settings: Settings }[] = [];
  for (const [site, shapes] of perSite) {
    const candidates = adapterMethods().flatMap((method) => {
      const settings = method.recognise(shapes, hints);
      return settings ? [{ method, settings }] : [];
    });
    if (candidates.length !== 1) {
      const listed = Object.entries(shapes).map(([name, shape]) => `${name} [${shape}]`).join(", ");
      const names = candidates.map(({ method }) => method.name).join(" and ") ||
        "no method that is registered";
      throw new AdapterError(`Cannot load ${path}: ${names} could have made ${listed} at ${site}`);
    }
    found.push({ site, ...candidates[0]! });
  }
  const { method, settings } = found[0]!;
  const other = found.find((site) => site.method !== method);
  if (other) {
    throw new AdapterError(
      `Cannot load ${path}: its layers are of different methods, ${method.name} and, at ${other.site}, ${other.method.name}`,
    );
  }
  const differs = found.filter((site) => JSON.stringify(site.settings) !== JSON.stringify(settings));
  return { method, settings, overrides: new Map(differs.map(({ site, settings }) => [site, settings])) };
}
