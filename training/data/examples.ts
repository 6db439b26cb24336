/**
 * What a record of a data file holds: plain text or a conversation, recognised by its keys.
 *
 * @module
 */
import type { Turn } from "../../rwkv/prompt_format.ts";

/** One record, understood. */
export type Example =
  | { readonly kind: "text"; readonly text: string }
  | { readonly kind: "conversation" | "instruction"; readonly turns: readonly Turn[] };

type Fields = Readonly<Record<string, unknown>>;

/** What is expected where a record has none of the known keys. */
const EXPECTED =
  'expected "text", "messages", "prompt" and "completion", or "instruction" and "output" (--sft_field names others)';

/** Roles as chat data calls them. */
const ROLES: Readonly<Record<string, Turn["role"]>> = {
  system: "system",
  developer: "system",
  user: "user",
  human: "user",
  assistant: "assistant",
  gpt: "assistant",
  model: "assistant",
  bot: "assistant",
};

/**
 * Understands a record. Of several known forms the one that says most counts: messages, prompt and completion, instruction and
 * output, text.
 * @param sftField names the fields: of the text or the messages; of prompt and answer; of instruction, input and output
 * @throws Error with a clause that follows file and line
 */
export function exampleOf(value: unknown, sftField?: readonly string[]): Example {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error(`expected {"text": "..."}, found ${nameOf(value)}`);
  }
  const fields = value as Fields;
  if (sftField) return named(fields, sftField);
  const has = (key: string) => Object.hasOwn(fields, key);
  for (const key of ["messages", "conversations"]) {
    if (has(key)) return { kind: "conversation", turns: turnsOf(fields[key], key) };
  }
  if (has("prompt") && has("completion")) return exchange(fields, ["prompt", "completion"]);
  if (has("instruction") && has("output")) {
    return exchange(fields, ["instruction", ...(has("input") ? ["input"] : []), "output"]);
  }
  if (has("text")) return { kind: "text", text: stringOf(fields, "text") };
  const keys = Object.keys(fields).slice(0, 4).map((key) => JSON.stringify(key));
  throw new Error(`${EXPECTED}, found ${keys.join(", ") || "nothing"}`);
}

function named(fields: Fields, names: readonly string[]): Example {
  const missing = names.find((name) => !Object.hasOwn(fields, name));
  if (missing !== undefined) throw new Error(`${JSON.stringify(missing)} is missing`);
  const [only] = names;
  if (names.length > 1) return exchange(fields, names);
  if (typeof fields[only!] === "string" && !looksLikeMessages(fields[only!] as string)) {
    return { kind: "text", text: stringOf(fields, only!) };
  }
  return { kind: "conversation", turns: turnsOf(fields[only!], only!) };
}

/** A question and an answer, or an instruction, its input, which may be empty, and the output. */
function exchange(fields: Fields, names: readonly string[]): Example {
  const user = names[0]!, answer = names.at(-1)!;
  const input = names.length > 2 ? optionalString(fields, names[1]!) : undefined;
  const system = optionalString(fields, "system");
  return {
    kind: names.length > 2 || user === "instruction" ? "instruction" : "conversation",
    turns: [
      ...(system ? [{ role: "system", content: system } as const] : []),
      { role: "user", content: stringOf(fields, user), ...(input ? { input } : {}) },
      { role: "assistant", content: stringOf(fields, answer), ...reasoningOf(fields) },
    ],
  };
}

const looksLikeMessages = (text: string) => /^\s*\[\s*\{/.test(text);

/** Turns from a list of `{"role", "content"}` or `{"from", "value"}`; in tables the list may be JSON text. */
function turnsOf(value: unknown, key: string): Turn[] {
  let list = value;
  if (typeof value === "string") {
    try {
      list = JSON.parse(value);
    } catch {
      throw new Error(`"${key}" is text but no JSON list of messages`);
    }
  }
  if (!Array.isArray(list)) throw new Error(`"${key}" must be a list of messages, found ${nameOf(list)}`);
  if (list.length === 0) throw new Error(`"${key}" is an empty list`);
  return list.map((message: unknown, i) => {
    const where = `message ${i + 1} of "${key}"`;
    if (typeof message !== "object" || message === null || Array.isArray(message)) {
      throw new Error(`${where} must be {"role": "...", "content": "..."}, found ${nameOf(message)}`);
    }
    const fields = message as Fields;
    const [roleKey, contentKey] = Object.hasOwn(fields, "from") ? ["from", "value"] : ["role", "content"];
    const said = fields[roleKey!];
    const role = typeof said === "string" && Object.hasOwn(ROLES, said.toLowerCase())
      ? ROLES[said.toLowerCase()]!
      : undefined;
    if (!role) {
      throw new Error(
        `${where} has the role ${said === undefined ? "of nobody" : JSON.stringify(said)}: ` +
          "there are system, user and assistant",
      );
    }
    try {
      const reasoning = role === "assistant" ? reasoningOf(fields) : {};
      return { role, content: contentOf(fields, contentKey!), ...reasoning };
    } catch (error) {
      throw new Error(`${where}: ${(error as Error).message}`);
    }
  });
}

/** What is said: text, or a list of pieces of text as some services write it. */
function contentOf(fields: Fields, key: string): string {
  const content = fields[key];
  if (!Array.isArray(content)) return stringOf(fields, key);
  return content.map((piece: unknown) => {
    const { type, text } = (piece ?? {}) as Fields;
    if (type !== "text" || typeof text !== "string") {
      throw new Error(`"${key}" has a piece that is no text (${JSON.stringify(type) ?? nameOf(piece)})`);
    }
    return stringOf({ text }, "text");
  }).join("\n");
}

/** What the assistant thought, under the names that it goes by. */
function reasoningOf(fields: Fields): { reasoning?: string } {
  const key = ["reasoning_content", "reasoning", "thinking"].find((key) => typeof fields[key] === "string");
  const reasoning = key && optionalString(fields, key);
  return reasoning ? { reasoning } : {};
}

function optionalString(fields: Fields, key: string): string | undefined {
  const value = fields[key];
  return value === undefined || value === null ? undefined : stringOf(fields, key);
}

function stringOf(fields: Fields, key: string): string {
  const text = fields[key];
  if (!Object.hasOwn(fields, key)) throw new Error(`"${key}" is missing`);
  if (typeof text !== "string") throw new Error(`"${key}" must be a string, found ${nameOf(text)}`);
  if (!text.isWellFormed()) throw new Error(`"${key}" holds half of a surrogate pair`);
  return text;
}

function nameOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}
