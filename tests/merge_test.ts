/**
 * Merging: what the merged file holds, what is refused, and that nothing is left where a merge fails.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { Adapter, createAdapter, loadAdapter, loadModel, mergeAdapter, saveAdapter } from "../mod.ts";
import { type DType, fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { randomNumbers } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** A Bone adapter of random numbers on a model, with its norms changed as well. */
async function adapterFor(base: string, r: number, size = 0.05): Promise<Adapter> {
  const model = await loadModel(base, { engine: "cpu" });
  const fresh = createAdapter(model, { r, trainParts: ["ln2"] });
  model.dispose();
  const random = randomNumbers(3);
  return fresh.withTensors(
    new Map([...fresh.tensors].map(([name, { shape, data }]) => [
      name,
      { shape, data: data.map((x) => x + size * random()) },
    ])),
  );
}

const merge = (base: string, adapter: string | Adapter, output: string, force = false) =>
  mergeAdapter({ base, adapter, output, force, engine: "cpu" });

const CASES: [DType, string, string][] = [
  ["F32", "pth", "pth"],
  ["F32", "safetensors", "pth"],
  ["F16", "pth", "safetensors"],
  ["BF16", "pth", "pth"],
  ["BF16", "safetensors", "safetensors"],
];
for (const [dtype, from, to] of CASES) {
  Deno.test(`mergeAdapter + ${dtype} ${from} to ${to}, a ragged rank: the base's names, order, shapes and dtypes`, async () => {
    const base = writeTinyModel(newPath(`base.${from}`), { layers: 2, dtype }),
      output = newPath(`merged.${to}`);
    const adapter = await adapterFor(base, 5);
    const { relativeError, bound } = await merge(base, adapter, output);
    assert.ok(relativeError < bound, `${relativeError}`);
    using before = openTensorFile(base);
    using after = openTensorFile(output);
    assert.equal(after.format, to);
    assert.deepEqual([...after.tensors.values()], [...before.tensors.values()]);
    for (const name of before.tensors.keys()) {
      const touched = adapter.tensors.has(name) || adapter.tensors.has(name.replace(/\.weight$/, ".bone"));
      const same = before.readBytes(name).toHex() === after.readBytes(name).toHex();
      assert.equal(same, !touched, name);
    }
    // W'[o, i] = W[o, i] + D[i mod r, o], in f32 and rounded once.
    const site = "blocks.1.ffn.key", { data: D } = adapter.tensors.get(`${site}.bone`)!;
    const [out, width] = before.tensors.get(`${site}.weight`)!.shape as [number, number];
    const wanted = before.readFloat32(`${site}.weight`).map((w, at) =>
      Math.fround(w + D[(at % width) % 5 * out + Math.floor(at / width)]!)
    );
    assert.deepEqual(after.readBytes(`${site}.weight`), fromFloat32(wanted, dtype));
    const norm = "blocks.0.ln2.weight";
    assert.deepEqual(after.readBytes(norm), fromFloat32(adapter.tensors.get(norm)!.data, dtype));
  });
}

Deno.test("mergeAdapter + zeros: every byte as it was", async () => {
  const base = writeTinyModel(newPath("base.pth"), { dtype: "BF16" }), output = newPath("merged.pth");
  const adapter = await adapterFor(base, 8, 0);
  const { largestDifference } = await merge(base, adapter, output);
  using before = openTensorFile(base);
  using after = openTensorFile(output);
  for (const name of before.tensors.keys()) {
    assert.deepEqual(after.readBytes(name), before.readBytes(name), name);
  }
  assert.ok(largestDifference < 1e-5);
});

Deno.test("mergeAdapter + what must not be merged: one sentence, and nothing is left", async () => {
  const base = writeTinyModel(newPath("base.safetensors")),
    other = writeTinyModel(newPath("other.safetensors"), { seed: 2 });
  const adapter = await adapterFor(base, 4), output = newPath("merged.safetensors");
  const change = (f: (tensors: Map<string, { shape: readonly number[]; data: Float32Array }>) => void) => {
    const tensors = new Map(adapter.tensors);
    f(tensors);
    return adapter.withTensors(tensors);
  };
  const key = "blocks.0.att.key.bone", { shape, data } = adapter.tensors.get(key)!;
  const refused = async (base: string, adapter: Adapter, message: RegExp) => {
    await assert.rejects(merge(base, adapter, output), { message });
    assert.deepEqual([existsSync(output), existsSync(`${output}.unchecked`)], [false, false]);
  };
  await refused(other, adapter, /was trained on another model than .*other\.safetensors/);
  await refused(
    base,
    change((t) => t.set(key, { shape, data: data.map(() => NaN) })),
    /blocks\.0\.att\.key is not finite/,
  );
  await refused(
    base,
    change((t) => t.set("blocks.7.att.key.bone", { shape, data })),
    /no place for "blocks\.7\.att\.key\.bone"/,
  );
  await refused(
    base,
    change((t) => t.set(key, { shape: shape.toReversed(), data })),
    /shapes differ: "blocks\.0\.att\.key\.bone/,
  );

  await merge(base, adapter, output);
  await assert.rejects(merge(base, adapter, output), {
    message: /exists: choose another with --output, or replace it with --force/,
  });
  await merge(base, adapter, output, true);
  await assert.rejects(merge(base, adapter, base, true), {
    message: /would replace .*, which it is made from/,
  });
  await merge(other, adapter, output, true);
});

Deno.test("loadAdapter + a file of RWKV-PEFT: .disha keys, bf16, norms beside, no description", async () => {
  const base = writeTinyModel(newPath("base.pth")), path = newPath("rwkv-0.pth");
  const adapter = await adapterFor(base, 4);
  const tensors = [...adapter.tensors].map(([name, tensor]) =>
    [name.replace(/\.bone$/, ".disha"), tensor] as const
  );
  writeTensorFile(path, {
    format: "pth",
    tensors: tensors.map(([name, { shape }]) => ({ name, shape, dtype: "BF16" })),
    read: ({ name }) => fromFloat32(new Map(tensors).get(name)!.data, "BF16"),
  });
  const loaded = await loadAdapter(path);
  assert.deepEqual([loaded.method.name, loaded.settings], ["bone", { r: 4 }]);
  assert.deepEqual([...loaded.tensors.keys()], [...adapter.tensors.keys()]);
  await merge(base, path, newPath("merged.pth"));
});

for (const format of ["pth", "safetensors"]) {
  Deno.test(`saveAdapter + ${format}: loading and saving again gives the same bytes`, async () => {
    const adapter = await adapterFor(writeTinyModel(newPath("base.pth")), 3);
    const [one, two] = [newPath(`one.${format}`), newPath(`two.${format}`)];
    saveAdapter(adapter, one);
    const loaded = await loadAdapter(one);
    assert.equal(loaded.base, adapter.base);
    saveAdapter(loaded, two);
    assert.deepEqual(Deno.readFileSync(two), Deno.readFileSync(one));
    assert.throws(() => saveAdapter(adapter, one), /exists/);
  });
}
