/**
 * The settings in a run's `config.json`, which may be damaged, from another version, or somebody else's: every one is of a kind
 * that this version knows before it is used.
 *
 * @module
 */
import type { JsonValue } from "../formats/json.ts";
import { OptionError, settle, type TrainOptions, type TrainSettings, UNSET } from "./options.ts";

/** Characters of a message that may quote a setting, which may be of any length. */
const MAX_MESSAGE = 300;

/** What a value is, as far as options tell values apart. */
function kindOf(value: unknown): string {
  if (value === null) return "null";
  if (!Array.isArray(value)) return typeof value;
  const kinds = new Set(value.map((item) => typeof item));
  if (kinds.size === 1 && kinds.has("number")) return "list of numbers";
  return kinds.size === 0 || kinds.size === 1 && kinds.has("string") ? "list of texts" : "list";
}

/**
 * Checks settings that were read from a file.
 *
 * @param unusable makes the error, from a clause
 * @throws what `unusable` makes, where one is missing, unknown, of another kind or out of range
 */
export function checkedSettings(
  value: JsonValue | undefined,
  unusable: (why: string) => Error,
): TrainSettings {
  if (kindOf(value) !== "object") throw unusable("has no settings");
  const given = value as { [name: string]: JsonValue };
  // What this version writes has these names and kinds of values.
  const known: Record<string, unknown> = { ...settle({ loadModel: "", dataFile: "" }, () => "") };
  for (const [name, example] of Object.entries(known)) {
    if (!Object.hasOwn(given, name)) throw unusable(`lacks the setting "${name}"`);
    const kind = kindOf(given[name]);
    const asked = name === "samplePrompt" ? ["string", "list of texts"] : [kindOf(example)];
    if (!asked.includes(kind)) throw unusable(`has a ${kind} as the setting "${name}"`);
    if (asked[0] === "object") checkMethod(name, example as object, given[name] as object, unusable);
  }
  for (const [name, setting] of Object.entries(given)) {
    if (Object.hasOwn(known, name)) continue;
    const kind = (UNSET as Record<string, string | undefined>)[name];
    if (!Object.hasOwn(UNSET, name)) {
      throw unusable(`has the setting ${JSON.stringify(name)}, which is unknown here`);
    }
    if (!kind!.split(" or ").includes(kindOf(setting))) {
      throw unusable(`has a ${kindOf(setting)} as the setting "${name}"`);
    }
  }
  try {
    return settle(given as TrainOptions, () => "");
  } catch (error) {
    throw error instanceof OptionError
      ? unusable(`has settings that cannot be: ${error.message.slice(0, MAX_MESSAGE)}`)
      : error;
  }
}

/** The settings of a method: known ones are of their kind, and none holds anything but a text, a number or a switch. */
function checkMethod(name: string, known: object, given: object, unusable: (why: string) => Error): void {
  for (const [key, value] of Object.entries(given)) {
    const example = Object.hasOwn(known, key) ? (known as Record<string, unknown>)[key] : undefined;
    const kind = kindOf(value);
    if (example === undefined ? !["string", "number", "boolean"].includes(kind) : kind !== kindOf(example)) {
      throw unusable(`has a ${kind} as ${JSON.stringify(key)} of the setting "${name}"`);
    }
  }
}
