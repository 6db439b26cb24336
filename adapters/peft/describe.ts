/**
 * An adapter in PEFT's words: its type, its tensors by PEFT's keys, and what is particular to the type in `adapter_config.json`.
 *
 * @module
 */
import { type Adapter, AdapterError, type HostTensor } from "../adapter.ts";
import type { Settings, Site } from "../method.ts";
import { transposed } from "../transpose.ts";
import type { PeftType } from "./config.ts";

/** A tensor that PEFT adds to a module. */
export interface SiteTensor {
  /** The linear layer, by this project's name. */
  readonly site: string;
  /** The end of its key: `miss_block`. */
  readonly key: string;
  /** The tensor. */
  readonly tensor: HostTensor;
}

/** An adapter in PEFT's words. */
export interface Described {
  /** Tensors at linear layers. */
  readonly atSites: readonly SiteTensor[];
  /** Weights that trained along, by this project's names. */
  readonly others: ReadonlyMap<string, HostTensor>;
  /** The part of the configuration that is the type's own. @param rename gives a site the name that the directory has for it */
  config(rename: (site: string) => string): Readonly<Record<string, unknown>>;
}

/** Methods that PEFT knows as MISS and, but for mini, as BONE. */
const MISS_METHODS = ["bone", "bat"];
/** Methods that PEFT knows as LORA. */
const LORA_METHODS = ["lora", "dora"];

/**
 * Finds PEFT's words for an adapter.
 * @param wanted type; without it, the one that has the adapter's own method
 * @param sites its linear layers with their widths, which LORA needs of an adapter that is no LoRA
 * @throws AdapterError where there are none
 */
export function describe(adapter: Adapter, wanted?: PeftType, sites?: ReadonlyMap<string, Site>): Described {
  const { name } = adapter.method;
  const type = wanted ?? (MISS_METHODS.includes(name) ? "MISS" : "LORA");
  if (type !== "LORA" && MISS_METHODS.includes(name)) return asMiss(adapter, type);
  if (type === "LORA" && LORA_METHODS.includes(name)) return asLora(adapter, name === "dora");
  if (type === "LORA" && adapter.method.lowRank) return asProduct(adapter, sites);
  throw new AdapterError(
    `Cannot write a ${name} adapter as PEFT's ${type}: ` +
      (type === "LORA" ? "what it adds is no product of thin matrices" : "they are different methods") +
      "; merge it into its base model instead",
  );
}

/** Modules that are embeddings, whose LoRA PEFT keeps the other way round. */
const EMBEDDINGS = /(^|\.)(emb|wte|embeddings|embed_tokens|word_embeddings)$/;

/** The tensors of an adapter: those at sites, by site, and the others. */
function divided(adapter: Adapter) {
  const sites = new Map<string, Map<string, HostTensor>>(), others = new Map<string, HostTensor>();
  for (const [name, tensor] of adapter.tensors) {
    const dot = name.lastIndexOf("."), last = name.slice(dot + 1), site = name.slice(0, dot);
    if (!AT_SITE.test(last)) others.set(name, tensor);
    else sites.set(site, (sites.get(site) ?? new Map()).set(last, tensor));
  }
  return { sites, others };
}

const AT_SITE = /^(bone|bat|lora_|init_lora_|weight_norm$)/;

function asMiss(adapter: Adapter, type: "MISS" | "BONE"): Described {
  const { settings, overrides, method } = adapter;
  if (overrides.size) {
    throw new AdapterError(
      `Cannot write this adapter as PEFT's ${type}, which has one rank for all layers, ` +
        `and ${[...overrides.keys()][0]} has another: write it as LORA`,
    );
  }
  if (method.name === "bat" && settings.axis !== "out") {
    throw new AdapterError(
      `Cannot write a BAT by input block as PEFT's ${type}, whose "bat" is by output block, another function: ` +
        "merge it into its base model instead",
    );
  }
  if (settings.shards === "rows") {
    throw new AdapterError(
      `Cannot write shards of rows as PEFT's ${type}, which has columns only: write it as LORA`,
    );
  }
  const mini = settings.mini_r !== undefined && settings.mini_r !== null;
  if (mini && type === "BONE") {
    throw new AdapterError("Cannot write a mini adapter as PEFT's BONE, which has none: write it as MISS");
  }
  const { sites, others } = divided(adapter);
  const key = type === "BONE" ? "bone_block" : "miss_block";
  return {
    atSites: [...sites].flatMap(([site, tensors]) =>
      [...tensors.values()].map((tensor) => ({ site, key, tensor }))
    ),
    others,
    config: () => ({
      peft_type: type,
      r: settings.r,
      init_weights: method.name === "bat" ? "bat" : mini ? "mini" : true,
      ...(type === "MISS"
        ? { mini_r: mini ? settings.mini_r : 1, miss_dropout: settings.dropout ?? 0, peft_version: "0.21.0" }
        : {}),
    }),
  };
}

function asLora(adapter: Adapter, dora: boolean): Described {
  const { sites, others } = divided(adapter);
  return {
    others,
    atSites: [...sites].flatMap(([site, tensors]) =>
      // DoRA's lengths of the base weight's rows are no tensor of PEFT's, which works them out anew.
      [...tensors].filter(([name]) => name.startsWith("lora_")).map(([name, tensor]) => {
        if (EMBEDDINGS.test(site) && !dora) {
          const key = name === "lora_A" ? "lora_embedding_B" : "lora_embedding_A";
          return { site, key, tensor: transposed(tensor) };
        }
        return { site, key: name.startsWith("lora_magnitude") ? name : `${name}.weight`, tensor };
      })
    ),
    config: (rename) => ({
      ...loraConfig(adapter.settings, adapter.overrides, rename, dora),
      fan_in_fan_out: adapter.fanInFanOut,
    }),
  };
}

/** Any method that adds a product of thin matrices, as a LoRA with alpha = r, so that its scale is 1. */
function asProduct(adapter: Adapter, widths: ReadonlyMap<string, Site> | undefined): Described {
  const { sites, others } = divided(adapter);
  const ranks = new Map<string, Settings>(), atSites: SiteTensor[] = [];
  for (const [site, tensors] of sites) {
    const settings = adapter.settingsAt(site);
    const parameters = Object.fromEntries([...tensors].map(([name, { data }]) => [name, data]));
    const { A, B, r } = adapter.method.lowRank!({
      site: widths?.get(site) ?? widthsOf(adapter, site, tensors),
      settings,
      parameters,
    });
    ranks.set(site, { r, alpha: r });
    atSites.push({ site, key: "lora_A.weight", tensor: { shape: [r, A.length / r], data: A } });
    atSites.push({ site, key: "lora_B.weight", tensor: { shape: [B.length / r, r], data: B } });
  }
  const [settings] = ranks.values() as Iterable<Settings> as [Settings];
  const overrides = new Map([...ranks].filter(([, { r }]) => r !== settings!.r));
  return { others, atSites, config: (rename) => loraConfig(settings!, overrides, rename, false) };
}

/** A layer with its widths, as far as its own tensors tell: PiSSA's do. @throws AdapterError where they do not */
function widthsOf(adapter: Adapter, name: string, tensors: ReadonlyMap<string, HostTensor>): Site {
  const { lora_A: A, lora_B: B } = Object.fromEntries(tensors);
  const unusable = (why: string) =>
    new AdapterError(`Cannot write a ${adapter.method.name} adapter as LORA${why}`);
  if (!A || !B) throw unusable(" without the widths of its layers: name the base model");
  const site = { name, layer: 0, in: A.shape[1] ?? 0, out: B.shape[0] ?? 0 };
  const wanted = Object.entries(adapter.method.parameters(site, adapter.settingsAt(name)));
  const wrong = wanted.find(([key, { shape }]) => tensors.get(key)?.shape.join() !== shape.join())?.[0];
  if (wrong !== undefined) {
    throw unusable(`: its tensors at ${name} do not fit each other, "${wrong}" for one`);
  }
  return site;
}

function loraConfig(
  settings: Settings,
  overrides: ReadonlyMap<string, Settings>,
  rename: (site: string) => string,
  dora: boolean,
): Readonly<Record<string, unknown>> {
  const pattern = (key: string) =>
    Object.fromEntries(
      [...overrides].filter(([, own]) => own[key] !== settings[key]).map((
        [site, own],
      ) => [rename(site), own[key]])
        .sort(([a], [b]) => a as string < (b as string) ? -1 : 1),
    );
  return {
    peft_type: "LORA",
    peft_version: "0.21.0",
    r: settings.r,
    lora_alpha: settings.alpha,
    lora_dropout: settings.dropout ?? 0,
    use_rslora: settings.rslora ?? false,
    use_dora: dora,
    rank_pattern: pattern("r"),
    alpha_pattern: pattern("alpha"),
    fan_in_fan_out: false,
    init_lora_weights: true,
  };
}
