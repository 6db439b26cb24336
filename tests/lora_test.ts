import assert from "node:assert/strict";
import { Adapter } from "../adapters/adapter.ts";
import { loadAdapter, saveAdapter } from "../adapters/file.ts";
import { mergedWeight } from "../adapters/merge.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { Model } from "../rwkv/model.ts";
import { linearSites, type ModelConfig } from "../rwkv/config.ts";
import { createAdapter } from "../mod.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { logitsOf, MODEL_PATH, smallModel, temporaryPath } from "./small_model.ts";

/** A LoRA of random numbers on every linear layer. */
function randomLora(config: ModelConfig, settings: { r: number; alpha: number; rslora: boolean }): Adapter {
  const random = randomNumbers(5), method = adapterMethod("lora");
  const tensors = linearSites(config).flatMap((site) =>
    Object.entries(method.parameters(site, settings)).map(([name, { shape }]) => {
      const data = Float32Array.from({ length: shape[0]! * shape[1]! }, () => 0.2 * random());
      return [`${site.name}.${name}`, { shape, data }] as const;
    })
  );
  return new Adapter(method, settings, new Map(tensors));
}

for (const rslora of [false, true]) {
  testOnEngines(
    `lora + random numbers${rslora ? ", rank-stabilised" : ""}: as the merged weights`,
    async (engine) => {
      using model = smallModel(engine);
      const adapter = randomLora(model.config, { r: 5, alpha: 3, rslora });
      const path = temporaryPath("merged-lora.safetensors");
      using base = openTensorFile(MODEL_PATH);
      writeMerged(base, adapter, path, { force: true });
      using merged = Model.load(path, engine);
      const [plain, adapted] = [await logitsOf(model), await logitsOf(model, adapter)];
      const error = relativeError(adapted, await logitsOf(merged));
      assert.ok(error < 1e-5, `${error}`);
      assert.ok(relativeError(adapted, plain) > 0.05, "the adapter hardly changes anything");
    },
    { oracle: false },
  );
}

testOnEngines(
  "createAdapter + lora: Kaiming-uniform A, zero B, not a bit of the logits changes",
  async (engine) => {
    using model = smallModel(engine);
    const adapter = createAdapter(model, { peft: "lora", r: 16, alpha: 8 });
    const A = adapter.tensors.get("blocks.1.ffn.value.lora_A")!;
    const bound = 1 / Math.sqrt(A.shape[1]!);
    const variance = A.data.reduce((sum, x) => sum + x * x, 0) / A.data.length;
    assert.ok(A.data.every((x) => Math.abs(x) <= bound));
    assert.ok(Math.abs(variance / (bound ** 2 / 3) - 1) < 0.1, `${variance}`);
    assert.ok(adapter.tensors.get("blocks.1.ffn.value.lora_B")!.data.every((x) => x === 0));
    assert.deepEqual(await logitsOf(model, adapter), await logitsOf(model));
  },
  { oracle: false },
);

Deno.test("loadAdapter + a LoRA: its own description, or the alpha that is given, and never a guess", () => {
  const config = { layers: 2, channels: 128, ffn: 512 } as ModelConfig;
  const adapter = randomLora(config, { r: 4, alpha: 6, rslora: true });
  const path = temporaryPath("lora.pth"), bare = temporaryPath("bare-lora.pth");
  saveAdapter(adapter, path, { force: true });
  assert.deepEqual(loadAdapter(path).settings, adapter.settings);
  using saved = openTensorFile(path);
  writeTensorFile(bare, {
    format: "pth",
    force: true,
    tensors: saved.tensors.values(),
    read: ({ name }) => saved.readBytes(name),
  });
  assert.throws(() => loadAdapter(bare), /does not say its alpha.*--lora_alpha/);
  assert.deepEqual(loadAdapter(bare, { loraAlpha: 16 }).settings, { r: 4, alpha: 16, rslora: false });
});

Deno.test("lora.configure + settings that cannot be: one sentence", () => {
  const { configure } = adapterMethod("lora");
  assert.throws(() => configure({ r: 0 }), /rank r of lora must be a whole number of at least 1: it is 0/);
  assert.throws(() => configure({ alpha: NaN }), /alpha of lora must be a number/);
  assert.throws(() => configure({ rank: 4 }), /Unknown setting "rank" for lora/);
});

Deno.test("loadAdapter + a rank of its own at one site: recognised, saved, loaded and merged", () => {
  const at = (site: string, r: number) =>
    [[`${site}.lora_A`, [r, 4]], [`${site}.lora_B`, [4, r]]] as [string, number[]][];
  const shapes = [...at("blocks.0.att.key", 2), ...at("blocks.0.att.value", 3)];
  const bare = temporaryPath("ranks.safetensors"), saved = temporaryPath("ranks.pth");
  writeTensorFile(bare, {
    format: "safetensors",
    tensors: shapes.map(([name, shape]) => ({ name, shape, dtype: "F32" })),
    read: ({ shape }) => new Uint8Array(new Float32Array(shape[0]! * shape[1]!).fill(1).buffer),
  });
  saveAdapter(loadAdapter(bare, { loraAlpha: 6 }), saved);
  const adapter = loadAdapter(saved);
  assert.equal(adapter.settingsAt("blocks.0.att.key").r, 2);
  assert.equal(adapter.settingsAt("blocks.0.att.value").r, 3);
  const site = { name: "blocks.0.att.value", layer: 0, in: 4, out: 4 };
  assert.deepEqual(mergedWeight(adapter, site, new Float32Array(16)), new Float32Array(16).fill(6));
});
