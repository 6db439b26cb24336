/**
 * A YAML file of flags, in the words of the command line.
 *
 * @module
 */
import { isMap, isScalar, isSeq, LineCounter, type Node, parseDocument, Scalar, visit } from "yaml";
import { FormatError } from "../formats/format_error.ts";
import { readSmallText } from "../formats/json_file.ts";
import { flag, OptionError } from "../training/option_error.ts";
import { type Flags, suggestion } from "./flags.ts";

/** The words that were given for each flag, and how an error calls it. */
export type FlagsSaid = ReadonlyMap<string, { readonly texts: string[]; readonly name: string }>;

/** Reads a file of flags. @throws OptionError that names the file and the line */
export function readYamlFlags(path: string, flags: Flags): FlagsSaid {
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
