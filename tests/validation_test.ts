/**
 * Looks at a run on the way: measurements, samples, the best result, an early end; and a checkpoint on demand.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { train, type TrainListeners, type TrainOptions } from "../mod.ts";
import { listCheckpoints } from "../training/checkpoint.ts";
import type { MetricsLine } from "../training/metrics.ts";
import { Validation, type ValidationOptions } from "../training/validation.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const TEXT = writeDocuments(newPath("text.jsonl"), randomTexts(12, 30));
/** Other letters than in the text: the better the text is learnt, the worse these become. */
const OTHER = writeDocuments(newPath("other.jsonl"), ["zzyyxxwwvvuuttss", "ssttuuvvwwxxyyzz"]);
const BASE: TrainOptions = {
  loadModel: MODEL,
  dataFile: TEXT,
  ctxLen: 16,
  microBsz: 4,
  epochCount: 4,
  lrInit: 1e-2,
  lrFinal: 1e-2,
  boneConfig: { bone_r: 4 },
  trainParts: [],
  samplePrompt: "",
  engine: "cpu",
};

const run = (options: TrainOptions, listeners: TrainListeners = {}) =>
  train({ projDir: newPath("run"), ...BASE, ...options }, listeners);

function looksOf(projDir: string): MetricsLine[] {
  return Deno.readTextFileSync(join(projDir, "metrics.jsonl")).trim().split("\n").map((line) =>
    JSON.parse(line)
  ).filter((line) => "samples" in line);
}

Deno.test("train + evalSteps: loss, perplexity and a sample from every prompt, before, every so many steps, and at the end", async () => {
  const { projDir, samples, heldOut } = await run({
    maxSteps: 5,
    evalSteps: 2,
    heldOut: 0.2,
    samplePrompt: ["ab", "c"],
  });
  const looks = looksOf(projDir);
  assert.deepEqual(looks.map(({ step }) => step), [0, 2, 4, 5]);
  for (const { heldOutLoss, heldOutPerplexity, samples } of looks) {
    assert.equal(heldOutPerplexity, Math.exp(heldOutLoss as number));
    assert.deepEqual((samples as string[]).map((text) => text[0]), ["a", "c"]);
  }
  assert.deepEqual(heldOut, { before: looks[0]!.heldOutLoss, after: looks[3]!.heldOutLoss });
  assert.equal(samples!.after, (looks[3]!.samples as string[]).join("\n\n"));
});

Deno.test("train + evalFile: best/ holds the adapter of the step with the lowest loss, last/ and the result that of the last", async () => {
  const { projDir, best, output } = await run({
    epochCount: 9,
    maxSteps: 14,
    evalSteps: 1,
    evalFile: OTHER,
    lrInit: 0.1,
    lrFinal: 0.1,
  });
  const looks = looksOf(projDir).slice(1);
  const lowest = Math.min(...looks.map(({ heldOutLoss }) => heldOutLoss as number));
  assert.deepEqual(best, {
    step: looks.find(({ heldOutLoss }) => heldOutLoss === lowest)!.step,
    heldOutLoss: lowest,
  });
  assert.ok(best!.step < 14, "the test needs a best step that is not the last");
  const measured = JSON.parse(Deno.readTextFileSync(join(projDir, "best", "measured.json")));
  assert.deepEqual(measured, { ...best, heldOutPerplexity: Math.exp(lowest) });
  const upToBest = await run({
    epochCount: 9,
    maxSteps: best!.step,
    evalFile: OTHER,
    lrInit: 0.1,
    lrFinal: 0.1,
  });
  const file = (...path: string[]) => Deno.readFileSync(join(...path));
  assert.deepEqual(file(projDir, "best", "adapter.pth"), file(upToBest.output));
  assert.deepEqual(file(projDir, "last", "adapter.pth"), file(output));
  assert.notDeepEqual(file(projDir, "best", "adapter.pth"), file(output));
});

Deno.test("train + earlyStop: ends after so many measurements in vain, saved; a resumed run ends at the same step", async () => {
  const options = { evalSteps: 1, earlyStop: 3, evalFile: OTHER, lrInit: 0.1, lrFinal: 0.1 };
  const whole = await run(options);
  assert.deepEqual([whole.stoppedEarly, whole.stopped], [true, false]);
  assert.equal(whole.steps, whole.best!.step + 3);
  assert.equal(listCheckpoints(whole.projDir)[0]!.step, whole.steps);
  const { projDir } = await run({ ...options, maxSteps: whole.steps - 1 });
  assert.equal((await train({ resume: projDir, maxSteps: 1000 })).steps, whole.steps);
  assert.deepEqual(
    Deno.readFileSync(join(projDir, "best", "adapter.pth")),
    Deno.readFileSync(join(whole.projDir, "best", "adapter.pth")),
  );
  const again = await train({ resume: projDir });
  assert.deepEqual([again.steps, again.stoppedEarly], [whole.steps, true]);
  const further = await train({ resume: projDir, earlyStop: 100, maxSteps: whole.steps + 1 });
  assert.deepEqual([further.steps, further.stoppedEarly], [whole.steps + 1, false]);
});

Deno.test("Validation + losses that are not numbers: never the best, and in vain; the step before the first never the best", () => {
  const of = (losses: (number | null)[], every = 1) => {
    const kept = losses.map((heldOutLoss, step) => ({ step, heldOutLoss, samples: [] }));
    return new Validation({ every, metrics: { kept } } as unknown as ValidationOptions);
  };
  assert.equal(of([1, null, null]).best, undefined);
  assert.equal(of([1, null, null]).inVain, 2);
  assert.deepEqual(of([1, 3, null, 2, null]).best, { step: 3, heldOutLoss: 2 });
  assert.equal(of([1, 3, null, 2, null]).inVain, 1);
  assert.equal(of([1]).inVain, 0);
  assert.deepEqual(of([1, 3, 3]).best, { step: 1, heldOutLoss: 3 });
  // Step 3 was measured at a stop; only 2 and 4 count.
  assert.equal(of([1, 9, 5, 1, 4], 2).inVain, 0);
  assert.equal(of([1, 9, 5, 1, 4], 2).best!.step, 3);
});

Deno.test("train + earlyStop without anything to measure on: refused", async () => {
  await assert.rejects(run({ earlyStop: 2, heldOut: 0 }), {
    name: "OptionError",
    message: "--early_stop has nothing to judge by: hold text out with --held_out or --eval_file",
  });
});

Deno.test("train + evalFile that has changed: not resumed", async () => {
  const evalFile = writeDocuments(newPath("held.jsonl"), ["abc def"]);
  const { projDir } = await run({ evalFile, maxSteps: 1 });
  writeDocuments(evalFile, ["abc ghi"]);
  await assert.rejects(train({ resume: projDir, maxSteps: 2 }), {
    message:
      /^Cannot resume .*: the text .*held\.jsonl, which it is measured on, has changed since it began$/,
  });
});

Deno.test("train + a file named save in the run folder: a checkpoint after that step, and the file is gone", async () => {
  const projDir = newPath("run"), messages: string[] = [];
  const seen: number[][] = [];
  await run({ projDir, maxSteps: 6, heldOut: 0, epochCount: 9 }, {
    onStep: ({ step }) => {
      if (step === 2) Deno.writeTextFileSync(join(projDir, "save"), "");
      seen.push(listCheckpoints(projDir).map((checkpoint) => checkpoint.step));
    },
    onMessage: (message) => messages.push(message),
  });
  assert.deepEqual(seen.slice(0, 4), [[], [], [2], [2]]);
  assert.equal(existsSync(join(projDir, "save")), false);
  assert.ok(messages.includes('Saved step 2, as the file "save" asked'));
});

Deno.test("StepReport + smoothed loss: the mean at first, then an exponential mean, also over a stop", async () => {
  const smoothed: number[] = [], losses: number[] = [];
  const onStep = (report: { loss: number; smoothedLoss: number }) => {
    losses.push(report.loss);
    smoothed.push(report.smoothedLoss);
  };
  const { projDir } = await run({ maxSteps: 3, heldOut: 0, epochCount: 20 }, { onStep });
  await train({ resume: projDir, maxSteps: 30 }, { onStep });
  let wanted = 0;
  losses.forEach((loss, i) => {
    wanted += Math.max(0.05, 1 / (i + 1)) * (loss - wanted);
    assert.ok(Math.abs(smoothed[i]! - wanted) < 1e-12);
  });
  const mean = (losses[0]! + losses[1]! + losses[2]! + losses[3]!) / 4;
  assert.ok(Math.abs(smoothed[3]! - mean) < 1e-9);
});
