/**
 * The order of things in the loop: a device is not waited for after every step, and what is in files knows every report.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import type { Learner } from "../training/learner.ts";
import { type LoopOptions, trainSteps } from "../training/loop.ts";
import { settle } from "../training/options.ts";
import type { LoadedPrograms } from "../training/programs.ts";
import { newPath } from "./tiny_model.ts";

/** A run of `losses.length` steps on a device whose reports come when they are let go. */
function fake(losses: readonly number[], norms: readonly number[] = losses.map(() => 1)) {
  const projDir = newPath("run"), log: string[] = [], answers: (() => void)[] = [];
  Deno.mkdirSync(projDir);
  Deno.writeTextFileSync(`${projDir}/config.json`, "{}");
  const settings = settle({ projDir, maxSteps: losses.length, accumulateGradBatches: 2 }, () => projDir);
  let submitted = 0;
  const programs: Pick<LoadedPrograms, "accumulate" | "update"> = {
    accumulate: () => {},
    update: () => {
      const index = submitted++;
      log.push(`submit ${index + 1}`);
      return new Promise((resolve) =>
        answers.push(() => resolve({ loss: losses[index]!, norm: norms[index]! }))
      );
    },
  };
  const learner: Partial<Learner> = {
    settings,
    engine: { name: "webgpu", allocatedBytes: 0 } as Learner["engine"],
    trainables: { read: () => Promise.resolve(new Map()) } as unknown as Learner["trainables"],
    save: () => (log.push("save"), Promise.resolve("")),
  };
  const options = {
    learner,
    programs,
    batches: { at: () => ({ counted: 5 }), batchesPerEpoch: 1000 },
    projDir,
    metrics: { kept: [], write: () => {} },
    validation: { due: () => false, inVain: 0 },
    listeners: { onMessage: () => {}, onStep: ({ step }: { step: number }) => log.push(`hear ${step}`) },
    first: 0,
  } as unknown as LoopOptions;
  return { options, log, answers, projDir };
}

/** Lets everything happen that waits for nothing else. */
const idle = () => new Promise((resolve) => setTimeout(resolve, 0));

Deno.test("trainSteps + a device: the next steps are submitted before a report is read, and a checkpoint waits for all", async () => {
  const { options, log, answers } = fake([3, 2, 1, 1]);
  const run = trainSteps(options);
  await idle();
  assert.deepEqual(log, ["submit 1", "submit 2", "submit 3"]);
  answers[0]!();
  await idle();
  assert.deepEqual(log.slice(3), ["hear 1", "submit 4"]);
  answers.slice(1).forEach((answer) => answer());
  assert.equal((await run).loss, 1);
  assert.deepEqual(log.slice(5), ["hear 2", "hear 3", "hear 4", "save"]);
});

for (
  const [what, losses, norms] of [
    ["loss", [1, NaN, 1, 1], undefined],
    ["gradient norm", [1, 1, 1, 1], [1, NaN, 1, 1]],
  ] as const
) {
  Deno.test(`trainSteps + a ${what} that is no number, heard late: names its step and batches, and nothing is saved`, async () => {
    const { options, log, answers, projDir } = fake(losses, norms);
    const refused = assert.rejects(trainSteps(options), {
      message: `The ${what} is NaN at step 2 (micro-batches 2 to 3): lower --lr_init; the last good ` +
        "checkpoint is none",
    });
    for (let turn = 0; turn < 3; turn++) {
      await idle();
      answers.forEach((answer) => answer());
    }
    await refused;
    assert.ok(!log.includes("save"));
    assert.equal(existsSync(`${projDir}/checkpoints`), false);
  });
}
