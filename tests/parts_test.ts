/**
 * Micro-batches that are computed in parts, so that they take the memory of one: the same losses and gradients.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import type { Engine } from "../kernels/engine.ts";
import type { Batch } from "../training/data/batches.ts";
import { partsOf, Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { boneAdapter, smallModel } from "./small_model.ts";

const B = 6, T = 18, M = B * T;

/** Rows of documents that begin anywhere, with targets that count here and there and none in the last two rows. */
function batch(): Batch {
  const random = randomNumbers(4), token = () => Math.floor((random() + 1) * 48);
  const mask = Float32Array.from({ length: M }, (_, i) => Number(i < 4 * T && random() > -0.5));
  return {
    inputs: Int32Array.from({ length: M }, token),
    targets: Int32Array.from({ length: M }, token),
    mask,
    keep: Float32Array.from({ length: M }, (_, i) => Number(i % 7 !== 3)),
    counted: mask.reduce((a, b) => a + b, 0),
  };
}

/** The gradients of a batch and its loss, trained and measured. */
async function results(engine: Engine, parts: number) {
  using model = smallModel(engine);
  const random = randomNumbers(9), adapter = boneAdapter(model.config, 8, () => 0.05 * random());
  const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
  try {
    const options = { recompute: true, packed: true, l2: 1e-4, seed: 1, parts };
    const programs = new Programs({ model, adapter, trainables, B, T, ...options });
    using loaded = await programs.load();
    const given = batch();
    loaded.accumulate(given, given.counted, 0);
    const gradients = await Promise.all(trainables.groups.map(({ g }) => engine.read(g)));
    const { loss } = await loaded.update({
      ...{ learningRate: 0, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
      ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
    });
    const measured = await loaded.measure([given]);
    return { gradients, loss, measured, bytes: programs.gradients.workspaceBytes };
  } finally {
    trainables.dispose();
  }
}

testOnEngines(
  "Programs + a micro-batch in three parts: its loss and gradients in less memory",
  async (engine) => {
    const whole = await results(engine, 1), parts = await results(engine, 3);
    assert.ok(whole.gradients.length > 0 && whole.gradients.every((g) => g.some((x) => x !== 0)));
    parts.gradients.forEach((gradient, i) => {
      const error = relativeError(gradient, whole.gradients[i]!);
      assert.ok(error < 3e-6, `group ${i}: normalised error ${error}`);
    });
    assert.ok(Math.abs(parts.loss / whole.loss - 1) < 1e-6, `${parts.loss} for ${whole.loss}`);
    assert.ok(
      Math.abs(parts.measured / whole.measured - 1) < 1e-6,
      `${parts.measured} for ${whole.measured}`,
    );
    assert.ok(parts.bytes < 0.6 * whole.bytes, `${parts.bytes} of ${whole.bytes}`);
  },
);

Deno.test("Programs + an engine that keeps values in f32: micro-batches are whole, so that no bit changes", () => {
  const engine = new CpuEngine({ workers: 1 });
  using model = smallModel(engine);
  const adapter = boneAdapter(model.config, 8, () => 0);
  const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
  const rows = (keeps?: "f16") => {
    if (keeps) Object.defineProperty(engine, "keeps", { value: keeps });
    const sizes = { B: 4, T: 2 ** 16 }, options = { recompute: true, l2: 0, seed: 1 };
    const { gradients } = new Programs({ model, adapter, trainables, ...sizes, ...options });
    return [...gradients.variables].find(({ name }) => name === "inputs")!.shape[0];
  };
  assert.equal(rows(), 2 ** 18);
  assert.equal(rows("f16"), 2 ** 17);
  trainables.dispose();
  engine.dispose();
});

Deno.test("partsOf + batches of many sizes: as few as keep 2^24 numbers, and they divide the rows", () => {
  const cases = [
    [8, 1024, 768, 1],
    [8, 1024, 2048, 1],
    [8, 1024, 2560, 2],
    [8, 4096, 2560, 8],
    [9, 1024, 2560, 3],
    [7, 1024, 2560, 7],
    [1, 65_536, 2560, 1],
    [4, 65_536, 2560, 4],
  ] as const;
  for (const [B, T, C, parts] of cases) {
    assert.equal(partsOf(B, T, C), parts, `${B} rows of ${T}, ${C} channels`);
  }
});
