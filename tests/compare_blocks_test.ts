/**
 * Merged models compared block by block: every method agrees with what was merged from it, and any changed weight of a block shows.
 *
 * @module
 */
import assert from "node:assert/strict";
import { compareBlocks, compareLogits } from "../adapters/check_merge.ts";
import { loadAdapter } from "../adapters/file.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import {
  type Adapter,
  createAdapter,
  type CreateAdapterOptions,
  loadModel,
  mergeAdapter,
  saveAdapter,
} from "../mod.ts";
import { type DType, fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, type TensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { randomNumbers } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** An adapter of random numbers, as its file has it. */
async function adapterFor(base: string, options: CreateAdapterOptions): Promise<Adapter> {
  const model = await loadModel(base, { engine: "cpu" });
  const fresh = createAdapter(model, options), random = randomNumbers(9), path = newPath("adapter.pth");
  model.dispose();
  saveAdapter(
    fresh.withTensors(
      new Map(
        [...fresh.tensors].map(([name, { shape, data }]) =>
          [name, { shape, data: data.map((x) => x + 0.1 * random()) }] as const
        ),
      ),
    ),
    path,
  );
  return loadAdapter(path);
}

async function compared(
  compare: typeof compareBlocks,
  base: string,
  adapter: Adapter,
  merged: string,
) {
  const { engine } = await chooseEngine("cpu", { precision: "fp32" });
  using one: TensorFile = openTensorFile(base);
  using other: TensorFile = openTensorFile(merged);
  try {
    return await compare(one, adapter, other, engine);
  } finally {
    assert.ok(engine.allocatedBytes < 2e6);
    engine.dispose();
  }
}

const CASES: [string, CreateAdapterOptions][] = [
  ["bone", { r: 4 }],
  ["bone with norms and the head", { r: 4, trainParts: ["ln", "head"] }],
  ["bone on a layer that trains whole", { r: 4, trainParts: ["att.key"] }],
  ["bat by output block", { peft: "bat", r: 4, batAxis: "out" }],
  ["lora", { peft: "lora", r: 3, alpha: 6 }],
  ["dora", { peft: "dora", r: 3, alpha: 6 }],
  ["pissa", { peft: "pissa", r: 3 }],
  ["state", { peft: "state" }],
];
for (const [what, options] of CASES) {
  for (const dtype of ["F32", "BF16"] as DType[]) {
    Deno.test(`compareBlocks + ${what} in ${dtype}: within rounding, and far off without the adapter`, async () => {
      const base = writeTinyModel(newPath("base.safetensors"), { layers: 3, dtype });
      const adapter = await adapterFor(base, options), merged = newPath("merged.safetensors");
      {
        using file = openTensorFile(base);
        writeMerged(file, adapter, merged);
      }
      const same = await compared(compareBlocks, base, adapter, merged);
      assert.deepEqual([same.compared, same.extent], ["blocks", "outputs of all 3 blocks for 32 tokens"]);
      assert.ok(same.relativeError < same.bound / 2, `${same.relativeError}`);
      const logits = await compared(compareLogits, base, adapter, merged);
      assert.ok(logits.relativeError < logits.bound);
      const without = await compared(compareBlocks, base, adapter, base);
      assert.ok(without.relativeError > same.bound, `${without.relativeError}`);
    });
  }
}

Deno.test("compareBlocks + one weight of one block that is another: told, whatever the weight", async () => {
  const base = writeTinyModel(newPath("base.safetensors"), { layers: 2 });
  const adapter = await adapterFor(base, { r: 4 });
  for (
    const name of ["blocks.0.ln2.bias", "blocks.1.att.w0", "blocks.1.att.g2", "blocks.1.ffn.value.weight"]
  ) {
    const changed = writeTinyModel(newPath("changed.safetensors"), {
      layers: 2,
      change: (at, data) => at === name ? data.map((x) => x + 0.3) : data,
    });
    const merged = newPath("merged.safetensors");
    {
      using file = openTensorFile(changed);
      writeMerged(file, adapter, merged);
    }
    const { relativeError, bound } = await compared(compareBlocks, base, adapter, merged);
    assert.ok(relativeError > bound, `${name}: ${relativeError}`);
  }
});

Deno.test("compareBlocks + a layer that cancels almost all it adds: the difference is rounding, however large, and another weight is not", async () => {
  const constant = (name: string, data: Float32Array) =>
    /ln2\.weight|att\.output|ffn\.value/.test(name)
      ? data.fill(0)
      : /ln2\.bias|ffn\.key\.weight/.test(name)
      ? data.fill(0.25)
      : data;
  const base = writeTinyModel(newPath("base.safetensors"), { dtype: "BF16", change: constant });
  const still = await adapterFor(base, { r: 2 }), random = randomNumbers(4);
  const adapter = still.withTensors(
    new Map([...still.tensors].map(([name, { shape, data }]) => {
      if (!name.includes("ffn.value")) return [name, { shape, data: data.fill(0) }];
      const half = data.length / 2;
      for (let o = 0; o < half; o++) data[half + o] = -1.005 * (data[o] = random());
      return [name, { shape, data }];
    })),
  );
  const output = newPath("merged.safetensors");
  await mergeAdapter({ base, adapter, output, engine: "cpu" });
  const { extent, relativeError, bound } = await compared(compareBlocks, base, adapter, output);
  assert.ok(relativeError > 0.03 && relativeError <= bound, `${relativeError} of ${bound}`);
  assert.equal(extent, "outputs of all 1 blocks for 32 tokens");
  const other = newPath("other.safetensors");
  {
    using file = openTensorFile(output);
    writeTensorFile(other, {
      format: "safetensors",
      tensors: file.tensors.values(),
      read: ({ name, dtype }) =>
        name.endsWith("ffn.value.weight")
          ? fromFloat32(file.readFloat32(name).map((x, i) => i % 7 ? x : 1.1 * x), dtype)
          : file.readBytes(name),
    });
  }
  const wrong = await compared(compareBlocks, base, adapter, other);
  assert.ok(wrong.relativeError > wrong.bound);
  assert.equal(wrong.extent, "outputs of block 0 for 32 tokens");
});

Deno.test("compareBlocks + an embedding of zeros: noise in its place, so that it still compares something", async () => {
  const zeros = (name: string, data: Float32Array) => name === "emb.weight" ? data.fill(0) : data;
  const base = writeTinyModel(newPath("base.safetensors"), { change: zeros });
  const { relativeError, bound } = await compared(
    compareBlocks,
    base,
    await adapterFor(base, { r: 4 }),
    base,
  );
  assert.ok(relativeError > bound);
});
