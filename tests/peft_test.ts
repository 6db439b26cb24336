/**
 * Hugging Face PEFT directories: the real library's, and what is written for it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Adapter } from "../adapters/adapter.ts";
import { loadAdapter } from "../adapters/file.ts";
import { fitTo } from "../adapters/fit.ts";
import { prepareMerged } from "../adapters/merged_file.ts";
import { savePeft, type SavePeftOptions } from "../adapters/peft/write.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { type DType, fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { randomNumbers, relativeError } from "./engines.ts";
import { newPath } from "./tiny_model.ts";

const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

interface Case {
  tag: string;
  kind: string;
  keys: string[];
  adapter_config: Record<string, unknown>;
}
const cases: Case[] = JSON.parse(Deno.readTextFileSync(fixture("peft_cases.json"))).cases;
const values = openTensorFile(fixture("peft_cases.safetensors"));
Deno.test.afterAll(() => values.close());

/** Writes the values under a prefix as a file of their own. */
function extract(prefix: string, path: string): string {
  const infos = [...values.tensors.values()].filter(({ name }) => name.startsWith(prefix));
  writeTensorFile(path, {
    format: path.endsWith(".bin") ? "pth" : "safetensors",
    tensors: infos.map((info) => ({ ...info, name: info.name.slice(prefix.length) })),
    read: ({ name }) => values.readBytes(prefix + name),
  });
  return path;
}

/** The directory of a case, as PEFT wrote it. */
function directory({ tag, adapter_config }: Case, weights = "adapter_model.safetensors"): string {
  const folder = newPath(tag);
  Deno.mkdirSync(folder);
  extract(`${tag}.adapter.`, join(folder, weights));
  Deno.writeTextFileSync(join(folder, "adapter_config.json"), JSON.stringify(adapter_config));
  return folder;
}

/** Merges, and compares with what PEFT merged. */
function compare(folder: string, tag: string): void {
  using base = openTensorFile(extract(`${tag}.base.`, newPath("base.safetensors")));
  const output = newPath("merged.safetensors");
  {
    using pending = prepareMerged(base, loadAdapter(folder), output);
    pending.commit();
  }
  using merged = openTensorFile(output);
  assert.deepEqual([...merged.tensors.values()], [...base.tensors.values()]);
  for (const name of merged.tensors.keys()) {
    const error = relativeError(merged.readFloat32(name), values.readFloat32(`${tag}.merged.${name}`));
    assert.ok(error < 1e-6, `${tag} ${name}: ${error}`);
  }
}

for (const example of cases) {
  const { tag, adapter_config } = example;
  const what = `${adapter_config.peft_type} ${adapter_config.init_weights ?? ""}, r ${adapter_config.r}`;

  Deno.test(`loadAdapter + PEFT's own ${tag} (${what}): merges as PEFT merges`, () => {
    compare(directory(example), tag);
    compare(directory(example, "adapter_model.bin"), tag);
  });

  Deno.test(`savePeft + ${tag} (${what}): the same keys, tensors and settings as PEFT wrote`, () => {
    const folder = directory(example), again = newPath("again"), third = newPath("third");
    savePeft(loadAdapter(folder), again);
    using one = openTensorFile(join(folder, "adapter_model.safetensors"));
    using two = openTensorFile(join(again, "adapter_model.safetensors"));
    assert.deepEqual([two.prefix, ...two.tensors.values()], [one.prefix, ...one.tensors.values()]);
    for (const name of one.tensors.keys()) assert.deepEqual(two.readBytes(name), one.readBytes(name));
    const written = JSON.parse(Deno.readTextFileSync(join(again, "adapter_config.json")));
    for (const [key, value] of Object.entries(written)) {
      if (key !== "auto_mapping") assert.deepEqual(value, adapter_config[key], key);
    }
    savePeft(loadAdapter(again), third);
    for (const name of ["adapter_config.json", "adapter_model.safetensors"]) {
      assert.deepEqual(Deno.readFileSync(join(third, name)), Deno.readFileSync(join(again, name)));
    }
  });

  Deno.test(`savePeft + ${tag} (${what}) as LORA: exact where the method adds a product`, () => {
    const adapter = loadAdapter(directory(example)), folder = newPath("lora");
    using base = openTensorFile(extract(`${tag}.base.`, newPath("base.safetensors")));
    const sites = new Map([...fitTo(adapter, base).sites.values()].map(({ site }) => [site.name, site]));
    if (adapter.method.name === "bat") {
      assert.throws(() => savePeft(adapter, folder, { type: "LORA", sites }), {
        message: /no product of thin/,
      });
      return;
    }
    savePeft(adapter, folder, { type: "LORA", sites });
    compare(folder, tag);
  });

  if (adapter_config.peft_type === "MISS" && adapter_config.init_weights !== "mini") {
    Deno.test(`savePeft + ${tag} (${what}) as BONE: PEFT 0.14's keys, and it merges as before`, () => {
      const folder = newPath("bone");
      savePeft(loadAdapter(directory(example)), folder, { type: "BONE" });
      const config = JSON.parse(Deno.readTextFileSync(join(folder, "adapter_config.json")));
      assert.equal(config.peft_type, "BONE");
      assert.equal("mini_r" in config || "miss_dropout" in config || "peft_version" in config, false);
      using file = openTensorFile(join(folder, "adapter_model.safetensors"));
      assert.ok([...file.tensors.keys()].every((name) => name.endsWith(".bone_block")));
      compare(folder, tag);
    });
  }
}

/** A PEFT directory made by hand. */
function handmade(
  config: Record<string, unknown>,
  tensors: Record<string, number[]>,
  dtype: DType = "F32",
): string {
  const folder = newPath("handmade"), random = randomNumbers(3);
  Deno.mkdirSync(folder);
  Deno.writeTextFileSync(join(folder, "adapter_config.json"), JSON.stringify(config));
  writeTensorFile(join(folder, "adapter_model.safetensors"), {
    format: "safetensors",
    tensors: Object.entries(tensors).map(([name, shape]) => ({ name, shape, dtype })),
    read: ({ shape }) =>
      fromFloat32(Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => random()), dtype),
  });
  return folder;
}

const P = "base_model.model.";

Deno.test("loadAdapter + rank_pattern, alpha_pattern and rsLoRA: each module's own scale, by PEFT's rule for patterns", () => {
  const A = (r: number) => [r, 6], B = (r: number) => [4, r];
  const adapter = loadAdapter(handmade({
    ...{ peft_type: "LORA", r: 2, lora_alpha: 4, use_rslora: true, lora_dropout: 0.1 },
    rank_pattern: { "layers\\.1\\..*q_proj": 3, "^model.layers.2.q_proj": 1 },
    alpha_pattern: { q_proj: 9, "layers.1.q_proj": 100 },
    unknown_key_of_a_later_version: { a: 1 },
  }, {
    [`${P}model.layers.0.q_proj.lora_A.weight`]: A(2),
    [`${P}model.layers.0.q_proj.lora_B.weight`]: B(2),
    [`${P}model.layers.0.xq_proj.lora_A.weight`]: A(2),
    [`${P}model.layers.0.xq_proj.lora_B.weight`]: B(2),
    [`${P}model.layers.1.q_proj.lora_A.weight`]: A(3),
    [`${P}model.layers.1.q_proj.lora_B.weight`]: B(3),
    [`${P}model.layers.2.q_proj.lora_A.weight`]: A(1),
    [`${P}model.layers.2.q_proj.lora_B.weight`]: B(1),
  }, "BF16"));
  const at = (site: string) => {
    const { r, alpha, rslora } = adapter.settingsAt(`model.layers.${site}`);
    return [r, alpha, rslora];
  };
  // The first pattern that matches wins, in the order of the file.
  assert.deepEqual([at("0.q_proj"), at("0.xq_proj"), at("1.q_proj"), at("2.q_proj")], [
    [2, 9, true],
    [2, 4, true],
    [3, 9, true],
    [1, 9, true],
  ]);
  const again = newPath("again");
  savePeft(adapter, again);
  const reread = loadAdapter(again);
  assert.deepEqual(new Map([...reread.tensors].sort()), new Map([...adapter.tensors].sort()));
  for (const site of ["0.q_proj", "0.xq_proj", "1.q_proj", "2.q_proj"]) {
    assert.deepEqual(reread.settingsAt(`model.layers.${site}`), adapter.settingsAt(`model.layers.${site}`));
  }
});

Deno.test("loadAdapter + modules_to_save, biases and .default left in: weights by their own names", () => {
  const adapter = loadAdapter(
    handmade({ peft_type: "BONE", r: 2, modules_to_save: ["lm_head"], bias: "all" }, {
      [`${P}model.layers.0.attn.r_proj.bone_block.default`]: [2, 8],
      [`${P}lm_head.modules_to_save.default.weight`]: [50, 8],
      [`${P}model.norm.modules_to_save.weight`]: [8],
      [`${P}model.layers.0.attn.r_proj.base_layer.bias`]: [8],
    }),
  );
  assert.deepEqual(Object.fromEntries([...adapter.tensors].map(([name, { shape }]) => [name, shape])), {
    "blocks.0.att.receptance.bone": [2, 8],
    "head.weight": [50, 8],
    "ln_out.weight": [8],
    "blocks.0.att.receptance.bias": [8],
  });
  const folder = newPath("saved");
  savePeft(
    adapter.withTensors(new Map([...adapter.tensors].filter(([name]) => !name.endsWith("bias")))),
    folder,
    { names: "hf" },
  );
  const config = JSON.parse(Deno.readTextFileSync(join(folder, "adapter_config.json")));
  assert.deepEqual([config.modules_to_save, config.task_type], [["lm_head", "model.norm"], "CAUSAL_LM"]);
});

Deno.test("loadAdapter and savePeft + low-rank pairs saved whole under Hugging Face's names: they lie there as there, and here as here", () => {
  const lora = `${P}model.layers.1.attn.w_lora.lora`;
  const folder = handmade({ peft_type: "MISS", r: 2, modules_to_save: ["w_lora.lora.0", "w_lora.lora.2"] }, {
    [`${P}model.layers.1.attn.r_proj.miss_block`]: [2, 8],
    [`${lora}.0.weight`]: [3, 8],
    [`${lora}.2.weight`]: [8, 3],
    [`${lora}.2.bias`]: [8],
  });
  const adapter = loadAdapter(folder);
  const shapes = Object.fromEntries([...adapter.tensors].map(([name, { shape }]) => [name, shape]));
  assert.deepEqual(shapes, {
    "blocks.1.att.receptance.bone": [2, 8],
    "blocks.1.att.w1": [8, 3],
    "blocks.1.att.w2": [3, 8],
    "blocks.1.att.w0": [1, 1, 8],
  });
  using file = openTensorFile(join(folder, "adapter_model.safetensors"));
  const there = file.readFloat32(`${lora}.0.weight`.slice(file.prefix.length));
  const here = adapter.tensors.get("blocks.1.att.w1")!.data;
  for (let r = 0; r < 3; r++) for (let c = 0; c < 8; c++) assert.equal(here[c * 3 + r], there[r * 8 + c]);
  const again = newPath("again");
  savePeft(adapter, again, { names: "hf" });
  using written = openTensorFile(join(again, "adapter_model.safetensors"));
  assert.equal(written.prefix, file.prefix);
  for (const { name, shape } of file.tensors.values()) {
    assert.deepEqual(written.tensors.get(name)?.shape, shape, name);
    assert.deepEqual(written.readFloat32(name), file.readFloat32(name), name);
  }
});

const BLOCK = { [`${P}key.miss_block`]: [4, 48] }, TILES = { [`${P}key.miss_block`]: [6, 8, 8] };
const REFUSED: [string, Record<string, unknown>, Record<string, number[]>, RegExp][] = [
  [
    "another type",
    { peft_type: "OFT" },
    BLOCK,
    /peft_type is "OFT", and those that can be used are BONE, MISS and LORA/,
  ],
  ["no type", { r: 4 }, BLOCK, /has no peft_type/],
  [
    "another rank",
    { peft_type: "MISS", r: 8 },
    BLOCK,
    /bone of key is \[4,48\] where its adapter_config\.json wants \[8, any\]/,
  ],
  ["tiles without bat", { peft_type: "MISS", r: 8, init_weights: true }, TILES, /init_weights must be "bat"/],
  [
    "bat without tiles",
    { peft_type: "MISS", r: 4, init_weights: "bat" },
    BLOCK,
    /init_weights must be "bat"/,
  ],
  ["another mini_r", { peft_type: "MISS", r: 4, init_weights: "mini", mini_r: 3 }, BLOCK, /wants \[4, 3\]/],
  ["another init_weights", { peft_type: "MISS", r: 4, init_weights: "row" }, BLOCK, /init_weights is "row"/],
  ["a rank of zero", { peft_type: "MISS", r: 0 }, BLOCK, /its r is 0 where a whole number of at least 1/],
  [
    "tensors of another type",
    { peft_type: "LORA", r: 4 },
    BLOCK,
    /describes no adapter with the tensors .*key\.miss_block/,
  ],
  ["A without B", { peft_type: "LORA", r: 4 }, { [`${P}key.lora_A.weight`]: [4, 8] }, /key has no lora_B/],
  [
    "DoRA without magnitudes",
    { peft_type: "LORA", r: 4, use_dora: true },
    { [`${P}key.lora_A.weight`]: [4, 8], [`${P}key.lora_B.weight`]: [8, 4] },
    /key has no lora_magnitude_vector/,
  ],
  [
    "magnitudes without DoRA",
    { peft_type: "LORA", r: 4 },
    { [`${P}key.lora_A.weight`]: [4, 8], [`${P}key.lora_magnitude_vector`]: [8] },
    /describes no adapter with the tensors .*key\.lora_magnitude_vector/,
  ],
  [
    "an initialisation that changed the base",
    { peft_type: "LORA", init_lora_weights: "pissa_niter_4" },
    BLOCK,
    /changed the base weights/,
  ],
  [
    "an activated LoRA",
    { peft_type: "LORA", alora_invocation_tokens: [1] },
    BLOCK,
    /acts on part of a text only/,
  ],
  ["a broken pattern", { peft_type: "LORA", rank_pattern: { "(": 2 } }, BLOCK, /is no regular expression/],
  [
    "no tensor at a layer",
    { peft_type: "MISS", r: 4 },
    { [`${P}head.weight`]: [4, 8] },
    /no tensor that a MISS adapter adds/,
  ],
];
for (const [what, config, tensors, message] of REFUSED) {
  Deno.test(`loadAdapter + a PEFT directory with ${what}: one sentence`, () => {
    assert.throws(() => loadAdapter(handmade(config, tensors)), { name: "AdapterError", message });
  });
}

Deno.test("loadAdapter + folders that are no PEFT directory: what they are instead", () => {
  const outer = newPath("outer");
  Deno.mkdirSync(outer);
  assert.throws(() => loadAdapter(outer), { message: /without adapter_config\.json/ });
  Deno.renameSync(handmade({ peft_type: "MISS", r: 4 }, BLOCK), join(outer, "other"));
  assert.throws(() => loadAdapter(outer), { message: /holds the adapters other; name one of these folders/ });
  assert.equal(loadAdapter(join(outer, "other", "adapter_model.safetensors")).method.name, "bone");
  Deno.removeSync(join(outer, "other", "adapter_model.safetensors"));
  assert.throws(() => loadAdapter(join(outer, "other")), {
    message: /holds no adapter_model\.safetensors or /,
  });
});

Deno.test("savePeft + what PEFT has no words for: one sentence, and nothing is left", () => {
  const refused = (
    name: string,
    settings: Record<string, unknown>,
    options: SavePeftOptions,
    message: RegExp,
  ) => {
    const method = adapterMethod(name), checked = method.configure(settings), folder = newPath("never");
    const site = { name: "blocks.0.att.key", layer: 0, in: 8, out: 8 };
    const tensors = Object.entries(method.parameters(site, checked)).map(([tensor, { shape }]) =>
      [`${site.name}.${tensor}`, { shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) }] as const
    );
    assert.throws(() => savePeft(new Adapter(method, checked, new Map(tensors)), folder, options), {
      message,
    });
    assert.throws(() => Deno.statSync(folder));
  };
  refused(
    "bat",
    { r: 4, axis: "in" },
    {},
    /BAT by input block as PEFT's MISS, whose "bat" is by output block/,
  );
  refused("bone", { r: 4, mini_r: 2 }, { type: "BONE" }, /write it as MISS/);
  refused("bone", { r: 4, shards: "rows" }, {}, /write it as LORA/);
  refused("bone", { r: 4 }, { type: "LORA" }, /without the widths of its layers: name the base model/);
  refused("lora", { r: 4, alpha: 4 }, { type: "MISS" }, /they are different methods/);
});

Deno.test("savePeft + a directory that is there: refused, replaced by force, and never with others' files in it", () => {
  const folder = newPath("there"), adapter = loadAdapter(handmade({ peft_type: "MISS", r: 4 }, BLOCK));
  savePeft(adapter, folder);
  assert.throws(() => savePeft(adapter, folder), Deno.errors.AlreadyExists);
  Deno.writeTextFileSync(join(folder, "README.md"), "");
  savePeft(adapter, folder, { force: true });
  assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
    "adapter_config.json",
    "adapter_model.safetensors",
  ]);
  Deno.writeTextFileSync(join(folder, "thesis.txt"), "");
  assert.throws(() => savePeft(adapter, folder, { force: true }), {
    message: /no PEFT adapter alone \(thesis\.txt\)/,
  });
});

Deno.test("savePeft + some layers only: whole names, so that PEFT makes no others", () => {
  const targets = (sites: string[]) => {
    const folder = newPath("targets");
    const tensors = Object.fromEntries(sites.map((site) => [`${P}${site}.miss_block`, [2, 8]]));
    savePeft(loadAdapter(handmade({ peft_type: "MISS", r: 2 }, tensors)), folder);
    return JSON.parse(Deno.readTextFileSync(join(folder, "adapter_config.json"))).target_modules;
  };
  assert.deepEqual(
    targets(["blocks.0.att.key", "blocks.1.att.key", "blocks.0.ffn.key", "blocks.1.ffn.key"]),
    ["key"],
  );
  assert.deepEqual(targets(["blocks.0.att.key", "blocks.1.att.key"]), ["att.key"]);
  assert.deepEqual(targets(["blocks.1.att.key"]), ["blocks.1.att.key"]);
  assert.deepEqual(targets(["blocks.0.att.key", "blocks.1.att.value"]), [
    "blocks.0.att.key",
    "blocks.1.att.value",
  ]);
});
