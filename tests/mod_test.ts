/**
 * The names of mod.ts that others build on.
 *
 * @module
 */
import assert from "node:assert/strict";
import {
  computeGradients,
  createAdapter,
  generate,
  loadAdapter,
  loadModel,
  registerAdapter,
  saveAdapter,
} from "../mod.ts";
import { relativeError } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const PATH = writeTinyModel(newPath("model.pth"), { layers: 2, channels: 24, headSize: 8 });

Deno.test("loadModel + forward: last and all logits, a state to go on from that no call changes, calls that take turns", async () => {
  using model = await loadModel(PATH, { engine: "cpu" });
  assert.deepEqual([model.config.layers, model.config.heads, model.config.headSize], [2, 3, 8]);
  const tokens = [5, 9, 100, 3, 3, 77];
  const V = model.config.vocabulary;
  const [whole, all, start] = await Promise.all([
    model.forward(tokens),
    model.forward(tokens, { all: true }),
    model.forward(tokens.slice(0, 4)),
  ]);
  assert.deepEqual([whole.logits.length, all.logits.length], [V, tokens.length * V]);
  assert.ok(relativeError(all.logits.subarray(-V), whole.logits) < 1e-6);
  const kept = start.state.data.slice();
  const rest = await model.forward(tokens.slice(4), { state: start.state });
  assert.ok(relativeError(rest.logits, whole.logits) < 1e-6);
  assert.deepEqual(start.state.data, kept);
  await assert.rejects(model.forward([]), /empty/);
  await assert.rejects(model.forward([V]), /vocabulary/);
  assert.ok(
    relativeError((await model.forward(tokens)).logits, whole.logits) === 0,
    "a refused call left something behind",
  );
});

Deno.test("computeGradients + parameters: the adapter's, or all of the model's and the adapter's", async () => {
  using model = await loadModel(PATH, { engine: "cpu" });
  const tokens = [[1, 2, 3, 4], [5, 6, 7, 8]], adapter = createAdapter(model, { r: 3 });
  const of = async (
    options: object,
  ) => [...(await computeGradients(model, { tokens, ...options })).gradients.keys()];
  const weights = [...model.shapes.keys()], added = [...adapter.tensors.keys()];
  assert.deepEqual((await of({})).sort(), weights.sort());
  assert.deepEqual((await of({ adapter })).sort(), added.sort());
  assert.deepEqual((await of({ adapter, parameters: "all" })).sort(), [...weights, ...added].sort());
  await assert.rejects(of({ parameters: "adapter" }), /none was given/);
  await assert.rejects(of({ mask: [[0, 0, 0], [0, 0, 0]] }), /counts no target/);
});

Deno.test("createAdapter + settings that do not fit: one sentence each", async () => {
  using model = await loadModel(PATH, { engine: "cpu" });
  assert.throws(() => createAdapter(model, { r: 0 }), { message: /whole number of at least 1: it is 0$/ });
  assert.throws(() => createAdapter(model, { r: 25 }), { message: /is 25, over the 24 input channels/ });
  assert.throws(() => createAdapter(model, { r: 2, rank: 2 }), { message: /Unknown setting "rank"/ });
  assert.throws(() => createAdapter(model, { peft: "bones" }), {
    message: /Unknown adapter "bones": there are bone, bat, lora, pissa, dora, state$/,
  });
});

Deno.test("generate + seed, temperature and adapter: repeatable, and at most so many tokens", async () => {
  using model = await loadModel(PATH, { engine: "cpu" });
  const text = async (options: object = {}) => {
    let result = "";
    for await (const piece of generate(model, { prompt: "ab", tokens: 12, ...options })) result += piece;
    return result;
  };
  const plain = await text({ seed: 7 });
  assert.equal(await text({ seed: 7 }), plain);
  assert.notEqual(await text({ seed: 8 }), plain);
  assert.equal(await text({ temperature: 0, seed: 1 }), await text({ temperature: 0, seed: 2 }));
  assert.ok(plain.length <= 12);
  const path = newPath("adapter.safetensors"), fresh = createAdapter(model, { r: 4 });
  saveAdapter(
    fresh.withTensors(
      new Map([...fresh.tensors].map(([n, t]) => [n, { ...t, data: t.data.map((_, i) => Math.sin(i)) }])),
    ),
    path,
  );
  assert.notEqual(
    await text({ temperature: 0, adapter: await loadAdapter(path) }),
    await text({ temperature: 0 }),
  );
  assert.equal(await text({ temperature: 0, adapter: fresh }), await text({ temperature: 0 }));
  await assert.rejects(text({ topP: 0 }), /top_p must be above 0/);
});

Deno.test("registerAdapter + a name that is taken: refused", () => {
  const method = {
    name: "bone",
    configure: () => ({}),
    parameters: () => ({}),
    forward: () => assert.fail(),
    merge: () => assert.fail(),
    recognise: () => undefined,
  };
  assert.throws(() => registerAdapter(method), { message: /the name is taken/ });
});
