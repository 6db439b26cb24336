/**
 * Hugging Face PEFT directories: the real library's, and what is written for it.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAdapter } from "../adapters/file.ts";
import { fitTo } from "../adapters/fit.ts";
import { prepareMerged } from "../adapters/merged_file.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { relativeError } from "./engines.ts";
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
