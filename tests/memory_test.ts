/**
 * What a run takes of memory, said before; and a dry run, which says it and writes nothing.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { planTraining, type TrainOptions } from "../mod.ts";
import { fits, planMemory } from "../training/memory.ts";
import { settle } from "../training/options.ts";
import { setUp } from "../training/setup.ts";
import { withoutGpu } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const BASE: TrainOptions = {
  loadModel: writeTinyModel(newPath("model.safetensors"), { layers: 2 }),
  dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
  ctxLen: 16,
  microBsz: 4,
  boneConfig: { bone_r: 4 },
  engine: "cpu",
};

for (const peft of ["bone", "none"]) {
  Deno.test({
    name: `planMemory + ${peft}, on webgpu: the sum of its rows is what the device is asked for`,
    ignore: withoutGpu,
    async fn() {
      const settings = settle({ ...BASE, peft, engine: "webgpu" }, () => newPath("run"));
      using setup = await setUp(settings, {});
      const { learner } = setup, plan = planMemory(learner, false);
      using _programs = await learner.programs.load();
      const uniforms = learner.engine.allocatedBytes - plan.bytes;
      // A uniform block of 256 bytes for each dispatch, and buffers of at least four bytes, are not worth a row.
      assert.ok(
        uniforms >= 0 && uniforms <= 256 * 4 * learner.programs.gradients.nodes.length,
        `${uniforms}`,
      );
      assert.equal(plan.rows.reduce((sum, { bytes }) => sum + bytes, 0), plan.bytes);
      assert.ok(plan.largest.bytes > 0 && plan.largest.bytes <= plan.largest.limit!);
    },
  });
}

Deno.test("planMemory + recomputed blocks: fewer saved activations", async () => {
  const saved = async (gradCp: boolean) => {
    const settings = settle({ ...BASE, gradCp }, () => newPath("run"));
    using setup = await setUp(settings, {});
    const { rows } = planMemory(setup.learner, true);
    return rows.find(({ what }) => what === "saved activations")!.bytes;
  };
  const [all, few] = [await saved(false), await saved(true)];
  assert.ok(few > 0 && few < all / 2, `${few} of ${all}`);
});

Deno.test("planTraining + a step that fits: memory, time and steps, and nothing is written", async () => {
  const projDir = newPath("run");
  const plan = await planTraining({ ...BASE, projDir, maxSteps: 7 });
  assert.deepEqual([plan.steps, plan.advice, fits(plan.memory)], [7, undefined, true]);
  assert.ok(plan.secondsPerStep! > 0);
  assert.equal(existsSync(projDir), false);
});

Deno.test("planTraining + a step that does not fit: what would, and that does", async () => {
  const dataFile = newPath("text.txt");
  Deno.writeTextFileSync(dataFile, "abcdefgh".repeat(9000));
  const options = { ...BASE, dataFile, ctxLen: 64, gradCp: true };
  const plan = await planTraining({ ...options, projDir: newPath("run"), microBsz: 50_000 });
  assert.equal(plan.secondsPerStep, undefined);
  assert.equal(fits(plan.memory), false);
  const [, microBsz] = /^use --micro_bsz (\d+)$/.exec(plan.advice!)!;
  const settings = settle({ ...options, microBsz: Number(microBsz) }, () => newPath("run"));
  using setup = await setUp(settings, {});
  assert.equal(fits(planMemory(setup.learner, true)), true);
});
