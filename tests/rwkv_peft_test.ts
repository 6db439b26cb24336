/**
 * RWKV-PEFT's `.pth` adapters of every era: read, merged, and written again.
 *
 * @module
 */
import assert from "node:assert/strict";
import { dirname, join } from "node:path";
import { Adapter, checkFits } from "../adapters/adapter.ts";
import { loadAdapter } from "../adapters/file.ts";
import { writeMerged } from "../adapters/merged_file.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { saveRwkvPeft } from "../adapters/rwkv_peft.ts";
import type { AdapterHints, Settings } from "../adapters/method.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { linearSites } from "../rwkv/config.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { randomNumbers } from "./engines.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const BASE = writeTinyModel(newPath("base.pth"), { layers: 2 });

/** An adapter of random numbers that 16 bits hold, with a norm that trained along. */
function randomAdapter(name: string, given: Settings): Adapter {
  using file = openTensorFile(BASE);
  const config = readModelConfig(file), random = randomNumbers(7);
  const method = adapterMethod(name), settings = method.configure(given);
  const shapes = [
    ...linearSites(config).flatMap((site) =>
      Object.entries(method.parameters(site, settings)).map(([name, { shape }]) =>
        [`${site.name}.${name}`, shape] as const
      )
    ),
    ...[...method.weights?.(config, settings) ?? []].map(([name, { shape }]) => [name, shape] as const),
    ["blocks.1.ln2.weight", [config.channels]] as const,
  ];
  const tensors = shapes.map(([name, shape]) => {
    const count = shape.reduce((a, b) => a * b, 1);
    return [name, {
      shape,
      data: Float32Array.from({ length: count }, () => Math.round(32 * random()) / 256),
    }] as const;
  });
  return new Adapter(method, settings, new Map(tensors));
}

/** Content of the merged model. */
function merged(adapter: Adapter): Record<string, string> {
  const output = newPath("merged.pth");
  using base = openTensorFile(BASE);
  writeMerged(base, adapter, output);
  using file = openTensorFile(output);
  return Object.fromEntries([...file.tensors.keys()].map((name) => [name, file.readBytes(name).toHex()]));
}

const CASES: [string, Settings, AdapterHints, RegExp][] = [
  ["bone", { r: 4 }, {}, /\.att\.key\.disha$/],
  ["bone", { r: 5 }, {}, /\.att\.key\.disha$/],
  ["bat", { r: 4, axis: "in" }, {}, /\.att\.key\.disha$/],
  ["lora", { r: 3, alpha: 6 }, { loraAlpha: 6 }, /\.att\.key\.lora_A$/],
  ["state", {}, {}, /\.att\.time_state$/],
];
for (const [name, settings, hints, key] of CASES) {
  for (const dtype of ["BF16", "F16", "F32"] as const) {
    Deno.test(`saveRwkvPeft + ${name} ${JSON.stringify(settings)} in ${dtype}: read again, it merges to the same bits`, () => {
      const adapter = randomAdapter(name, settings), path = newPath("rwkv-0.pth");
      saveRwkvPeft(adapter, path, { dtype });
      using file = openTensorFile(path);
      assert.equal(file.metadata.size, 0);
      assert.ok([...file.tensors.values()].every((info) => info.dtype === dtype));
      assert.ok([...file.tensors.keys()].some((name) => key.test(name)));
      const again = loadAdapter(path, hints);
      assert.equal(again.method.name, name);
      assert.deepEqual(merged(again), merged(adapter));
      const twice = newPath("rwkv-1.pth");
      saveRwkvPeft(again, twice, { dtype });
      assert.deepEqual(Deno.readFileSync(twice), Deno.readFileSync(path));
    });
  }
}

Deno.test("saveRwkvPeft + era bone: the names from before 2025", () => {
  const path = newPath("rwkv-0.pth");
  saveRwkvPeft(randomAdapter("bone", { r: 4 }), path, { era: "bone" });
  using file = openTensorFile(path);
  assert.ok(file.tensors.has("blocks.0.att.key.bone") && file.tensors.has("blocks.1.ln2.weight"));
});

Deno.test("loadAdapter + .bone and .gbmm [out, R] of August 2024: BAT by output block", () => {
  const adapter = randomAdapter("bat", { r: 4, axis: "out" });
  for (const key of ["bone", "gbmm"]) {
    const path = newPath("rwkv-0.pth");
    const tensors = [...adapter.tensors].map(([name, { shape, data }]) => ({
      name: name.replace(/\.bone$/, `.${key}`),
      shape: shape.length === 3 ? [shape[0]! * shape[1]!, shape[2]!] : shape,
      data,
    }));
    writeTensorFile(path, {
      format: "pth",
      tensors: tensors.map(({ name, shape }) => ({ name, shape, dtype: "F32" })),
      read: (info) => fromFloat32(tensors.find(({ name }) => name === info.name)!.data, "F32"),
    });
    const again = loadAdapter(path);
    assert.deepEqual([again.method.name, again.settings], ["bat", { r: 4, axis: "out" }]);
    assert.deepEqual(merged(again), merged(adapter));
  }
});

Deno.test("loadAdapter + a file inside a trainer's wrapper: the prefix is no part of the names", () => {
  const adapter = randomAdapter("bone", { r: 4 }), path = newPath("rwkv-0.pth");
  writeTensorFile(path, {
    format: "pth",
    tensors: [...adapter.tensors].map(([name, { shape }]) => ({
      name: `model.${name}`,
      shape,
      dtype: "F32",
    })),
    read: ({ name }) => fromFloat32(adapter.tensors.get(name.slice(6))!.data, "F32"),
  });
  assert.deepEqual(merged(loadAdapter(path)), merged(adapter));
});

Deno.test("saveRwkvPeft + what RWKV-PEFT would misread: refused by a sentence", () => {
  const refused = (name: string, settings: Settings, message: RegExp) => {
    const path = newPath("never.pth");
    assert.throws(() => saveRwkvPeft(randomAdapter(name, settings), path), { message });
    assert.throws(() => Deno.statSync(path));
  };
  refused("bat", { r: 4, axis: "out" }, /by input block, and this one is by output block/);
  refused("bone", { r: 4, mini_r: 2 }, /shards of columns as high as the weight/);
  refused("bone", { r: 4, shards: "rows" }, /shards of columns as high as the weight/);
  const name = "model.layers.0.mlp.up_proj.bone", shape = [2, 3];
  const llama = new Adapter(
    adapterMethod("bone"),
    { r: 2 },
    new Map([[name, { shape, data: new Float32Array(6) }]]),
  );
  assert.throws(() => saveRwkvPeft(llama, newPath("never.pth")), {
    message: /up_proj\.bone" is no part of an RWKV model/,
  });
});

Deno.test("loadAdapter + a LoRA file beside init_pissa.pth: asks which it is", () => {
  const path = newPath("rwkv-0.pth"), beside = join(dirname(path), "init_pissa.pth");
  saveRwkvPeft(randomAdapter("lora", { r: 3, alpha: 6 }), path);
  Deno.writeTextFileSync(beside, "");
  try {
    assert.throws(() => loadAdapter(path), {
      message: /may be a PiSSA, as .*init_pissa\.pth lies beside it/,
    });
    assert.equal(loadAdapter(path, { loraAlpha: 6 }).method.name, "lora");
  } finally {
    Deno.removeSync(beside);
  }
});

/** Writes Bone's or BAT's tensors of some layers under a name of the time, as they lie there. */
function writeBlocks(shapes: Readonly<Record<string, readonly number[]>>): string {
  const path = newPath("rwkv-0.pth"), random = randomNumbers(5);
  writeTensorFile(path, {
    format: "pth",
    tensors: Object.entries(shapes).map(([name, shape]) => ({ name, shape, dtype: "F32" })),
    read: ({ shape }) =>
      fromFloat32(Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => random() / 8), "F32"),
  });
  return path;
}

Deno.test("loadAdapter + [out, R] of square layers alone: BAT by output block, since no Bone has more rows than its layer", () => {
  for (const key of ["bone", "gbmm", "disha"]) {
    const path = writeBlocks({ [`blocks.0.att.key.${key}`]: [16, 4], [`blocks.1.att.key.${key}`]: [16, 4] });
    for (const hints of [{}, { batAxis: "out" }] as const) {
      const { method, settings } = loadAdapter(path, hints);
      assert.deepEqual([method.name, settings], ["bat", { r: 4, axis: "out" }]);
    }
    assert.throws(() => loadAdapter(path, { batAxis: "in" }), { message: /use --bat_axis out/ });
  }
});

Deno.test("loadAdapter + [R, R] and [out, R] of the channel mix: Bone, or BAT where it is said", () => {
  const square = { "blocks.0.att.key.bone": [16, 16] }, value = { "blocks.0.ffn.value.bone": [32, 16] };
  for (const shapes of [square, value]) {
    assert.equal(loadAdapter(writeBlocks(shapes)).method.name, "bone");
    assert.deepEqual(loadAdapter(writeBlocks(shapes), { batAxis: "out" }).settings, { r: 16, axis: "out" });
    assert.throws(() => loadAdapter(writeBlocks(shapes), { batAxis: "in" }), {
      message: /leave --bat_axis out if it is Bone/,
    });
  }
  assert.throws(() => loadAdapter(writeBlocks({ "blocks.0.att.key.gbmm": [16, 16] })), {
    message: /may be Bone, or BAT .*: say --bat_axis out if it is BAT/,
  });
  assert.equal(loadAdapter(writeBlocks({ "blocks.0.ffn.value.gbmm": [32, 16] })).method.name, "bat");
});

Deno.test("loadAdapter + blocks of square layers, [16/R, R, R]: asks for the axis, and takes it", () => {
  const path = writeBlocks({ "blocks.0.att.key.gbmm": [4, 4, 4], "blocks.1.att.key.gbmm": [4, 4, 4] });
  assert.throws(() => loadAdapter(path), { message: /say --bat_axis in or --bat_axis out/ });
  for (const axis of ["in", "out"] as const) {
    const adapter = loadAdapter(path, { batAxis: axis, targets: { target_modules: ["att.key"] } });
    assert.deepEqual(adapter.settings, { r: 4, axis });
    merged(adapter);
  }
});

Deno.test("checkFits + a layer's initial state is missing: no layer can be chosen to be without, and none is advised", () => {
  using file = openTensorFile(BASE);
  const whole = randomAdapter("state", {}), tensors = new Map(whole.tensors);
  tensors.delete("blocks.1.att.time_state");
  assert.throws(() => checkFits(whole.withTensors(tensors), readModelConfig(file)), {
    name: "AdapterError",
    message: /: it lacks "blocks\.1\.att\.time_state"$/,
  });
});
