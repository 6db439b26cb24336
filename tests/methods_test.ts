/**
 * Methods in runs and their settings: where they sit, what of them trains, what dropout does, and PEFT's words for all of it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { mergedWeight, unmergedWeight } from "../adapters/merge.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { withInitial } from "../adapters/rwkv_peft.ts";
import { isTarget } from "../adapters/targets.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import {
  Adapter,
  createAdapter,
  loadAdapter,
  loadModel,
  mergeAdapter,
  saveAdapter,
  type StepReport,
  train,
  type TrainOptions,
} from "../mod.ts";
import { linearSites } from "../rwkv/config.ts";
import { withoutPeftNames } from "../training/peft_names.ts";
import { randomNumbers } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const TEXT = writeDocuments(newPath("text.jsonl"), randomTexts(24, 40));
const BASE: TrainOptions = {
  loadModel: MODEL,
  dataFile: TEXT,
  ctxLen: 16,
  microBsz: 4,
  lrInit: 1e-2,
  lrFinal: 1e-2,
  boneConfig: { bone_r: 4 },
  loraConfig: { lora_r: 4 },
  pissaConfig: { pissa_r: 4 },
  trainParts: [],
  heldOut: 0,
  samplePrompt: "",
  maxSteps: 4,
  engine: "cpu",
};

/** Trains in a new folder. @returns what the steps reported, and the adapter */
async function run(
  options: TrainOptions,
): Promise<{ steps: StepReport[]; adapter: Adapter; projDir: string }> {
  const steps: StepReport[] = [], projDir = options.projDir ?? newPath("run");
  const { output } = await train({ ...BASE, projDir, ...options }, {
    onStep: (report) => steps.push(report),
  });
  return { steps, adapter: await loadAdapter(output), projDir };
}

const sitesOf = (
  { tensors }: Adapter,
) => [...new Set([...tensors.keys()].map((name) => name.slice(0, name.lastIndexOf("."))))];

const RUNS: [string, TrainOptions, string, object][] = [
  ["bone", {}, "bone", { r: 4 }],
  ["mini", { boneConfig: { bone_r: 4, bone_mini_r: 8 } }, "bone", { r: 4, mini_r: 8 }],
  ["rows", { boneConfig: { bone_r: 4, bone_shards: "rows", bone_dropout: 0.1 } }, "bone", {
    ...{ r: 4, shards: "rows", dropout: 0.1 },
  }],
  ["bat by bone_mode", { boneConfig: { bone_r: 4, bone_mode: "bat" } }, "bat", { r: 4, axis: "in" }],
  ["bat by output block", { peft: "bat", batAxis: "out" }, "bat", { r: 4, axis: "out" }],
  ["lora", { peft: "lora", useRslora: true, loraplusLrRatio: 4 }, "lora", {
    ...{ r: 4, alpha: 32, rslora: true, lr_ratio: 4 },
  }],
  ["dora", { peft: "dora" }, "dora", { r: 4, alpha: 32, rslora: false }],
  ["pissa", { peft: "pissa" }, "pissa", { r: 4, niter: 4 }],
  ["state", { peft: "state" }, "state", {}],
  [
    "miss in PEFT's words",
    { boneConfig: {}, peftConfig: { r: 4, init_weights: "mini", mini_r: 2 } },
    "bone",
    {
      ...{ r: 4, mini_r: 2 },
    },
  ],
];
for (const [name, options, method, settings] of RUNS) {
  Deno.test(`train + ${name}: learns, keeps what is frozen, and merges`, async () => {
    const { steps, adapter, projDir } = await run(options);
    assert.deepEqual([adapter.method.name, adapter.settings], [method, settings]);
    assert.ok(steps.at(-1)!.loss < steps[0]!.loss + 0.2 && steps[0]!.gradientNorm > 0);
    using model = await loadModel(MODEL, { engine: "cpu" });
    const created = createAdapter(model, { peft: method, ...settings });
    // What a PiSSA begins with comes from an engine.
    const fresh = method === "pissa" ? withInitial(created, join(projDir, "init_pissa.pth")) : created;
    const parameters = adapter.parametersOn(model.config);
    assert.deepEqual([...adapter.tensors.keys()].sort(), [...fresh.tensors.keys()].sort());
    for (const [name, { data }] of adapter.tensors) {
      const same = data.every((x, i) => x === fresh.tensors.get(name)!.data[i]);
      assert.equal(same, parameters.get(name)!.frozen ?? false, name);
    }
    const { relativeError, bound } = await mergeAdapter({
      ...{ base: MODEL, adapter, output: newPath("merged.safetensors"), engine: "cpu" },
    });
    assert.ok(relativeError < bound, `${relativeError}`);
  });
}

Deno.test("train + dropout: fixed by seed and step, another for each, and the same after resuming", async () => {
  const options: TrainOptions = { peft: "lora", loraConfig: { lora_r: 4, lora_dropout: 0.5 }, maxSteps: 6 };
  const losses = (steps: readonly StepReport[]) => steps.map(({ loss }) => loss);
  const { steps, adapter } = await run(options);
  assert.deepEqual(losses((await run(options)).steps), losses(steps));
  const plain = await run({ ...options, loraConfig: { lora_r: 4 } });
  // B is zero at first, so that dropping inputs shows from the second step on; but A's gradient of nothing, B's shows at once.
  assert.equal(plain.steps[0]!.loss, steps[0]!.loss);
  assert.notEqual(plain.steps[0]!.gradientNorm, steps[0]!.gradientNorm);
  assert.notEqual(plain.steps[5]!.loss, steps[5]!.loss);
  assert.notDeepEqual(losses((await run({ ...options, randomSeed: 7 })).steps), losses(steps));

  const { projDir } = await run({ ...options, maxSteps: 3 });
  const { adapter: resumed } = await run({ resume: projDir, maxSteps: 6, projDir });
  assert.deepEqual(resumed.tensors, adapter.tensors);
});

Deno.test("train + dropout: nothing is dropped where it is measured", async () => {
  const held = async (lora_dropout: number) => {
    const options: TrainOptions = { peft: "lora", loraConfig: { lora_r: 4, lora_dropout }, heldOut: 0.2 };
    // The adapter's A learns nothing at this rate, and B next to nothing, so that only dropping could tell them apart.
    const { heldOut } = await train({
      ...BASE,
      ...options,
      projDir: newPath("run"),
      lrInit: 1e-30,
      lrFinal: 1e-30,
    });
    return heldOut!;
  };
  assert.deepEqual(await held(0.9), await held(0));
});

Deno.test("train + dropout on a text that does not change: other inputs are dropped at every step", async () => {
  // With a learning rate of nearly nothing and one batch, only dropout tells the steps apart.
  const dataFile = writeDocuments(newPath("one.jsonl"), ["abcdefghijklmnop", "qrstuvwxyzabcdef"]);
  const once: TrainOptions = { dataFile, microBsz: 2, epochCount: 4, lrInit: 1e-30, lrFinal: 1e-30 };
  const norms = async (lora_dropout: number) =>
    (await run({ ...once, peft: "lora", loraConfig: { lora_r: 4, lora_dropout } })).steps.map((step) =>
      step.gradientNorm
    );
  assert.equal(new Set(await norms(0.5)).size, 4);
  assert.equal(new Set((await norms(0)).map((norm) => norm.toPrecision(5))).size, 1);
});

Deno.test("train + LoRA+: B moves at a multiple of A's learning rate", async () => {
  const first: TrainOptions = { peft: "lora", maxSteps: 1 };
  const [plain, plus] = await Promise.all(
    [1, 8].map(async (loraplusLrRatio) => (await run({ ...first, loraplusLrRatio })).adapter),
  );
  const length = (adapter: Adapter, name: string) => Math.hypot(...adapter.tensors.get(name)!.data);
  const B = "blocks.1.att.key.lora_B", A = "blocks.1.att.key.lora_A";
  assert.ok(Math.abs(length(plus!, B) / length(plain!, B) - 8) < 1e-3);
  assert.deepEqual(plus!.tensors.get(A), plain!.tensors.get(A));
});

Deno.test("train + time_state among the parts that train: with any method, and merged into the model", async () => {
  const { adapter } = await run({ trainParts: ["time_state", "ln1"] });
  const state = adapter.tensors.get("blocks.1.att.time_state")!;
  assert.deepEqual(state.shape, [2, 8, 8]);
  assert.ok(state.data.some((x) => x !== 0));
  const output = newPath("merged.safetensors");
  await mergeAdapter({ base: MODEL, adapter, output, engine: "cpu" });
  using merged = openTensorFile(output);
  assert.deepEqual(merged.readFloat32("blocks.1.att.time_state"), state.data);
  // A model with a state begins with it, and its state trains like any weight.
  const whole = await train({ ...BASE, loadModel: output, peft: "none", projDir: newPath("full") });
  using trained = openTensorFile(whole.output);
  assert.notDeepEqual(trained.readFloat32("blocks.1.att.time_state"), state.data);
  await assert.rejects(loadAdapter(whole.output), /holds no adapter tensors/);
});

Deno.test("train + layers and patterns: sits where it is told, with the ranks that it is told", async () => {
  const { adapter, projDir } = await run({
    peft: "lora",
    targetModules: ["key", "att.value"],
    layersToTransform: [1],
    rankPattern: { "att.key": 2 },
    alphaPattern: { "ffn\\..*": 3 },
  });
  assert.deepEqual(sitesOf(adapter).sort(), ["blocks.1.att.key", "blocks.1.att.value", "blocks.1.ffn.key"]);
  assert.deepEqual(adapter.tensors.get("blocks.1.att.key.lora_A")!.shape, [2, 16]);
  assert.deepEqual(adapter.settingsAt("blocks.1.ffn.key").alpha, 3);
  assert.deepEqual(adapter.settingsAt("blocks.1.att.value"), { r: 4, alpha: 32, rslora: false });
  const again = newPath("again.pth");
  saveAdapter(adapter, again);
  assert.deepEqual(Deno.readFileSync(again), Deno.readFileSync(`${projDir}/adapter.pth`));
  await mergeAdapter({ base: MODEL, adapter, output: newPath("merged.safetensors"), engine: "cpu" });
  // Going on from it keeps its layers.
  const next = await run({ peft: "lora", loraConfig: { lora_load: `${projDir}/adapter.pth` } });
  assert.deepEqual(sitesOf(next.adapter).sort(), sitesOf(adapter).sort());
});

Deno.test("train + an adapter of another method to go on from: refused", async () => {
  const { projDir } = await run({ maxSteps: 1 });
  await assert.rejects(run({ peft: "lora", loraConfig: { lora_load: `${projDir}/adapter.pth` } }), {
    name: "OptionError",
    message: /it is a bone adapter, and lora is to be trained: use --peft bone$/,
  });
});

const site = (name: string) => ({ name });
const TARGETS: [string, Parameters<typeof isTarget>[1], boolean][] = [
  ["blocks.0.att.key", {}, true],
  ["blocks.0.att.key", { target_modules: "all-linear" }, true],
  ["blocks.0.att.key", { target_modules: ["key"] }, true],
  ["blocks.0.att.key", { target_modules: ["att.key"] }, true],
  ["blocks.0.att.key", { target_modules: ["ey"] }, false],
  ["blocks.0.att.key", { target_modules: ["ffn.key", "value"] }, false],
  ["blocks.0.att.key", { target_modules: [] }, false],
  ["blocks.0.att.key", { target_modules: "key" }, false],
  ["blocks.0.att.key", { target_modules: ".*\\.(key|value)" }, true],
  ["blocks.0.att.key", { target_modules: "blocks\\.0" }, false],
  ["blocks.0.att.key", { target_modules: ["key"], exclude_modules: ["att.key"] }, false],
  ["blocks.0.att.key", { target_modules: ["key"], exclude_modules: ".*ffn.*" }, true],
  ["blocks.0.att.key", { exclude_modules: "blocks\\.0\\..*" }, false],
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: 3 }, true],
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: [1, 2] }, false],
  ["blocks.13.att.key", { target_modules: ["key"], layers_to_transform: [3] }, false],
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: [3], layers_pattern: "blocks" }, true],
  [
    "blocks.3.att.key",
    { target_modules: ["key"], layers_to_transform: [3], layers_pattern: ["h", "layers"] },
    false,
  ],
  // An empty list or text says nothing.
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: [] }, true],
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: [3], layers_pattern: "" }, true],
  ["blocks.3.att.key", { target_modules: ["key"], layers_to_transform: [2], layers_pattern: [] }, false],
  // A name in full is not asked for its layer.
  ["blocks.3.att.key", { target_modules: ["blocks.3.att.key"], layers_to_transform: [1] }, true],
  ["blocks.3.att.key", { layers_to_transform: [3] }, true],
  ["blocks.3.att.key", { layers_to_transform: [2] }, false],
];
for (const [name, targets, wanted] of TARGETS) {
  Deno.test(`isTarget + ${name}, ${JSON.stringify(targets)}: ${wanted}`, () => {
    assert.equal(isTarget(site(name), targets), wanted);
  });
}

Deno.test("createAdapter + layers that cannot be: one sentence each", async () => {
  using model = await loadModel(MODEL, { engine: "cpu" });
  const cases: [object, RegExp][] = [
    [
      { targetModules: ["keys"] },
      /^The targets \{"target_modules":\["keys"\]\} choose no linear layer .*att\.receptance/,
    ],
    [{ targetModules: "(" }, /target_modules "\(" is no regular expression/],
    [{ targetModules: ".*key", layersToTransform: [1] }, /goes with a list of target_modules/],
    [{ layersToTransform: [5] }, /choose no linear layer/],
    [{ layersToTransform: [-1] }, /must be numbers of blocks, from 0: it is \[-1\]/],
    [{ layersPattern: "blocks" }, /layers_pattern goes with layers_to_transform/],
    [{ excludeModules: ["keys"] }, /excludes no linear layer/],
    [{ rankPattern: { keys: 3 } }, /rank pattern "keys" matches no linear layer/],
    [{ rankPattern: { key: 99 } }, /rank r of bone is 99/],
    [{ alphaPattern: { key: 2 } }, /Unknown setting "alpha" for bone/],
  ];
  for (const [options, message] of cases) {
    assert.throws(() => createAdapter(model, { r: 4, ...options }), { name: "RangeError", message });
  }
});

Deno.test("loadAdapter + a file that lacks a layer: refused unless the layers are named", async () => {
  using model = await loadModel(MODEL, { engine: "cpu" });
  const whole = createAdapter(model, { r: 4 });
  const part = whole.withTensors(
    new Map([...whole.tensors].filter(([name]) => !name.startsWith("blocks.1.ffn"))),
  );
  const merge = (adapter: Adapter) =>
    mergeAdapter({ base: MODEL, adapter, output: newPath("merged.safetensors"), engine: "cpu" });
  await assert.rejects(
    merge(part),
    /lacks "blocks\.1\.ffn\.key\.bone", "blocks\.1\.ffn\.value\.bone".*target_modules/,
  );
  const targets = { exclude_modules: "blocks\\.1\\.ffn\\..*" };
  await merge(new Adapter(part.method, part.settings, part.tensors, part.base, part.overrides, targets));
});

/** The tensors of an adapter in a file that says nothing of them, but for those that are left out. @returns the path */
function bare({ tensors }: Adapter, keep: (name: string) => boolean = () => true): string {
  const path = newPath("bare.pth"), kept = [...tensors].filter(([name]) => keep(name));
  writeTensorFile(path, {
    format: "pth",
    tensors: kept.map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
    read: ({ name }) => new Uint8Array(tensors.get(name)!.data.buffer.slice(0)),
  });
  return path;
}

Deno.test("loadAdapter + a BAT that does not say its kind: as its layers show, else asked for", async () => {
  using model = await loadModel(MODEL, { engine: "cpu" });
  for (const axis of ["in", "out"] as const) {
    const other = axis === "in" ? "out" : "in",
      adapter = createAdapter(model, { peft: "bat", r: 4, batAxis: axis });
    // The one whose number of blocks is not that of the time mix is enough.
    const idle = axis === "in" ? "ffn.key" : "ffn.value";
    for (const keep of [undefined, (name: string) => !name.includes(idle)]) {
      const path = bare(adapter, keep);
      assert.deepEqual((await loadAdapter(path)).settings, { r: 4, axis });
      assert.deepEqual((await loadAdapter(path, { batAxis: axis })).settings, { r: 4, axis });
      await assert.rejects(loadAdapter(path, { batAxis: other }), {
        message: new RegExp(`by ${axis}put block, as its channel mix shows, and not by ${other}put block`),
      });
    }
    const square = bare(adapter, (name) => name.includes(".att."));
    await assert.rejects(loadAdapter(square), {
      message: /different functions: say --bat_axis in or --bat_axis out/,
    });
    assert.deepEqual((await loadAdapter(square, { batAxis: axis })).settings, { r: 4, axis });
  }
});

Deno.test("loadAdapter + files that say nothing: each method by its names and shapes", async () => {
  using model = await loadModel(MODEL, { engine: "cpu" });
  const cases: [Record<string, unknown>, object][] = [
    [{ peft: "bone", r: 5 }, { r: 5 }],
    [{ peft: "bone", r: 5, shards: "rows" }, { r: 5, shards: "rows" }],
    [{ peft: "lora", r: 3, alpha: 6 }, { r: 3, alpha: 6, rslora: false }],
    [{ peft: "dora", r: 3, alpha: 6 }, { r: 3, alpha: 6, rslora: false }],
    [{ peft: "pissa", r: 3 }, { r: 3, niter: 4 }],
    [{ peft: "state" }, {}],
  ];
  for (const [options, settings] of cases) {
    const path = bare(createAdapter(model, options));
    const loaded = await loadAdapter(path, { loraAlpha: 6 });
    assert.deepEqual([loaded.method.name, loaded.settings], [options.peft, settings]);
    await mergeAdapter({
      base: MODEL,
      adapter: loaded,
      output: newPath("merged.safetensors"),
      engine: "cpu",
    });
  }
  await assert.rejects(
    loadAdapter(bare(createAdapter(model, { peft: "dora", r: 3 }))),
    /does not say its alpha/,
  );
});

Deno.test("mergedWeight + a DoRA without the lengths of the base's rows: as with them", async () => {
  using model = await loadModel(MODEL, { engine: "cpu" });
  const number = randomNumbers(3), fresh = createAdapter(model, { peft: "dora", r: 3, alpha: 6 });
  const whole = fresh.withTensors(
    new Map([...fresh.tensors].map(([name, { shape, data }]) => [
      name,
      { shape, data: name.endsWith("weight_norm") ? data : data.map((x) => x + 0.1 * number()) },
    ])),
  );
  const part = whole.withTensors(
    new Map([...whole.tensors].filter(([name]) => !name.endsWith("weight_norm"))),
  );
  for (const site of linearSites(model.config)) {
    const weight = model.file.readFloat32(`${site.name}.weight`);
    assert.deepEqual(mergedWeight(part, site, weight), mergedWeight(whole, site, weight));
    assert.throws(
      () => unmergedWeight(part, site, weight),
      /lacks "weight_norm", which only the base weight tells/,
    );
  }
  await mergeAdapter({ base: MODEL, adapter: part, output: newPath("merged.safetensors"), engine: "cpu" });
});

// What PEFT computes for weights and inputs 1, 2, 3, …
const PEFT_VALUES: [string, Record<string, unknown>, number, number, number[], number[][]][] = [
  ["bone", { r: 2 }, 4, 2, [.1, .2, .3, .4], [[.1, .3, .1, .3], [.2, .4, .2, .4]]],
  ["bone", { r: 2 }, 5, 2, [.1, .2, .3, .4], [[.1, .3, .1, .3, .1], [.2, .4, .2, .4, .2]]],
  ["bat", { r: 2, axis: "out" }, 4, 2, [.1, .2, .3, .4], [[.8, 1.2, 1.6, 2.4], [2.6, 3.8, 3.4, 5.0]]],
  ["bat", { r: 2, axis: "out" }, 4, 4, [.1, .2, .3, .4, .5, .6, .7, .8], [
    ...[[.8, 1.2, 1.6, 2.4], [2.6, 3.8, 3.4, 5.0], [12, 14, 14.4, 16.8], [17, 19.8, 19.4, 22.6]],
  ]],
  ["bone", { r: 2, mini_r: 2 }, 4, 4, [.1, .2, .3, .4], [
    ...[[.1, .3, .1, .3], [.2, .4, .2, .4], [.1, .3, .1, .3], [.2, .4, .2, .4]],
  ]],
];
for (const [name, settings, width, out, values, wanted] of PEFT_VALUES) {
  Deno.test(`merge + ${name} ${JSON.stringify(settings)} on ${out}×${width}: the numbers of Hugging Face PEFT`, () => {
    const method = adapterMethod(name), site = { name: "x", layer: 0, in: width, out };
    const weight = Float32Array.from({ length: out * width }, (_, i) => i + 1);
    const merged = method.merge({
      ...{ site, settings: method.configure(settings), weight },
      parameters: { bone: Float32Array.from(values) },
    });
    merged.forEach((w, i) =>
      assert.ok(Math.abs(w - weight[i]! - wanted.flat()[i]!) < 1e-5, `${i}: ${w - weight[i]!}`)
    );
  });
}

Deno.test("withoutPeftNames + PEFT's words for each method: options that say the same", () => {
  const said = (peft: string, peftConfig: Record<string, unknown>, others: TrainOptions = {}) => {
    const { peft: method, ...options } = withoutPeftNames({ peft, peftConfig, ...others });
    return [method, options];
  };
  assert.deepEqual(
    said("bone", { r: 8, miss_dropout: 0.1, init_weights: true, mini_r: 1, target_modules: ["key"] }),
    [
      "bone",
      { boneConfig: { bone_r: 8, bone_dropout: 0.1 }, targetModules: ["key"] },
    ],
  );
  assert.deepEqual(said("bone", { r: 8, init_weights: "bat" }), [
    "bone",
    { boneConfig: { bone_r: 8, bone_mode: "bat" }, batAxis: "out" },
  ]);
  assert.deepEqual(said("lora", { lora_alpha: 16, use_rslora: true, use_dora: true, bias: null }), [
    "dora",
    { loraConfig: { lora_alpha: 16 }, useRslora: true },
  ]);
  assert.deepEqual(said("lora", { r: 4, init_lora_weights: "pissa_niter_2" })[0], "pissa");
  assert.deepEqual(said("own", { r: 8 }), ["own", { peftConfig: { r: 8 } }]);
  assert.throws(
    () => said("bone", { lora_alpha: 1 }),
    /has "lora_alpha", which means nothing for bone: there are/,
  );
  assert.throws(() => said("bone", { mini_r: 4 }), /goes with "init_weights":"mini"/);
  assert.throws(
    () => said("bone", { r: 4 }, { boneConfig: { bone_r: 8 } }),
    /--peft_config and --bone_config say the same/,
  );
  assert.throws(() => said("lora", { use_rslora: true }, { useRslora: false }), /--use_rslora say the same/);
});
