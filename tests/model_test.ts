/**
 * RWKV-7 against values from another implementation (float64 autograd in torch), and against itself.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { Adapter } from "../adapters/adapter.ts";
import { writeTensorFile } from "../formats/tensor_file.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { wkv7, type Wkv7Streams } from "../kernels/ops/wkv7/op.ts";
import type { Engine } from "../kernels/engine.ts";
import { compile } from "../kernels/plan.ts";
import { linearSites } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { forwardV7 } from "../rwkv/v7.ts";
import { computeGradients } from "../training/gradients.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import {
  BF16_PATH,
  boneAdapter,
  golden,
  GOLDEN_KINDS,
  goldenRows,
  goldenRun,
  goldenUnder,
  goldenWkv7,
  logitsOf,
  MODEL_PATH,
  smallModel,
  temporaryPath,
} from "./small_model.ts";

/** On engines whose operands are f32: golden values ask for more digits than matrix units have, for which kept_test.ts has others. */
function onExactEngines(
  name: string,
  body: (engine: Engine) => void | Promise<void>,
  { ignore = false } = {},
): void {
  testOnEngines(name, body, { ignore, matrixUnits: false });
}

const tokens = goldenRows("tokens", 41);

function assertClose(a: ArrayLike<number>, b: ArrayLike<number>, tolerance: number, what: string): void {
  const error = relativeError(a, b);
  assert.ok(error <= tolerance, `${what}: normalised error ${error} is above ${tolerance}`);
}

for (const recompute of [false, true]) {
  const how = recompute ? ", blocks recomputed" : "";
  for (const kind of GOLDEN_KINDS) {
    onExactEngines(`computeGradients + golden ${kind}${how}: loss and every gradient`, async (engine) => {
      const { loss, gradients } = await goldenRun(engine, kind, recompute);
      const [wanted] = golden.readFloat32(`${kind}.loss`);
      assert.ok(Math.abs(loss - wanted!) <= 1e-5, `loss ${loss} for ${wanted}`);
      const grads = goldenUnder(`${kind}.grad.`);
      assert.deepEqual([...gradients.keys()].sort(), [...grads.keys()].sort());
      for (const [name, { data }] of grads) assertClose(gradients.get(name)!, data, 1e-4, name);
    });
  }
}

for (const recompute of [false, true]) {
  const how = recompute ? ", blocks recomputed" : "";
  onExactEngines(
    `computeGradients + documents packed into one row${how}: as in rows of their own`,
    async (engine) => {
      using model = smallModel(engine);
      const number = randomNumbers(5), adapter = boneAdapter(model.config, 8, () => 0.05 * number());
      const lengths = [7, 2, 17, 12], longest = 17;
      const documents = lengths.map((length, i) =>
        Array.from({ length }, (_, t) => (13 * i + 7 * t * t + 1) % 97)
      );
      const apart = await computeGradients(model, {
        adapter,
        recompute,
        parameters: "all",
        tokens: documents.map((document) => [...document, ...Array(longest - document.length).fill(0)]),
        mask: lengths.map((length) => Array.from({ length: longest - 1 }, (_, t) => Number(t + 1 < length))),
      });
      const row = documents.flat();
      const first = documents.flatMap((document) => document.map((_, t) => Number(t === 0)));
      const options = {
        adapter,
        recompute,
        parameters: "all",
        tokens: [row],
        mask: [first.slice(1).map((x) => 1 - x)],
      } as const;
      const packed = await computeGradients(model, { ...options, starts: [first.slice(0, -1)] });
      // The oracle sums in float64; the others' sums run over other rows in another order.
      const tolerance = engine instanceof Oracle ? 1e-12 : 2e-5;
      assert.ok(
        Math.abs(packed.loss - apart.loss) <= tolerance * apart.loss,
        `loss ${packed.loss} for ${apart.loss}`,
      );
      for (const [name, gradient] of apart.gradients) {
        assertClose(packed.gradients.get(name)!, gradient, tolerance, name);
      }
      const leaking = await computeGradients(model, options);
      assert.ok(
        relativeError(leaking.gradients.get("emb.weight")!, apart.gradients.get("emb.weight")!) > 1e-2,
      );
    },
  );
}

onExactEngines("forwardV7 + two golden rows: every logit", async (engine) => {
  using model = smallModel(engine);
  const [B, T, V] = [2, 40, model.config.vocabulary];
  const graph = new Graph(), input = new Variable("tokens", [B * T, 1], "i32");
  const logits = new Variable("logits", [B * T, V]);
  const { hidden } = forwardV7(model.wire(graph), graph.use(input), { T });
  assign(graph, logits, matmul(graph, hidden, graph.use(model.weight("head.weight")!), { transposeB: true }));
  engine.allocate(input, Int32Array.from(tokens.flatMap((row) => [...Array.from(row).slice(0, T)])));
  engine.allocate(logits);
  const executable = await engine.load(compile(graph));
  executable.run();
  assertClose(await engine.read(logits), golden.readFloat32("full.logits"), 1e-5, "logits");
  executable.dispose();
  [input, logits].forEach((variable) => engine.free(variable));
});

onExactEngines(
  "forwardV7 + k_k a million times smaller: the same logits, as the removal key is normalised",
  async (engine) => {
    const path = temporaryPath("small_key.safetensors");
    using model = smallModel(engine);
    writeTensorFile(path, {
      format: "safetensors",
      force: true,
      tensors: model.file.tensors.values(),
      read({ name }) {
        const scale = name.endsWith("att.k_k") ? 1e-6 : 1;
        return new Uint8Array(model.file.readFloat32(name).map((x) => x * scale).buffer);
      },
    });
    using scaled = Model.load(path, engine);
    assertClose(await logitsOf(scaled), await logitsOf(model), 2e-6, "logits");
  },
);

testOnEngines("wkv7 + golden values: output, state and every gradient", async (engine) => {
  const [T, H, N] = [70, 2, 64], graph = new Graph(), made: Variable[] = [];
  const read = (name: string, shape: number[]): Tensor => {
    const variable = new Variable(name, shape);
    engine.allocate(variable, goldenWkv7.readFloat32(name));
    made.push(variable);
    return graph.use(variable);
  };
  const names = ["r", "w", "k", "v", "a", "b"] as const;
  const inputs = names.map((name) => read(`in.${name}`, [T, H * N]));
  const initial = read("in.S0", [1, H * N * N]);
  const streams = Object.fromEntries(names.map((name, i) => [name, inputs[i]!])) as unknown as Wkv7Streams;
  const { y, state } = wkv7(graph, streams, { T, N, state: initial });
  const dot = (x: Tensor, name: string) =>
    reduceGroups(graph, map(graph, [x, read(name, [...x.shape])], (x, g) => x.mul(g)), [1]);
  const loss = map(graph, [dot(y, "gout.y"), dot(state, "gout.S")], (a, b) => a.add(b));
  const gradients = backward(graph, loss, [...inputs, initial]);
  const wanted = ["out.y", "out.S", ...names.map((name) => `grad.${name}`), "grad.S0"];
  const results = [y, state, ...gradients].map((value, i) => {
    const variable = new Variable(wanted[i]!, value!.shape);
    engine.allocate(variable);
    made.push(variable);
    assign(graph, variable, value!);
    return variable;
  });
  const executable = await engine.load(compile(graph));
  executable.run();
  for (const result of results) {
    assertClose(await engine.read(result), goldenWkv7.readFloat32(result.name), 5e-6, result.name);
  }
  executable.dispose();
  made.forEach((variable) => engine.free(variable));
});

const asset = (name: string) => fileURLToPath(new URL(`../../shared/assets/${name}`, import.meta.url));
const TINY = asset("tiny-rwkv7-834K.safetensors");

function session(model: Model): Session {
  return new Session(model.config, (graph) => model.wire(graph), model.engine);
}

onExactEngines("Session.feed + a trained model of twelve layers: logits of rwkv.cpp", async (engine) => {
  using model = Model.load(TINY, engine);
  const reading = session(model);
  const expected = JSON.parse(Deno.readTextFileSync(asset("tiny-rwkv7-834K.expected.json")));
  const logits = await reading.feed(expected.prompt_bytes);
  // 1e-4 would let a missing bonus or a state rounded to bf16 pass.
  const worst = Math.max(...logits.map((z, i) => Math.abs(z - expected.logits_after_last_token[i])));
  assert.ok(worst <= 1e-5, `largest difference ${worst}`);
  reading.dispose();
}, { ignore: !existsSync(TINY) });

const text = Array.from({ length: 45 }, (_, i) => tokens[i % 2]![i % 41]!);

/** Reads `text` in pieces of these lengths, from the start. @returns the last logits and the state */
async function readIn(reading: Session, lengths: readonly number[]) {
  reading.reset();
  let logits = new Float32Array(), at = 0;
  for (const length of lengths) {
    logits = await reading.feed(text.slice(at, at + length)) as Float32Array<ArrayBuffer>;
    at += length;
  }
  assert.equal(at, text.length);
  return { logits, state: (await reading.state()).data };
}

onExactEngines(
  "Session + the same tokens at once, one by one and in uneven pieces: one result",
  async (engine) => {
    using model = smallModel(engine);
    const reading = session(model);
    const wanted = await readIn(reading, [45]);
    assert.ok(wanted.state.some((x) => x !== 0));
    for (const lengths of [Array.from(text, () => 1), [7, 1, 16, 3, 18], [44, 1]]) {
      const { logits, state } = await readIn(reading, lengths);
      assertClose(logits, wanted.logits, 1e-6, `logits in ${lengths}`);
      assertClose(state, wanted.state, 1e-6, `state in ${lengths}`);
    }
    reading.dispose();
  },
);

onExactEngines("Session.feed + all logits: those that successive feeds give last", async (engine) => {
  using model = smallModel(engine);
  const reading = session(model), V = model.config.vocabulary;
  const all = await reading.feed(text.slice(0, 13), "all");
  assert.equal(all.length, 13 * V);
  reading.reset();
  for (let i = 0; i < 13; i++) {
    assertClose(all.subarray(i * V, (i + 1) * V), await reading.feed([text[i]!]), 2e-6, `token ${i}`);
  }
  reading.dispose();
});

testOnEngines("Session.restore and reset + a state kept in between: the same bits", async (engine) => {
  using model = smallModel(engine);
  const reading = session(model), another = session(model);
  // A state is kept in f32, which rounds the oracle's.
  const tolerance = engine instanceof Oracle ? 1e-6 : 0;
  const fresh = await reading.feed([5, 6, 7]);
  const state = await reading.state();
  const next = await reading.feed([8]);
  assert.ok(relativeError(await reading.feed([8]), next) > 0.01, "the state has no effect");
  reading.restore(state);
  assertClose(await reading.feed([8]), next, tolerance, "restored");
  another.restore(state);
  assertClose(await another.feed([8]), next, tolerance, "restored in another session");
  reading.reset();
  assertClose(await reading.feed([5, 6, 7]), fresh, 0, "reset");
  assert.throws(
    () => reading.restore({ data: state.data.subarray(1) }),
    /^RangeError: Cannot restore a state of/,
  );
  another.dispose();
  reading.dispose();
});

Deno.test("Session.feed + no tokens, and tokens outside the vocabulary: errors that leave the state", async () => {
  using model = smallModel(new Oracle());
  const reading = session(model);
  await reading.feed([1]);
  const before = await reading.state();
  await assert.rejects(reading.feed([]), /^RangeError: Cannot read an empty list of tokens/);
  for (const token of [97, -1, 1.5, NaN]) {
    await assert.rejects(reading.feed([3, token]), {
      name: "RangeError",
      message: `Cannot read token ${token} at position 1: the vocabulary has 97`,
    });
  }
  assert.deepEqual(await reading.state(), before);
  reading.dispose();
});

testOnEngines("bone + zeros: not a bit of the logits changes", async (engine) => {
  using model = smallModel(engine);
  const adapted = await logitsOf(model, boneAdapter(model.config, 24, () => 0));
  assertClose(adapted, await logitsOf(model), 0, "logits");
});

/** Writes the model's file again with the adapter merged into its weights. */
function writeMerged(model: Model, adapter: Adapter, path: string): void {
  const sites = new Map(linearSites(model.config).map((site) => [`${site.name}.weight`, site]));
  writeTensorFile(path, {
    format: "safetensors",
    force: true,
    tensors: model.file.tensors.values(),
    read({ name }) {
      const weight = model.file.readFloat32(name), site = sites.get(name);
      if (!site) return new Uint8Array(weight.buffer);
      const parameters = { bone: adapter.tensors.get(`${site.name}.bone`)!.data };
      const merged = adapter.method.merge({ site, settings: adapter.settings, weight, parameters });
      return new Uint8Array(merged.buffer, merged.byteOffset, merged.byteLength);
    },
  });
}

onExactEngines(
  "bone + random numbers, a last shard that is ragged: as the merged weights",
  async (engine) => {
    using model = smallModel(engine);
    const random = randomNumbers(9);
    const adapter = boneAdapter(model.config, 24, () => 0.05 * random());
    const path = temporaryPath("merged.safetensors");
    writeMerged(model, adapter, path);
    const [plain, adapted] = [await logitsOf(model), await logitsOf(model, adapter)];
    using merged = Model.load(path, engine);
    assertClose(adapted, await logitsOf(merged), 1e-4, "logits");
    assert.ok(relativeError(adapted, plain) > 0.1, "the adapter hardly changes anything");
  },
);

onExactEngines(
  "Model.load + bf16 weights of a .pth: as the same weights in f32, and near the unrounded ones",
  async (engine) => {
    using rounded = Model.load(BF16_PATH, engine);
    using model = smallModel(engine);
    const path = temporaryPath("widened.safetensors");
    const { tensors } = rounded.file;
    writeTensorFile(path, {
      format: "safetensors",
      force: true,
      tensors: [...tensors.values()].map((info) => ({ ...info, dtype: "F32" })),
      read: ({ name }) => new Uint8Array(rounded.file.readFloat32(name).buffer),
    });
    using widened = Model.load(path, engine);
    assert.equal(rounded.weight("head.weight")!.dtype, "bf16");
    assert.equal(widened.weight("head.weight")!.dtype, "f32");
    const logits = await logitsOf(rounded);
    assertClose(logits, await logitsOf(widened), 2e-6, "as widened");
    assertClose(logits, await logitsOf(model), 2e-2, "as unrounded");
  },
);

testOnEngines("dispose + a model, a session and gradients: what they held is given back", async (engine) => {
  const use = async () => {
    using model = smallModel(engine);
    const reading = session(model), held = engine.allocatedBytes;
    assert.ok(held > model.parameters * 4);
    await reading.feed([1, 2, 3]);
    await computeGradients(model, { tokens: [[1, 2, 3]], adapter: boneAdapter(model.config, 4, () => 0) });
    reading.dispose();
  };
  // The first time, an engine may take memory that it keeps for the next program.
  await use();
  const before = engine.allocatedBytes;
  await use();
  assert.equal(engine.allocatedBytes, before);
});

Deno.test("Model.load + an error on the way: the engine's memory is given back", () => {
  const engine = new Oracle();
  const onTensor = (done: number) => {
    if (done === 5) throw new Error("stopped");
  };
  assert.throws(() => Model.load(MODEL_PATH, engine, { onTensor }), /stopped/);
  assert.equal(engine.allocatedBytes, 0);
});

Deno.test("computeGradients + a batch that cannot be used: errors", async () => {
  using model = smallModel(new Oracle());
  const cases: [RegExp, Parameters<typeof computeGradients>[1]][] = [
    [/at least one row of two tokens/, { tokens: [] }],
    [/at least one row of two tokens/, { tokens: [[1]] }],
    [/Row 1 has 3 tokens where row 0 has 2/, { tokens: [[1, 2], [1, 2, 3]] }],
    [/Token 97 in row 0 is outside the vocabulary of 97/, { tokens: [[1, 97]] }],
    [/The mask's row 0 must have 1 entries/, { tokens: [[1, 2]], mask: [[1, 1]] }],
    [/The mask counts no target/, { tokens: [[1, 2]], mask: [[0]] }],
    [/Gradients of the adapter were asked for/, { tokens: [[1, 2]], parameters: "adapter" }],
  ];
  for (const [message, options] of cases) {
    await assert.rejects(computeGradients(model, options), { name: "RangeError", message });
  }
});

Deno.test("readConfig + files that are no RWKV-7 models: errors that say what they are", () => {
  const write = (name: string, names: readonly string[]) => {
    const path = temporaryPath(name);
    writeTensorFile(path, {
      format: "safetensors",
      tensors: names.map((name) => ({ name, dtype: "F32", shape: [2, 2] })),
      read: () => new Uint8Array(16),
    });
    return path;
  };
  const cases: [string, readonly string[], RegExp][] = [
    ["v6", ["emb.weight", "blocks.0.att.time_maa_x"], /it is an RWKV-6 model/],
    ["v4", ["emb.weight", "blocks.0.att.time_decay"], /it is an RWKV-4 or RWKV-5 model/],
    ["adapter", ["blocks.0.att.key.bone"], /it is an adapter, not a model/],
    ["other", ["a", "b"], /it is not an RWKV model/],
    ["partial", ["emb.weight", "blocks.0.att.r_k"], /"blocks.0.ffn.key.weight" is missing/],
  ];
  for (const [name, names, message] of cases) {
    assert.throws(() => Model.load(write(name, names), new Oracle()), { name: "ModelError", message });
  }
});
