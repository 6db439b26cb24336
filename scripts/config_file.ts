/**
 * `--config FILE`: the flags of a command in a YAML file, by the same names and read by the same table. What stands on the
 * command line comes first; what a command does not know is an error.
 *
 * @module
 */
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, Scalar, visit } from "yaml";
import { FormatError } from "../formats/format_error.ts";
import { readSmallText } from "../formats/json_file.ts";
import { flag, OptionError } from "../training/options.ts";
import {
  type CommandLine,
  type Flags,
  parseFlags,
  readValue,
  saidBy,
  suggestion,
  text,
  type Values,
} from "./flags.ts";

/** The flag itself. */
export const CONFIG = {
  config: text("FILE", "flags in a YAML file, as ctx_len: 512; those given here come first"),
};

/** Reads a command line, and the file that it may name. @throws OptionError in one sentence */
export function parseWithConfig<F extends Flags>(
  flags: F,
  args: readonly string[],
): CommandLine<F> & { readonly config?: string } {
  const { values: { config, ...values }, help } = parseFlags({ ...flags, ...CONFIG }, args);
  if (config === undefined) return { values: values as Values<F>, help };
  const path = config as string, fromFile: Record<string, unknown> = {};
  for (const [option, { texts, name }] of readConfig(path, flags)) {
    const value = readValue(flags[option]!, texts, name);
    if (value !== undefined) fromFile[option] = value;
  }
  return { values: { ...fromFile, ...values } as Values<F>, help, config: path };
}

/** The words that were given for each flag on a command line, or else in the file that it may name; see {@link saidBy}. */
export function saidWithConfig(flags: Flags, args: readonly string[]): Map<string, string[]> | undefined {
  const said = saidBy({ ...flags, ...CONFIG }, args), path = said?.get("config")?.[0];
  if (said === undefined || path === undefined) return said;
  const fromFile = [...readConfig(path, flags)].map(([option, { texts }]) => [option, texts] as const);
  return new Map([...fromFile, ...said]);
}

/** The words of a file of flags, and how an error calls each. @throws OptionError that names the file and the line */
function readConfig(path: string, flags: Flags): Map<string, { texts: string[]; name: string }> {
  const lines = new LineCounter();
  const document = parseDocument(readText(path), { lineCounter: lines });
  const at = (node: unknown) => {
    const offset = (node as Node | null)?.range?.[0];
    return offset === undefined ? path : `${path}:${lines.linePos(offset).line}`;
  };
  // Of a tag that it does not know the parser only warns.
  const [error] = [...document.errors, ...document.warnings];
  if (error) {
    const [what] = error.message.replace(/\.$/, "").split(/ at line \d+|\n/);
    throw new OptionError(
      `${path}:${
        error.linePos?.[0].line ?? 1
      }: the line is not YAML (${what}): write each flag as ctx_len: 512`,
    );
  }
  visit(document, {
    // A few of them can stand for more than any memory.
    Alias: (_, alias) => {
      throw new OptionError(`${at(alias)}: *${alias.source} is an alias: write the value itself`);
    },
  });
  const { contents } = document;
  if (contents === null) return new Map();
  if (!isMap(contents)) {
    throw new OptionError(`${at(contents)}: write each flag on a line of its own, as ctx_len: 512`);
  }
  const names = new Map(Object.keys(flags).map((option) => [flag(option).slice(2), option]));
  const said = new Map<string, { texts: string[]; name: string }>();
  for (const { key, value } of contents.items) {
    const word = String(isScalar(key) ? key.value : key);
    const name = word.replace(/^--/, "").replaceAll("-", "_");
    const option = names.get(name) ?? (Object.hasOwn(flags, word) ? word : undefined);
    if (option === undefined) {
      throw new OptionError(
        `${at(key)}: there is no flag "${word}"${
          suggestion(name, [...names.keys()]) || ": --help lists all"
        }`,
      );
    }
    const texts = textsOf(value);
    const { takes, placeholder } = flags[option]!;
    if (!texts || (texts.length !== 1 && takes !== "many")) {
      throw new OptionError(
        `${at(key)}: ${name} needs ${
          takes === "many" ? "texts" : `one value (${placeholder || "true or false"})`
        }`,
      );
    }
    if (said.has(option)) throw new OptionError(`${at(key)}: ${name} is given twice: leave one out`);
    said.set(option, { texts, name: `${at(key)}: ${name}` });
  }
  return said;
}

function readText(path: string): string {
  try {
    return readSmallText(path);
  } catch (error) {
    const isThere = !(error instanceof Deno.errors.NotFound);
    if (isThere && !(error instanceof FormatError)) throw error;
    const why = isThere ? (error as FormatError).reason : "there is no such file";
    throw new OptionError(`Cannot read the configuration ${path}: ${why}`);
  }
}

/** A value as the command line would have it: words as they are written, a list as several, a map as JSON. */
function textsOf(node: unknown): string[] | undefined {
  if (isSeq(node)) {
    const each = node.items.map(textsOf);
    return each.every((texts) => texts?.length === 1) ? each.map((texts) => texts![0]!) : undefined;
  }
  if (isMap(node)) return [JSON.stringify(node.toJSON())];
  if (!isScalar(node) || node.value === null) return undefined;
  return [node.type === Scalar.PLAIN ? node.source! : String(node.value)];
}
