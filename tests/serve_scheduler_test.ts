/**
 * Many sequences at once: the same numbers as one at a time, fair turns, places given back, and beginnings read once.
 *
 * @module
 */
import { deepStrictEqual, ok, rejects, strictEqual } from "node:assert/strict";
import { Batch } from "../rwkv/batch.ts";
import { sample } from "../rwkv/generate.ts";
import { Session } from "../rwkv/session.ts";
import { FairQueue } from "../serve/inference/fair_queue.ts";
import { BusyError, type Job, Scheduler } from "../serve/inference/scheduler.ts";
import { StateCache } from "../serve/inference/state_cache.ts";
import { Library } from "../serve/inference/library.ts";
import { randomNumbers, relativeError, testOnEngines, toleranceOn } from "./engines.ts";
import { smallModel } from "./small_model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";
import { comes } from "./serving.ts";

const bytes = (text: string) => Uint32Array.from(new TextEncoder().encode(text));

testOnEngines(
  "Batch + rows at different places in different texts: the logits and states that a session gives",
  async (engine) => {
    const model = smallModel(engine);
    const wire: Session["wire"] = (graph) => model.wire(graph);
    const session = new Session(model.config, wire, engine);
    const batch = new Batch(model.config, wire, engine, 6);
    const texts = ["IN THE BEGINNING", "CALL ME. ", "IT IS A TRUTH", "Q", "AND ", "FELLOW"].map(bytes);
    for (const [row, text] of texts.entries()) {
      session.reset();
      await session.feed(text);
      batch.restore(row, await session.state());
    }
    const V = model.config.vocabulary, next = [...bytes(" OF")], read: number[] = [];
    // Six rows do not fill a program of eight, which there is none of; two rows use one of two.
    for (const rows of [6, 2]) {
      let logits: Float32Array = new Float32Array();
      for (const token of next) logits = await batch.step(new Array(rows).fill(token));
      read.push(...next);
      for (let row = 0; row < rows; row++) {
        session.reset();
        const expected = await session.feed([...texts[row]!, ...read]);
        const error = relativeError(logits.subarray(row * V, (row + 1) * V), expected);
        ok(error < toleranceOn(engine, 1e-5), `row ${row} of ${rows}: ${error}`);
        const stateError = relativeError((await batch.state(row)).data, (await session.state()).data);
        ok(stateError < toleranceOn(engine, 1e-5), `the state of row ${row} of ${rows}: ${stateError}`);
      }
    }
    batch.dispose();
    session.dispose();
    model.dispose();
  },
  { oracle: false },
);

/** Sorts everything, as the definition says. */
function sampleSorted(logits: Float32Array, temperature: number, topP: number, uniform: number): number {
  const most = Math.max(...logits);
  const weights = [...logits].map((x) => Math.exp((x - most) / temperature));
  const order = [...weights.keys()].sort((a, b) => weights[b]! - weights[a]!);
  const total = weights.reduce((a, b) => a + b, 0);
  let kept = 0, mass = 0;
  while (kept < order.length && (kept === 0 || mass < topP * total)) mass += weights[order[kept++]!]!;
  let left = uniform * mass;
  return order.slice(0, kept).find((i) => (left -= weights[i]!) < 0) ?? order[kept - 1]!;
}

Deno.test("sample + any logits, temperature and top_p: the token that sorting the whole vocabulary gives", () => {
  const noise = randomNumbers(3);
  for (const scale of [0.01, 1, 20]) {
    for (const temperature of [0.2, 1, 2]) {
      for (const topP of [0, 0.3, 0.85, 0.999, 1]) {
        for (let i = 0; i < 20; i++) {
          const logits = Float32Array.from({ length: 300 }, () => scale * noise());
          const uniform = (noise() + 1) / 2 * 0.999999;
          strictEqual(
            sample(logits, { temperature, topP }, uniform),
            sampleSorted(logits, temperature, topP, uniform),
          );
        }
      }
    }
  }
  const ruined = Float32Array.of(NaN, 1, 2);
  ok(sample(ruined, { temperature: 1, topP: 0.5 }, 0.5) < 3, "comes to an end");
});

Deno.test("FairQueue + a client with many and one with one: they take turns", () => {
  const queue = new FairQueue<string>();
  for (let i = 0; i < 4; i++) queue.push("a", `a${i}`);
  queue.push("b", "b0");
  queue.push("c", "c0");
  queue.push("c", "c1");
  ok(queue.remove("a", "a1"));
  ok(!queue.remove("a", "a1"));
  ok(!queue.remove("d", "a0"));
  const order = Array.from({ length: queue.size }, () => queue.shift());
  deepStrictEqual(order, ["a0", "b0", "c0", "a2", "c1", "a3"]);
  strictEqual(queue.shift(), undefined);
});

Deno.test("StateCache + beginnings: the longest that fits, the parting of two texts, and no more bytes than it may hold", () => {
  const state = { data: new Float32Array(100) };
  const cache = new StateCache(10_000);
  const text = (length: number, end = 7) =>
    Uint32Array.from({ length }, (_, i) => i === length - 1 ? end : i % 5);
  cache.keep("m", { tokens: text(40), state });
  cache.keep("m", { tokens: text(64, 1), state, logits: new Float32Array(4) });
  strictEqual(cache.longest("m", text(64, 1))?.tokens.length, 64, "the whole text, with logits");
  strictEqual(cache.longest("m", text(40)), undefined, "the whole text, without");
  strictEqual(cache.longest("other", text(64, 1)), undefined);
  const longer = Uint32Array.from([...text(40), 1, 2, 3]);
  strictEqual(cache.longest("m", longer)?.tokens.length, 40);
  deepStrictEqual([...cache.worthKeeping("m", text(200))].sort((a, b) => a - b), [32, 63, 64, 128]);
  for (let i = 0; i < 100; i++) cache.keep("m", { tokens: text(50, 100 + i), state });
  ok(cache.bytes <= 10_000 && cache.bytes > 9000, String(cache.bytes));
  cache.forget("m");
  strictEqual(cache.bytes, 0);
});

/** A library of one tiny model, and a scheduler over it. */
async function tiny(options: { slots: number; waiting?: number }) {
  const base = writeTinyModel(newPath("tiny.safetensors"));
  const library = await Library.open({ base, engine: "cpu", slots: options.slots, adapters: () => [] });
  const scheduler = new Scheduler(library, { waiting: 100, cacheBytes: 1e6, ...options });
  const job = (prompt: string, maxTokens: number, more: Partial<Job> = {}): Job & { written: number[] } => {
    const written: number[] = [];
    return {
      model: library.baseName,
      client: "one",
      prompt: bytes(prompt),
      maxTokens,
      sampling: { temperature: 0, topP: 1 },
      penalties: { presence: 0, frequency: 0 },
      uniform: () => 0.5,
      onToken: (token) => (written.push(token), true),
      written,
      ...more,
    };
  };
  return { library, scheduler, job, never: new AbortController().signal };
}

Deno.test("Scheduler + more jobs than slots: each writes what it writes alone, and every place is given back", async () => {
  const { library, scheduler, job, never } = await tiny({ slots: 3 });
  const prompts = [
    "a",
    "bcd",
    "abcdefgh ijkl.".repeat(20),
    "hello",
    "xyz",
    "ab",
    "abcdefgh ijkl.".repeat(20),
  ];
  const alone: number[][] = [];
  for (const prompt of prompts) {
    const one = job(prompt, 12);
    await scheduler.run(one, never);
    alone.push(one.written);
  }
  const together = prompts.map((prompt) => job(prompt, 12));
  const outcomes = await Promise.all(together.map((one) => scheduler.run(one, never)));
  deepStrictEqual(together.map(({ written }) => written), alone);
  ok(outcomes.every(({ reason }, i) => reason === (alone[i]!.length === 12 ? "length" : "stop")));
  ok(await comes(() => scheduler.load.running === 0));
  await library.dispose();
});

Deno.test("Scheduler + prompts that begin alike: only what is new is read", async () => {
  const { library, scheduler, job, never } = await tiny({ slots: 2 });
  const beginning = "abcdefgh ijkl.".repeat(10),
    cached = async (prompt: string) => (await scheduler.run(job(prompt, 3), never)).cachedTokens;
  strictEqual(await cached(beginning + "first"), 0);
  strictEqual(await cached(beginning + "first"), 145, "the very same");
  strictEqual(await cached(beginning + "other"), 128, "up to the last power of two");
  strictEqual(await cached(beginning + "third"), 140, "up to where the two before it parted");
  const twins = await Promise.all([1, 2].map(() => cached("xyz".repeat(30))));
  deepStrictEqual(twins, [0, 90], "two at once are read once");
  const one = job(beginning + "first", 5), again = job(beginning + "first", 5);
  await scheduler.run(one, never);
  await scheduler.run(again, never);
  deepStrictEqual(again.written, one.written);
  const { written } = one;
  const longer = job("", 1, { prompt: Uint32Array.from([...one.prompt, ...written, 1, 2]) });
  ok((await scheduler.run(longer, never)).cachedTokens >= 145 + 4, "a conversation goes on from its answer");
  await library.dispose();
});

Deno.test("Scheduler + clients that go away: waiting, reading or writing, they leave their places", async () => {
  const { library, scheduler, job, never } = await tiny({ slots: 1 });
  const writing = new AbortController(), waiting = new AbortController();
  let tokens = 0;
  const first = scheduler.run(
    job("a", 1e6, {
      onToken: () => {
        if (++tokens === 5) writing.abort(new Error("gone"));
        return true;
      },
      sampling: { temperature: 2, topP: 1 },
      uniform: () => 0.9,
    }),
    writing.signal,
  );
  const second = scheduler.run(job("b", 5), waiting.signal);
  waiting.abort(new Error("tired"));
  await rejects(second, /tired/);
  strictEqual(scheduler.load.waiting, 0);
  const third = scheduler.run(job("c", 5), never);
  await rejects(first, /gone/);
  await third;
  strictEqual(tokens, 5);
  const reading = new AbortController();
  const long = scheduler.run(job("abcdefgh ijkl.".repeat(3000), 5), reading.signal);
  setTimeout(() => reading.abort(new Error("too long")), 20);
  await rejects(long, /too long/);
  await scheduler.run(job("d", 5), never);
  ok(await comes(() => scheduler.load.running === 0));
  await rejects(
    scheduler.run(job("e", 1), AbortSignal.abort(new Error("before it began"))),
    /before it began/,
  );
  await library.dispose();
});

Deno.test("Scheduler + a full queue: the next is told to come back", async () => {
  const { library, scheduler, job, never } = await tiny({ slots: 1, waiting: 2 });
  const all = [0, 1, 2, 3].map((i) => scheduler.run(job("a", 50, { client: String(i) }), never));
  const results = await Promise.allSettled(all);
  const refused = results.filter((result) => result.status === "rejected");
  ok(refused.length >= 1 && refused.every(({ reason }) => reason instanceof BusyError));
  ok(results[0]!.status === "fulfilled");
  await library.dispose();
});

Deno.test("Scheduler + an engine that fails: everybody is told, and the next request finds a new one", async () => {
  const { library, scheduler, job, never } = await tiny({ slots: 2 });
  await scheduler.run(job("a", 2), never);
  const loaded = await library.open(library.baseName);
  const step = loaded.batch.step.bind(loaded.batch);
  let steps = 0;
  loaded.batch.step = (tokens) =>
    ++steps > 3 ? Promise.reject(new Error("the device was lost")) : step(tokens);
  library.release(loaded);
  // Drawn so, neither text is over after a token.
  const lively = { sampling: { temperature: 2, topP: 1 }, uniform: () => 0.9 };
  const results = await Promise.allSettled([
    scheduler.run(job("b", 9, lively), never),
    scheduler.run(job("c", 9, lively), never),
  ]);
  ok(
    results.every((result) => result.status === "rejected" && /device was lost/.test(String(result.reason))),
  );
  const one = job("a", 2);
  await scheduler.run(one, never);
  ok(one.written.length > 0);
  strictEqual(scheduler.load.waiting, 0);
  await library.dispose();
});
