/**
 * The OpenAI-compatible API: models, completions and chat completions, whole or as a stream.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import { ApiError, asApiError, errorBody } from "../errors.ts";
import { readJson } from "../body.ts";
import type { Library } from "../inference/library.ts";
import type { Scheduler } from "../inference/scheduler.ts";
import { chatFormat } from "./chat.ts";
import { answer, type AnswerListener, type Usage } from "./answer.ts";
import { readRequest, type RequestLimits, type Wanted } from "./request.ts";

/** What the routes are made of. */
export interface ApiOptions {
  readonly library: Library;
  readonly scheduler: Scheduler;
  /** Tokens of an answer, at most. */
  readonly maxTokens: number;
  /** Seconds that a request may take, at most. */
  readonly timeoutSeconds: number;
  /** Told errors that are not the client's. */
  onError(error: unknown): void;
  /** Of a request: the address that it came from. */
  clientOf(request: Request): string;
}

/** Answers of one request, at most. */
const CHOICES = 16;

/** The routes, to be put under /v1. */
export function apiRoutes(options: ApiOptions): Hono {
  const { library } = options;
  const routes = new Hono();
  routes.get("/models", (c) => c.json({ object: "list", data: library.list().map(modelObject) }));
  routes.get("/models/:name", (c) => c.json(modelObject(library.find(c.req.param("name")))));
  routes.post("/completions", (c) => complete(c, "completion", options));
  routes.post("/chat/completions", (c) => complete(c, "chat", options));
  return routes;
}

function modelObject({ name, created }: { name: string; created: number }) {
  return { id: name, object: "model", created, owned_by: "wishbone" };
}

async function complete(c: Context, kind: Wanted["kind"], options: ApiOptions): Promise<Response> {
  const { library, scheduler, maxTokens, timeoutSeconds, clientOf } = options;
  const { tokenizer, config } = library;
  const limits: RequestLimits = {
    tokenizer,
    vocabulary: config.vocabulary,
    format: (model) => chatFormat(library.promptFormat(model)),
    maxTokens,
    choices: CHOICES,
  };
  const request = c.req.raw;
  const wanted = readRequest(kind, await readJson(request), limits);
  library.find(wanted.model);
  // Every place that a client who goes away, or takes too long, would hold is given back through this.
  const ending = new AbortController();
  const signal = AbortSignal.any([request.signal, ending.signal]);
  const client = `${clientOf(request)} ${wanted.user}`;
  const begin = async (listener: AnswerListener) => {
    const late = () => ending.abort(new DOMException("It took too long", "TimeoutError"));
    const timer = setTimeout(late, timeoutSeconds * 1000);
    try {
      return await answer(wanted, client, { scheduler, tokenizer }, listener, signal);
    } finally {
      clearTimeout(timer);
    }
  };
  const frame = new Frame(wanted);
  if (wanted.stream) return await streamed(begin, frame, () => ending.abort(clientHasGone()), options);
  const texts: string[] = Array.from({ length: wanted.prompts.length * wanted.n }, () => "");
  const reasons: string[] = [];
  const usage = await begin({
    onText: (choice, text) => void (texts[choice] += text),
    onEnd: (choice, reason) => void (reasons[choice] = reason),
  });
  return c.json(frame.whole(texts, reasons, usage));
}

/** OpenAI's objects for one request. */
class Frame {
  readonly #id: string;
  readonly #created = Math.floor(Date.now() / 1000);
  readonly #begun = new Set<number>();

  constructor(readonly wanted: Wanted) {
    this.#id = `${wanted.kind === "chat" ? "chatcmpl" : "cmpl"}-${crypto.randomUUID()}`;
  }

  #object(kind: string, choices: readonly unknown[]) {
    return { id: this.#id, object: kind, created: this.#created, model: this.wanted.model, choices };
  }

  whole(texts: readonly string[], reasons: readonly string[], usage: Usage) {
    const isChat = this.wanted.kind === "chat";
    const choices = texts.map((text, index) => ({
      index,
      ...(isChat ? { message: { role: "assistant", content: text, refusal: null } } : { text }),
      logprobs: null,
      finish_reason: reasons[index],
    }));
    return { ...this.#object(isChat ? "chat.completion" : "text_completion", choices), usage };
  }

  #chunk(choices: readonly unknown[]) {
    const kind = this.wanted.kind === "chat" ? "chat.completion.chunk" : "text_completion";
    return { ...this.#object(kind, choices), ...(this.wanted.includeUsage ? { usage: null } : {}) };
  }

  text(index: number, text: string) {
    if (this.wanted.kind !== "chat") {
      return this.#chunk([{ index, text, logprobs: null, finish_reason: null }]);
    }
    const first = !this.#begun.has(index);
    this.#begun.add(index);
    const delta = first ? { role: "assistant", content: text } : { content: text };
    return this.#chunk([{ index, delta, logprobs: null, finish_reason: null }]);
  }

  end(index: number, reason: string) {
    const delta = this.wanted.kind === "chat"
      ? { delta: this.#begun.has(index) ? {} : { role: "assistant", content: "" } }
      : { text: "" };
    return this.#chunk([{ index, ...delta, logprobs: null, finish_reason: reason }]);
  }

  usage(usage: Usage) {
    return { ...this.#chunk([]), usage };
  }
}

/** Answers as server-sent events. The response begins with the first text, so that what fails before it has a status of its own. */
async function streamed(
  begin: (listener: AnswerListener) => Promise<Usage>,
  frame: Frame,
  leave: () => void,
  { onError }: ApiOptions,
): Promise<Response> {
  const encoder = new TextEncoder();
  let controller: ReadableStreamDefaultController<Uint8Array> | undefined, left = false;
  const body = new ReadableStream<Uint8Array>({
    start: (c) => void (controller = c),
    cancel() {
      left = true;
      leave();
    },
  });
  const send = (data: string) => {
    if (!left) controller!.enqueue(encoder.encode(`data: ${data}\n\n`));
  };
  const begun = Promise.withResolvers<void>();
  let started = false;
  const event = (object: unknown) => {
    send(JSON.stringify(object));
    started = true;
    begun.resolve();
  };
  begin({
    onText: (choice, text) => event(frame.text(choice, text)),
    onEnd: (choice, reason) => event(frame.end(choice, reason)),
  }).then((usage) => {
    if (frame.wanted.includeUsage) event(frame.usage(usage));
    send("[DONE]");
  }).catch((error) => {
    if (!started) return begun.reject(error);
    const told = asApiError(error);
    if (told.status === 500) onError(error);
    send(JSON.stringify(errorBody(told)));
  }).finally(() => {
    if (!left && started) controller!.close();
  });
  await begun.promise;
  return new Response(body, { headers: { "content-type": "text/event-stream; charset=utf-8" } });
}

/** Why an answer ends that nobody reads any more. */
function clientHasGone(): DOMException {
  return new DOMException("The client has gone", "AbortError");
}

/** What is said of a path under /v1 that is none. */
export function unknownPath(c: Context): never {
  throw new ApiError(404, `Unknown request URL: ${c.req.method} ${c.req.path}`, null, "unknown_url");
}
