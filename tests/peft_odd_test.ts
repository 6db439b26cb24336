/**
 * PEFT directories of unusual kinds, written and merged by Hugging Face PEFT 0.21: patterns, biases, saved modules, layers by pattern,
 * other dtypes and formats, converted initialisations, embeddings, layers stored the other way round. Each is merged to what PEFT merged,
 * or refused with the reason why it cannot be.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAdapter } from "../adapters/file.ts";
import { compareLayers } from "../adapters/check_merge.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { relativeError } from "./engines.ts";
import { newPath } from "./tiny_model.ts";

const fixture = (name: string) => fileURLToPath(new URL(`fixtures/${name}`, import.meta.url));

interface Case {
  name: string;
  file: string;
  adapter_config: Record<string, unknown>;
}
const { cases }: { cases: Case[] } = JSON.parse(Deno.readTextFileSync(fixture("peft_odd.json")));
const values = openTensorFile(fixture("peft_odd.safetensors"));
const { engine } = await chooseEngine("cpu", { precision: "fp32" });
Deno.test.afterAll(() => {
  values.close();
  engine.dispose();
});

/** Writes the values under a prefix as a file of their own. */
function extract(prefix: string, path: string): string {
  writeTensorFile(path, {
    format: "safetensors",
    tensors: [...values.tensors.values()].filter(({ name }) => name.startsWith(prefix))
      .map((info) => ({ ...info, name: info.name.slice(prefix.length) })),
    read: ({ name }) => values.readBytes(prefix + name),
  });
  return path;
}

/** The directory of a case, as PEFT wrote it. */
function directory({ name, file, adapter_config }: Case): string {
  const folder = newPath(name);
  Deno.mkdirSync(folder);
  if (file.endsWith(".bin")) Deno.writeFileSync(join(folder, file), values.readBytes(`${name}.bin`));
  else extract(`${name}.adapter.`, join(folder, file));
  Deno.writeTextFileSync(join(folder, "adapter_config.json"), JSON.stringify(adapter_config));
  return folder;
}

/** What cannot be had, and why. */
const REFUSED: Readonly<Record<string, RegExp>> = {
  lora_lora_bias: /its lora_bias is true: it adds to biases/,
  lora_parameters: /its target_parameters is \["mlp\.gate\.weight"\]/,
  lora_pissa_raw: /its init_lora_weights is "pissa", which changed the base weights/,
  lora_tokens: /its trainable_token_indices is \{"embed_tokens":\[1,5\]\}/,
};
/** Steps of the dtypes, between numbers near 1. */
const STEPS: Readonly<Record<string, number>> = { F32: 1e-6, BF16: 2 ** -8, F16: 2 ** -11 };

async function compare(folder: string, name: string): Promise<void> {
  using base = openTensorFile(extract(`${name}.base.`, newPath("base.safetensors")));
  const output = newPath("merged.safetensors"), adapter = loadAdapter(folder);
  writeMerged(base, adapter, output);
  using merged = openTensorFile(output);
  assert.deepEqual([...merged.tensors.values()], [...base.tensors.values()]);
  let changed = 0;
  for (const [key, { dtype }] of merged.tensors) {
    const theirs = `${name}.merged.${base.prefix}${key}`;
    if (!values.tensors.has(theirs)) {
      assert.deepEqual(merged.readBytes(key), base.readBytes(key), key);
      continue;
    }
    changed++;
    const error = relativeError(merged.readFloat32(key), values.readFloat32(theirs));
    assert.ok(error < STEPS[dtype]!, `${name} ${key}: ${error}`);
  }
  assert.ok(changed > 0);
  const check = await compareLayers(base, adapter, merged, engine);
  assert.ok(check.relativeError <= check.bound, `${check.relativeError}`);
}

for (const example of cases) {
  const { name, adapter_config: { peft_type, init_weights } } = example, refusal = REFUSED[name];
  if (refusal) {
    Deno.test(`loadAdapter + PEFT's own ${name}: refused, with what to do`, () => {
      assert.throws(() => loadAdapter(directory(example)), { name: "AdapterError", message: refusal });
    });
    continue;
  }
  Deno.test(`loadAdapter + PEFT's own ${name}: merges as PEFT merges, and again as we write it`, async () => {
    const folder = directory(example), again = newPath("again");
    await compare(folder, name);
    savePeft(loadAdapter(folder), again, { names: name.endsWith("rwkv_hf") ? "hf" : "official" });
    await compare(again, name);
    using one = openTensorFile(join(folder, example.file));
    using two = openTensorFile(join(again, "adapter_model.safetensors"));
    // The embedding of this net is a linear layer, which its name belies.
    if (name !== "lora_all_linear") {
      const keys = (file: typeof one) => [...file.tensors.keys()].map((key) => file.prefix + key).sort();
      assert.deepEqual(keys(two), keys(one));
    }
    const written = JSON.parse(Deno.readTextFileSync(join(again, "adapter_config.json")));
    assert.equal(written.bias, example.adapter_config.bias);
    if (peft_type !== "MISS" || init_weights === "mini") return;
    const bone = newPath("bone");
    savePeft(loadAdapter(folder), bone, { type: "BONE" });
    await compare(bone, name);
  });
}
