/**
 * Where merging may write: never over what it reads, and never in a format that the name does not say.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { Adapter, mergeAdapter } from "../mod.ts";
import { requireOutput } from "../adapters/merge_output.ts";
import { savePeft } from "../adapters/peft/write.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { divideIntoShards, writeShards } from "../formats/pending.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { linearSites } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

/** A model in several files. */
function shardedModel(): string {
  using file = openTensorFile(writeTinyModel(newPath("base.safetensors")));
  const folder = newPath("sharded");
  writeShards(
    folder,
    "model.safetensors",
    divideIntoShards(file.tensors.values(), 4000, ["model", ".safetensors"]),
    { format: "safetensors", read: ({ name }) => file.readBytes(name) },
  );
  return folder;
}

/** A Bone of ones. */
function boneFor(base: string): Adapter {
  using file = openTensorFile(base);
  const method = adapterMethod("bone"), settings = method.configure({ r: 2 });
  return new Adapter(
    method,
    settings,
    new Map(
      linearSites(readModelConfig(file)).map(({ name, out }) => [
        `${name}.bone`,
        { shape: [2, out], data: new Float32Array(2 * out).fill(0.01) },
      ]),
    ),
  );
}

const contents = (folder: string) =>
  Object.fromEntries(
    [...Deno.readDirSync(folder)].map(({ name }) => [name, Deno.readFileSync(join(folder, name))]),
  );

Deno.test("mergeAdapter + an output that is part of its base or its adapter: refused even by force, nothing changed", async () => {
  const base = shardedModel(), index = join(base, "model.safetensors.index.json"), peft = newPath("peft");
  const adapter = boneFor(base), before = contents(base);
  savePeft(adapter, peft);
  const first = join(base, Object.keys(before).find((name) => name.endsWith(".safetensors"))!);
  const outputs = [
    [base, base],
    [index, base],
    [base, first],
    [index, first],
    [first, first],
    [base, index.replace("index.json", "../" + base.split("/").at(-1)! + "/model.safetensors.index.json")],
    [base, join(peft, "adapter_model.safetensors")],
    [base, peft],
  ] as const;
  for (const [from, output] of outputs) {
    await assert.rejects(mergeAdapter({ base: from, adapter: peft, output, force: true, engine: "cpu" }), {
      name: /Error/,
      message: /would replace .*, which it is made from|cannot be written in that format/,
    }, `${from} to ${output}`);
  }
  assert.deepEqual(contents(base), before);
  const alone = join(newPath("alone"), "model.safetensors");
  Deno.mkdirSync(dirname(alone));
  writeTinyModel(alone);
  await assert.rejects(
    mergeAdapter({
      base: alone,
      adapter,
      output: dirname(alone),
      shardBytes: 9000,
      force: true,
      engine: "cpu",
    }),
    { message: /would replace .*model\.safetensors, which it is made from/ },
  );
});

Deno.test("mergeAdapter + an output in an existing folder that holds no model: written beside what is there", async () => {
  const base = writeTinyModel(newPath("base.safetensors")), output = newPath("there");
  Deno.mkdirSync(output);
  Deno.writeTextFileSync(join(output, "notes.txt"), "mine");
  const { output: written } = await mergeAdapter({ base, adapter: boneFor(base), output, engine: "cpu" });
  using file = openTensorFile(output);
  assert.equal(file.path, written);
  assert.ok(existsSync(join(output, "notes.txt")));
  await assert.rejects(mergeAdapter({ base, adapter: boneFor(base), output, engine: "cpu" }), /exists/);
});

Deno.test("mergeAdapter + a folder that holds another model under another name: refused, even by force", async () => {
  const base = writeTinyModel(newPath("base.safetensors")), output = newPath("there");
  const adapter = boneFor(base), options = { base, adapter, output, engine: "cpu", force: true } as const;
  Deno.mkdirSync(output);
  writeTinyModel(join(output, "model.safetensors"));
  const before = contents(output);
  await assert.rejects(mergeAdapter({ ...options, shardBytes: 9000 }), {
    name: "AdapterError",
    message:
      /holds another model, model\.safetensors, beside which none can lie: choose another with --output$/,
  });
  assert.deepEqual(contents(output), before);
});

Deno.test("mergeAdapter + .st: safetensors, as Ai00 calls it, whatever the base is", async () => {
  const base = writeTinyModel(newPath("base.pth")), output = newPath("merged.st");
  await mergeAdapter({ base, adapter: boneFor(base), output, engine: "cpu" });
  using file = openTensorFile(output);
  assert.equal(file.format, "safetensors");
});

Deno.test("requireOutput + names of other formats, folders that are none: one sentence", () => {
  const base = writeTinyModel(newPath("base.pth"));
  const refused = (output: string, message: RegExp) =>
    assert.throws(() => requireOutput(output, { base, force: true }), { name: "AdapterError", message });
  refused(newPath("merged.gguf"), /cannot be written in that format: end its name in \.pth or \.safetensors/);
  refused(join(newPath("nowhere"), "merged.pth"), /^The folder of the output .* does not exist: create it/);
  refused(join(base, "merged.pth"), /^The folder of the output .* is a file/);
});

Deno.test("mergeAdapter + a base that is an adapter, or quantised: one sentence", async () => {
  const base = writeTinyModel(newPath("base.safetensors")), adapter = boneFor(base);
  const peft = newPath("peft"), output = newPath("never.safetensors");
  savePeft(adapter, peft);
  const weights = join(peft, "adapter_model.safetensors");
  await assert.rejects(mergeAdapter({ base: weights, adapter, output, engine: "cpu" }), {
    message: /holds ".*miss_block", so it is an adapter and no model: name the base model/,
  });
  using file = openTensorFile(base);
  const quantised = newPath("fp8.safetensors");
  const isSite = (name: string) => adapter.tensors.has(name.replace(/\.weight$/, ".bone"));
  writeTensorFile(quantised, {
    format: "safetensors",
    tensors: [...file.tensors.values()].filter(({ name }) => !name.endsWith("r_k"))
      .map((info) => isSite(info.name) ? { ...info, dtype: "F8_E4M3" } : info),
    read: ({ name, shape }) =>
      isSite(name) ? new Uint8Array(shape.reduce((a, b) => a * b)) : file.readBytes(name),
  });
  await assert.rejects(mergeAdapter({ base: quantised, adapter, output, engine: "cpu" }), {
    message:
      /are quantised, "blocks\.0\.att\.receptance\.weight" to F8_E4M3: name the model that they were made from/,
  });
  assert.equal(existsSync(output), false);
});
