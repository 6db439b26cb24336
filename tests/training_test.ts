/**
 * What a step is made of: which tokens count, how micro-batches add up, the learning rate, L2Wrap; and that training learns.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import {
  computeGradients,
  createAdapter,
  loadModel,
  type StepReport,
  train,
  type TrainOptions,
} from "../mod.ts";
import { readDocuments } from "../training/data/documents.ts";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { learningRate } from "../training/schedule.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const BASE: TrainOptions = {
  loadModel: MODEL,
  ctxLen: 16,
  lrInit: 1e-3,
  lrFinal: 1e-3,
  boneConfig: { bone_r: 4 },
  trainParts: [],
  heldOut: 0,
  samplePrompt: "",
  engine: "cpu",
};

/** Trains in a new folder. @returns what every step reported */
async function steps(options: TrainOptions): Promise<StepReport[]> {
  const reports: StepReport[] = [];
  await train({ projDir: newPath("run"), ...BASE, ...options }, { onStep: (report) => reports.push(report) });
  return reports;
}

Deno.test("train + documents of many lengths: the first loss and gradient norm are those of the real targets alone", async () => {
  const texts = ["abcabcabc", "hello there", "x y z", "kl"];
  const dataFile = writeDocuments(newPath("text.jsonl"), texts);
  const [first] = await steps({ dataFile, microBsz: 4, maxSteps: 1, l2wrap: false });
  const { documents } = await readDocuments(dataFile, bytesTokenizer(128));
  const model = await loadModel(MODEL, { engine: "cpu" });
  const T = Math.max(...documents.map(({ length }) => length)) - 1;
  const tokens = documents.map((d) => Array.from({ length: T + 1 }, (_, i) => d[i] ?? 0));
  const mask = documents.map((d) => Array.from({ length: T }, (_, i) => i + 1 < d.length ? 1 : 0));
  const adapter = createAdapter(model, { r: 4 });
  const { loss, gradients } = await computeGradients(model, { tokens, mask, adapter });
  model.dispose();
  const norm = Math.sqrt(
    [...gradients.values()].reduce((sum, g) => sum + g.reduce((s, x) => s + x * x, 0), 0),
  );
  assert.ok(Math.abs(first!.loss - loss) < 1e-5, `${first!.loss} for ${loss}`);
  assert.ok(Math.abs(first!.gradientNorm / norm - 1) < 1e-4, `${first!.gradientNorm} for ${norm}`);
  assert.equal(first!.tokens, documents.reduce((sum, d) => sum + d.length - 1, 0));
});

Deno.test("train + micro-batches of unequal counts: as one large batch", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), ["abcdefghij", "k", "lmnopqrs", "tu"]);
  const [whole] = await steps({ dataFile, microBsz: 4, maxSteps: 1 });
  const [parts] = await steps({ dataFile, microBsz: 1, accumulateGradBatches: 4, maxSteps: 1 });
  assert.ok(Math.abs(whole!.loss - parts!.loss) < 1e-6, `${whole!.loss} for ${parts!.loss}`);
  assert.ok(Math.abs(whole!.gradientNorm / parts!.gradientNorm - 1) < 1e-5);
  assert.equal(whole!.tokens, parts!.tokens);
});

Deno.test("train + two epochs: every target is seen once in each", async () => {
  const texts = randomTexts(13, 60), dataFile = writeDocuments(newPath("text.jsonl"), texts);
  const targets = texts.reduce((sum, text) => sum + text.length, 0);
  const reports = await steps({ dataFile, microBsz: 4, epochCount: 2 });
  assert.equal(reports.reduce((sum, { tokens }) => sum + tokens, 0), 2 * targets);
  assert.equal(reports.length % 2, 0);
  assert.equal(reports.slice(0, reports.length / 2).reduce((sum, { tokens }) => sum + tokens, 0), targets);
});

Deno.test("train + L2Wrap: another gradient, the same loss", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(4, 30));
  const [on] = await steps({ dataFile, microBsz: 4, maxSteps: 1, l2wrap: true });
  const [off] = await steps({ dataFile, microBsz: 4, maxSteps: 1, l2wrap: false });
  assert.equal(on!.loss, off!.loss);
  assert.notEqual(on!.gradientNorm, off!.gradientNorm);
  assert.ok(Math.abs(on!.gradientNorm / off!.gradientNorm - 1) < 0.1);
});

for (const peft of ["bone", "lora", "none"]) {
  Deno.test(`train + ${peft} on a text that repeats: the held-out loss falls clearly`, async () => {
    const dataFile = newPath("text.txt"), projDir = newPath("run");
    Deno.writeTextFileSync(dataFile, "the cat sat on the mat. ".repeat(80));
    const { heldOut, samples } = await train({
      ...BASE,
      projDir,
      dataFile,
      peft,
      lrInit: 1e-2,
      lrFinal: 1e-3,
      microBsz: 4,
      maxSteps: 60,
      heldOut: 0.1,
      evalSteps: 20,
      trainParts: ["ln"],
      samplePrompt: "the ",
    });
    assert.ok(heldOut!.after < heldOut!.before - 0.5, `${heldOut!.before} to ${heldOut!.after}`);
    assert.ok(samples!.before.startsWith("the ") && samples!.after.startsWith("the "));
    const lines = Deno.readTextFileSync(join(projDir, "metrics.jsonl")).trim().split("\n").map((line) =>
      JSON.parse(line)
    );
    assert.deepEqual(
      lines.filter(({ loss }) => loss !== undefined).map(({ step }) => step),
      Array.from({ length: 60 }, (_, i) => i + 1),
    );
    assert.deepEqual(lines.filter(({ heldOutLoss }) => heldOutLoss !== undefined).map(({ step }) => step), [
      0,
      20,
      40,
      60,
    ]);
  });
}

Deno.test("train + a learning rate that ruins the weights: stops and says where", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(8, 30));
  await assert.rejects(
    steps({
      dataFile,
      microBsz: 4,
      lrInit: 1e38,
      lrFinal: 1e38,
      epochCount: 9,
      peft: "none",
      gradientClipVal: 1e30,
    }),
    { message: /^The loss is (NaN|Infinity) at step \d+ .*lower --lr_init; the last good checkpoint is / },
  );
});

Deno.test("train + a step that cannot fit: one sentence before it is allocated, with what would fit", async () => {
  const dataFile = newPath("text.txt");
  Deno.writeTextFileSync(dataFile, "abcdefgh".repeat(9000));
  await assert.rejects(steps({ dataFile, ctxLen: 64, microBsz: 100_000 }), {
    name: "OptionError",
    message:
      /^The values of a step need [\d.]+ MB and the cpu engine has [\d.]+ MB left beside weights, adapter and optimizer: use --micro_bsz \d+$/,
  });
});

Deno.test("learningRate + each schedule: its ends, its middle, its warm-up", () => {
  const settings = { lrInit: 1e-2, lrFinal: 1e-4, warmupSteps: 0 } as const;
  const at = (lrSchedule: "constant" | "cos" | "exp", step: number, warmupSteps = 0) =>
    learningRate({ ...settings, lrSchedule, warmupSteps }, step, 100);
  const near = (x: number, wanted: number) =>
    assert.ok(Math.abs(x / wanted - 1) < 1e-9, `${x} for ${wanted}`);
  near(at("constant", 50), 1e-2);
  near(at("cos", 49), 1e-4 + (1e-2 - 1e-4) / 2);
  near(at("cos", 99), 1e-4);
  near(at("cos", 200), 1e-4);
  near(at("exp", 49), 1e-3);
  near(at("exp", 99), 1e-4);
  near(at("constant", 0, 10), 1e-4);
  near(at("constant", 5, 10), 1e-2 * (0.01 + 0.99 / 2));
  near(at("constant", 10, 10), 1e-2);
});
