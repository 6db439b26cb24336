/**
 * What a request asks for, checked field by field. A field that would change the answer and cannot be honoured is refused, so
 * that nobody takes an answer for one that it is not.
 *
 * @module
 */
import type { JsonObject } from "../body.ts";
import { ApiError } from "../errors.ts";
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import type { PromptFormat } from "../../rwkv/prompt_format.ts";
import { chatPrompt, type Message } from "./chat.ts";

/** A request, understood. */
export interface Wanted {
  readonly kind: "completion" | "chat";
  readonly model: string;
  /** Each is answered `n` times. */
  readonly prompts: readonly { readonly text: string; readonly tokens: Uint32Array }[];
  readonly n: number;
  readonly maxTokens: number;
  readonly temperature: number;
  readonly topP: number;
  readonly presence: number;
  readonly frequency: number;
  readonly stop: readonly string[];
  /** What an answer begins with that the prompt has already. */
  readonly begun: string;
  /** Undefined where any will do. */
  readonly seed: number | undefined;
  readonly stream: boolean;
  /** Whether a stream ends with the usage. */
  readonly includeUsage: boolean;
  /** Whether the prompt is part of the answer. */
  readonly echo: boolean;
  /** Who asks, where one client speaks for several. */
  readonly user: string;
}

/** What the server allows and knows. */
export interface RequestLimits {
  readonly tokenizer: Tokenizer;
  readonly vocabulary: number;
  /** How conversations with a model are written. @throws UnknownModelError */
  format(model: string): PromptFormat;
  /** Tokens of an answer, at most; what a chat gets where nothing is said. */
  readonly maxTokens: number;
  /** Answers of a request, at most. */
  readonly choices: number;
}

/** OpenAI's default for completions. */
const COMPLETION_TOKENS = 16;
const MOST_STOPS = 16;

/** Fields that change nothing here. */
const WITHOUT_EFFECT = [
  "metadata",
  "parallel_tool_calls",
  "prompt_cache_key",
  "safety_identifier",
  "service_tier",
  "store",
];

/** Fields that are not supported, with the values that ask for nothing. */
const NEUTRAL: Readonly<Record<string, (value: unknown) => boolean>> = {
  audio: () => false,
  best_of: (value) => value === 1,
  function_call: (value) => value === "none" || value === "auto",
  functions: isEmpty,
  logit_bias: isEmpty,
  logprobs: (value) => value === false,
  modalities: (value) => Array.isArray(value) && value.every((item) => item === "text"),
  prediction: () => false,
  reasoning_effort: () => false,
  response_format: (value) => (value as { type?: unknown } | undefined)?.type === "text",
  suffix: (value) => value === "",
  tool_choice: (value) => value === "none" || value === "auto",
  tools: isEmpty,
  top_logprobs: (value) => value === 0,
  verbosity: () => false,
  web_search_options: () => false,
};

const SHARED = [
  "frequency_penalty",
  "max_tokens",
  "model",
  "n",
  "presence_penalty",
  "seed",
  "stop",
  "stream",
  "stream_options",
  "temperature",
  "top_p",
  "user",
];
const OWN = { completion: ["prompt", "echo"], chat: ["messages", "max_completion_tokens"] };

/** Reads a request. @throws ApiError that names the field */
export function readRequest(kind: Wanted["kind"], body: JsonObject, limits: RequestLimits): Wanted {
  for (const [name, value] of Object.entries(body)) {
    if (SHARED.includes(name) || OWN[kind].includes(name) || WITHOUT_EFFECT.includes(name)) continue;
    const neutral = Object.hasOwn(NEUTRAL, name) ? NEUTRAL[name] : undefined;
    if (!neutral) throw invalid(name, `Unrecognized request argument supplied: ${name}`, "unknown_parameter");
    if (value !== null && !neutral(value)) {
      throw invalid(name, `'${name}' is not supported here: leave it out`, "unsupported_parameter");
    }
  }
  const fields = new Fields(body);
  const model = fields.text("model");
  if (!model) throw invalid("model", "you must provide a model parameter");
  const n = fields.whole("n", 1, limits.choices) ?? 1;
  const stream = fields.flag("stream");
  const common = {
    kind,
    model,
    n,
    temperature: fields.number("temperature", 0, 2) ?? 1,
    topP: fields.number("top_p", 0, 1) ?? 1,
    presence: fields.number("presence_penalty", -2, 2) ?? 0,
    frequency: fields.number("frequency_penalty", -2, 2) ?? 0,
    seed: fields.whole("seed", Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER),
    stream,
    includeUsage: includeUsage(body, stream),
    user: fields.text("user") ?? "",
  };
  const stop = stops(body);
  if (kind === "chat") {
    const messages = readMessages(body);
    const format = limits.format(model);
    const most = fields.whole("max_completion_tokens", 1, limits.maxTokens);
    return {
      ...common,
      prompts: [encoded(chatPrompt(format, messages), "messages", limits)],
      maxTokens: most ?? fields.whole("max_tokens", 1, limits.maxTokens) ?? limits.maxTokens,
      stop: [...stop, ...format.stops],
      begun: format.begun,
      echo: false,
    };
  }
  const prompts = readPrompts(body, limits);
  if (prompts.length * n > limits.choices) {
    throw invalid(
      "prompt",
      `A request may ask for ${limits.choices} answers at most: this one asks for ${prompts.length * n}`,
    );
  }
  const maxTokens = fields.whole("max_tokens", 1, limits.maxTokens) ??
    Math.min(COMPLETION_TOKENS, limits.maxTokens);
  return { ...common, prompts, maxTokens, stop, begun: "", echo: fields.flag("echo") };
}

function invalid(param: string, message: string, code: string | null = null): ApiError {
  return new ApiError(400, message, param, code);
}

function isEmpty(value: unknown): boolean {
  return typeof value === "object" && value !== null && Object.keys(value).length === 0;
}

/** Fields of simple types; null counts as not given. */
class Fields {
  constructor(readonly body: JsonObject) {}

  #given(name: string): unknown {
    return Object.hasOwn(this.body, name) ? this.body[name] ?? undefined : undefined;
  }

  text(name: string): string | undefined {
    const value = this.#given(name);
    if (value === undefined || typeof value === "string") return value;
    throw invalid(name, `'${name}' must be a string`);
  }

  flag(name: string): boolean {
    const value = this.#given(name) ?? false;
    if (typeof value === "boolean") return value;
    throw invalid(name, `'${name}' must be true or false`);
  }

  number(name: string, least: number, most: number): number | undefined {
    const value = this.#given(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && value >= least && value <= most) return value;
    throw invalid(name, `'${name}' must be a number from ${least} to ${most}`);
  }

  whole(name: string, least: number, most: number): number | undefined {
    const value = this.#given(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isSafeInteger(value) && value >= least && value <= most) {
      return value;
    }
    throw invalid(name, `'${name}' must be a whole number from ${least} to ${most}`);
  }
}

function includeUsage(body: JsonObject, stream: boolean): boolean {
  const options = body.stream_options ?? undefined;
  if (options === undefined) return false;
  if (!stream) throw invalid("stream_options", "'stream_options' is only for requests with 'stream': true");
  if (typeof options !== "object" || Array.isArray(options)) {
    throw invalid("stream_options", "'stream_options' must be an object");
  }
  const fields = new Fields(options as JsonObject);
  // Padding against eavesdroppers on a network has no place on one machine.
  fields.flag("include_obfuscation");
  return fields.flag("include_usage");
}

function stops(body: JsonObject): string[] {
  const given = body.stop ?? [];
  const list: unknown[] = Array.isArray(given) ? given : [given];
  if (list.some((stop) => typeof stop !== "string" || stop === "")) {
    throw invalid("stop", "'stop' must be a string or a list of strings, none of them empty");
  }
  if (list.length > MOST_STOPS) throw invalid("stop", `'stop' may hold ${MOST_STOPS} strings at most`);
  return list as string[];
}

function encoded(text: string, param: string, { tokenizer }: RequestLimits): Wanted["prompts"][number] {
  try {
    return { text, tokens: withStart(tokenizer.encode(text)) };
  } catch (error) {
    throw invalid(param, (error as Error).message);
  }
}

/** An empty prompt is the start of a document. */
function withStart(tokens: Uint32Array): Uint32Array {
  return tokens.length ? tokens : Uint32Array.of(0);
}

function readPrompts(body: JsonObject, limits: RequestLimits): Wanted["prompts"] {
  const given = body.prompt ?? "";
  const isTokens = (value: unknown): value is number[] =>
    Array.isArray(value) && value.length > 0 && value.every((token) => typeof token === "number");
  const list: unknown[] = typeof given === "string" || isTokens(given)
    ? [given]
    : Array.isArray(given)
    ? given
    : [];
  if (!list.length) {
    throw invalid("prompt", "'prompt' must be a string, a list of strings, or lists of tokens");
  }
  return list.map((prompt) => {
    if (typeof prompt === "string") return encoded(prompt, "prompt", limits);
    if (!isTokens(prompt)) {
      throw invalid("prompt", "'prompt' must be a string, a list of strings, or lists of tokens");
    }
    const wrong = prompt.find((token) => !Number.isInteger(token) || token < 0 || token >= limits.vocabulary);
    if (wrong !== undefined) {
      throw invalid("prompt", `Token ${wrong} is outside the model's vocabulary of ${limits.vocabulary}`);
    }
    return { text: limits.tokenizer.decode(prompt), tokens: Uint32Array.from(prompt) };
  });
}

const ROLES: Readonly<Record<string, Message["role"]>> = {
  system: "system",
  developer: "system",
  user: "user",
  assistant: "assistant",
};

function readMessages(body: JsonObject): Message[] {
  const { messages } = body;
  if (!Array.isArray(messages) || !messages.length) {
    throw invalid("messages", "'messages' must be a list with at least one message");
  }
  return messages.map((message: unknown, i) => {
    const param = `messages[${i}]`;
    if (typeof message !== "object" || message === null) throw invalid(param, `'${param}' must be an object`);
    const { role, content } = message as JsonObject;
    const known = typeof role === "string" && Object.hasOwn(ROLES, role) ? ROLES[role] : undefined;
    if (!known) {
      throw invalid(`${param}.role`, `'${param}.role' must be one of ${Object.keys(ROLES).join(", ")}`);
    }
    return { role: known, content: readContent(content, `${param}.content`) };
  });
}

/** Text, or a list of parts that are all text. */
function readContent(content: unknown, param: string): string {
  if (typeof content === "string") return content;
  const parts = Array.isArray(content) ? content as unknown[] : [];
  const texts = parts.map((part) => {
    const { type, text } = (part ?? {}) as JsonObject;
    return type === "text" && typeof text === "string" ? text : undefined;
  });
  if (!texts.length || texts.includes(undefined)) {
    throw invalid(param, `'${param}' must be a string or a list of text parts: only text is understood here`);
  }
  return texts.join("");
}
