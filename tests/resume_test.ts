/**
 * Runs that are stopped, broken off, and resumed: the same bits as runs that were not; and the same seed, the same bits.
 *
 * @module
 */
import assert from "node:assert/strict";
import { basename, dirname, join } from "node:path";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { listCheckpoints, loadCheckpoint, saveCheckpoint } from "../training/checkpoint.ts";
import { CheckpointError } from "../training/checkpoint_error.ts";
import type { TrainOptions } from "../training/options.ts";
import type { TrainListeners } from "../training/listeners.ts";
import { train } from "../training/trainer.ts";
import { Trainables } from "../training/trainables.ts";
import { boneAdapter } from "./small_model.ts";
import { randomNumbers, withoutGpu } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
/** Two layers learn nothing more from an engine where compiling takes a second. */
const SHALLOW = writeTinyModel(newPath("shallow.safetensors"));
const TEXT = writeDocuments(newPath("text.jsonl"), randomTexts(12, 30));

/** Everything that could go wrong on resuming is on: moments, weights beside the adapter, a schedule, several epochs. */
const BASE: TrainOptions = {
  loadModel: MODEL,
  dataFile: TEXT,
  ctxLen: 16,
  microBsz: 4,
  epochCount: 2,
  lrInit: 1e-2,
  lrFinal: 1e-3,
  warmupSteps: 3,
  weightDecay: 0.1,
  boneConfig: { bone_r: 5 },
  trainParts: ["ln", "w0"],
  heldOut: 0.15,
  samplePrompt: "",
  engine: "cpu",
};

/** A run in a new folder. */
async function run(options: TrainOptions = {}, listeners: TrainListeners = {}) {
  return await train({ projDir: newPath("run"), ...BASE, ...options }, listeners);
}

type Line = Record<string, unknown>;

function metricsOf(projDir: string): Line[] {
  const lines = Deno.readTextFileSync(join(projDir, "metrics.jsonl")).split("\n");
  assert.equal(lines.pop(), "", "the last line has no end");
  return lines.map((line) => JSON.parse(line));
}

/** What a run leaves that does not depend on the clock, nor on where it was stopped. */
function traces(projDir: string) {
  const steps = metricsOf(projDir).filter(({ loss }) => loss !== undefined).map((line) => {
    const { steps: _steps, time: _time, tokensPerSecond: _speed, secondsLeft: _left, ...others } = line;
    return others;
  });
  const result = [...Deno.readDirSync(projDir)].map(({ name }) => name).find((name) =>
    /\.(pth|safetensors)$/.test(name)
  )!;
  const newest = listCheckpoints(projDir)[0]!;
  return {
    steps,
    measured: metricsOf(projDir).filter(({ loss }) => loss === undefined).map(({ time: _time, ...line }) =>
      line
    ),
    result: Deno.readFileSync(join(projDir, result)),
    newest: basename(newest.path),
    checkpoint: Deno.readFileSync(newest.path),
  };
}

/** The same steps, result and last checkpoint, bit for bit; and the same loss on held-out text before and after. */
function assertSameRun(resumed: string, whole: string): void {
  const a = traces(resumed), b = traces(whole);
  assert.deepEqual(a.steps, b.steps);
  assert.deepEqual([a.measured[0], a.measured.at(-1)], [b.measured[0], b.measured.at(-1)]);
  assert.equal(a.newest, b.newest);
  assert.ok(
    a.result.length === b.result.length && a.result.every((x, i) => x === b.result[i]),
    "the result differs",
  );
  assert.deepEqual(a.checkpoint, b.checkpoint, "the last checkpoint differs");
}

/** Stops a run after each of `stops` steps by maxSteps, and lets it go on to its end. */
async function stopAndGoOn(options: TrainOptions, stops: readonly number[]): Promise<string> {
  const { projDir } = await run({ ...options, maxSteps: stops[0]! });
  for (const maxSteps of stops.slice(1)) {
    assert.equal((await train({ resume: projDir, maxSteps })).steps, maxSteps);
  }
  return projDir;
}

/** Steps of the runs below: an epoch has this many, and there are two. */
const EPOCH = 5, WHOLE = 2 * EPOCH;

const RESUMED: { name: string; options: TrainOptions; whole: number; stops: number[][]; ignore?: boolean }[] =
  [
    {
      name: "bone, cos and warm-up",
      options: {},
      whole: WHOLE,
      stops: [[1], [2], [EPOCH], [EPOCH + 1], [WHOLE - 1], [1, EPOCH], [2, 3]],
    },
    {
      name: "two micro-batches a step over an odd number",
      options: { accumulateGradBatches: 2, epochSteps: 3 },
      whole: 3,
      stops: [[1], [2]],
    },
    {
      name: "exp, blocks recomputed",
      options: { lrSchedule: "exp", gradCp: false },
      whole: WHOLE,
      stops: [[3]],
    },
    {
      name: "documents packed into rows",
      options: { dataload: "pack", epochSteps: EPOCH },
      whole: WHOLE,
      stops: [[1], [EPOCH, EPOCH + 1]],
    },
    { name: "every weight", options: { peft: "none" }, whole: WHOLE, stops: [[1], [EPOCH], [3, 6]] },
    {
      name: "bone, on webgpu",
      options: { loadModel: SHALLOW, engine: "webgpu", accumulateGradBatches: 2 },
      whole: EPOCH,
      stops: [[1, 3]],
      ignore: withoutGpu,
    },
    {
      name: "every weight, on webgpu",
      options: { loadModel: SHALLOW, engine: "webgpu", peft: "none", epochCount: 1 },
      whole: EPOCH,
      stops: [[2]],
      ignore: withoutGpu,
    },
  ];

for (const { name, options, whole, stops, ignore = false } of RESUMED) {
  Deno.test({
    name: `train + resumed, ${name}: bit for bit the run that was not stopped`,
    ignore,
    async fn() {
      const all = await run(options);
      assert.equal(all.steps, whole);
      for (const at of stops) assertSameRun(await stopAndGoOn(options, [...at, whole]), all.projDir);
    },
  });
}

Deno.test("train + shouldStop: stops after that step, and goes on bit for bit", async () => {
  const whole = await run();
  let asked = 0;
  const stopped = await run({}, { shouldStop: () => ++asked === 3 });
  assert.deepEqual([stopped.stopped, stopped.steps, asked], [true, 3, 3]);
  assert.deepEqual(listCheckpoints(stopped.projDir).map(({ step }) => step), [3]);
  const resumed = await train({ resume: stopped.projDir });
  assert.deepEqual([resumed.stopped, resumed.steps, resumed.projDir], [false, WHOLE, stopped.projDir]);
  assert.equal(resumed.loss, whole.loss);
  assertSameRun(stopped.projDir, whole.projDir);
});

Deno.test("train + a run that broke off between checkpoints: goes on from the last, bit for bit", async () => {
  const whole = await run({ saveSteps: 2, keep: 9 });
  const broken = await run({ saveSteps: 2, keep: 9 });
  // As if the power had gone in step 7, with a checkpoint and a line of the metrics half written.
  for (const { step, path } of listCheckpoints(broken.projDir)) if (step > 6) Deno.removeSync(path);
  Deno.removeSync(broken.output);
  const folder = dirname(listCheckpoints(broken.projDir)[0]!.path);
  Deno.writeTextFileSync(join(folder, ".step-00000008.safetensors.77-abcdef01.tmp"), "half of a checkpoint");
  const metrics = join(broken.projDir, "metrics.jsonl");
  const lines = Deno.readTextFileSync(metrics).split("\n").slice(0, 1 + 7);
  Deno.writeTextFileSync(metrics, lines.join("\n") + `\n{"step":8,"lo`);
  const { steps } = await train({ resume: broken.projDir });
  assert.equal(steps, WHOLE);
  assertSameRun(broken.projDir, whole.projDir);
});

Deno.test("train + a run that broke off before its first checkpoint: starts again, bit for bit", async () => {
  const whole = await run(), broken = await run();
  Deno.removeSync(join(broken.projDir, "checkpoints"), { recursive: true });
  const said: string[] = [];
  await train({ resume: broken.projDir }, { onMessage: (message) => said.push(message) });
  assert.ok(said.some((message) => /^No checkpoint in .*: starting again$/.test(message)), said.join("\n"));
  assertSameRun(broken.projDir, whole.projDir);
});

Deno.test("train + one seed twice: the same bits; another seed: others", async () => {
  const options = { randomSeed: 7, samplePrompt: "ab" };
  const [one, two, other] = [
    await run(options),
    await run(options),
    await run({ ...options, randomSeed: 8 }),
  ];
  assertSameRun(two.projDir, one.projDir);
  assert.deepEqual(two.samples, one.samples);
  const [a, b] = [traces(one.projDir), traces(other.projDir)];
  assert.notDeepEqual(b.steps.map(({ loss }) => loss), a.steps.map(({ loss }) => loss));
  assert.notDeepEqual(b.checkpoint, a.checkpoint);
});

Deno.test("train + resume with options that the run has anyway: goes on", async () => {
  const { projDir } = await run({ maxSteps: 1 });
  const { steps } = await train({ ...BASE, resume: projDir, maxSteps: 2 });
  assert.equal(steps, 2);
});

Deno.test("train + resume of a run with another model, text or option: one sentence that names it", async () => {
  const model = writeTinyModel(newPath("changing.safetensors"), { layers: 2 });
  const text = writeDocuments(newPath("changing.jsonl"), randomTexts(12, 30));
  const { projDir } = await run({ loadModel: model, dataFile: text, maxSteps: 1 });
  const before = traces(projDir);
  const refused = (options: TrainOptions, message: RegExp) =>
    assert.rejects(train({ resume: projDir, maxSteps: 2, ...options }), { name: "OptionError", message });

  await refused({ lrInit: 5e-3 }, /^Cannot change --lr_init on resuming: the run has 0\.01, so [^\n]*$/);
  await refused(
    { trainParts: ["ln"] },
    /^Cannot change --train_parts on resuming: the run has \["ln","w0"\], so [^\n]*$/,
  );
  await refused({ loadModel: MODEL }, /^Cannot change --load_model on resuming: [^\n]*$/);
  const weights = Deno.readFileSync(model);
  weights[weights.length - 1]! ^= 1;
  Deno.writeFileSync(model, weights);
  await refused(
    {},
    /^Cannot resume [^\n]*: the model [^\n]*changing\.safetensors is not the one that it began with$/,
  );
  weights[weights.length - 1]! ^= 1;
  Deno.writeFileSync(model, weights);
  writeDocuments(text, randomTexts(12, 30, 2));
  await refused({}, /^Cannot resume [^\n]*: the text [^\n]*changing\.jsonl has changed since it began$/);
  assert.deepEqual(traces(projDir), before);

  writeDocuments(text, randomTexts(12, 30));
  assert.equal((await train({ resume: projDir, maxSteps: 2 })).steps, 2);
});

Deno.test("train + resume of a folder that is no run: one sentence that names it", async () => {
  const folder = newPath("empty");
  Deno.mkdirSync(folder);
  await assert.rejects(train({ resume: folder }), { name: "OptionError", message: /no config\.json/ });
  Deno.writeTextFileSync(join(folder, "config.json"), `{"version":2}`);
  await assert.rejects(train({ resume: folder }), {
    name: "OptionError",
    message: /config\.json has version 2/,
  });
  Deno.writeTextFileSync(join(folder, "config.json"), `{"version":1,"sett`);
  await assert.rejects(train({ resume: folder }), {
    name: "OptionError",
    message: /config\.json is not whole/,
  });
});

Deno.test("train + a run folder that exists: refused, and replaced whole with force", async () => {
  const { projDir } = await run();
  const before = traces(projDir);
  const message = /^The run folder [^\n]* exists: name another with --proj_dir, or replace it with --force$/;
  await assert.rejects(run({ projDir }), { name: "OptionError", message });
  // What cannot start must not have thrown the last run away.
  await assert.rejects(run({ projDir, force: true, dataFile: newPath("nowhere.jsonl") }), /no such file/);
  await assert.rejects(run({ projDir, force: true, boneConfig: { bone_r: 99 } }), /lower r/);
  assert.deepEqual(traces(projDir), before);
  await run({ projDir, force: true, maxSteps: 1 });
  assert.deepEqual(listCheckpoints(projDir).map(({ step }) => step), [1]);
  assert.equal(metricsOf(projDir).filter(({ loss }) => loss !== undefined).length, 1);
});

Deno.test("train + saveSteps, epochs and keep: checkpoints of those steps, the last ones kept", async () => {
  const stepsOf = async (options: TrainOptions) =>
    listCheckpoints((await run(options)).projDir).map(({ step }) => step);
  assert.deepEqual(await stepsOf({ keep: 9 }), [WHOLE, EPOCH]);
  assert.deepEqual(await stepsOf({ keep: 9, epochSave: 2, maxSteps: 6 }), [6]);
  assert.deepEqual(await stepsOf({ keep: 9, saveSteps: 3 }), [WHOLE, 9, 6, EPOCH, 3]);
  assert.deepEqual(await stepsOf({ keep: 2, saveSteps: 1 }), [WHOLE, WHOLE - 1]);
});

Deno.test("listCheckpoints + newer files of older steps and leftovers: by step, leftovers not among them", async () => {
  const { projDir } = await run({ keep: 9, saveSteps: 1, maxSteps: 3 });
  const folder = dirname(listCheckpoints(projDir)[0]!.path);
  for (
    const name of [
      ".step-00000009.safetensors.1-a.tmp",
      "step-00000009.safetensors.tmp",
      "step-9.safetensors",
      "step-000000003.safetensors",
    ]
  ) {
    Deno.writeTextFileSync(join(folder, name), "");
  }
  for (const [step, seconds] of [[1, 3000], [2, 2000], [3, 1000]]) {
    Deno.utimeSync(join(folder, `step-0000000${step}.safetensors`), seconds!, seconds!);
  }
  assert.deepEqual(listCheckpoints(projDir).map(({ step }) => step), [3, 2, 1]);
  assert.equal((await train({ resume: projDir, maxSteps: 4 })).steps, 4);
  assert.deepEqual(metricsOf(projDir).flatMap(({ loss, step }) => loss === undefined ? [] : [step]), [
    1,
    2,
    3,
    4,
  ]);
});

Deno.test("train + resume from a damaged checkpoint: refused by name, and the one before serves", async () => {
  const whole = await run({ keep: 9, saveSteps: 3 });
  const damage: [string, (bytes: Uint8Array) => Uint8Array, RegExp][] = [
    [
      "a byte of a weight",
      (bytes) => bytes.with(bytes.length - 3, bytes.at(-3)! ^ 4),
      /does not match its checksum/,
    ],
    ["cut short", (bytes) => bytes.slice(0, bytes.length - 64), /Cannot resume from/],
    ["cut in its header", (bytes) => bytes.slice(0, 100), /Cannot resume from/],
    ["empty", () => new Uint8Array(), /Cannot resume from/],
  ];
  const { projDir } = await run({ keep: 9, saveSteps: 3 });
  const newest = listCheckpoints(projDir)[0]!.path;
  const bytes = Deno.readFileSync(newest);
  for (const [what, change, message] of damage) {
    Deno.writeFileSync(newest, change(bytes));
    await assert.rejects(train({ resume: projDir }), (error: Error) => {
      assert.ok(error instanceof CheckpointError, what);
      assert.match(error.message, message);
      assert.ok(error.message.includes(newest) && !error.message.includes("\n"), error.message);
      return true;
    });
  }
  Deno.removeSync(newest);
  await train({ resume: projDir });
  assertSameRun(projDir, whole.projDir);
});

Deno.test("loadCheckpoint + any byte of the header changed: refused by name", async () => {
  using file = openTensorFile(SHALLOW);
  const config = readModelConfig(file), random = randomNumbers(3), engine = new Oracle();
  const trainables = new Trainables(boneAdapter(config, 3, random), config, engine, { layerwise: true });
  for (const kind of ["m", "v"] as const) {
    for (const [name, { data }] of await trainables.read(kind)) {
      trainables.write(kind, name, data.map(random));
    }
  }
  const folder = newPath("run");
  const path = await saveCheckpoint(folder, 12, trainables, 1);
  const bytes = Deno.readFileSync(path), header = 8 + new DataView(bytes.buffer).getUint32(0, true);
  const wrong: string[] = [];
  for (let at = 0; at < header; at++) {
    // One bit, or the case of a letter.
    for (const change of [1, 32]) {
      Deno.writeFileSync(path, bytes.with(at, bytes[at]! ^ change));
      const near = new TextDecoder().decode(bytes.subarray(Math.max(8, at - 12), at + 1));
      try {
        wrong.push(`step ${loadCheckpoint(path, trainables)}, by the byte after ${near}`);
      } catch (error) {
        const named = error instanceof CheckpointError && error.message.includes(path);
        if (!named) wrong.push(`${error}, by the byte after ${near}`);
      }
    }
  }
  assert.deepEqual(wrong, []);
});
