/**
 * The conformance table of methods: every method, every point of its settings that computes something else, weights that train along
 * and training of all weights are held to the same. Where a clause has no meaning, the table says why.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Adapter, baseWeight, checkFits, type HostTensor, weightsNamed } from "../adapters/adapter.ts";
import { loadAdapter, saveAdapter } from "../adapters/file.ts";
import { mergedWeight } from "../adapters/merge.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import { adapterMethod, adapterMethods } from "../adapters/registry.ts";
import { type DType, toFloat32 } from "../formats/dtype.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { sizeOf } from "../kernels/graph.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { computeGradients, createAdapter } from "../mod.ts";
import { linearSites } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { Learner } from "../training/learner.ts";
import { settle } from "../training/options.ts";
import { startingTensors } from "../training/start.ts";
import { nameOf, type Row, ROWS } from "./adapter_rows.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { logitsOf } from "./small_model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** A base model of two layers whose widths differ. */
const base = (dtype: DType = "F32") => writeTinyModel(newPath("base.safetensors"), { layers: 2, dtype });

/** What a row trains on a model. */
interface Trained {
  /** What it trains, and what it needs besides. */
  readonly tensors: ReadonlyMap<string, HostTensor>;
  /** The same with other content. */
  with(tensors: ReadonlyMap<string, HostTensor>): Trained;
  /** Whether a tensor keeps its first content. */
  isFrozen(name: string): boolean;
  gradients(options: { tokens: number[][]; recompute?: boolean }): ReturnType<typeof computeGradients>;
  logits(): Promise<Float32Array>;
}

/** An adapter, with weights that train along. */
class Adapted implements Trained {
  constructor(readonly model: Model, readonly adapter: Adapter) {}
  get tensors() {
    return this.adapter.tensors;
  }
  with = (tensors: ReadonlyMap<string, HostTensor>) =>
    new Adapted(this.model, this.adapter.withTensors(tensors));
  isFrozen = (name: string) => this.adapter.parametersOn(this.model.config).get(name)?.frozen ?? false;
  gradients: Trained["gradients"] = (options) =>
    computeGradients(this.model, { ...options, adapter: this.adapter });
  logits = () => logitsOf(this.model, this.adapter);
}

/** All weights of a model, which are written into it where it is used. */
class Whole implements Trained {
  constructor(readonly model: Model, readonly tensors: ReadonlyMap<string, HostTensor>) {}
  with = (tensors: ReadonlyMap<string, HostTensor>) => new Whole(this.model, tensors);
  isFrozen = () => false;
  #write() {
    this.tensors.forEach(({ data }, name) => this.model.engine.write(this.model.weight(name)!, data));
  }
  gradients: Trained["gradients"] = (options) => {
    this.#write();
    return computeGradients(this.model, { ...options, parameters: "all" });
  };
  logits = () => {
    this.#write();
    return logitsOf(this.model);
  };
}

/** A fresh adapter. */
function freshAdapter(model: Model, { peft, settings, trainParts = [], comesFromFiles }: Row): Adapter {
  if (!comesFromFiles) return createAdapter(model, { peft, trainParts, ...settings });
  const method = adapterMethod(peft);
  const empty = new Adapter(method, method.configure(settings), new Map(), model.fingerprint);
  const tensors = [...empty.parametersOn(model.config)].map(([name, { shape }]) =>
    [name, { shape, data: new Float32Array(sizeOf(shape)) }] as const
  );
  return empty.withTensors(new Map(tensors));
}

/** What a row begins with. */
function fresh(model: Model, row: Row): Trained {
  if (row.peft !== "full") return new Adapted(model, freshAdapter(model, row));
  const names = weightsNamed(model.config, [""]).filter((name) => model.file.tensors.has(name));
  return new Whole(model, new Map(names.map((name) => [name, baseWeight(name, model.config, model.file)])));
}

/** The same with every number that trains moved at random. */
function moved<T extends Trained>(trained: T, size = 0.3): T {
  const random = randomNumbers(7);
  const tensors = [...trained.tensors].map(([name, { shape, data }]) =>
    [name, { shape, data: trained.isFrozen(name) ? data : data.map((x) => x + size * random()) }] as const
  );
  return trained.with(new Map(tensors)) as T;
}

/** Saves a model whose weights all train, moved at random by some size, as a run does. @returns the path */
async function savedWhole(path: string, size: number): Promise<string> {
  const settings = settle({ loadModel: path, dataFile: path, peft: "full" }, () => "");
  const start = startingTensors(settings), engine = new CpuEngine({ workers: 1 });
  const random = randomNumbers(7),
    tensors = [...start.tensors.tensors].map(([name, { shape, data }]) =>
      [name, { shape, data: data.map((x) => x + size * random()) }] as const
    );
  using model = Model.load(path, engine, { elsewhere: (name) => start.tensors.tensors.has(name) });
  const learner = new Learner(model, { ...start, tensors: { tensors: new Map(tensors) } }, settings);
  const folder = newPath("run");
  Deno.mkdirSync(folder);
  try {
    return await learner.save(folder);
  } finally {
    learner.dispose();
    engine.dispose();
  }
}

/** An adapter whose every number that trains is random. */
const randomised = (model: Model, row: Row, size = 0.3): Adapter =>
  moved(new Adapted(model, freshAdapter(model, row)), size).adapter;

Deno.test("every method is in the table of adapters", () => {
  const rows = new Set(ROWS.map(({ peft }) => peft));
  assert.deepEqual(adapterMethods().map(({ name }) => name).filter((name) => !rows.has(name)), []);
});

for (const row of ROWS) {
  const name = nameOf(row);

  Deno.test(`${name}: gradients as finite differences in float64`, async () => {
    using model = Model.load(base(), new Oracle());
    const trained = moved(fresh(model, row), 0.1);
    const tokens = [[3, 1, 4, 1, 5, 9, 2, 6, 5], [35, 89, 79, 32, 38, 46, 26, 43, 38]];
    const { gradients } = await trained.gradients({ tokens });
    const trains = [...trained.tensors.keys()].filter((name) => !trained.isFrozen(name));
    assert.deepEqual([...gradients.keys()].sort(), trains.sort());
    const random = randomNumbers(11);
    for (const [name, gradient] of gradients) {
      const { shape, data } = trained.tensors.get(name)!;
      // Along a random direction: the derivative by the tensor as a whole.
      const direction = Float32Array.from(data, () => random());
      const along = (step: number) => {
        const there = data.map((x, i) => x + step * direction[i]!);
        const other = trained.with(new Map([...trained.tensors, [name, { shape, data: there }]]));
        if (!row.held || !(trained instanceof Adapted && other instanceof Adapted)) {
          return other.gradients({ tokens });
        }
        const weight = (site: string) => model.file.readFloat32(`${site}.weight`);
        return new Adapted(model, row.held(other.adapter, trained.adapter, weight)).gradients({ tokens });
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
    // All weights are written as f32.
    const path = base(row.peft === "full" ? "F32" : "BF16"), tokens = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]];
    using exact = Model.load(path, new Oracle());
    const wanted = await moved(fresh(exact, row)).gradients({ tokens });
    using model = Model.load(path, engine);
    for (const recompute of [false, true]) {
      const got = await moved(fresh(model, row)).gradients({ tokens, recompute });
      assert.ok(Math.abs(got.loss - wanted.loss) < 1e-5, `loss ${got.loss} for ${wanted.loss}`);
      for (const [name, gradient] of wanted.gradients) {
        assert.ok(Math.hypot(...gradient) > 0, `${name} has no gradient`);
        const error = relativeError(got.gradients.get(name)!, gradient);
        assert.ok(error < 1e-4, `${name}: normalised error ${error}`);
      }
    }
  }, { oracle: false });

  testOnEngines(`${name}: a fresh start changes no bit of the logits`, async (engine) => {
    using model = Model.load(base(row.peft === "full" ? "F32" : "BF16"), engine);
    const before = await logitsOf(model);
    assert.deepEqual(await fresh(model, row).logits(), before);
  });

  if (row.peft === "full") {
    for (const format of ["pth", "safetensors"]) {
      Deno.test(`${name}: saved as ${format}, loaded and saved, the same bytes; untrained, the base's`, async () => {
        const path = writeTinyModel(newPath(`base.${format}`), { layers: 2, dtype: "BF16" });
        assert.deepEqual(Deno.readFileSync(await savedWhole(path, 0)), Deno.readFileSync(path));
        const one = await savedWhole(path, 0.3), two = await savedWhole(one, 0);
        assert.notDeepEqual(Deno.readFileSync(one), Deno.readFileSync(path));
        assert.deepEqual(Deno.readFileSync(two), Deno.readFileSync(one));
      });
    }
    continue;
  }

  if (!row.without?.merge) {
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
  }

  if (!row.without?.unmerge) {
    Deno.test(`${name}: unmerged is what it was`, () => {
      using model = Model.load(base(), new Oracle());
      // Blocks of BAT near -I have no inverse, so these are smaller.
      const adapter = randomised(model, row, 0.1);
      const [there, back] = [newPath("merged.safetensors"), newPath("back.safetensors")];
      writeMerged(model.file, adapter, there);
      using merged = openTensorFile(there);
      writeMerged(merged, adapter, back, { unmerge: true });
      using again = openTensorFile(back);
      assert.deepEqual([...again.tensors.values()], [...model.file.tensors.values()]);
      for (const name of again.tensors.keys()) {
        const before = model.file.readFloat32(name);
        const site = linearSites(model.config).find((site) => `${site.name}.weight` === name);
        const changes = site ? adapter.method.name !== "state" : adapter.tensors.has(name);
        assert.equal(relativeError(merged.readFloat32(name), before) > 1e-3, changes, name);
        const error = relativeError(again.readFloat32(name), before);
        // What trained along comes back bit for bit.
        assert.ok(error < (site ? 1e-6 : Number.MIN_VALUE), `${name}: ${error}`);
      }
    });
  }

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

  if (row.without?.refusals) continue;
  Deno.test(`${name}: wrong settings, shapes and tensors are refused in a sentence`, () => {
    using model = Model.load(base(), new Oracle());
    const { method, settings, tensors } = freshAdapter(model, row);
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
    if (row.without?.merge) continue;
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
