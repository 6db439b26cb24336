/**
 * `adapter_config.json` of Hugging Face PEFT 0.14 to 0.21, for BONE, MISS and LORA: read without trust, and written as PEFT
 * writes it. As PEFT does, a reader takes the default for a key that is missing and passes over one that it does not know;
 * a known key whose effect cannot be had is refused.
 *
 * @module
 */
import { JsonCursor } from "../../formats/json.ts";
import { AdapterError } from "../adapter.ts";
import { describes, namePattern } from "../pattern.ts";

/** The PEFT types that are read and written. */
export type PeftType = "BONE" | "MISS" | "LORA";

/** What `init_weights` of BONE and MISS chooses. */
export type MissMode = "standard" | "bat" | "mini";

/** The configuration of a BONE or MISS adapter. */
export interface MissConfig {
  /** The type. */
  readonly type: "BONE" | "MISS";
  /** Rank, or block size. */
  readonly r: number;
  /** Which of the three functions it is. */
  readonly mode: MissMode;
  /** Width of the tile of `mini`. */
  readonly miniR: number;
  /** Dropout of the adapter's input. */
  readonly dropout: number;
}

/** The configuration of a LORA adapter. */
export interface LoraConfig {
  /** The type. */
  readonly type: "LORA";
  /** Rank where no pattern says otherwise. */
  readonly r: number;
  /** Alpha where no pattern says otherwise. */
  readonly alpha: number;
  /** Scale by alpha / √r. */
  readonly rslora: boolean;
  /** Whether it is a DoRA. */
  readonly dora: boolean;
  /** Dropout of the adapter's input. */
  readonly dropout: number;
  /** Whether the base model's weights lie [in, out]. */
  readonly fanInFanOut: boolean;
  /** Ranks of modules, by pattern. */
  readonly rankPattern: ReadonlyMap<string, number>;
  /** Alphas of modules, by pattern. */
  readonly alphaPattern: ReadonlyMap<string, number>;
}

/** A configuration that was read. */
export type PeftConfig = MissConfig | LoraConfig;

/**
 * Reads a configuration.
 * @param text of the file
 * @param path names it in errors
 * @throws AdapterError
 */
export function parsePeftConfig(text: string, path: string): PeftConfig {
  const error = (why: string) => new AdapterError(`Cannot load ${path}: ${why}`);
  const cursor = new JsonCursor(text, error), json: unknown = cursor.value("its text");
  cursor.end("its text");
  if (!isObject(json)) throw error("it is not a JSON object");
  const given = json;
  const value = <T>(key: string, initial: T, holds: (value: unknown) => boolean, wanted: string): T => {
    const found = given[key];
    if (found === undefined || found === null) return initial;
    if (!holds(found)) throw error(`its ${key} is ${shown(found)} where ${wanted} is needed`);
    return found as T;
  };
  const count = (key: string, initial: number) =>
    value(key, initial, (x) => Number.isSafeInteger(x) && (x as number) >= 1, "a whole number of at least 1");
  const number = (key: string, initial: number) => value(key, initial, Number.isFinite, "a number");
  const flag = (key: string) => value(key, false, (x) => typeof x === "boolean", "true or false");
  const pattern = (key: string) => {
    const entries = Object.entries(value<object>(key, {}, isObject, "an object of patterns"));
    for (const [name, x] of entries) {
      if (!Number.isFinite(x)) {
        throw error(`its ${key} gives ${shown(x)} for ${shown(name)} where a number is needed`);
      }
      patternOf(name, error);
    }
    return new Map<string, number>(entries);
  };

  const type = given.peft_type;
  if (type === "BONE" || type === "MISS") {
    return {
      type,
      r: count("r", 64),
      mode: missMode(given.init_weights, error),
      miniR: count("mini_r", 1),
      dropout: number("miss_dropout", 0),
    };
  }
  if (type !== "LORA") {
    throw error(
      type === undefined
        ? "it has no peft_type, so it is not the configuration of a PEFT adapter"
        : `its peft_type is ${shown(type)}, and those that can be used are BONE, MISS and LORA`,
    );
  }
  refuseUnusable(given, error);
  return {
    type,
    r: count("r", 8),
    alpha: number("lora_alpha", 8),
    rslora: flag("use_rslora"),
    dora: flag("use_dora"),
    dropout: number("lora_dropout", 0),
    fanInFanOut: flag("fan_in_fan_out"),
    rankPattern: pattern("rank_pattern"),
    alphaPattern: pattern("alpha_pattern"),
  };
}

/**
 * PEFT's rule for `rank_pattern` and `alpha_pattern`: of the patterns that match the end of a module's path from a dot on, or
 * all of it, the first.
 */
export function valueAt(patterns: ReadonlyMap<string, number>, module: string, initial: number): number {
  for (const [pattern, value] of patterns) {
    if (describes(patternOf(pattern, (why) => new AdapterError(why)), module)) return value;
  }
  return initial;
}

function patternOf(pattern: string, error: (why: string) => Error): RegExp {
  try {
    return namePattern(pattern, true);
  } catch (cause) {
    throw error(`the pattern ${shown(pattern)} ${(cause as Error).message}`);
  }
}

function missMode(initial: unknown, error: (why: string) => Error): MissMode {
  if (initial === undefined || initial === null || typeof initial === "boolean") return "standard";
  if (initial === "bat" || initial === "mini") return initial;
  throw error(`its init_weights is ${shown(initial)}, and there are true, false, "bat" and "mini"`);
}

/** LoRA's initialisations that change the base weight, so that the adapter belongs to another base than the one given. */
const CHANGES_BASE = /^(pissa|olora|corda|loftq|lora_ga)/;

/** Keys of LORA that change what the adapter computes, and what a person can do about each. */
const UNUSABLE: readonly (readonly [string, string])[] = [
  ["lora_bias", "it adds to biases, which is not supported"],
  ["use_qalora", "QALoRA is not supported"],
  ["use_bdlora", "BD-LoRA is not supported"],
  ["alora_invocation_tokens", "it acts on part of a text only, so no weight does the same"],
  ["layer_replication", "it is for a model with repeated layers: merge it with PEFT"],
  ["trainable_token_indices", "it trains single tokens of the embedding: merge it with PEFT"],
  ["target_parameters", "it acts on parameters that are no linear layers: merge it with PEFT"],
  ["kasa_config", "KaSA is not supported"],
  ["monteclora_config", "MonteCLoRA is not supported"],
  ["arrow_config", "it chooses among adapters as it reads, so no weight does the same"],
];

function refuseUnusable(given: Record<string, unknown>, error: (why: string) => Error): void {
  for (const [key, why] of UNUSABLE) {
    const value = given[key];
    const isSet = Array.isArray(value)
      ? value.length > 0
      : value !== undefined && value !== null && value !== false;
    if (isSet) throw error(`its ${key} is ${shown(value)}: ${why}`);
  }
  const initial = given.init_lora_weights;
  if (typeof initial === "string" && CHANGES_BASE.test(initial)) {
    throw error(
      `its init_lora_weights is ${shown(initial)}, which changed the base weights before training: ` +
        "save it in PEFT with path_initial_model_for_weight_conversion, which makes an ordinary LoRA of it",
    );
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 60 ? `${text.slice(0, 60)}…` : text;
}
