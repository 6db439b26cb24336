/**
 * Documents longer than what is computed at once: the state is carried from chunk to chunk, gradients are not.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Adapter } from "../adapters/adapter.ts";
import { attach, wireAdapter } from "../adapters/wiring.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, sizeOf, Variable } from "../kernels/graph.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { createAdapter, loadModel, type Model, type StepReport, train, type TrainOptions } from "../mod.ts";
import { forwardV7 } from "../rwkv/v7.ts";
import { chunksOf } from "../training/data/chunks.ts";
import { planMemory } from "../training/memory.ts";
import { settle } from "../training/options.ts";
import { setUp } from "../training/setup.ts";
import { withoutGpu } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const BASE: TrainOptions = {
  loadModel: MODEL,
  ctxLen: 64,
  microBsz: 4,
  lrInit: 1e-2,
  lrFinal: 1e-2,
  boneConfig: { bone_r: 4 },
  trainParts: [],
  heldOut: 0,
  samplePrompt: "",
  l2wrap: false,
  gradientClipVal: 1e9,
  engine: "cpu",
};
const infctx = (chunkCtx: number): TrainOptions => ({ trainType: "infctx", chunkCtx });

async function steps(options: TrainOptions): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  await train({ projDir: newPath("run"), ...BASE, ...options }, { onStep: (report) => reports.push(report) });
  return reports;
}

const near = (x: number, wanted: number, bound: number) =>
  assert.ok(Math.abs(x / wanted - 1) < bound, `${x} for ${wanted}`);

Deno.test("train + infctx on documents of many lengths: the loss is that of whole documents, over real tokens only", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(4, 60));
  const [whole] = await steps({ dataFile, maxSteps: 1 });
  for (const chunk of [8, 13, 32]) {
    for (const gradCp of [false, true]) {
      const [chunked] = await steps({ dataFile, maxSteps: 1, gradCp, ...infctx(chunk) });
      near(chunked!.loss, whole!.loss, 1e-5);
      assert.equal(chunked!.tokens, whole!.tokens);
      assert.notEqual(chunked!.gradientNorm, whole!.gradientNorm);
    }
  }
});

for (
  const [what, rows] of [["packed rows", { dataload: "pack" }], ["rows by length", {
    groupByLength: true,
  }]] as const
) {
  Deno.test(`train + infctx with ${what}: the loss is that of rows read at once`, async () => {
    const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(12, 60));
    const still = { dataFile, ...rows, microBsz: 3, lrInit: 1e-9, lrFinal: 1e-9, maxSteps: 2 };
    const whole = await steps(still), chunked = await steps({ ...still, ...infctx(16) });
    whole.forEach(({ loss }, i) => near(chunked[i]!.loss, loss, 1e-5));
  });
}

Deno.test("train + infctx on one document shorter than the sample: read whole, and its end held out", async () => {
  const dataFile = newPath("text.txt"), projDir = newPath("run");
  Deno.writeTextFileSync(dataFile, "abcdefgh".repeat(50));
  const options = { ...BASE, dataFile, projDir, ctxLen: 30_000, microBsz: 1, heldOut: 0.1, maxSteps: 1 };
  const { heldOut } = await train({ ...options, ...infctx(32) });
  assert.ok(heldOut!.before > 0);
});

Deno.test("train + infctx with chunks as long as the sample: the very same steps", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(8, 60));
  const pick = (reports: StepReport[]) => reports.map(({ loss, gradientNorm }) => [loss, gradientNorm]);
  const whole = pick(await steps({ dataFile, maxSteps: 2 }));
  const chunked = pick(await steps({ dataFile, maxSteps: 2, ...infctx(64) }));
  whole.forEach((
    [loss, norm],
    i,
  ) => (near(chunked[i]![0]!, loss!, 1e-6), near(chunked[i]![1]!, norm!, 1e-5)));
});

/**
 * Gradients of the loss of `tokens` from `start` to `end`, weighted by `weight`, with a state that is only read; the state
 * itself comes from reading all that stands before with a session.
 */
async function chunkGradients(
  model: Model,
  adapter: Adapter,
  tokens: readonly number[],
  [start, end]: readonly [number, number],
  weight: number,
): Promise<{ loss: number; gradients: Float32Array[] }> {
  const { engine, config: { layers, channels: C, heads: H, headSize: N } } = model;
  const T = end - start, graph = new Graph(), held: Variable[] = [];
  const hold = (variable: Variable, content: ArrayBufferView) => {
    engine.allocate(variable, content);
    held.push(variable);
    return graph.use(variable);
  };
  const { whole, parts } = Variable.pack(
    "state",
    Array.from(
      { length: layers },
      () => [C, H * N * N, C].map((size) => ({ name: "part", shape: [1, size] })),
    ).flat(),
  );
  engine.allocate(whole);
  held.push(whole);
  if (start) engine.write(whole, (await model.forward(tokens.slice(0, start))).state.data);
  const state = Array.from({ length: layers }, (_, layer) => {
    const [attShift, wkv, ffnShift] = parts.slice(3 * layer, 3 * layer + 3).map((part) => graph.use(part));
    return { attShift: attShift!, wkv: wkv!, ffnShift: ffnShift! };
  });
  using attachment = attach(adapter, model);
  const wiring = wireAdapter(graph, model, attachment);
  const inputs = hold(new Variable("inputs", [T, 1], "i32"), Int32Array.from(tokens.slice(start, end)));
  const targets = hold(
    new Variable("targets", [T, 1], "i32"),
    Int32Array.from(tokens.slice(start + 1, end + 1)),
  );
  const weights = hold(new Variable("weights", [T, 1]), new Float32Array(T).fill(weight));
  const { hidden } = forwardV7(wiring, inputs, { T, state });
  const loss = linearCrossEntropy(graph, hidden, wiring.weight("head.weight"), targets, weights);
  const wanted = [...attachment.variables.values()];
  const outputs = backward(graph, loss, wanted.map((variable) => graph.use(variable))).map((gradient, i) => {
    const output = new Variable("gradient", [sizeOf(wanted[i]!.shape)]);
    hold(output, new Float32Array(sizeOf(output.shape)));
    assign(graph, output, gradient!);
    return output;
  });
  const lossOut = new Variable("loss", [1]);
  hold(lossOut, new Float32Array(1));
  assign(graph, lossOut, loss);
  using executable = await engine.load(compile(graph, engine));
  executable.run();
  const gradients: Float32Array[] = [];
  for (const output of outputs) gradients.push(await engine.read(output));
  const [value] = await engine.read(lossOut);
  held.forEach((variable) => engine.free(variable));
  return { loss: value!, gradients };
}

Deno.test("train + infctx: the gradient is the sum of the chunks' gradients, each from a state that is only read", async () => {
  const text = "abcabcacbacbabcabcaacbbcabcabdefghidefabc";
  const dataFile = writeDocuments(newPath("text.jsonl"), [text]);
  const [step] = await steps({ dataFile, ctxLen: 41, microBsz: 1, maxSteps: 1, ...infctx(16) });
  using model = await loadModel(MODEL, { engine: "cpu" });
  const adapter = createAdapter(model, { r: 4 }), total = text.length;
  const tokens = [...new TextEncoder().encode(text), 0];
  let loss = 0, sums: Float32Array[] | undefined;
  for (const range of [[0, 16], [16, 32], [32, 41]] as const) {
    const chunk = await chunkGradients(model, adapter, tokens, range, 1 / total);
    loss += chunk.loss;
    sums = sums ? sums.map((sum, i) => sum.map((x, k) => x + chunk.gradients[i]![k]!)) : chunk.gradients;
  }
  near(step!.loss, loss, 1e-5);
  near(
    step!.gradientNorm,
    Math.sqrt(sums!.reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0)),
    1e-4,
  );
});

Deno.test("planMemory + infctx: the same for a document of any length", async () => {
  const dataFile = newPath("text.txt");
  Deno.writeTextFileSync(dataFile, "abcdefgh".repeat(4000));
  const bytes = async (ctxLen: number) => {
    const settings = settle({ ...BASE, dataFile, ctxLen, microBsz: 1, ...infctx(16) }, () => newPath("run"));
    using setup = await setUp(settings, {});
    return planMemory(setup.learner, true).bytes;
  };
  const short = await bytes(32);
  assert.deepEqual([await bytes(320), await bytes(32_000)], [short, short]);
});

for (const engine of ["cpu", "webgpu"] as const) {
  Deno.test({
    name: `train + infctx resumed, on ${engine}: bit for bit the run that was not stopped`,
    ignore: engine === "webgpu" && withoutGpu,
    async fn() {
      const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(12, 60));
      const options = { ...BASE, dataFile, engine, heldOut: 0.2, ...infctx(16) };
      const whole = await train({ ...options, projDir: newPath("run"), maxSteps: 3 });
      const { projDir } = await train({ ...options, projDir: newPath("run"), maxSteps: 1 });
      const resumed = await train({ resume: projDir, maxSteps: 3 });
      assert.deepEqual(Deno.readFileSync(resumed.output), Deno.readFileSync(whole.output));
      assert.equal(resumed.heldOut!.after, whole.heldOut!.after);
    },
  });
}

Deno.test("chunksOf + rows that end early: every position once, in order, and nothing after the last target", () => {
  const B = 2, T = 10;
  const mask = new Float32Array(B * T).fill(1, 0, 7).fill(1, T, T + 3);
  const batch = {
    inputs: Int32Array.from({ length: B * T }, (_, i) => i),
    targets: Int32Array.from({ length: B * T }, (_, i) => 100 + i),
    mask,
    counted: 10,
  };
  const chunks = chunksOf(batch, B, 4);
  assert.deepEqual(chunks.map(({ inputs }) => [...inputs]), [
    [0, 1, 2, 3, 10, 11, 12, 13],
    [4, 5, 6, 7, 14, 15, 16, 17],
  ]);
  assert.deepEqual(chunks.map(({ counted }) => counted), [7, 3]);
  assert.deepEqual([...chunks[1]!.targets], [104, 105, 106, 107, 114, 115, 116, 117]);
  mask.fill(1);
  assert.deepEqual([...chunksOf(batch, B, 4)[2]!.inputs], [8, 9, 0, 0, 18, 19, 0, 0]);
});

Deno.test("train + infctx with a state of its own: refused", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(4, 60));
  await assert.rejects(steps({ dataFile, peft: "state", ...infctx(16) }), {
    name: "OptionError",
    message: /^--train_type infctx begins every document without a state/,
  });
});
