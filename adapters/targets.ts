/**
 * Which linear layers an adapter sits on, by the rules of Hugging Face PEFT (`check_target_module_exists`, 0.14 to 0.21).
 *
 * One rule differs: PEFT wants a dot before the part of a name that leads to the layer's number, and the official names begin with
 * `blocks.0`, so that `layers_to_transform` would never match them. Here it does.
 *
 * @module
 */
import { quoted } from "../formats/text.ts";
import type { Site } from "../rwkv/config.ts";
import { describes, namePattern } from "./pattern.ts";

/** A choice of linear layers, in PEFT's words. All of them where nothing is said. */
export interface Targets {
  /** Names or last parts of names, such as `key` or `att.key`; or one regular expression for whole names, or `all-linear`. */
  readonly target_modules?: string | readonly string[];
  /** The same, of layers that are left out whatever the others say. */
  readonly exclude_modules?: string | readonly string[];
  /** Numbers of the blocks, with a list of targets only. */
  readonly layers_to_transform?: number | readonly number[];
  /** What stands before the block's number, such as `blocks`. */
  readonly layers_pattern?: string | readonly string[];
}

/** Names of the settings. */
export const TARGET_SETTINGS = [
  "target_modules",
  "exclude_modules",
  "layers_to_transform",
  "layers_pattern",
] as const;

const many = <T>(value: T | readonly T[]): readonly T[] => Array.isArray(value) ? value : [value as T];

/** A regular expression that matches whole names. @throws RangeError if it is none */
function whole(pattern: string, setting: string, lastParts = false): RegExp {
  try {
    return namePattern(pattern, lastParts);
  } catch (error) {
    throw new RangeError(
      `The ${setting} ${quoted(pattern)} ${(error as Error).message}: correct it, or give a list of names`,
    );
  }
}

/** PEFT's rule for names: one expression for whole names, or a list of names and last parts of names. */
function named(name: string, wanted: string | readonly string[], setting: string): boolean {
  if (typeof wanted === "string") return describes(whole(wanted, setting), name);
  return wanted.some((part) => name === part || name.endsWith(`.${part}`));
}

/**
 * Whether a linear layer is chosen.
 * @throws RangeError if an expression is malformed
 */
export function isTarget(site: Pick<Site, "name">, targets: Targets): boolean {
  const { target_modules: wanted = "all-linear", exclude_modules: excluded, layers_to_transform: layers } =
    targets;
  const { name } = site;
  if (excluded !== undefined && named(name, excluded, "exclude_modules")) return false;
  if (typeof wanted === "string") {
    if (wanted.toLowerCase() !== "all-linear") return describes(whole(wanted, "target_modules"), name);
  } else if (wanted.length === 1 && wanted[0]!.toLowerCase() === "all-linear") return true;
  else if (wanted.includes(name)) return true;
  else if (!named(name, wanted, "target_modules")) return false;
  // As in PEFT, an empty list or text says nothing.
  if (layers === undefined || !many(layers).length) return true;
  const before = many(targets.layers_pattern ?? []).filter((pattern) => pattern !== "");
  const patterns = before.length ? before : ["[^.]*"];
  const number = patterns.map((pattern) => {
    // Checked as an expression of its own, before it is a part of another.
    whole(pattern, "layers_pattern");
    return new RegExp(`^.*?\\.${pattern}\\.(\\d+)\\.`).exec(`.${name}`)?.[1];
  }).find((found) => found !== undefined);
  return number !== undefined && many(layers).includes(Number(number));
}

/**
 * Checks a choice.
 * @throws RangeError in one sentence if its settings cannot be, contradict each other, or match none of the layers
 */
export function checkTargets(targets: Targets, sites: readonly Site[]): void {
  const { target_modules: wanted, exclude_modules: excluded, layers_to_transform: layers } = targets;
  const texts = (value: unknown) =>
    typeof value === "string" || Array.isArray(value) && value.every((item) => typeof item === "string");
  for (const name of ["target_modules", "exclude_modules", "layers_pattern"] as const) {
    if (targets[name] !== undefined && !texts(targets[name])) {
      throw new RangeError(
        `${name} must be a text or a list of texts: it is ${JSON.stringify(targets[name])}`,
      );
    }
  }
  if (layers !== undefined && !many(layers).every((layer) => Number.isInteger(layer) && layer >= 0)) {
    throw new RangeError(
      `layers_to_transform must be numbers of blocks, from 0: it is ${JSON.stringify(layers)}`,
    );
  }
  if (typeof wanted === "string" && wanted.toLowerCase() !== "all-linear" && layers !== undefined) {
    throw new RangeError(
      "layers_to_transform goes with a list of target_modules, not with an expression: give a list, or say the layers in it",
    );
  }
  if (targets.layers_pattern !== undefined && layers === undefined) {
    throw new RangeError("layers_pattern goes with layers_to_transform: give both or neither");
  }
  const shown = (value: unknown) => typeof value === "string" ? `"${value}"` : JSON.stringify(value);
  if (
    excluded !== undefined && many(excluded).length &&
    !sites.some(({ name }) => named(name, excluded, "exclude_modules"))
  ) {
    throw new RangeError(
      `exclude_modules ${shown(excluded)} excludes no linear layer of the model: ${examples(sites)}`,
    );
  }
  if (!sites.some((site) => isTarget(site, targets))) {
    throw new RangeError(
      `The targets ${JSON.stringify(targets)} choose no linear layer of the model: ${examples(sites)}`,
    );
  }
}

function examples(sites: readonly Site[]): string {
  return `there are ${sites.slice(0, 6).map(({ name }) => name).join(", ")} and so on`;
}

/** The value of the first key, a name or an expression, that matches the end of a name as PEFT's `rank_pattern` does. */
export function patternValue<T>(patterns: Readonly<Record<string, T>>, name: string): T | undefined {
  const key = Object.keys(patterns).find((key) => describes(whole(key, "pattern", true), name));
  return key === undefined ? undefined : patterns[key];
}
