/**
 * OpenAI's own client against a server: `openai_probe.ts URL KEY`. Fails where the client is not given what it expects.
 *
 * @module
 */
import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";

/** Imported by a name that the module graph does not see, so that only whoever tests is sent it. */
const CLIENT: string = "npm:openai@7.55.0";
const { default: OpenAI, APIError } = await import(CLIENT);
const [baseURL, apiKey] = Deno.args;

const openai = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const models = [];
for await (const model of await openai.models.list()) models.push(model.id);
deepStrictEqual(models, ["base"]);
strictEqual((await openai.models.retrieve("base")).id, "base");

const greedy = { model: "base", temperature: 0, max_tokens: 12 };
const text = await openai.completions.create({ ...greedy, prompt: "In the beginning " });
strictEqual(text.choices[0].text, "of the LORD ");

const messages = [{ role: "user", content: "Who art thou?" }];
const chat = await openai.chat.completions.create({ ...greedy, messages });
const stream = await openai.chat.completions.create({
  ...greedy,
  messages,
  stream: true,
  stream_options: { include_usage: true },
});
let streamed = "", usage;
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
strictEqual(streamed, chat.choices[0].message.content);
strictEqual(usage.completion_tokens, 12);

const leaving = await openai.completions.create({ ...greedy, prompt: "And ", max_tokens: 500, stream: true });
for await (const _ of leaving) break;

await rejects(openai.completions.create({ model: "none", prompt: "a" }), (error: unknown) => {
  ok(error instanceof APIError);
  const { status, code } = error as { status: number; code: string };
  deepStrictEqual({ status, code }, { status: 404, code: "model_not_found" });
  return true;
});
await rejects(openai.completions.create({ ...greedy, prompt: "a", temperature: 9 }), /temperature/);
const stranger = new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 });
await rejects(stranger.models.list(), (error: { status: number }) => error.status === 401);
