/**
 * Models larger than memory, as files with holes: nothing is read but what is asked for. `deno task bench:files` merges and trains
 * such models as well.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { inspect } from "../adapters/inspect.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { worldSizes, writeHollowShards, writeHollowTorch } from "./hollow_model.ts";
import { newPath } from "./tiny_model.ts";

/** Runs `work` and gives what arrays it left, garbage included: what was read of a file is among them. */
function arraysOf(work: () => void): number {
  const before = Deno.memoryUsage().external;
  work();
  return Deno.memoryUsage().external - before;
}

Deno.test("openTensorFile and inspect + 6 GB in shards: each tensor from its own place, and no more memory than the headers", () => {
  const folder = newPath("model");
  Deno.mkdirSync(folder);
  const index = join(folder, "model.safetensors.index.json");
  const bytes = writeHollowShards(index, worldSizes(32, 2560), 2e9);
  assert.ok(bytes > 5.5e9);
  let taken = arraysOf(() => {
    const { files, model } = inspect(index);
    assert.deepEqual([files, model?.layers, model?.channels, model?.problem], [3, 32, 2560, undefined]);
  });
  assert.ok(taken < 32e6, `${taken}`);
  taken = arraysOf(() => {
    using file = openTensorFile(index);
    // The last of several gigabytes, and one of the few that are not zeros.
    const last = file.readFloat32("blocks.31.ln2.weight");
    assert.deepEqual([last.length, last[0], last.at(-1)], [2560, 1, 1]);
    assert.deepEqual([...new Set(file.readFloat32("blocks.31.att.x_r"))], [0]);
  });
  assert.ok(taken < 32e6, `${taken}`);
});

Deno.test("openTensorFile + a .pth of a quarter of a gigabyte: names without its data, and one record at a time", () => {
  const path = newPath("model.pth");
  const bytes = writeHollowTorch(path, worldSizes(8, 1024, 16384));
  assert.ok(bytes > 2e8);
  let taken = arraysOf(() => void inspect(path));
  assert.ok(taken < 16e6, `${taken}`);
  taken = arraysOf(() => {
    using file = openTensorFile(path);
    const first = file.readFloat32("blocks.7.ln2.weight");
    assert.deepEqual([first.length, first[0]], [1024, 1]);
  });
  assert.ok(taken < 16e6, `${taken}`);
});
