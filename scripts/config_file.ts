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
  const path = config as string;
  return { values: { ...readConfig(path, flags), ...values } as Values<F>, help, config: path };
}

/** Reads a file of flags. @throws OptionError that names the file and the line */
function readConfig<F extends Flags>(path: string, flags: F): Values<F> {
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
  if (contents === null) return {};
  if (!isMap(contents)) {
    throw new OptionError(`${at(contents)}: write each flag on a line of its own, as ctx_len: 512`);
  }
  const names = new Map(Object.keys(flags).map((option) => [flag(option).slice(2), option]));
  const values: Record<string, unknown> = {};
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
    if (option in values) throw new OptionError(`${at(key)}: ${name} is given twice: leave one out`);
    const read = readValue(flags[option]!, texts, `${at(key)}: ${name}`);
    if (read !== undefined) values[option] = read;
  }
  return values as Values<F>;
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
