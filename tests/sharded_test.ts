/**
 * Models in several files: their index, and writing so that no crash leaves half of one.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { divideIntoShards, writeShards } from "../formats/pending.ts";
import { openTensorFile, type TensorInfo, writeTensorFile } from "../formats/tensor_file.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const infos: TensorInfo[] = [
  { name: "b", dtype: "F32", shape: [4] },
  { name: "a", dtype: "BF16", shape: [3, 2] },
  { name: "c", dtype: "U8", shape: [100] },
  { name: "d", dtype: "F16", shape: [0] },
];
const content = ({ name, shape, dtype }: TensorInfo) =>
  new Uint8Array(shape.reduce((a, b) => a * b, 1) * { F32: 4, BF16: 2, F16: 2 }[dtype as "F32"]! || shape[0]!)
    .fill(
      name.charCodeAt(0),
    );
const shards = divideIntoShards(infos, 30, ["model", ".safetensors"]);

/** A folder with the four tensors in two files. */
function newFolder(): string {
  const folder = newPath("sharded");
  writeShards(folder, "model.safetensors", shards, { format: "safetensors", read: content });
  return folder;
}

const files = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

Deno.test("divideIntoShards + sizes: order kept, a tensor over the size alone", () => {
  assert.deepEqual(shards.map(({ file, tensors }) => [file, tensors.map(({ name }) => name)]), [
    ["model-00001-of-00002.safetensors", ["b", "a"]],
    ["model-00002-of-00002.safetensors", ["c", "d"]],
  ]);
});

Deno.test("openTensorFile + a folder or an index: all tensors, whole and in pieces", () => {
  const folder = newFolder();
  for (const path of [folder, join(folder, "model.safetensors.index.json")]) {
    using file = openTensorFile(path);
    assert.deepEqual([...file.tensors.values()], infos);
    assert.deepEqual(file.shards, shards);
    for (const info of infos) {
      assert.deepEqual(file.readBytes(info.name), content(info));
      assert.deepEqual(joined(file.readPieces(info.name, 7)), content(info));
    }
  }
  const index = JSON.parse(Deno.readTextFileSync(join(folder, "model.safetensors.index.json")));
  assert.equal(index.metadata.total_size, 16 + 12 + 100);
  assert.equal(index.weight_map.c, "model-00002-of-00002.safetensors");
});

function joined(pieces: Iterable<Uint8Array>): Uint8Array {
  return Uint8Array.from([...pieces].flatMap((piece) => [...piece]));
}

for (const format of ["pth", "safetensors"] as const) {
  Deno.test(`readPieces + ${format}: the same bytes as readBytes`, () => {
    const path = newPath(`one.${format}`);
    writeTensorFile(path, { format, tensors: infos, read: content });
    using file = openTensorFile(path);
    for (const info of infos) assert.deepEqual(joined(file.readPieces(info.name, 5)), content(info));
  });
}

Deno.test("readModelConfig + a sharded model: as of one file", () => {
  using one = openTensorFile(writeTinyModel(newPath("base.safetensors"), { layers: 2 }));
  const folder = newPath("sharded");
  const parts = divideIntoShards(one.tensors.values(), 20_000, ["model", ".safetensors"]);
  assert.ok(parts.length > 2);
  writeShards(folder, "model.safetensors", parts, {
    format: "safetensors",
    read: ({ name }) => one.readPieces(name),
  });
  using many = openTensorFile(folder);
  assert.deepEqual(readModelConfig(many), readModelConfig(one));
  assert.deepEqual([...many.tensors.values()], [...one.tensors.values()]);
});

Deno.test("writeShards + an existing model: refused; with force replaced, and never without an index", () => {
  const folder = newFolder(), before = files(folder);
  const options = { format: "safetensors" as const, read: content };
  assert.throws(() => writeShards(folder, "model.safetensors", shards, options), Deno.errors.AlreadyExists);
  assert.deepEqual(files(folder), before);
  // A failure in the second file leaves the old model whole.
  const failing = {
    ...options,
    force: true,
    read: (info: TensorInfo) => info.name === "c" ? new Uint8Array(1) : content(info),
  };
  assert.throws(() => writeShards(folder, "model.safetensors", shards, failing), RangeError);
  assert.deepEqual(files(folder), before);
  openTensorFile(folder).close();
  const changed = (info: TensorInfo) => content(info).map((byte) => byte + 1);
  writeShards(folder, "model.safetensors", shards, { ...options, force: true, read: changed });
  assert.equal(files(folder).length, before.length);
  using file = openTensorFile(folder);
  assert.deepEqual(file.readBytes("c"), changed(infos[2]!));
});

Deno.test("openTensorFile + an index that is wrong: one sentence", () => {
  const cases: [(index: { weight_map: Record<string, string> }) => unknown, RegExp][] = [
    [(index) => (index.weight_map.e = "model-00001-of-00002.safetensors", index), /lacks tensor "e"/],
    [(index) => (delete index.weight_map.a, index), /holds tensor "a", which its weight_map has not there/],
    [(index) => (index.weight_map.a = "../model.safetensors", index), /no name of a file/],
    [(index) => (index.weight_map.a = "..", index), /no name of a file/],
    [(index) => (index.weight_map.a = "gone.safetensors", index), /no such file/],
    [() => ({ metadata: {} }), /no weight_map/],
    [() => ({ weight_map: {} }), /none at all/],
    [() => ({ weight_map: { a: 1 } }), /not valid/],
    [() => [], /not valid/],
  ];
  for (const [change, message] of cases) {
    const folder = newFolder(), path = join(folder, "model.safetensors.index.json");
    Deno.writeTextFileSync(path, JSON.stringify(change(JSON.parse(Deno.readTextFileSync(path)))));
    assert.throws(() => openTensorFile(folder), { message });
  }
  assert.throws(() => openTensorFile(Deno.makeTempDirSync()), { message: /it is a folder/ });
});
