/**
 * The conformance table of adapters: every method, and every point of its settings that computes something else, is held to the same.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Adapter, checkFits } from "../adapters/adapter.ts";
import { loadAdapter, saveAdapter } from "../adapters/file.ts";
import { mergedWeight, unmergedWeight } from "../adapters/merge.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import type { Settings } from "../adapters/method.ts";
import { adapterMethod, adapterMethods } from "../adapters/registry.ts";
import { type DType, toFloat32 } from "../formats/dtype.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { computeGradients, createAdapter } from "../mod.ts";
import { linearSites } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { logitsOf } from "./small_model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** One row: a method with settings. */
interface Row {
  readonly peft: string;
  readonly settings: Settings;
  /** Why what it changed cannot be taken out again. */
  readonly stays?: RegExp;
  /** Settings that cannot be, and what is said. */
  readonly wrong: readonly (readonly [Settings, RegExp])[];
}

const RANKS = [[{ r: 0 }, /whole number of at least 1: it is 0/], [{ r: 2.5 }, /it is 2\.5/]] as const;
const UNKNOWN = [{ rank: 2 }, /Unknown setting "rank"/] as const;

const ROWS: readonly Row[] = [
  {
    peft: "bone",
    settings: { r: 5 },
    wrong: [...RANKS, UNKNOWN, [
      { r: 17 },
      /is 17, over the 16 input channels of blocks\.0\.att\.receptance: lower r/,
    ]],
  },
  {
    peft: "bone",
    settings: { r: 5, mini_r: 4 },
    wrong: [[{ r: 4, mini_r: 5 }, /mini_r of bone is 5, which does not divide the 16 output channels/]],
  },
  {
    peft: "bone",
    settings: { r: 5, shards: "rows" },
    wrong: [
      [{ r: 17, shards: "rows" }, /over the 16 output channels/],
      [{ r: 4, shards: "diagonals" }, /must be columns or rows: they are "diagonals"/],
    ],
  },
  { peft: "bone", settings: { r: 5, mini_r: 8, shards: "rows" }, wrong: [] },
  {
    peft: "bat",
    settings: { r: 4, axis: "in" },
    wrong: [...RANKS, UNKNOWN, [
      { r: 5 },
      /is 5, which does not divide both widths of blocks\.0\.att\.receptance, 16 and 16/,
    ], [
      { axis: "up" },
      /axis of bat must be in or out: it is "up"/,
    ]],
  },
  { peft: "bat", settings: { r: 4, axis: "out" }, wrong: [] },
  {
    peft: "lora",
    settings: { r: 3, alpha: 5 },
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /is 17, over the width 16/], [
      { alpha: NaN },
      /alpha of lora must be a number/,
    ], [
      { dropout: 1 },
      /dropout of lora must be from 0 to below 1: it is 1/,
    ]],
  },
  {
    peft: "lora",
    settings: { r: 3, alpha: 5, rslora: true },
    wrong: [[{ rslora: 1 }, /must be true or false: it is 1/]],
  },
  {
    peft: "pissa",
    settings: { r: 3, niter: 2 },
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /over the width 16/], [
      { niter: -1 },
      /niter of pissa must be a whole/,
    ]],
  },
  {
    peft: "dora",
    settings: { r: 3, alpha: 5 },
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /rank r of dora is 17, over the width 16/]],
  },
  {
    peft: "state",
    settings: {},
    stays: /initial state/,
    wrong: [[{ r: 2 }, /Unknown setting "r" for state: it has none/]],
  },
];

/** A base model of two layers whose widths differ. */
const base = (dtype: DType = "F32") => writeTinyModel(newPath("base.safetensors"), { layers: 2, dtype });

/** An adapter whose every number that trains is random. */
function randomised(model: Model, { peft, settings }: Row, size = 0.3): Adapter {
  const fresh = createAdapter(model, { peft, ...settings }), random = randomNumbers(7);
  const parameters = fresh.parametersOn(model.config);
  const tensors = [...fresh.tensors].map(([name, { shape, data }]) => {
    const moved = parameters.get(name)!.frozen ? data : data.map((x) => x + size * random());
    return [name, { shape, data: moved }] as const;
  });
  return fresh.withTensors(new Map(tensors));
}

const nameOf = ({ peft, settings }: Row) => `${peft} ${JSON.stringify(settings)}`;

Deno.test("every method is in the table of adapters", () => {
  const rows = new Set(ROWS.map(({ peft }) => peft));
  assert.deepEqual(adapterMethods().map(({ name }) => name).filter((name) => !rows.has(name)), []);
});

for (const row of ROWS) {
  const name = nameOf(row);

  Deno.test(`${name}: gradients as finite differences in float64`, async () => {
    using model = Model.load(base(), new Oracle());
    const adapter = randomised(model, row, 0.1);
    const tokens = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [35, 89, 79, 32, 38, 46, 26, 43, 38]];
    const { gradients } = await computeGradients(model, { tokens, adapter });
    const random = randomNumbers(11);
    for (const [name, gradient] of gradients) {
      const { shape, data } = adapter.tensors.get(name)!;
      // Along a random direction: the derivative by the tensor as a whole.
      const direction = Float32Array.from(data, () => random());
      const along = (step: number) => {
        const moved = data.map((x, i) => x + step * direction[i]!);
        const tensors = new Map([...adapter.tensors, [name, { shape, data: moved }]]);
        return computeGradients(model, { tokens, adapter: adapter.withTensors(tensors) });
      };
      const difference = async (step: number) =>
        ((await along(step)).loss - (await along(-step)).loss) / (2 * step);
      // Richardson's extrapolation takes the curvature out, so that steps can be long enough for losses read as f32.
      const numeric = (4 * await difference(2 ** -9) - await difference(2 ** -8)) / 3;
      const analytic = gradient.reduce((sum, g, i) => sum + g * direction[i]!, 0);
      const scale = Math.hypot(...gradient) * Math.hypot(...direction);
      // A loss is read as f32, so a difference of two is good to some 1e-7 over the step.
      assert.ok(Math.abs(numeric - analytic) <= 1e-3 * scale + 2e-4, `${name}: ${analytic} for ${numeric}`);
    }
  });

  testOnEngines(`${name}: gradients as the oracle's in float64`, async (engine) => {
    const path = base("BF16"), tokens = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]];
    using exact = Model.load(path, new Oracle());
    const wanted = await computeGradients(exact, { tokens, adapter: randomised(exact, row) });
    using model = Model.load(path, engine);
    for (const recompute of [false, true]) {
      const got = await computeGradients(model, { tokens, recompute, adapter: randomised(model, row) });
      assert.ok(Math.abs(got.loss - wanted.loss) < 1e-5, `loss ${got.loss} for ${wanted.loss}`);
      for (const [name, gradient] of wanted.gradients) {
        assert.ok(Math.hypot(...gradient) > 0, `${name} has no gradient`);
        const error = relativeError(got.gradients.get(name)!, gradient);
        assert.ok(error < 1e-4, `${name}: normalised error ${error}`);
      }
    }
  }, { oracle: false });

  testOnEngines(`${name}: a fresh adapter changes no bit of the logits`, async (engine) => {
    using model = Model.load(base("BF16"), engine);
    const adapter = createAdapter(model, { peft: row.peft, ...row.settings });
    assert.deepEqual(await logitsOf(model, adapter), await logitsOf(model));
  });

  testOnEngines(`${name}: merged as unmerged`, async (engine) => {
    using model = Model.load(base(), engine);
    const adapter = randomised(model, row), path = newPath("merged.safetensors");
    writeMerged(model.file, adapter, path);
    using merged = Model.load(path, engine);
    const adapted = await logitsOf(model, adapter);
    const error = relativeError(await logitsOf(merged), adapted);
    assert.ok(error < 1e-4, `${error}`);
    assert.ok(relativeError(await logitsOf(model), adapted) > 0.01, "the adapter hardly changes anything");
  }, { oracle: false });

  Deno.test(`${name}: unmerged is what it was`, () => {
    using model = Model.load(base(), new Oracle());
    // Blocks of BAT near -I have no inverse, so these are smaller.
    const adapter = randomised(model, row, 0.1);
    for (const site of linearSites(model.config)) {
      const weight = model.file.readFloat32(`${site.name}.weight`);
      const there = mergedWeight(adapter, site, weight);
      if (row.stays) continue;
      assert.ok(relativeError(there, weight) > 1e-3, site.name);
      const back = relativeError(unmergedWeight(adapter, site, there), weight);
      assert.ok(back < 1e-6, `${site.name}: ${back}`);
    }
  });

  for (const format of ["pth", "safetensors"]) {
    Deno.test(`${name}: saved as ${format}, loaded and saved, the same bytes`, () => {
      using model = Model.load(base(), new Oracle());
      const adapter = randomised(model, row);
      const [one, two] = [newPath(`one.${format}`), newPath(`two.${format}`)];
      saveAdapter(adapter, one);
      const loaded = loadAdapter(one);
      assert.deepEqual(
        [loaded.method.name, loaded.settings, loaded.base],
        [row.peft, adapter.settings, adapter.base],
      );
      checkFits(loaded, model.config);
      saveAdapter(loaded, two);
      assert.deepEqual(Deno.readFileSync(two), Deno.readFileSync(one));
    });
  }

  Deno.test(`${name}: wrong settings, shapes and tensors are refused in a sentence`, () => {
    using model = Model.load(base(), new Oracle());
    const { method, settings, tensors } = createAdapter(model, { peft: row.peft, ...row.settings });
    for (const [settings, message] of row.wrong) {
      assert.throws(() => createAdapter(model, { peft: row.peft, ...settings }), {
        name: "RangeError",
        message,
      });
    }
    const [name, { shape, data }] = [...tensors][0]!;
    const refused = (
      change: (tensors: Map<string, { shape: readonly number[]; data: Float32Array }>) => void,
      message: RegExp,
    ) => {
      const changed = new Map(tensors);
      change(changed);
      assert.throws(() => checkFits(new Adapter(method, settings, changed), model.config), {
        name: "AdapterError",
        message,
      });
    };
    refused((t) => t.delete(name), /it lacks/);
    refused((t) => t.set(name, { shape: [...shape, 1], data }), /shapes differ/);
    refused(
      (t) => t.set("blocks.9.att.key.bone", { shape, data }),
      /no place for "blocks\.9\.att\.key\.bone"/,
    );
    refused(
      (t) => t.set("blocks.0.att.key.other", { shape, data }),
      /no place for "blocks\.0\.att\.key\.other"/,
    );
    refused((t) => t.clear(), /holds no tensor/);
  });
}

Deno.test("adapters + 16-bit weights: merged in f32 and rounded once", () => {
  using file = openTensorFile(base("BF16"));
  using model = Model.load(file.path, new Oracle());
  for (const row of ROWS) {
    const adapter = randomised(model, row), path = newPath("merged.safetensors");
    writeMerged(file, adapter, path);
    using merged = openTensorFile(path);
    for (const site of linearSites(model.config)) {
      const name = `${site.name}.weight`;
      const exact = mergedWeight(adapter, site, file.readFloat32(name));
      const error = relativeError(toFloat32(merged.readBytes(name), "BF16"), exact);
      assert.ok(error < 2 ** -8, `${nameOf(row)} at ${site.name}: ${error}`);
    }
  }
});

Deno.test("adapterMethod + a name that nobody has: the names there are", () => {
  assert.throws(() => adapterMethod("bones"), /there are bone, bat, lora/);
});
