/**
 * Taking an adapter with norms of its own out of a model again: what comes back bit for bit, what up to rounding, and what is refused.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Adapter, createAdapter, loadAdapter, loadModel, mergeAdapter, saveAdapter } from "../mod.ts";
import { transposed } from "../adapters/transpose.ts";
import { type DType, fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { huggingFaceName, isTransposed } from "../rwkv/names.ts";
import { randomNumbers } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** An adapter as training saves it, with every tensor changed by noise; read back from its file. */
async function trained(
  base: string,
  trainParts: readonly string[],
  { sizeOfBone = 0.05, format = "pth" } = {},
): Promise<Adapter> {
  const model = await loadModel(base, { engine: "cpu" });
  const fresh = createAdapter(model, { r: 4, trainParts });
  model.dispose();
  const random = randomNumbers(3), path = newPath(`adapter.${format}`);
  const changed = [...fresh.tensors].map(([name, { shape, data }]) => {
    const by = name.endsWith(".bone") ? sizeOfBone : 0.05;
    return [name, { shape, data: data.map((x) => x + by * random()) }] as const;
  });
  saveAdapter(fresh.withTensors(new Map(changed)), path);
  return loadAdapter(path);
}

/** Merges and takes out again. */
async function thereAndBack(base: string, adapter: Adapter) {
  const merged = newPath("merged.safetensors"), back = newPath("back.safetensors");
  await mergeAdapter({ base, adapter, output: merged, engine: "cpu" });
  return mergeAdapter({ base: merged, adapter, output: back, unmerge: true, engine: "cpu" });
}

for (
  const [dtype, format] of [["BF16", "pth"], ["F32", "safetensors"], ["F16", "pth"]] as [DType, string][]
) {
  Deno.test(`mergeAdapter + unmerge of Bone with norms, ${dtype}: norms bit for bit, layers within what rounding leaves`, async () => {
    const base = writeTinyModel(newPath("base.pth"), { layers: 2, dtype });
    const adapter = await trained(base, ["ln"], { format });
    const { output, sameBase, mostOff } = await thereAndBack(base, adapter);
    assert.equal(sameBase, false);
    using before = openTensorFile(base);
    using after = openTensorFile(output);
    let worst = 0;
    for (const name of before.tensors.keys()) {
      if (!adapter.tensors.has(name.replace(/\.weight$/, ".bone"))) {
        assert.deepEqual(after.readBytes(name), before.readBytes(name), name);
        continue;
      }
      const wanted = before.readFloat32(name);
      after.readFloat32(name).forEach((x, i) => worst = Math.max(worst, Math.abs(x - wanted[i]!)));
    }
    assert.ok(worst > 0 && worst <= mostOff!, `${worst} of ${mostOff}`);
  });
}

Deno.test("mergeAdapter + unmerge where only norms changed: byte for byte the base, and it says so", async () => {
  const base = writeTinyModel(newPath("base.safetensors"), { dtype: "BF16" });
  const adapter = await trained(base, ["ln", "head"], { sizeOfBone: 0 });
  assert.equal((await thereAndBack(base, adapter)).sameBase, true);
});

Deno.test("mergeAdapter + unmerge of a layer that trained whole and has Bone as well: what it was", async () => {
  const base = writeTinyModel(newPath("base.safetensors"), { dtype: "BF16" });
  const adapter = await trained(base, ["att.key"]);
  const { output } = await thereAndBack(base, adapter);
  using before = openTensorFile(base);
  using after = openTensorFile(output);
  const name = "blocks.0.att.key.weight";
  assert.deepEqual(after.readBytes(name), before.readBytes(name));
});

Deno.test("mergeAdapter + unmerge from Hugging Face's names: the low-rank pairs back as they lay", async () => {
  const official = writeTinyModel(newPath("base.safetensors")), base = newPath("hf.safetensors");
  using file = openTensorFile(official);
  const names = new Map([...file.tensors.keys()].map((name) => [huggingFaceName(name)!, name]));
  writeTensorFile(base, {
    format: "safetensors",
    tensors: [...names].map(([name, old]) => {
      const { shape, dtype } = file.tensors.get(old)!;
      return { name, dtype, shape: isTransposed(old) ? shape.toReversed() : shape.filter((x) => x !== 1) };
    }),
    read: ({ name }) => {
      const old = names.get(name)!,
        tensor = { shape: file.tensors.get(old)!.shape, data: file.readFloat32(old) };
      return fromFloat32(isTransposed(old) ? transposed(tensor).data : tensor.data, "F32");
    },
  });
  const { output } = await thereAndBack(base, await trained(official, ["ln", "att.w"]));
  using before = openTensorFile(base);
  using after = openTensorFile(output);
  for (const name of ["model.layers.0.attn.w_lora.lora.0.weight", "model.layers.0.attn_norm.weight"]) {
    assert.deepEqual(after.readBytes(name), before.readBytes(name), name);
  }
});

Deno.test("mergeAdapter + unmerge of a state: the state that the base had, or none", async () => {
  const plain = writeTinyModel(newPath("base.safetensors")), tuned = newPath("tuned.safetensors");
  const first = await trained(plain, ["time_state"]);
  await mergeAdapter({ base: plain, adapter: first, output: tuned, engine: "cpu" });
  using before = openTensorFile(tuned);
  const state = "blocks.0.att.time_state";
  const back = await thereAndBack(tuned, await trained(tuned, ["time_state"]));
  using after = openTensorFile(back.output);
  assert.deepEqual(after.readBytes(state), before.readBytes(state));
  using none = openTensorFile((await thereAndBack(plain, first)).output);
  assert.equal(none.tensors.has(state), false);
});

Deno.test("mergeAdapter + unmerge from a model that it was not merged into: refused, but for force", async () => {
  const base = writeTinyModel(newPath("base.safetensors")), output = newPath("never.safetensors");
  const adapter = await trained(base, ["ln2"]);
  const takeOut = (adapter: Adapter, force = false) =>
    mergeAdapter({ base, adapter, output, unmerge: true, force, engine: "cpu" });
  await assert.rejects(takeOut(adapter), {
    message: /"blocks\.0\.ln2\.weight" there is not what the adapter brings, so it was not merged into/,
  });
  await assert.rejects(takeOut(await trained(base, ["time_state"])), {
    message: /"blocks\.0\.att\.time_state" there is missing/,
  });
});

Deno.test("loadAdapter + originals that are malformed: one sentence", async () => {
  const base = writeTinyModel(newPath("base.safetensors")), path = newPath("adapter.safetensors");
  const adapter = await trained(base, ["ln2"]), broken = newPath("broken.safetensors");
  saveAdapter(adapter, path);
  using file = openTensorFile(path);
  const kept = file.metadata.get("wishbone.originals")!;
  for (const text of ["no", "null", kept.replace('"shape":[16]', '"shape":[17]')]) {
    assert.notEqual(text, kept);
    writeTensorFile(broken, {
      format: "safetensors",
      tensors: file.tensors.values(),
      read: ({ name }) => file.readBytes(name),
      metadata: new Map([...file.metadata, ["wishbone.originals", text]]),
      force: true,
    });
    await assert.rejects(loadAdapter(broken), { message: /wishbone\.originals\) is malformed/ });
  }
});
