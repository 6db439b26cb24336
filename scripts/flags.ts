/**
 * Flags of a command: a table that says what there is, and one function that reads a command line by it.
 *
 * Tables are written in camel case, as the options of the library are; on the command line `ctxLen` is `--ctx_len` or
 * `--ctx-len`, with its value after a space or `=`. Nothing is ignored: what is not understood is an error in one sentence.
 *
 * @module
 */
import { distance } from "fastest-levenshtein";
import { parseArgs } from "node:util";
import { localPath } from "../formats/hub.ts";
import { flag, OptionError } from "../training/option_error.ts";

/** One flag: how it is written and what is made of its values. */
export interface Flag<T> {
  /** Stands for the value in help: `FILE`, `N`. */
  readonly placeholder: string;
  /** What it is for, in a few words. */
  readonly meaning: string;
  /** Values that it takes: exactly one, none or one, any number. */
  readonly takes: "one" | "optional" | "many";
  /** What of a value may be the name of a file, and so one of the Hub, which is fetched before it is read. */
  readonly filesIn?: (text: string) => readonly string[];
  /** @throws a clause that completes `--flag …` */
  read(values: readonly string[]): T;
}

/** Flags by the name of the option that they set. */
export type Flags = Readonly<Record<string, Flag<unknown>>>;

/** What a command line gives for a table: only what was said, and of that only what does not read as undefined. */
export type Values<F extends Flags> = {
  -readonly [K in keyof F]?: F[K] extends Flag<infer T> ? Exclude<T, undefined>
    : never;
};

/** A wrong value, as a clause that follows the name of its flag. */
class ValueError extends Error {}

function one<T>(placeholder: string, meaning: string, read: (text: string) => T): Flag<T> {
  return { placeholder, meaning, takes: "one", read: ([text]) => read(text!) };
}

/** Any text: a path, a prompt. */
export function text(placeholder: string, meaning: string): Flag<string> {
  return one(placeholder, meaning, (text) => text);
}

/** Any texts, each a word of the command line. */
export function texts(meaning: string): Flag<readonly string[]> {
  return { placeholder: "TEXT …", meaning, takes: "many", read: (values) => [...values] };
}

/** A file, or a name of the Hugging Face Hub, which becomes the path of the file that was fetched. */
export function file(meaning: string): Flag<string> {
  return { ...one("FILE", meaning, localPath), filesIn: (text) => [text] };
}

/** Paths of files, or names of models on the Hub. */
export function files(meaning: string): Flag<string[]> {
  return {
    placeholder: "FILE …",
    meaning,
    takes: "many",
    filesIn: (text) => [text],
    read: (values) => values.map((value) => localPath(value)),
  };
}

/** A whole number, negative ones included. */
export function whole(meaning: string): Flag<number> {
  return one("N", meaning, (text) => {
    const number = /^[+-]?\d+$/.test(text) ? Number(text) : NaN;
    if (!Number.isSafeInteger(number)) throw new ValueError(`must be a whole number: it is "${text}"`);
    return number;
  });
}

/** A number such as 0.01 or 2e-5. */
export function real(meaning: string): Flag<number> {
  return one("X", meaning, (text) => {
    const number = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text) ? Number(text) : NaN;
    if (!Number.isFinite(number)) {
      throw new ValueError(`must be a number such as 0.01 or 2e-5: it is "${text}"`);
    }
    return number;
  });
}

/** A number of bytes: 5000000, 500MB, 5GB (of a thousand each), 4GiB. */
export function bytes(meaning: string): Flag<number> {
  return one("BYTES", meaning, (text) => {
    const [, count, prefix, binary] = /^(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b?)$/i.exec(text) ?? [];
    if (count === undefined) throw new ValueError(`must be a number of bytes such as 5GB: it is "${text}"`);
    const power = prefix ? "kmgt".indexOf(prefix.toLowerCase()) + 1 : 0;
    const number = Math.floor(Number(count) * (binary ? 1024 : 1000) ** power);
    if (number < 1) throw new ValueError(`must be at least one byte: it is "${text}"`);
    return number;
  });
}

/** On or off: alone, or with 1, 0, true or false. */
export function toggle(meaning: string): Flag<boolean> {
  return {
    placeholder: "",
    meaning,
    takes: "optional",
    read: ([text = "1"]) => {
      if (/^(1|true)$/i.test(text)) return true;
      if (/^(0|false)$/i.test(text)) return false;
      throw new ValueError(`must be 1 or 0, or stand alone: it is "${text}"`);
    },
  };
}

/** One of a few words. @param remedy what to say besides where it is another */
export function choice<const T extends string>(
  words: readonly T[],
  meaning: string,
  remedy?: string,
): Flag<T> {
  return one(words.join("|"), meaning, (text) => {
    const word = words.find((word) => word === text);
    if (word !== undefined) return word;
    const there = words.length > 1 ? `one of ${words.join(", ")}` : words[0];
    throw new ValueError(`must be ${there}: it is "${text}"${remedy ? `, and ${remedy}` : ""}`);
  });
}

/** One of many words for a few meanings. @param shown the words that --help shows */
export function named<T>(words: Readonly<Record<string, T>>, shown: string, meaning: string): Flag<T> {
  return one(shown, meaning, (text) => {
    if (Object.hasOwn(words, text)) return words[text]!;
    throw new ValueError(`must be one of ${Object.keys(words).join(", ")}: it is "${text}"`);
  });
}

/** Settings as JSON, with a type for each known key; of any keys where no types are given. */
export function json(
  example: string,
  meaning: string,
  types?: Readonly<Record<string, "string" | "number">>,
): Flag<Record<string, unknown>> {
  const read = (text: string) => {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      throw new ValueError(`is not JSON: ${text}; put it between single quotes, as in '${example}'`);
    }
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      throw new ValueError(`must be a JSON object, as in '${example}': it is ${text}`);
    }
    for (const [key, content] of Object.entries(types ? value : {})) {
      const wanted = Object.hasOwn(types!, key) ? types![key] : undefined;
      if (!wanted) throw new ValueError(`has no "${key}"${suggestion(key, Object.keys(types!))}`);
      const type = typeof content;
      if (type !== wanted) {
        throw new ValueError(`needs a ${wanted} for "${key}": it is ${JSON.stringify(content)}`);
      }
    }
    return value as Record<string, unknown>;
  };
  // What is no JSON is said when it is read.
  const filesIn = (text: string) => [...text.matchAll(/"(hf:[^"]*)"/g)].map(([, name]) => name!);
  return { ...one("JSON", meaning, read), filesIn };
}

/** Words: `a b`, `a,b`, `["a","b"]`, `[a,b]` as a shell leaves it, or `[]` for none. */
export function list(meaning: string): Flag<string[]> {
  return {
    placeholder: "A B …",
    meaning,
    takes: "many",
    read: (values) =>
      values.flatMap((value) => value.replace(/^\[|\]$/g, "").split(","))
        .map((word) => word.trim().replace(/^(["'])(.*)\1$/, "$2")).filter((word) => word !== ""),
  };
}

/** Names as {@link list} reads them; one word that no name could be is one regular expression. */
export function names(meaning: string): Flag<string | string[]> {
  const words = list(meaning);
  return {
    ...words,
    read: (values) =>
      values.length === 1 && /[*+?()|^$\\]/.test(values[0]!) ? values[0]! : words.read(values),
  };
}

/** Whole numbers from 0, as {@link list} reads them. */
export function numbers(meaning: string): Flag<number[]> {
  const words = list(meaning);
  return {
    ...words,
    placeholder: "N M …",
    read: (values) =>
      words.read(values).map((word) => {
        if (/^\d+$/.test(word)) return Number(word);
        throw new ValueError(`must be whole numbers from 0: one is "${word}"`);
      }),
  };
}

/** A command line, read. */
export interface CommandLine<F extends Flags> {
  readonly values: Values<F>;
  /** Whether --help was asked for, whatever else was said. */
  readonly help: boolean;
}

/**
 * Reads a command line.
 * @throws OptionError in one sentence
 */
export function parseFlags<F extends Flags>(flags: F, args: readonly string[]): CommandLine<F> {
  const said = saidBy(flags, args);
  const values: Record<string, unknown> = {};
  for (const [option, texts] of said ?? []) {
    const value = readValue(flags[option]!, texts, flag(option));
    if (value !== undefined) values[option] = value;
  }
  return { values: values as Values<F>, help: said === undefined };
}

/**
 * The words that were given for each flag, as they are; undefined where help was asked for.
 * @throws OptionError in one sentence
 */
export function saidBy(flags: Flags, args: readonly string[]): Map<string, string[]> | undefined {
  // `deno task run_bone -- --help` is a habit from npm.
  const given = args[0] === "--" ? args.slice(1) : [...args];
  if (given.some((arg) => arg === "--help" || arg === "-h")) return undefined;
  const names = new Map(Object.keys(flags).map((option) => [flag(option).slice(2), option]));
  const { tokens } = parseArgs({
    args: given.map((arg) =>
      arg.startsWith("--")
        ? arg.replace(/^--[^=]+/, (name) => name.replaceAll("-", "_").replace(/^__/, "--"))
        : arg
    ),
    options: Object.fromEntries(
      [...names].map((
        [name, option],
      ) => [name, { type: flags[option]!.takes === "one" ? "string" : "boolean" }]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  });
  const said = new Map<string, string[]>();
  let open: string[] | undefined;
  for (const token of tokens) {
    if (token.kind === "option") {
      const option = names.get(token.name);
      if (!option || !token.rawName.startsWith("--")) {
        throw unknownFlag(given[token.index]!, [...names.keys()]);
      }
      if (said.has(option)) throw new OptionError(`${flag(option)} is given twice: leave one out`);
      const { takes, placeholder } = flags[option]!;
      const missing = token.value === undefined || (!token.inlineValue && token.value.startsWith("--"));
      if (takes === "one" && missing) {
        throw new OptionError(`${flag(option)} needs a value (${placeholder}) after it`);
      }
      const values = token.value === undefined ? [] : [token.value];
      said.set(option, values);
      open = takes === "many" || (takes === "optional" && !values.length) ? values : undefined;
      continue;
    }
    const value = token.kind === "positional" ? token.value : "--";
    if (!open) throw unexpected(value);
    open.push(value);
    const last = [...said.keys()].at(-1)!;
    if (flags[last]!.takes === "optional") open = undefined;
  }
  return said;
}

/** Reads the values of one flag. @param name how an error calls it @throws OptionError in one sentence */
export function readValue<T>(flag: Flag<T>, texts: readonly string[], name: string): T {
  try {
    return flag.read(texts);
  } catch (error) {
    if (error instanceof ValueError) throw new OptionError(`${name} ${error.message}`);
    throw error;
  }
}

function unknownFlag(arg: string, names: readonly string[]): OptionError {
  const word = arg.replace(/=.*$/s, "");
  const near = suggestion(word.replace(/^-+/, "").replaceAll("-", "_"), names, "--");
  return new OptionError(`Unknown flag ${word}${near || ": --help lists all"}`);
}

function unexpected(word: string): OptionError {
  return /^\\?\s*$/.test(word)
    ? new OptionError(
      "There is a lone backslash or blank on the command line: a backslash that continues a line must be its last character",
    )
    : new OptionError(`Unexpected "${word}": it belongs to no flag, and flags begin with --`);
}

/** `: did you mean x?` where a known name is a few letters away, or holds the word. */
export function suggestion(word: string, names: readonly string[], before = ""): string {
  const lower = word.toLowerCase();
  const [nearest] = names.map((name) => ({ name, far: distance(lower, name) })).sort((a, b) => a.far - b.far);
  const found = nearest && nearest.far <= Math.max(1, 0.4 * word.length)
    ? nearest.name
    : names.find((name) => lower.length > 1 && name.split("_").includes(lower));
  return found === undefined ? "" : `: did you mean ${before}${found}?`;
}

/** What help says of a flag besides its table: the value where none is given. */
export type Defaults = (option: string) => string | undefined;

/** Flags under titles, as help shows them. */
export type Sections = Readonly<Record<string, Flags>>;

/** Characters of a line of help. */
const HELP_WIDTH = 100;

/** Help: how to call a command, then its flags under their titles with their defaults. */
export function helpText(usage: string, sections: Sections, defaults: Defaults = () => undefined): string {
  const parts = Object.entries(sections).map(([title, flags]) => {
    const rows = Object.entries(flags).map(([option, { placeholder, meaning, takes }]) => {
      const value = takes === "optional" ? " [1|0]" : ` ${placeholder}`;
      const initial = defaults(option);
      return [`  ${flag(option)}${value}`, meaning + (initial === undefined ? "" : ` [${initial}]`)] as const;
    });
    const column = Math.max(...rows.map(([left]) => left.length)) + 2;
    const lines = rows.map(([left, right]) =>
      left.padEnd(column) + wrapped(right, HELP_WIDTH - column).join("\n".padEnd(column + 1))
    );
    return `${title}\n${lines.join("\n")}`;
  });
  return [usage, ...parts].join("\n\n");
}

/** A text in lines of at most `width` characters, where its words allow it. */
function wrapped(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(" ")) {
    const line = lines.at(-1);
    if (line !== undefined && line.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${line} ${word}`;
    } else lines.push(word);
  }
  return lines;
}
