/**
 * The OpenAI-compatible API, as programs use it: by hand, and with OpenAI's own client.
 *
 * @module
 */
import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { createAdapter, saveAdapter } from "../mod.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Model } from "../rwkv/model.ts";
import { BASE, comes, eventsOf, post, serving } from "./serving.ts";

const folder = Deno.makeTempDirSync({ prefix: "wishbone api " });
Deno.test.afterAll(() => Deno.removeSync(folder, { recursive: true }));

/** An adapter of the bundled model that changes what it says. */
function writeAdapter(name: string, size: number): string {
  const engine = new CpuEngine({ workers: 1 });
  const model = Model.load(BASE, engine);
  const fresh = createAdapter(model, { r: 4 });
  let i = 0;
  const tensors = new Map(
    [...fresh.tensors].map(([name, { shape, data }]) => [
      name,
      { shape, data: data.map(() => size * Math.sin(i++)) },
    ]),
  );
  const path = `${folder}/${name}.safetensors`;
  saveAdapter(fresh.withTensors(tensors), path);
  model.dispose();
  engine.dispose();
  return path;
}

const greedy = { temperature: 0, max_tokens: 12 };

Deno.test("completions + a prompt: the object that OpenAI describes, and the text of the generate command", async () => {
  await using server = await serving();
  const response = await post(`${server.url}/v1/completions`, {
    model: "base",
    prompt: "In the beginning ",
    ...greedy,
    max_tokens: 20,
  });
  strictEqual(response.status, 200);
  const { id, created, ...rest } = await response.json();
  match(id, /^cmpl-/);
  ok(Math.abs(created - Date.now() / 1000) < 60);
  deepStrictEqual(rest, {
    object: "text_completion",
    model: "base",
    choices: [{ index: 0, text: "of the LORD thy God ", logprobs: null, finish_reason: "length" }],
    usage: {
      prompt_tokens: 17,
      completion_tokens: 20,
      total_tokens: 37,
      prompt_tokens_details: { cached_tokens: 0 },
    },
  });
});

Deno.test("completions + a stream: the same text in pieces, then the usage, then the end", async () => {
  await using server = await serving();
  const body = { model: "base", prompt: "In the beginning ", ...greedy };
  const whole = await (await post(`${server.url}/v1/completions`, body)).json();
  const response = await post(`${server.url}/v1/completions`, {
    ...body,
    stream: true,
    stream_options: { include_usage: true },
  });
  match(response.headers.get("content-type")!, /^text\/event-stream/);
  const events = await eventsOf(response);
  strictEqual(events.pop(), "[DONE]");
  const chunks = events.map((event) => JSON.parse(event));
  const usage = chunks.pop();
  deepStrictEqual(usage.choices, []);
  strictEqual(usage.usage.completion_tokens, 12);
  ok(chunks.every((chunk) => chunk.usage === null && chunk.object === "text_completion"));
  strictEqual(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.choices[0].text);
  strictEqual(chunks.at(-1).choices[0].finish_reason, "length");
  ok(chunks.length > 5, "token by token");
});

Deno.test("completions + seeds, stop strings, several prompts and answers, tokens, echo", async () => {
  await using server = await serving();
  const ask = async (more: object) => {
    const response = await post(`${server.url}/v1/completions`, { model: "base", max_tokens: 24, ...more });
    const body = await response.json();
    strictEqual(response.status, 200, JSON.stringify(body));
    return body;
  };
  const texts = async (more: object) => (await ask(more)).choices.map(({ text }: { text: string }) => text);
  const [a] = await texts({ prompt: "And ", seed: 5 }), [b] = await texts({ prompt: "And ", seed: 5 });
  const [c] = await texts({ prompt: "And ", seed: 6 });
  strictEqual(a, b);
  ok(a !== c);
  const stopped = await ask({ prompt: "In the beginning ", temperature: 0, stop: ["LORD", "God"] });
  strictEqual(stopped.choices[0].text, "of the ");
  strictEqual(stopped.choices[0].finish_reason, "stop");
  const one = await ask({ prompt: "In the beginning ", temperature: 0, stop: "the" });
  strictEqual(one.choices[0].text, "of ");
  const four = await ask({ prompt: ["And ", "But "], n: 2, seed: 1 });
  deepStrictEqual(four.choices.map(({ index }: { index: number }) => index), [0, 1, 2, 3]);
  strictEqual(new Set(four.choices.map(({ text }: { text: string }) => text)).size, 4);
  strictEqual(four.usage.prompt_tokens, 8);
  strictEqual(four.usage.completion_tokens, 96);
  const tokens = [...new TextEncoder().encode("In the beginning ")];
  deepStrictEqual(
    await texts({ prompt: tokens, temperature: 0 }),
    await texts({ prompt: "In the beginning ", temperature: 0 }),
  );
  deepStrictEqual(
    await texts({ prompt: [tokens, [65]], max_tokens: 1, temperature: 0 }).then((t) => t.length),
    2,
  );
  match((await texts({ prompt: "And ", echo: true, temperature: 0 }))[0], /^And /);
  strictEqual((await texts({})).length, 1, "no prompt is the start of a document");
  const [same] = await texts({ prompt: "And the ", temperature: 0, max_tokens: 60 });
  const [other] = await texts({ prompt: "And the ", temperature: 0, max_tokens: 60, frequency_penalty: 2 });
  ok(same !== other, "a penalty changes the text");
});

Deno.test("chat completions + a conversation: a message, whole and streamed", async () => {
  await using server = await serving();
  const messages = [{ role: "system", content: "Speak." }, {
    role: "user",
    content: "Who made\n\nthe heavens?",
  }];
  const body = { model: "base", messages, temperature: 0, max_tokens: 16 };
  const whole = await (await post(`${server.url}/v1/chat/completions`, body)).json();
  strictEqual(whole.object, "chat.completion");
  match(whole.id, /^chatcmpl-/);
  const { message, finish_reason } = whole.choices[0];
  strictEqual(message.role, "assistant");
  strictEqual(finish_reason, "length");
  ok(message.content.length > 0 && !/^\s/.test(message.content));
  const prompt = "System: Speak.\n\nUser: Who made\nthe heavens?\n\nAssistant:";
  strictEqual(whole.usage.prompt_tokens, prompt.length);
  const events = await eventsOf(await post(`${server.url}/v1/chat/completions`, { ...body, stream: true }));
  strictEqual(events.pop(), "[DONE]");
  const deltas = events.map((event) => JSON.parse(event).choices[0].delta);
  strictEqual(deltas[0].role, "assistant");
  strictEqual(deltas.map(({ content = "" }) => content).join(""), message.content);
  const parts = [{ role: "user", content: [{ type: "text", text: "A" }, { type: "text", text: "B" }] }];
  const { usage } = await (await post(`${server.url}/v1/chat/completions`, { ...body, messages: parts }))
    .json();
  strictEqual(usage.prompt_tokens, "User: AB\n\nAssistant:".length);
});

Deno.test("adapters + requests that alternate: each is a model, and the base is loaded once", async () => {
  const paths = [writeAdapter("first", 0.02), writeAdapter("second", 0.05)];
  await using server = await serving({ adapters: paths });
  const { data } = await (await fetch(`${server.url}/v1/models`)).json();
  deepStrictEqual(data.map(({ id }: { id: string }) => id), ["base", "first", "second"]);
  const one = await (await fetch(`${server.url}/v1/models/second`)).json();
  deepStrictEqual(Object.keys(one), ["id", "object", "created", "owned_by"]);
  const ask = async (model: string) => {
    const response = await post(`${server.url}/v1/completions`, {
      model,
      prompt: "And the ",
      ...greedy,
      max_tokens: 30,
    });
    return (await response.json()).choices[0].text as string;
  };
  const alone = [await ask("base"), await ask("first"), await ask("second")];
  strictEqual(new Set(alone).size, 3);
  const again = await Promise.all(["base", "first", "second", "first", "base"].map(ask));
  deepStrictEqual(again, [alone[0], alone[1], alone[2], alone[1], alone[0]]);
  // A file that is replaced counts from the next request on.
  Deno.copyFileSync(paths[0]!, paths[1]!);
  strictEqual(await ask("second"), alone[1]);
});

Deno.test("requests + fields that are wrong: 400 in OpenAI's shape, with the field's name", async () => {
  await using server = await serving({ maxTokens: 100 });
  const message = [{ role: "user", content: "a" }];
  const cases: [string, Record<string, unknown>, string][] = [
    ["completions", { model: undefined }, "model"],
    ["completions", { model: 5 }, "model"],
    ["completions", { max_tokens: 0 }, "max_tokens"],
    ["completions", { max_tokens: -1 }, "max_tokens"],
    ["completions", { max_tokens: 1.5 }, "max_tokens"],
    ["completions", { max_tokens: 1e9 }, "max_tokens"],
    ["completions", { max_tokens: "10" }, "max_tokens"],
    ["completions", { temperature: -0.1 }, "temperature"],
    ["completions", { temperature: 3 }, "temperature"],
    ["completions", { temperature: "hot" }, "temperature"],
    ["completions", { top_p: 1.5 }, "top_p"],
    ["completions", { n: 0 }, "n"],
    ["completions", { n: 1000 }, "n"],
    ["completions", { seed: 1.5 }, "seed"],
    ["completions", { stop: "" }, "stop"],
    ["completions", { stop: [1] }, "stop"],
    ["completions", { stop: Array.from({ length: 10_000 }, String) }, "stop"],
    ["completions", { stream: "yes" }, "stream"],
    ["completions", { stream_options: { include_usage: true } }, "stream_options"],
    ["completions", { prompt: 5 }, "prompt"],
    ["completions", { prompt: [] }, "prompt"],
    ["completions", { prompt: [256] }, "prompt"],
    ["completions", { prompt: [-1] }, "prompt"],
    ["completions", { prompt: [0.5] }, "prompt"],
    ["completions", { prompt: ["a", 5] }, "prompt"],
    ["completions", { prompt: Array.from({ length: 100 }, () => "a") }, "prompt"],
    ["completions", { logprobs: 3 }, "logprobs"],
    ["completions", { best_of: 4 }, "best_of"],
    ["completions", { tmperature: 1 }, "tmperature"],
    ["completions", { user: 7 }, "user"],
    ["chat/completions", { messages: [] }, "messages"],
    ["chat/completions", { messages: "hello" }, "messages"],
    ["chat/completions", { messages: [null] }, "messages[0]"],
    ["chat/completions", { messages: [{ role: "tool", content: "a" }] }, "messages[0].role"],
    ["chat/completions", { messages: [{ role: "__proto__", content: "a" }] }, "messages[0].role"],
    ["chat/completions", { messages: [{ role: "user" }] }, "messages[0].content"],
    [
      "chat/completions",
      { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      "messages[0].content",
    ],
    ["chat/completions", { messages: message, tools: [{}] }, "tools"],
    ["chat/completions", { messages: message, response_format: { type: "json_object" } }, "response_format"],
    ["chat/completions", { messages: message, prompt: "a" }, "prompt"],
  ];
  for (const [path, fields, param] of cases) {
    const response = await post(`${server.url}/v1/${path}`, { model: "base", ...fields });
    const { error } = await response.json();
    const what = `${path} ${JSON.stringify(fields).slice(0, 80)}: ${JSON.stringify(error)}`;
    strictEqual(response.status, 400, what);
    strictEqual(error.param, param, what);
    strictEqual(error.type, "invalid_request_error", what);
    ok(error.message.length > 5 && "code" in error, what);
  }
  const polluting = '{"model":"base","max_tokens":1,"__proto__":{"temperature":"hot"}}';
  strictEqual((await post(`${server.url}/v1/completions`, polluting)).status, 400);
  const harmless = {
    model: "base",
    max_tokens: 1,
    metadata: {},
    store: false,
    logit_bias: null,
    tools: null,
    user: "u",
  };
  strictEqual((await post(`${server.url}/v1/completions`, harmless)).status, 200);
  const unknown = await post(`${server.url}/v1/completions`, { model: "gpt-5", prompt: "a" });
  strictEqual(unknown.status, 404);
  strictEqual((await unknown.json()).error.code, "model_not_found");
  const nowhere = await fetch(`${server.url}/v1/embeddings`);
  strictEqual(nowhere.status, 404);
  strictEqual((await nowhere.json()).error.code, "unknown_url");
  deepStrictEqual(server.errors, []);
});

Deno.test("streams + clients that go away: their places are free at once", async () => {
  await using server = await serving({ slots: 2, maxTokens: 100_000 });
  const body = { model: "base", prompt: "And ", max_tokens: 100_000, seed: 1 };
  const settled = () => comes(() => server.scheduler.load.running === 0);
  const response = await post(`${server.url}/v1/completions`, { ...body, stream: true });
  const reader = response.body!.getReader();
  await reader.read();
  strictEqual(server.scheduler.load.running, 1);
  await reader.cancel();
  ok(await settled(), "a stream that is left");
  const leaving = new AbortController();
  const waiting = post(`${server.url}/v1/completions`, body, { signal: leaving.signal });
  const left = rejects(waiting);
  ok(await comes(() => server.scheduler.load.running === 1));
  leaving.abort();
  await left;
  ok(await settled(), "a request that waits for its whole answer");
  deepStrictEqual(server.errors, []);
});

Deno.test("requests + a time limit, a full queue: 504, and 429 with when to come back", async () => {
  await using slow = await serving({ timeoutSeconds: 0.3, maxTokens: 1e6 });
  const late = await post(`${slow.url}/v1/completions`, { model: "base", prompt: "And ", max_tokens: 1e6 });
  strictEqual(late.status, 504);
  strictEqual((await late.json()).error.code, "timeout");
  const events = await eventsOf(
    await post(`${slow.url}/v1/completions`, {
      model: "base",
      prompt: "And ",
      max_tokens: 1e6,
      stream: true,
    }),
  );
  strictEqual(JSON.parse(events.at(-1)!).error.code, "timeout", "a stream ends with the error");
  await using full = await serving({ slots: 1, waiting: 1, maxTokens: 1000 });
  const all = await Promise.all([0, 1, 2, 3, 4].map(async () => {
    const response = await post(`${full.url}/v1/completions`, {
      model: "base",
      prompt: "And ",
      max_tokens: 60,
    });
    return {
      status: response.status,
      after: response.headers.get("retry-after"),
      body: await response.json(),
    };
  }));
  const refused = all.filter(({ status }) => status === 429);
  ok(
    refused.length >= 1 && all.some(({ status }) => status === 200),
    JSON.stringify(all.map(({ status }) => status)),
  );
  ok(refused.every(({ after, body }) => Number(after) >= 1 && body.error.type === "rate_limit_error"));
});

Deno.test("OpenAI's own client + everything that it is used for here", async () => {
  await using server = await serving({ apiKey: "test-key" });
  // Without the lock file, which is not to name the client: everybody would be sent it.
  const { code, stderr } = await new Deno.Command("deno", {
    args: [
      "run",
      "--no-prompt",
      "--no-lock",
      "--allow-read",
      "--allow-env",
      "--allow-net=127.0.0.1",
      fileURLToPath(new URL("./openai_probe.ts", import.meta.url)),
      `${server.url}/v1`,
      "test-key",
    ],
    stdout: "null",
    stderr: "piped",
  }).output();
  strictEqual(code, 0, new TextDecoder().decode(stderr));
  deepStrictEqual(server.errors, []);
});
