/**
 * Merging across formats, dtypes, names and kinds of model: several files, Hugging Face's names, a model that this project cannot run.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { Adapter } from "../adapters/adapter.ts";
import { loadAdapter, saveAdapter } from "../adapters/file.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { type DType, fromFloat32, toFloat32 } from "../formats/dtype.ts";
import { divideIntoShards, writeShards } from "../formats/pending.ts";
import { openTensorFile, type TensorInfo, writeTensorFile } from "../formats/tensor_file.ts";
import { mergeAdapter, type MergeOptions } from "../mod.ts";
import { linearSites, type Site } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { huggingFaceName, isTransposed } from "../rwkv/names.ts";
import { randomNumbers, relativeError } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const merge = (options: Omit<MergeOptions, "engine">) => mergeAdapter({ ...options, engine: "cpu" });

/** Random numbers at some layers, by a method. */
function randomAdapter(name: string, given: Record<string, unknown>, sites: readonly Site[]): Adapter {
  const method = adapterMethod(name), settings = method.configure(given), random = randomNumbers(11);
  const tensors = sites.flatMap((site) =>
    Object.entries(method.parameters(site, settings)).filter(([, { derived }]) => !derived).map(
      ([name, { shape }]) => {
        const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 0.2 * random());
        return [`${site.name}.${name}`, { shape, data }] as const;
      },
    )
  );
  return new Adapter(method, settings, new Map(tensors), undefined, undefined, {
    target_modules: sites.map(({ name }) => name),
  });
}

/** A model of random numbers in several files, with what lies beside them. */
function writeModel(shapes: Record<string, number[]>, dtype: DType): string {
  const folder = newPath("model"), random = randomNumbers(5);
  const infos: TensorInfo[] = Object.entries(shapes).map(([name, shape]) => ({ name, shape, dtype }));
  writeShards(folder, "model.safetensors", divideIntoShards(infos, 4000, ["model", ".safetensors"]), {
    format: "safetensors",
    read: ({ shape }) =>
      fromFloat32(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random()), dtype),
  });
  Deno.writeTextFileSync(join(folder, "config.json"), '{ "model_type": "llama", "torch_dtype": "bfloat16" }');
  Deno.writeTextFileSync(join(folder, "tokenizer.json"), "{}");
  return folder;
}

const LLAMA = {
  "model.embed_tokens.weight": [50, 16],
  "model.layers.0.self_attn.q_proj.weight": [24, 16],
  "model.layers.0.mlp.down_proj.weight": [16, 40],
  "model.layers.1.self_attn.q_proj.weight": [24, 16],
  "model.layers.1.mlp.down_proj.weight": [16, 40],
  "model.norm.weight": [16],
  "lm_head.weight": [50, 16],
};
const LLAMA_SITES: Site[] = Object.entries(LLAMA).filter(([name]) => name.includes("layers")).map((
  [name, shape],
) => ({
  name: name.replace(/\.weight$/, ""),
  layer: Number(name.split(".")[2]),
  in: shape[1]!,
  out: shape[0]!,
}));

const METHODS: [string, Record<string, unknown>][] = [
  ["bone", { r: 4 }],
  ["bone", { r: 6, mini_r: 4 }],
  ["bat", { r: 8, axis: "out" }],
  ["lora", { r: 3, alpha: 5, rslora: true }],
  ["dora", { r: 3, alpha: 5 }],
  // Ranks over the widths of the layers do no more than these, but files have them.
  ["bone", { r: 50 }],
  ["lora", { r: 50, alpha: 5 }],
];
for (const [name, settings] of METHODS) {
  for (const dtype of ["F32", "BF16", "F16"] as const) {
    Deno.test(`mergeAdapter + a PEFT directory of ${name} ${JSON.stringify(settings)} into a Llama in ${dtype}, in several files`, async () => {
      const base = writeModel(LLAMA, dtype), output = newPath("merged"), peft = newPath("peft");
      const adapter = randomAdapter(name, settings, LLAMA_SITES);
      savePeft(adapter, peft);
      const result = await merge({ base, adapter: peft, output });
      assert.deepEqual([result.compared, result.isRwkv7], ["layers", false]);
      assert.ok(result.relativeError <= result.bound);
      using before = openTensorFile(base);
      using after = openTensorFile(output);
      assert.deepEqual(after.shards, before.shards);
      assert.deepEqual([...after.tensors.values()], [...before.tensors.values()]);
      for (const full of Object.keys(LLAMA)) {
        const key = full.slice(before.prefix.length),
          site = LLAMA_SITES.find(({ name }) => `${name}.weight` === full);
        const same = before.readBytes(key).toHex() === after.readBytes(key).toHex();
        assert.equal(same, !site, full);
        if (!site) continue;
        // The reference is the method's own merge, which its golden values and gradients hold to.
        const parameters = Object.fromEntries(
          Object.entries(adapter.method.parameters(site, adapter.settings)).map((
            [name, { derived, initial }],
          ) => [
            name,
            derived
              ? initial!({ uniform: () => 0, normal: () => 0 }, () => before.readFloat32(key))
              : adapter.tensors.get(`${site.name}.${name}`)!.data,
          ]),
        );
        const exact = adapter.method.merge({
          site,
          settings: adapter.settings,
          weight: before.readFloat32(key),
          parameters,
        });
        assert.deepEqual(after.readBytes(key), fromFloat32(exact, dtype));
      }
      assert.ok(existsSync(join(output, "config.json")) && existsSync(join(output, "tokenizer.json")));
    });
  }
}

Deno.test("mergeAdapter + official names and Hugging Face's: an adapter fits both, to the same bits", async () => {
  const official = writeTinyModel(newPath("base.safetensors"), { layers: 2 });
  using file = openTensorFile(official);
  const hf = newPath("hf.safetensors"),
    renamed = new Map([...file.tensors.keys()].map((n) => [huggingFaceName(n)!, n]));
  writeTensorFile(hf, {
    format: "safetensors",
    tensors: [...renamed].map(([name, old]) => {
      const { shape, dtype } = file.tensors.get(old)!;
      return { name, dtype, shape: isTransposed(old) ? shape.toReversed() : shape.filter((x) => x !== 1) };
    }),
    read: ({ name }) => file.readBytes(renamed.get(name)!),
  });
  const sites = linearSites(readModelConfig(file));
  for (const [name, settings] of METHODS) {
    const adapter = randomAdapter(name, settings, sites), ours = newPath("ours"), theirs = newPath("theirs");
    savePeft(adapter, ours);
    savePeft(adapter, theirs, { names: "hf" });
    using keys = openTensorFile(join(theirs, "adapter_model.safetensors"));
    assert.ok(
      [...keys.tensors.keys()].some((name) =>
        `${keys.prefix}${name}`.startsWith("base_model.model.model.layers.1.attn.r_proj.")
      ),
    );
    assert.deepEqual([...loadAdapter(theirs).tensors], [...loadAdapter(ours).tensors]);
    const config = JSON.parse(Deno.readTextFileSync(join(theirs, "adapter_config.json")));
    assert.deepEqual(config.target_modules, ["k_proj", "key", "o_proj", "r_proj", "v_proj", "value"]);
    const outputs = [];
    for (const [base, peft] of [[official, ours], [official, theirs], [hf, ours], [hf, theirs]] as const) {
      const output = newPath("merged.safetensors");
      await merge({ base, adapter: peft, output });
      using merged = openTensorFile(output);
      const name = base === hf ? "model.layers.1.attn.k_proj.weight" : "blocks.1.att.key.weight";
      outputs.push(merged.readBytes(name.slice(merged.prefix.length)).toHex());
    }
    assert.equal(new Set(outputs).size, 1);
  }
});

const CONVERSIONS: [DType, "F32" | "F16" | "BF16", string][] = [
  ["F32", "BF16", "pth"],
  ["BF16", "F32", "safetensors"],
  ["F32", "F16", "pth"],
  ["BF16", "F16", "safetensors"],
];
for (const [from, to, format] of CONVERSIONS) {
  Deno.test(`mergeAdapter + dtype ${to} from ${from}, as ${format}: every tensor rounded once`, async () => {
    const base = writeTinyModel(newPath("base.pth"), { dtype: from }), output = newPath(`merged.${format}`);
    using before = openTensorFile(base);
    const adapter = randomAdapter("bone", { r: 4 }, linearSites(readModelConfig(before)));
    await merge({ base, adapter, output, dtype: to });
    using after = openTensorFile(output);
    assert.equal(after.format, format);
    assert.deepEqual(
      [...after.tensors.values()],
      [...before.tensors.values()].map((info) => ({ ...info, dtype: to })),
    );
    assert.deepEqual(
      after.readBytes("blocks.0.att.w1"),
      fromFloat32(before.readFloat32("blocks.0.att.w1"), to),
    );
  });
}

Deno.test("mergeAdapter + dtype F16 and a number that it cannot hold: refused by name, nothing left", async () => {
  const base = writeTinyModel(newPath("base.safetensors"), {
    dtype: "BF16",
    change: (name, data) => void (name === "blocks.0.ln1.weight" && (data[3] = 1e5)),
  });
  using file = openTensorFile(base);
  const adapter = randomAdapter("bone", { r: 4 }, linearSites(readModelConfig(file)));
  const folder = newPath("out");
  Deno.mkdirSync(folder);
  await assert.rejects(merge({ base, adapter, output: join(folder, "merged.safetensors"), dtype: "F16" }), {
    message: /"blocks\.0\.ln1\.weight" holds \d+, which F16 cannot: choose BF16 or F32/,
  });
  assert.deepEqual([...Deno.readDirSync(folder)], []);
});

Deno.test("mergeAdapter + shardBytes: a folder with an index, config.json with the new dtype, replaced only by force", async () => {
  const base = writeModel(LLAMA, "BF16"), output = newPath("merged");
  const adapter = randomAdapter("bone", { r: 4 }, LLAMA_SITES);
  const options = { base, adapter, output, dtype: "F16" as const, shardBytes: 1500 };
  const { output: written } = await merge(options);
  assert.equal(written, join(output, "model.safetensors.index.json"));
  using after = openTensorFile(output);
  assert.ok(after.shards.length > 3);
  assert.match(Deno.readTextFileSync(join(output, "config.json")), /"torch_dtype": "float16"/);
  await assert.rejects(merge(options), { message: /exists/ });
  await merge({ ...options, force: true });
  assert.equal([...Deno.readDirSync(output)].length, after.shards.length + 3);
});

Deno.test("mergeAdapter + shardBytes and a base in one .pth: safetensors with an index, the same bytes", async () => {
  const base = writeTinyModel(newPath("base.pth"), { dtype: "BF16" }), output = newPath("merged");
  using file = openTensorFile(base);
  const adapter = randomAdapter("bone", { r: 5 }, linearSites(readModelConfig(file)));
  const { output: index } = await merge({ base, adapter, output, shardBytes: 2000 });
  assert.equal(index, join(output, "model.safetensors.index.json"));
  const single = newPath("merged.pth");
  await merge({ base, adapter, output: single });
  using several = openTensorFile(output);
  using one = openTensorFile(single);
  assert.ok(several.shards.length > 2);
  assert.deepEqual([...several.tensors.values()], [...one.tensors.values()]);
  for (const name of one.tensors.keys()) assert.deepEqual(several.readBytes(name), one.readBytes(name), name);
});

for (const [name, settings] of [...METHODS.filter(([name]) => name !== "dora"), ["state", {}] as const]) {
  Deno.test(`mergeAdapter + unmerge of ${name} ${JSON.stringify(settings)}: the base again, up to rounding`, async () => {
    const base = writeTinyModel(newPath("base.safetensors"), { layers: 2 });
    using before = openTensorFile(base);
    const config = readModelConfig(before);
    const adapter = name === "state"
      ? new Adapter(
        adapterMethod("state"),
        {},
        new Map([...adapterMethod("state").weights!(config, {})].map(([name, { shape }]) => [
          name,
          { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(0.5) },
        ])),
      )
      : randomAdapter(name, settings, linearSites(config));
    const merged = newPath("merged.safetensors"), again = newPath("again.safetensors");
    await merge({ base, adapter, output: merged });
    await merge({ base: merged, adapter, output: again, unmerge: true });
    using after = openTensorFile(again);
    assert.deepEqual([...after.tensors.values()], [...before.tensors.values()]);
    for (const key of before.tensors.keys()) {
      const error = relativeError(after.readFloat32(key), before.readFloat32(key));
      assert.ok(error < 1e-4, `${key}: ${error}`);
    }
  });
}

Deno.test("mergeAdapter + unmerge of a foreign adapter with norms: refused, as nothing says what they were", async () => {
  const base = writeTinyModel(newPath("base.safetensors"));
  using file = openTensorFile(base);
  const bone = randomAdapter("bone", { r: 4 }, linearSites(readModelConfig(file)));
  const norm = { shape: [16], data: new Float32Array(16).fill(1) };
  const adapter = bone.withTensors(new Map([...bone.tensors, ["blocks.0.ln1.weight", norm]]));
  const merged = newPath("merged.safetensors");
  await merge({ base, adapter, output: merged });
  await assert.rejects(merge({ base: merged, adapter, output: newPath("never.pth"), unmerge: true }), {
    message: /replaced "blocks\.0\.ln1\.weight", whose first content its file does not keep/,
  });
});

Deno.test("mergeAdapter + a Llama that it does not fit: one sentence", async () => {
  const base = writeModel(LLAMA, "F32");
  const wrong = (site: Partial<Site>, message: RegExp) =>
    assert.rejects(
      merge({
        base,
        adapter: randomAdapter("bone", { r: 4 }, [{ ...LLAMA_SITES[0]!, ...site }]),
        output: newPath("never.safetensors"),
      }),
      { message },
    );
  await wrong(
    { name: "model.layers.7.self_attn.q_proj" },
    /no place for "model\.layers\.7\.self_attn\.q_proj\.bone"/,
  );
  await wrong(
    { out: 32 },
    /shapes differ: "model\.layers\.0\.self_attn\.q_proj\.bone \[4,32\] for \[4,24\]"/,
  );
});

Deno.test("saveAdapter + an adapter of a Llama: saved again it is the same file, and it merges as its directory does", async () => {
  const base = writeModel(LLAMA, "F32"), peft = newPath("peft");
  savePeft(randomAdapter("bat", { r: 8, axis: "out" }, LLAMA_SITES), peft);
  const wanted = newPath("merged.safetensors");
  await merge({ base, adapter: peft, output: wanted });
  for (const ending of ["pth", "safetensors"]) {
    const [one, two, output] = [newPath(`one.${ending}`), newPath(`two.${ending}`), newPath("m.safetensors")];
    saveAdapter(loadAdapter(peft), one);
    saveAdapter(loadAdapter(one), two);
    assert.deepEqual(Deno.readFileSync(two), Deno.readFileSync(one));
    await merge({ base, adapter: one, output });
    assert.deepEqual(Deno.readFileSync(output), Deno.readFileSync(wanted));
  }
});

Deno.test("mergeAdapter + names with a trainer's prefix: kept in the merged file", async () => {
  const plain = writeTinyModel(newPath("base.pth"), { dtype: "BF16" }), base = newPath("wrapped.pth");
  using file = openTensorFile(plain);
  writeTensorFile(base, {
    format: "pth",
    tensors: [...file.tensors.values()].map((info) => ({ ...info, name: `module.${info.name}` })),
    read: ({ name }) => file.readBytes(name.slice(7)),
  });
  const output = newPath("merged.pth");
  const adapter = randomAdapter("bone", { r: 4 }, linearSites(readModelConfig(file)));
  await merge({ base, adapter, output });
  using after = openTensorFile(output);
  assert.equal(after.prefix, "module.");
  const D = adapter.tensors.get("blocks.0.att.key.bone")!.data;
  const wanted = file.readFloat32("blocks.0.att.key.weight").map((w, at) =>
    Math.fround(w + D[(at % 16) % 4 * 16 + Math.floor(at / 16)]!)
  );
  assert.deepEqual(
    after.readFloat32("blocks.0.att.key.weight"),
    toFloat32(fromFloat32(wanted, "BF16"), "BF16"),
  );
});
