/**
 * What is said of files: models of several kinds, adapters of several origins.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { Adapter } from "../adapters/adapter.ts";
import { saveAdapter } from "../adapters/file.ts";
import { inspect, misfit } from "../adapters/inspect.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { saveRwkvPeft } from "../adapters/rwkv_peft.ts";
import { divideIntoShards, writeShards } from "../formats/pending.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { linearSites } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { huggingFaceName } from "../rwkv/names.ts";
import { createAdapter, loadModel } from "../mod.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const BASE = writeTinyModel(newPath("base.pth"), { layers: 2, dtype: "BF16" });

function zeros(name: string, settings: Record<string, unknown>): Adapter {
  using file = openTensorFile(BASE);
  const method = adapterMethod(name), checked = method.configure(settings);
  const tensors = linearSites(readModelConfig(file)).flatMap((site) =>
    Object.entries(method.parameters(site, checked)).map(([name, { shape }]) =>
      [`${site.name}.${name}`, { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }] as const
    )
  );
  const norm = ["blocks.1.ln1.weight", { shape: [16], data: new Float32Array(16) }] as const;
  return new Adapter(method, checked, new Map([...tensors, norm]), "12ab");
}

/** A file of zeros with these names and shapes. */
function hollow(path: string, shapes: Record<string, number[]>): string {
  writeTensorFile(path, {
    format: "safetensors",
    tensors: Object.entries(shapes).map(([name, shape]) => ({ name, shape, dtype: "F16" })),
    read: ({ shape }) => new Uint8Array(2 * shape.reduce((a, b) => a * b, 1)),
  });
  return path;
}

Deno.test("inspect + an RWKV-7 model: sizes, ranks, dtypes, names, also in several files", () => {
  const found = inspect(BASE);
  const { version, names, layers, channels, heads, vocabulary, ranks, hasState, problem } = found.model!;
  assert.deepEqual(
    { version, names, layers, channels, heads, vocabulary, hasState, problem },
    {
      ...{ version: "RWKV-7", names: "official", layers: 2, channels: 16, heads: [2, 8], vocabulary: 128 },
      ...{ hasState: false, problem: undefined },
    },
  );
  assert.deepEqual([found.format, found.files, [...found.dtypes.keys()]], ["pth", 1, ["BF16"]]);
  using file = openTensorFile(BASE);
  assert.deepEqual(ranks, readModelConfig(file).ranks);
  const folder = newPath("shards");
  writeShards(
    folder,
    "model.safetensors",
    divideIntoShards(file.tensors.values(), 10_000, ["model", ".safetensors"]),
    {
      format: "safetensors",
      read: ({ name }) => file.readBytes(name),
    },
  );
  const many = inspect(folder);
  assert.ok(many.files > 1);
  assert.deepEqual(many.model, found.model);
});

Deno.test("inspect + Hugging Face's names: the same sizes, and why it cannot be used", () => {
  using file = openTensorFile(BASE);
  const shapes = Object.fromEntries(
    [...file.tensors.values()].map(({ name, shape }) => [
      huggingFaceName(name)!,
      /att\.[wavg][12]$/.test(name) ? shape.toReversed() : [...shape],
    ]),
  );
  const { model } = inspect(hollow(newPath("hf.safetensors"), shapes));
  assert.equal(model!.names, "Hugging Face");
  assert.deepEqual({ ...model, names: 0, problem: 0 }, { ...inspect(BASE).model, names: 0, problem: 0 });
  assert.match(model!.problem!, /Hugging Face names/);
});

Deno.test("inspect + models of other kinds: the version, or none", () => {
  const v6 = inspect(hollow(newPath("v6.safetensors"), {
    "emb.weight": [50, 16],
    "blocks.0.att.time_maa_x": [1, 1, 16],
    "blocks.23.att.key.weight": [16, 16],
  })).model!;
  assert.deepEqual([v6.version, v6.layers, v6.channels, v6.vocabulary], ["RWKV-6", 24, 16, 50]);
  const llama = inspect(hollow(newPath("llama.safetensors"), {
    "model.embed_tokens.weight": [50, 16],
    "model.layers.3.self_attn.q_proj.weight": [16, 16],
    "lm_head.weight": [50, 16],
  })).model!;
  assert.deepEqual([llama.version, llama.layers, llama.channels], [undefined, 4, 16]);
});

Deno.test("inspect + adapters of every origin: method, settings, layers, what they fit", () => {
  const bone = zeros("bone", { r: 4 }),
    own = newPath("adapter.pth"),
    peft = newPath("peft"),
    rwkv = newPath("rwkv-0.pth");
  saveAdapter(bone, own);
  savePeft(bone, peft);
  saveRwkvPeft(bone, rwkv);
  const origins = {
    [own]: "Wishbone",
    [peft]: "Hugging Face PEFT, MISS",
    [join(peft, "adapter_model.safetensors")]: "Hugging Face PEFT, MISS",
    [rwkv]: "RWKV-PEFT, February to October 2025",
  };
  for (const [path, wanted] of Object.entries(origins)) {
    const { adapter } = inspect(path);
    const { method, origin, settings, ranks, layers, weights, fits, problem } = adapter!;
    assert.deepEqual(
      { method, origin, settings, ranks, weights, fits, problem },
      {
        ...{
          method: "bone",
          origin: wanted,
          settings: { r: 4 },
          ranks: [4, 4],
          weights: ["blocks.1.ln1.weight"],
        },
        ...{ fits: { layers: 2, channels: 16, ffn: 64 }, problem: undefined },
      },
    );
    assert.equal(layers.get("att.key"), 2);
    assert.equal(misfit(path, BASE), undefined);
  }
  assert.equal(inspect(own).adapter!.base, "12ab");
  const wide = writeTinyModel(newPath("wide.pth"), { layers: 2, channels: 32 });
  assert.match(misfit(own, wide)!, /shapes differ/);
});

Deno.test("inspect + adapters that do not say all: what is missing, and what there is nevertheless", () => {
  const lora = newPath("lora.pth");
  saveRwkvPeft(zeros("lora", { r: 3, alpha: 6 }), lora);
  const { adapter } = inspect(lora);
  assert.deepEqual([adapter!.method, adapter!.fits], [undefined, { layers: 2, channels: 16, ffn: 64 }]);
  assert.match(adapter!.problem!, /--lora_alpha/);
  assert.equal(inspect(lora, { loraAlpha: 6 }).adapter!.method, "lora");
  assert.throws(() => inspect(newPath("nothing")), /no such file/);
  assert.throws(() => inspect(Deno.makeTempDirSync()), { message: /folder/ });
});

Deno.test("inspect + folders: a model that lacks a file, a run's, what a run keeps of the norms", async () => {
  const folder = newPath("model"), run = newPath("run");
  {
    using file = openTensorFile(BASE);
    writeShards(folder, "model.safetensors", divideIntoShards(file.tensors.values(), 9000, ["m", ".st"]), {
      format: "safetensors",
      read: ({ name }) => file.readBytes(name),
    });
  }
  Deno.removeSync(join(folder, "m-00002-of-00005.st"));
  assert.throws(() => inspect(folder), { message: /m-00002-of-00005\.st": there is no such file/ });
  Deno.mkdirSync(run);
  const model = await loadModel(BASE, { engine: "cpu" });
  const path = join(run, "adapter.pth");
  saveAdapter(createAdapter(model, { r: 4, trainParts: ["ln1", "att.x_r", "att.w1"] }), path);
  model.dispose();
  assert.throws(() => inspect(run), { message: /the folder of a run: name .*adapter\.pth/ });
  const { adapter, metadata } = inspect(path);
  assert.deepEqual([adapter!.weights.length, adapter!.originals, [...metadata.keys()]], [8, 8, ["wishbone"]]);
  assert.deepEqual([...adapter!.layers.keys()].filter((name) => !/^(att|ffn)\../.test(name)), []);
});
