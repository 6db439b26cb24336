/**
 * PiSSA: its decomposition, what a run begins with, and the files of first tensors.
 *
 * @module
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { loadAdapter } from "../adapters/file.ts";
import { initialised } from "../adapters/initialise.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { EngineProducts } from "../adapters/pissa/products.ts";
import { type Decomposition, leadingSingularValues, type Sizes } from "../adapters/pissa/svd.ts";
import { saveRwkvPeft } from "../adapters/rwkv_peft.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import type { Adapter } from "../mod.ts";
import { createAdapter, loadModel, planTraining, saveAdapter, train, type TrainOptions } from "../mod.ts";
import { linearSites } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { main as mergeBone } from "../scripts/merge_bone.ts";
import { random } from "../training/data/random.ts";
import { randomNumbers, relativeError, testOnEngines, toleranceOn } from "./engines.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const TEXT = writeDocuments(newPath("text.jsonl"), randomTexts(24, 40));
const BASE: TrainOptions = {
  ...{
    loadModel: MODEL,
    dataFile: TEXT,
    ctxLen: 16,
    microBsz: 4,
    lrInit: 1e-2,
    lrFinal: 1e-2,
    trainParts: [],
  },
  ...{ heldOut: 0, samplePrompt: "", maxSteps: 4, engine: "cpu", peft: "pissa", pissaConfig: { pissa_r: 3 } },
};

/** Rows of length 1 that are orthogonal to each other, by Gram and Schmidt. */
function orthonormalRows(count: number, width: number, seed: number): Float64Array[] {
  const number = randomNumbers(seed), rows: Float64Array[] = [];
  const dot = (a: Float64Array, b: Float64Array) => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
  while (rows.length < count) {
    const row = Float64Array.from({ length: width }, number);
    for (const other of [...rows, ...rows]) {
      const share = dot(row, other);
      other.forEach((x, i) => row[i]! -= share * x);
    }
    const length = Math.sqrt(dot(row, row));
    rows.push(row.map((x) => x / length));
  }
  return rows;
}

/** Σ_k values[k] · left_kᵀ right_k: [rows, columns]. */
function product(
  left: readonly ArrayLike<number>[],
  values: ArrayLike<number>,
  right: readonly ArrayLike<number>[],
): Float32Array {
  const rows = left[0]!.length, columns = right[0]!.length;
  return Float32Array.from({ length: rows * columns }, (_, at) => {
    let sum = 0;
    for (let k = 0; k < values.length; k++) {
      sum += left[k]![Math.floor(at / columns)]! * values[k]! * right[k]![at % columns]!;
    }
    return sum;
  });
}

const rowsOf = (X: Float32Array, r: number) =>
  Array.from({ length: r }, (_, k) => X.subarray(k * X.length / r, (k + 1) * X.length / r));
const partOf = ({ left, S, right }: Decomposition) =>
  product(rowsOf(left, S.length), S, rowsOf(right, S.length));

const SHAPES = [[40, 24], [24, 40], [24, 24]] as const;
/** Matrices of known singular values: ones that fall, few that are not zero, and none. */
const SPECTRA: [string, number[]][] = [
  ["values that fall", Array.from({ length: 24 }, (_, k) => 3 * 0.6 ** k)],
  ["rank 2", [2, 1]],
  ["zeros", [0]],
];
function checkDecomposition(
  decompose: (W: Float32Array, sizes: Sizes) => Decomposition | Promise<Decomposition>,
  tolerance: number,
) {
  return Promise.all(SHAPES.flatMap(([rows, columns]) =>
    SPECTRA.map(async ([name, values]) => {
      const left = orthonormalRows(values.length, rows, 1),
        right = orthonormalRows(values.length, columns, 2);
      const r = 5, W = product(left, values, right);
      const found = await decompose(W, { rows, columns, r, iterations: 4 });
      const what = `${name}, ${rows}×${columns}`;
      const wanted = Float64Array.from({ length: r }, (_, k) => values[k] ?? 0);
      assert.ok(relativeError(found.S, wanted) < tolerance, `${what}: ${found.S}`);
      const error = relativeError(partOf(found), product(left.slice(0, r), values.slice(0, r), right));
      assert.ok(error < 10 * tolerance, `${what}: ${error}`);
    })
  ));
}

Deno.test("leadingSingularValues + matrices of known values: those, and their part of the matrix", async () => {
  await checkDecomposition((W, sizes) => leadingSingularValues(W, sizes, random(2, "svd")), 1e-6);
});

testOnEngines("EngineProducts + matrices of known values: those, and their part", async (engine) => {
  const held: number[] = [];
  // An engine keeps some memory from the first program on.
  for (let round = 0; round < 2; round++) {
    {
      using products = new EngineProducts(engine);
      let turn: Promise<unknown> = Promise.resolve();
      await checkDecomposition((W, sizes) => {
        const result = turn.then(() => products.decompose(W, sizes, random(2, "svd")));
        turn = result;
        return result;
      }, toleranceOn(engine, 1e-6));
    }
    held.push(engine.allocatedBytes);
  }
  assert.equal(held[1], held[0]);
});

testOnEngines("initialised + PiSSA: as without an engine, site by site, told by name", async (engine) => {
  using model = Model.load(MODEL, engine);
  const plain = createAdapter(model, { peft: "pissa", r: 3, niter: 16, rankPattern: { "ffn.key": 2 } });
  const zeros = plain.withTensors(
    new Map([...plain.tensors].map(([name, { shape, data }]) => [name, { shape, data: data.map(() => 0) }])),
  );
  const told: string[] = [];
  const found = await initialised(
    zeros,
    model,
    engine,
    random(9, "adapter"),
    (...part) => told.push(part.join(" ")),
  );
  const sites = linearSites(model.config);
  assert.deepEqual(told, sites.map(({ name }, i) => `${name} ${i} ${sites.length}`));
  const added = (adapter: Adapter, site: string, init: string) => {
    const [A, B] = ["A", "B"].map((x) => adapter.tensors.get(`${site}.${init}lora_${x}`)!);
    const r = A!.shape[0]!, out = B!.shape[0]!;
    const columns = Array.from(
      { length: r },
      (_, k) => Float32Array.from({ length: out }, (_, o) => B!.data[o * r + k]!),
    );
    return product(columns, new Float32Array(r).fill(1), rowsOf(A!.data, r));
  };
  for (const { name } of sites) {
    const error = relativeError(added(found, name, ""), added(plain, name, ""));
    // The weights are random, so that the third singular value is hardly larger than the fourth: both are found up to that.
    assert.ok(error < 2e-2, `${name}: ${error}`);
    assert.deepEqual(added(found, name, ""), added(found, name, "init_"));
  }
});

Deno.test("train + a weight that is not finite: PiSSA names it", async () => {
  const loadModel = writeTinyModel(newPath("broken.safetensors"), {
    layers: 1,
    change: (name, data) => name === "blocks.0.ffn.key.weight" ? data.fill(NaN, 5, 6) : undefined,
  });
  await assert.rejects(train({ ...BASE, loadModel, projDir: newPath("run") }), {
    name: "AdapterError",
    message: /^Cannot begin pissa on .*: "blocks\.0\.ffn\.key\.weight" has no finite products with vectors$/,
  });
});

/** Trains. @returns the adapter and where it lies */
async function run(options: TrainOptions): Promise<{ adapter: Adapter; projDir: string }> {
  const projDir = newPath("run");
  const { output } = await train({ ...BASE, projDir, ...options });
  return { adapter: loadAdapter(output), projDir };
}
const initialOf = ({ tensors }: Adapter) =>
  new Map([...tensors].filter(([name]) => name.includes(".init_lora_")));

Deno.test("train + PiSSA: the run folder holds what it began with, as RWKV-PEFT's does, and a resumed run reads it", async () => {
  const phases: string[] = [], projDir = newPath("whole");
  const { output } = await train({ ...BASE, projDir }, { onPhase: (phase) => phases.push(phase) });
  assert.ok(phases.includes("decomposing the weights"));
  const initial = join(projDir, "init_pissa.pth");
  {
    using file = openTensorFile(initial);
    const kept = initialOf(loadAdapter(output));
    assert.deepEqual([...file.tensors.keys()], [...kept.keys()]);
    for (const [name, { data }] of kept) assert.deepEqual(file.readFloat32(name), data);
  }
  const cut = await run({ maxSteps: 2, saveSteps: 1 }), again: string[] = [];
  const resumed = await train({ resume: cut.projDir, maxSteps: 4 }, {
    onPhase: (phase) => again.push(phase),
  });
  assert.ok(!again.includes("decomposing the weights"));
  assert.deepEqual(Deno.readFileSync(resumed.output), Deno.readFileSync(output));
  Deno.removeSync(join(cut.projDir, "init_pissa.pth"));
  await assert.rejects(train({ resume: cut.projDir, maxSteps: 6 }), { message: /init_pissa\.pth/ });
});

Deno.test("planTraining + PiSSA: nothing is decomposed", async () => {
  const phases: string[] = [];
  await planTraining({ ...BASE, projDir: newPath("never") }, { onPhase: (phase) => phases.push(phase) });
  assert.ok(!phases.includes("decomposing the weights") && phases.includes("preparing the programs"));
});

Deno.test("train + pissa_init: begins with the tensors of the file", async () => {
  const first = await run({ maxSteps: 1 }), pissa_init = join(first.projDir, "init_pissa.pth");
  const phases: string[] = [], projDir = newPath("run");
  const options = { ...BASE, pissaConfig: { pissa_r: 3, pissa_init }, projDir };
  const { output } = await train({ ...options, maxSteps: 1 }, { onPhase: (phase) => phases.push(phase) });
  assert.ok(!phases.includes("decomposing the weights"));
  // The same start and the same data: the same adapter.
  assert.deepEqual(loadAdapter(output).tensors, first.adapter.tensors);
  await assert.rejects(run({ pissaConfig: { pissa_r: 2, pissa_init } }), {
    name: "AdapterError",
    message:
      /^Cannot begin a PiSSA with .*init_pissa\.pth: its "blocks\.0\.att\.receptance\.init_lora_A" is \[3,16\] where rank and model ask for \[2,16\]$/,
  });
  await assert.rejects(run({ pissaConfig: { pissa_r: 3, pissa_init }, layersToTransform: [1] }), {
    message: /its "blocks\.0\.att\.receptance\.init_lora_A" has no place in it/,
  });
  await assert.rejects(run({ pissaConfig: { pissa_r: 3, pissa_init: join(first.projDir, "adapter.pth") } }), {
    message: /its "blocks\.0\.att\.receptance\.lora_A" has no place in it/,
  });
  const other = writeTinyModel(newPath("deeper.safetensors"), { layers: 3 });
  await assert.rejects(run({ loadModel: other, pissaConfig: { pissa_r: 3, pissa_init } }), {
    message: /it lacks "blocks\.2\.att\.receptance\.init_lora_A"/,
  });
});

Deno.test("train + RWKV-PEFT's pissa_load and pissa_init: goes on as from an adapter that holds both", async () => {
  const first = await run({ maxSteps: 2 });
  const folder = newPath("rwkv-peft"), pissa_load = join(folder, "rwkv-0.pth");
  Deno.mkdirSync(folder);
  saveRwkvPeft(first.adapter, pissa_load, { dtype: "F32" });
  const pissa_init = join(folder, "init_pissa.pth");
  const theirs = await run({ pissaConfig: { pissa_r: 3, pissa_load, pissa_init } });
  const ours = await run({ pissaConfig: { pissa_r: 3, pissa_load: join(first.projDir, "adapter.pth") } });
  assert.deepEqual(theirs.adapter.tensors, ours.adapter.tensors);
  assert.deepEqual(initialOf(theirs.adapter), initialOf(first.adapter));
  // Without the start it is a LoRA's file as much as a PiSSA's.
  const { message } = await run({ pissaConfig: { pissa_r: 3, pissa_load } }).then(
    () => assert.fail(),
    (error) => error,
  );
  assert.match(message, /init_pissa\.pth|it is a lora adapter, and pissa is to be trained/);
});

/** A PiSSA that has trained, whose numbers 16 bits hold. */
async function trained(): Promise<Adapter> {
  using model = await loadModel(MODEL, { engine: "cpu" });
  const number = randomNumbers(5), fresh = createAdapter(model, { peft: "pissa", r: 3 });
  const tensors = [...fresh.tensors].map(([name, { shape, data }]) =>
    [name, { shape, data: data.map((x) => Math.round(64 * (x + 0.2 * number())) / 256) }] as const
  );
  return fresh.withTensors(new Map(tensors));
}
/** Bytes of the model with an adapter merged in. */
function merged(adapter: Adapter): Uint8Array {
  const output = newPath("merged.safetensors");
  using base = openTensorFile(MODEL);
  writeMerged(base, adapter, output);
  return Deno.readFileSync(output);
}

for (const dtype of ["BF16", "F16", "F32"] as const) {
  Deno.test(`saveRwkvPeft + a PiSSA in ${dtype}: two files, which read together merge to the same bits`, async () => {
    const adapter = await trained(), folder = newPath("rwkv-peft"), path = join(folder, "rwkv-0.pth");
    Deno.mkdirSync(folder);
    const { paths } = saveRwkvPeft(adapter, path, { dtype });
    assert.deepEqual(paths, [path, join(folder, "init_pissa.pth")]);
    const keys = paths.map((path) => {
      using file = openTensorFile(path);
      assert.ok([...file.tensors.values()].every((info) => info.dtype === dtype));
      return new Set([...file.tensors.keys()].map((name) => name.slice(name.lastIndexOf(".") + 1)));
    });
    assert.deepEqual(keys, [new Set(["lora_A", "lora_B"]), new Set(["init_lora_A", "init_lora_B"])]);
    const again = loadAdapter(path, { loraInit: paths[1]! });
    assert.deepEqual([again.method.name, again.settings], ["pissa", { r: 3, niter: 4 }]);
    assert.deepEqual(merged(again), merged(adapter));
    assert.throws(() => saveRwkvPeft(adapter, path, { dtype }), Deno.errors.AlreadyExists);
  });
}

Deno.test("loadAdapter + a start that is not this PiSSA's: refused by a sentence", async () => {
  const folder = newPath("rwkv-peft"), path = join(folder, "rwkv-0.pth");
  Deno.mkdirSync(folder);
  saveRwkvPeft(await trained(), path, { dtype: "F32" });
  const loraInit = join(folder, "init_pissa.pth");
  const written = (change: (name: string) => string | undefined) => {
    using file = openTensorFile(loraInit);
    const names = new Map([...file.tensors.keys()].flatMap((name) => {
      const now = change(name);
      return now === undefined ? [] : [[now, name] as const];
    }));
    const other = newPath("other.pth");
    writeTensorFile(other, {
      format: "pth",
      tensors: [...names].map(([now, name]) => ({ ...file.tensors.get(name)!, name: now })),
      read: ({ name }) => fromFloat32(file.readFloat32(names.get(name)!), "F32"),
    });
    return other;
  };
  const cases: [string, RegExp][] = [
    [
      path,
      /"blocks\.0\.att\.receptance\.lora_A" belongs to no tensor of .*rwkv-0\.pth, so it is not the start/,
    ],
    [written((name) => name.replace("blocks.1", "blocks.7")), /"blocks\.7\..*" belongs to no tensor/],
    [written(() => undefined), /holds no tensor/],
    [
      written((name) => name.startsWith("blocks.0") ? name : undefined),
      /other\.pth: it lacks "blocks\.1\.att\.receptance\.init_lora_A", so it is not the start of the PiSSA .*rwkv-0\.pth$/,
    ],
  ];
  for (const [start, message] of cases) {
    assert.throws(() => loadAdapter(path, { loraInit: start }), { name: "AdapterError", message });
  }
});

Deno.test("merge_bone --lora_init: merges RWKV-PEFT's two files as the adapter that holds both", async () => {
  const adapter = await trained(), folder = newPath("rwkv-peft"), path = join(folder, "rwkv-0.pth");
  Deno.mkdirSync(folder);
  saveRwkvPeft(adapter, path, { dtype: "F32" });
  const own = join(folder, "own.pth");
  saveAdapter(adapter, own);
  const merge = async (lora: string, ...more: string[]) => {
    const output = newPath("merged.safetensors");
    const args = ["--base_model", MODEL, "--lora_checkpoint", lora, "--output", output, "--engine", "cpu"];
    assert.equal(await mergeBone([...args, ...more], { begun: false }), 0);
    using file = openTensorFile(output);
    return [...file.tensors.keys()].map((name) => file.readBytes(name));
  };
  const wanted = await merge(own);
  assert.deepEqual(await merge(path, "--lora_init", join(dirname(path), "init_pissa.pth")), wanted);
  await assert.rejects(merge(path), {
    message: /it may be a PiSSA, as .*init_pissa\.pth lies beside it; name that with --lora_init/,
  });
});

Deno.test("savePeft + a PiSSA: a LoRA of twice the rank that merges to the same numbers, without the base model", async () => {
  const adapter = await trained(), peft = newPath("peft");
  savePeft(adapter, peft, { names: "hf" });
  const lora = loadAdapter(peft);
  assert.deepEqual([lora.method.name, lora.settings.r, lora.settings.alpha], ["lora", 6, 6]);
  const merged = (adapter: Adapter) => {
    const output = newPath("merged.safetensors");
    using base = openTensorFile(MODEL);
    writeMerged(base, adapter, output);
    return openTensorFile(output);
  };
  using one = merged(adapter);
  using two = merged(lora);
  for (const name of one.tensors.keys()) {
    assert.ok(relativeError(two.readFloat32(name), one.readFloat32(name)) < 1e-7, name);
  }
  const name = "blocks.0.att.key.init_lora_B", data = adapter.tensors.get(name)!.data.subarray(3);
  const torn = new Map([...adapter.tensors, [name, { shape: [data.length / 3, 3], data }] as const]);
  assert.throws(() => savePeft(adapter.withTensors(torn), newPath("never")), {
    name: "AdapterError",
    message: /: its tensors at blocks\.0\.att\.key do not fit each other, "init_lora_B" for one$/,
  });
});
