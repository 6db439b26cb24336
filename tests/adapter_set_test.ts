/**
 * Several adapters at once: stacking, switching, weighted sums, and what is refused.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Adapter } from "../adapters/adapter.ts";
import { mergedWeight } from "../adapters/merge.ts";
import { attachAll, stackingOrder, wireAdapter } from "../adapters/wiring.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import {
  AdapterSet,
  computeGradients,
  createAdapter,
  generate,
  loadModel,
  saveAdapter,
  weightedSum,
} from "../mod.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { linearSites } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { randomNumbers, relativeError } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const PATH = writeTinyModel(newPath("model.safetensors"), { layers: 2 });

/** An adapter whose every number that trains is random. */
function random(
  model: Model,
  options: Parameters<typeof createAdapter>[1],
  seed: number,
  size = 0.1,
): Adapter {
  const fresh = createAdapter(model, options), number = randomNumbers(seed);
  const parameters = fresh.parametersOn(model.config);
  return fresh.withTensors(
    new Map([...fresh.tensors].map(([name, { shape, data }]) => [
      name,
      { shape, data: parameters.get(name)?.frozen ? data : data.map((x) => x + size * number()) },
    ])),
  );
}

async function logits(model: Model, adapters: readonly Adapter[]): Promise<Float32Array> {
  using attached = attachAll(adapters, model);
  const session = new Session(model.config, (graph) => wireAdapter(graph, model, attached), model.engine);
  try {
    return await session.feed([5, 9, 14, 3, 77, 5, 5, 60], "all");
  } finally {
    session.dispose();
  }
}

/** The model with every adapter merged, one after the other in stacking order, in f32. */
function mergedModel(model: Model, adapters: readonly Adapter[]): string {
  const path = newPath("merged.safetensors"), sites = linearSites(model.config);
  const order = stackingOrder(adapters.map((adapter) => ({ adapter })));
  writeTensorFile(path, {
    format: "safetensors",
    tensors: model.file.tensors.values(),
    read: ({ name }) => {
      let weight = model.file.readFloat32(name);
      const site = sites.find((site) => `${site.name}.weight` === name);
      if (site) {
        for (const { adapter } of order) {
          weight = mergedWeight(adapter, site, weight) as Float32Array<ArrayBuffer>;
        }
      }
      return fromFloat32(weight, "F32");
    },
  });
  return path;
}

const STACKS: Record<string, unknown>[][] = [
  [{ peft: "bone", r: 4 }, { peft: "bone", r: 5 }],
  [{ peft: "bone", r: 4 }, { peft: "bone", r: 4, mini_r: 2 }, { peft: "bat", r: 4, axis: "in" }],
  [{ peft: "bat", r: 4, axis: "in" }, { peft: "bat", r: 8, axis: "in" }],
  [{ peft: "lora", r: 3 }, { peft: "bat", r: 4, axis: "out" }, { peft: "bone", r: 4 }],
  [{ peft: "bat", r: 2, axis: "out" }, { peft: "bat", r: 4, axis: "out" }],
  [{ peft: "dora", r: 3 }, { peft: "bat", r: 4, axis: "out" }, { peft: "dora", r: 2 }, {
    peft: "pissa",
    r: 2,
  }],
  [{ peft: "bat", r: 4, axis: "in", targetModules: ["key"] }, { peft: "lora", r: 2, layersToTransform: [1] }],
];
for (const stack of STACKS) {
  Deno.test(`wireAdapter + a stack of ${JSON.stringify(stack)}: as merged one after the other`, async () => {
    using model = Model.load(PATH, new Oracle());
    const adapters = stack.map((options, i) => random(model, options, i + 1));
    const stacked = await logits(model, adapters);
    using merged = Model.load(mergedModel(model, adapters), new Oracle());
    const error = relativeError(stacked, await logits(merged, []));
    assert.ok(error < 1e-5, `${error}`);
    for (let i = 0; i < adapters.length; i++) {
      const without = await logits(model, adapters.filter((_, j) => j !== i));
      assert.ok(relativeError(without, stacked) > 1e-3, `adapter ${i} does nothing`);
    }
  });
}

Deno.test("wireAdapter + a DoRA without the lengths of rows, over a BAT: their lengths are those of what is below", async () => {
  using model = Model.load(PATH, new Oracle());
  const bat = random(model, { peft: "bat", r: 4, axis: "out" }, 1, 0.5);
  const whole = random(model, { peft: "dora", r: 3 }, 2);
  const dora = whole.withTensors(
    new Map([...whole.tensors].filter(([name]) => !name.endsWith(".weight_norm"))),
  );
  for (const adapters of [[bat, dora], [dora, dora]]) {
    using merged = Model.load(mergedModel(model, adapters), new Oracle());
    const error = relativeError(await logits(model, adapters), await logits(merged, []));
    assert.ok(error < 1e-5, `${error}`);
  }
});

Deno.test("computeGradients + a stack: of the last, as finite differences", async () => {
  using model = Model.load(PATH, new Oracle());
  const below = random(model, { peft: "bone", r: 4 }, 1), top = random(model, { peft: "bone", r: 4 }, 2);
  const tokens = [[3, 1, 4, 1, 5, 9, 2, 6]], name = "blocks.0.att.key.bone";
  const { gradients } = await computeGradients(model, { tokens, adapter: [below, top] });
  assert.deepEqual([...gradients.keys()], [...top.tensors.keys()]);
  const { shape, data } = top.tensors.get(name)!;
  const loss = async (step: number) => {
    const moved = data.map((x, i) => i === 7 ? x + step : x);
    const adapter = [below, top.withTensors(new Map([...top.tensors, [name, { shape, data: moved }]]))];
    return (await computeGradients(model, { tokens, adapter })).loss;
  };
  const numeric = (await loss(2 ** -6) - await loss(-(2 ** -6))) / 2 ** -5;
  const scale = Math.hypot(...gradients.get(name)!);
  assert.ok(Math.abs(numeric - gradients.get(name)![7]!) < 0.01 * scale + 1e-5);
});

Deno.test("attachAll + two adapters that bring the same weight: refused", () => {
  using model = Model.load(PATH, new Oracle());
  const adapters = ["bone", "lora"].map((peft) => createAdapter(model, { peft, r: 2, trainParts: ["ln1"] }));
  assert.throws(() => attachAll(adapters, model), {
    name: "AdapterError",
    message: /^Two of the adapters bring "blocks\.0\.ln1\.weight", the second of them lora: use one of them/,
  });
  const states = [0, 1].map(() => createAdapter(model, { peft: "state" }));
  assert.throws(() => attachAll(states, model), /bring "blocks\.0\.att\.time_state"/);
});

const SUMS: [string, Record<string, unknown>[], string][] = [
  ["two Bones of one rank: a Bone", [{ r: 4 }, { r: 4 }], "bone"],
  ["two minis: a Bone", [{ r: 4, mini_r: 2 }, { r: 4, mini_r: 2 }], "bone"],
  ["two Bones of two ranks: a LoRA", [{ r: 4 }, { r: 5 }], "lora"],
  ["shards of columns and rows: a LoRA", [{ r: 4 }, { r: 5, shards: "rows" }], "lora"],
  [
    "LoRAs with and without rslora",
    [{ peft: "lora", r: 3 }, { peft: "lora", r: 4, alpha: 3, rslora: true }],
    "lora",
  ],
  ["Bone, LoRA, PiSSA", [{ r: 4 }, { peft: "lora", r: 2 }, { peft: "pissa", r: 2 }], "lora"],
  ["ranks over the width", [{ r: 12 }, { r: 11 }, { peft: "lora", r: 9 }], "lora"],
  ["other layers each", [{ r: 4, targetModules: ["key"] }, { r: 4, layersToTransform: [0] }], "lora"],
];
for (const [name, options, method] of SUMS) {
  Deno.test(`weightedSum + ${name}: the weighted sum of what they add`, async () => {
    using model = Model.load(PATH, new Oracle());
    const weights = [0.7, -0.4, 1.5];
    const terms = options.map((options, i) => ({
      adapter: random(model, options, i + 1),
      weight: weights[i]!,
    }));
    const sum = weightedSum(model, terms);
    assert.equal(sum.method.name, method);
    for (const site of linearSites(model.config)) {
      const zero = new Float32Array(site.in * site.out), wanted = new Float64Array(zero.length);
      for (const { adapter, weight } of terms) {
        mergedWeight(adapter, site, zero).forEach((x, i) => wanted[i]! += weight * x);
      }
      const error = relativeError(mergedWeight(sum, site, zero), wanted);
      assert.ok(error < 1e-6, `${site.name}: ${error}`);
    }
    // It is an adapter like any other.
    const path = newPath("sum.safetensors");
    saveAdapter(sum, path);
    assert.ok((await logits(model, [sum])).every(Number.isFinite));
  });
}

Deno.test("weightedSum + what has no exact sum: refused with the reason", () => {
  using model = Model.load(PATH, new Oracle());
  const bone = createAdapter(model, { r: 4 });
  const refused = (adapter: Adapter, message: RegExp, weight = 1) =>
    assert.throws(() => weightedSum(model, [{ adapter: bone, weight: 1 }, { adapter, weight }]), {
      name: "AdapterError",
      message,
    });
  for (const options of [{ peft: "bat", r: 4 }, { peft: "dora", r: 2 }, { peft: "state" }]) {
    refused(
      createAdapter(model, options),
      new RegExp(`sum with a ${options.peft} adapter is not exact: .*stack it`),
    );
  }
  refused(
    createAdapter(model, { r: 4, trainParts: ["ln2"] }),
    /brings weights of the model, such as "blocks\.0\.ln2/,
  );
  refused(bone, /must be a number: it is NaN/, NaN);
  refused(new Adapter(bone.method, bone.settings, bone.tensors, "another"), /trained on different models/);
  assert.throws(() => weightedSum(model, []), /at least one adapter/);
});

Deno.test("AdapterSet + load, switch, stack, disable, sum, remove: what is in use is what computes", async () => {
  using model = await loadModel(PATH, { engine: "cpu" });
  const set = new AdapterSet(), path = newPath("adapter.pth");
  saveAdapter(random(model, { r: 4 }, 1), path);
  set.load("style", path);
  set.add("facts", random(model, { peft: "bat", r: 4 }, 2));
  set.add("more", random(model, { r: 4 }, 3));
  const text = async () => {
    let result = "";
    for await (const piece of generate(model, { prompt: "ab", tokens: 12, temperature: 0, adapter: set })) {
      result += piece;
    }
    return result;
  };
  const of = (...adapters: Adapter[]) => logits(model, adapters);
  const plain = await text();
  assert.deepEqual([set.names, set.used], [["style", "facts", "more"], []]);
  set.use("style");
  assert.deepEqual(await of(...set.adapters), await of(set.get("style")));
  set.use("facts", "style");
  assert.deepEqual(set.adapters, [set.get("facts"), set.get("style")]);
  assert.notDeepEqual(await of(...set.adapters), await of(set.get("style"), set.get("facts")));
  const stacked = await text();
  assert.notEqual(stacked, plain);
  set.disable();
  assert.equal(await text(), plain);
  set.enable();
  assert.equal(await text(), stacked);
  set.sum("both", { style: 0.5, more: 2 }, model);
  assert.equal(set.get("both").method.name, "bone");
  set.remove("style");
  assert.deepEqual([set.names, set.used], [["facts", "more", "both"], ["facts"]]);

  assert.throws(() => set.use("style"), /no adapter named "style": there are facts, more, both$/);
  assert.throws(() => set.use("more", "more"), /"more" is named twice/);
  assert.throws(() => set.add("more", set.get("facts")), /named "more" is there already/);
  assert.throws(() => set.sum("no", { facts: 1 }, model), /sum with a bat adapter is not exact/);
});

Deno.test("openTensorFile + a sum of other layers: says which layers it sits on", () => {
  using model = Model.load(PATH, new Oracle());
  const sum = weightedSum(model, [{
    adapter: random(model, { r: 4, targetModules: ["key"] }, 1),
    weight: 2,
  }]);
  const path = newPath("sum.pth");
  saveAdapter(sum, path);
  using file = openTensorFile(path);
  assert.deepEqual(JSON.parse(file.metadata.get("wishbone")!).targets, { target_modules: ["key"] });
});
