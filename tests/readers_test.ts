/**
 * Files that mean harm: what a small file may not make a reader allocate, wait for, or believe. The cases of single formats are in
 * `safetensors_test.ts` and `torch_test.ts`, random ones in `fuzz_test.ts`.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { parquetWriteBuffer } from "hyparquet-writer";
import { loadAdapter } from "../adapters/file.ts";
import { readJsonFile } from "../formats/json_file.ts";
import { unpickle } from "../formats/pickle_reader.ts";
import { FormatError, openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { chooseTokenizer } from "../rwkv/tokenizer/choose.ts";
import { worldTokenizer } from "../rwkv/tokenizer/world.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { readBinidx } from "../training/data/binidx.ts";
import { readDocuments } from "../training/data/documents.ts";
import { settle } from "../training/options.ts";
import { train } from "../training/trainer.ts";
import { readRun } from "../training/run_folder.ts";
import { archiveOf } from "./fuzz/mutate.ts";
import { newPath, writeTinyModel } from "./tiny_model.ts";

const onWindows = Deno.build.os === "windows";
const utf8 = new TextEncoder();
const error = (reason: string) => new FormatError("x", reason);

/** A pickle of `count` times `part`, between other bytes. */
function pickle(before: string, part: string, count: number, after: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(`\x80\x02${before}${part.repeat(count)}${after}.`, (c) => c.charCodeAt(0));
}

const BOMBS: Record<string, Uint8Array<ArrayBuffer>> = {
  "a list of a million dicts": pickle("](", "}", 60_000, "e".concat("(", "}".repeat(60_000), "e")),
  "a list of tuples of tuples": pickle("](", ")\x85\x85\x85", 60_000, "e"),
  "a list of lists": pickle("](", "]", 65_000, "e"),
  "memos without end": pickle(
    "K\x00",
    "",
    0,
    Array.from({ length: 60_000 }, (_, i) => `r${String.fromCharCode(i & 255, i >> 8, 0, 0)}`).join(""),
  ),
  "one dict with many keys": pickle(
    "}(",
    "",
    0,
    Array.from({ length: 30_000 }, (_, i) => `M${String.fromCharCode(i & 255, i >> 8)}N`).join("") + "u",
  ),
};
for (const [what, bytes] of Object.entries(BOMBS)) {
  Deno.test(`unpickle + ${what}: refused when its values pass the budget`, () => {
    assert.throws(() => unpickle(bytes, error, 1 << 20), {
      name: "FormatError",
      message: /makes more values than its file has room for/,
    });
  });
}

Deno.test("openTensorFile + a .pth of dicts in a small file: refused, with memory of at most a few times the file", () => {
  const path = newPath("bomb.pth");
  // Each append takes up to the stack's limit of values, which would be hundreds of megabytes in all.
  const bomb = pickle("]", `(${"}".repeat(60_000)}e`, 20, "");
  Deno.writeFileSync(path, archiveOf(new Map([["m/data.pkl", bomb], ["m/version", utf8.encode("3\n")]])));
  const before = Deno.memoryUsage().heapUsed;
  assert.throws(() => openTensorFile(path), {
    name: "FormatError",
    message: /bomb\.pth": its data\.pkl makes more values/,
  });
  assert.ok(Deno.memoryUsage().heapUsed - before < 64e6);
});

Deno.test("openTensorFile + more tensors or entries than any model has: refused by their number", () => {
  const path = newPath("many.safetensors");
  const entries = Array.from(
    { length: 100_001 },
    (_, i) => `"${i}":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}`,
  );
  const header = utf8.encode(`{${entries}}`);
  const bytes = new Uint8Array(8 + header.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(header.length), true);
  bytes.set(header, 8);
  Deno.writeFileSync(path, bytes);
  assert.throws(() => openTensorFile(path), { name: "FormatError", message: /more than 100000 tensors/ });
});

Deno.test("openTensorFile + a tensor that repeats a small storage: up to four times it and a mebibyte, not beyond", () => {
  // The same checks as for torch's own expand() in torch_test.ts, at the limit.
  const u32 = (n: number) => String.fromCharCode(n & 255, (n >> 8) & 255, (n >> 16) & 255, n >>> 24);
  const expanded = (rows: number) => {
    const text = (value: string) => `X${u32(value.length)}${value}`;
    const storage = `(${text("storage")}ctorch\nByteStorage\n${text("0")}${text("cpu")}J${u32(16)}tQ`;
    const tensor = `ctorch._utils\n_rebuild_tensor_v2\n(${storage}K\x00J${
      u32(rows)
    }K\x10\x86K\x00K\x01\x86\x89ccollections\nOrderedDict\n)RtR`;
    const bytes = pickle(`}${text("a")}${tensor}s`, "", 0, "");
    const path = newPath("expanded.pth");
    Deno.writeFileSync(
      path,
      archiveOf(new Map([["m/data.pkl", bytes], ["m/data/0", new Uint8Array(16).fill(7)]])),
    );
    return path;
  };
  {
    using file = openTensorFile(expanded(65536));
    assert.equal(file.readBytes("a").length, 65536 * 16);
  }
  assert.throws(() => openTensorFile(expanded(65536 + 5)), { name: "FormatError", message: /repeats it to/ });
});

Deno.test({
  name: "readers + pipes, devices, folders and loops of links: refused at once, none is waited for",
  ignore: onWindows,
  async fn() {
    const folder = newPath("odd");
    Deno.mkdirSync(folder);
    const pipe = join(folder, "pipe"), loop = join(folder, "loop");
    await new Deno.Command("mkfifo", { args: [pipe] }).output();
    Deno.symlinkSync(loop, loop);
    for (const path of [pipe, "/dev/zero", folder, loop, join(folder, "nothing")]) {
      const refused = {
        message: /it is a folder|not a regular file|no such file|no file|holds no model|symbolic links/i,
      };
      assert.throws(() => openTensorFile(path), refused, path);
      assert.throws(() => loadAdapter(path), refused, path);
      assert.throws(() => readJsonFile(path), refused, path);
      await assert.rejects(
        chooseTokenizer({ vocabulary: 70_000, modelPath: path, vocab: path }),
        refused,
        path,
      );
    }
  },
});

const SINGLE_BYTES = Array.from(
  { length: 256 },
  (_, byte) => `${byte + 1} b'\\x${byte.toString(16).padStart(2, "0")}' 1`,
);
const VOCABULARIES: [string, string, RegExp][] = [
  [
    "an id that a table of gigabytes would be for",
    [...SINGLE_BYTES, "500000 'zz' 2"].join("\n"),
    /has 257 tokens, but ids up to 500000/,
  ],
  [
    "tokens spread as wide as can be",
    [
      ...SINGLE_BYTES,
      ...Array.from({ length: 60_000 }, (_, i) => {
        const hex = (n: number) => `\\x${n.toString(16).padStart(2, "0")}`;
        return `${i + 300} b'${hex((i >> 1) & 255)}${hex(i >> 9)}${hex(i & 1 ? 255 : 0)}' 3`;
      }),
    ].join("\n"),
    /spread too wide/,
  ],
  [
    "an id that no table could hold",
    [...SINGLE_BYTES, "16000000 'zz' 2"].join("\n"),
    /:257: id 16000000 is too large/,
  ],
  [
    "more tokens than models know",
    [
      ...SINGLE_BYTES,
      ...Array.from({ length: 1 << 17 }, (_, i) => `${i + 257} '${(i + 65536).toString(36)}' 4`),
    ].join("\n"),
    /it has over 131072 tokens/,
  ],
  ["JSON with an id twice", `{"1":[0],"1":[1]}`, /id "1": id 1 occurs twice/],
  ["JSON with a prototype", `{"__proto__":[0]}`, /an id is a whole number/],
  ["JSON in JSON in JSON", `{"1":${"[".repeat(5000)}${"]".repeat(5000)}}`, /nested more than/],
  ["a line of a megabyte", `1 ${"x".repeat(1 << 20)} 1`, /^[^\n]{0,300}$/],
];
for (const [what, text, message] of VOCABULARIES) {
  Deno.test(`worldTokenizer + ${what}: refused`, () => {
    assert.throws(() => worldTokenizer(utf8.encode(text), "vocabulary"), { name: "SyntaxError", message });
  });
}

Deno.test({
  name:
    "readDocuments and train + pipes and links to nowhere in a data folder or a run folder: none is waited for",
  ignore: onWindows,
  async fn() {
    const data = newPath("data"), run = newPath("run");
    Deno.mkdirSync(data);
    Deno.writeTextFileSync(join(data, "a.txt"), "Some words to learn, some more than a few of them.");
    const fifo = (path: string) => new Deno.Command("mkfifo", { args: [path] }).outputSync();
    for (const name of ["pipe.jsonl", "pipe.idx", "pipe.bin"]) fifo(join(data, name));
    Deno.symlinkSync(join(data, "nothing"), join(data, "link.csv"));
    const { summary } = await readDocuments(data, bytesTokenizer(128));
    assert.equal(summary.files, 1);
    assert.equal(summary.passedOver.length, 4);

    const options = { loadModel: writeTinyModel(newPath("model.safetensors")), dataFile: data, projDir: run };
    await train({
      ...options,
      ctxLen: 8,
      microBsz: 1,
      maxSteps: 1,
      heldOut: 0,
      samplePrompt: "",
      engine: "cpu",
      boneConfig: { bone_r: 2 },
    });
    for (const name of ["metrics.jsonl", "checkpoints/step-00000009.safetensors", "tensorboard/pipe"]) {
      const path = join(run, name), kept = newPath("kept");
      const isThere = existsSync(path);
      if (isThere) Deno.renameSync(path, kept);
      fifo(path);
      await assert.rejects(train({ resume: run, maxSteps: 2 }), {
        name: "OptionError",
        message: `Cannot write to the run folder ${run}: ${path} is neither a file nor a folder, remove it`,
      });
      Deno.removeSync(path);
      if (isThere) Deno.renameSync(kept, path);
    }
    // The lock is this program's own, and is made anew.
    fifo(join(run, "run.lock"));
    assert.equal((await train({ resume: run, maxSteps: 2 })).steps, 2);
  },
});

Deno.test("readJsonFile + what JSON.parse hides, and what is too large: refused by file and reason", () => {
  const path = newPath("config.json");
  const refused = (text: string | Uint8Array, reason: RegExp) => {
    Deno.writeFileSync(path, typeof text === "string" ? utf8.encode(text) : text);
    assert.throws(() => readJsonFile(path), (error: Error) => {
      assert.ok(error instanceof FormatError && error.message.includes(path), String(error));
      assert.match(error.message, reason);
      return !error.message.includes("\n");
    });
  };
  refused(`{"a":1,"a":2}`, /"a" twice/);
  refused(`{"a":1,"\\u0061":2}`, /"a" twice/);
  refused(`{"__proto__":{"polluted":true}}`, /"__proto__" as a key/);
  refused(`{"a":${"[".repeat(100)}${"]".repeat(100)}}`, /nested more than 32 deep/);
  refused(`{"a":"\\ud800"}`, /lone surrogate/);
  refused(`{"a":NaN}`, /expected a value/);
  refused(`{"a":1}}`, /goes on after its end/);
  refused(`{"a":1`, /expected }/);
  refused("", /expected a value/);
  refused(Uint8Array.of(0xff, 0xfe), /not valid UTF-8/);
  refused(`"${"x".repeat(1 << 20)}"`, /at most 1048576 are read/);
  Deno.writeTextFileSync(path, ` {"a":[1,-2.5e3,true,null,"\\u00e9"],"constructor":{}} `);
  assert.deepEqual(readJsonFile(path), { a: [1, -2500, true, null, "é"], constructor: {} });
});

Deno.test("readRun + settings that are missing, unknown, of another kind or out of range: refused by name", () => {
  const settings: Record<string, unknown> = {
    ...settle({ loadModel: "m.pth", dataFile: "t.jsonl" }, () => "runs/a"),
  };
  const folder = newPath("run");
  Deno.mkdirSync(folder);
  const write = (config: unknown) =>
    Deno.writeTextFileSync(join(folder, "config.json"), JSON.stringify(config));
  const whole = { version: 1, settings, model: "a", data: "b" };
  const refused = (config: unknown, reason: RegExp) => {
    write(config);
    assert.throws(() => readRun(folder), { name: "OptionError", message: reason });
  };
  const { ctxLen: _, ...without } = settings;
  refused(null, /is not whole/);
  refused([], /is not whole/);
  refused({ version: 1 }, /does not say what it began with/);
  refused({ ...whole, settings: null }, /has no settings/);
  refused({ ...whole, settings: without }, /lacks the setting "ctxLen"/);
  refused({ ...whole, settings: { ...settings, ctxLen: "1024" } }, /has a string as the setting "ctxLen"/);
  refused({ ...whole, settings: { ...settings, ctxLen: -1 } }, /settings that cannot be: --ctx_len must be/);
  refused(
    { ...whole, settings: { ...settings, ctxLen: 1e308 } },
    /settings that cannot be: --ctx_len must be/,
  );
  refused(
    { ...whole, settings: { ...settings, trainParts: "ln" } },
    /has a string as the setting "trainParts"/,
  );
  refused(
    { ...whole, settings: { ...settings, trainParts: [1] } },
    /has a list of numbers as the setting "trainParts"/,
  );
  refused({ ...whole, settings: { ...settings, more: 1 } }, /the setting "more", which is unknown here/);
  refused(
    { ...whole, settings: { ...settings, constructor: 1 } },
    /the setting "constructor", which is unknown here/,
  );
  refused({ ...whole, settings: { ...settings, maxSteps: null } }, /has a null as the setting "maxSteps"/);
  refused({ ...whole, settings: { ...settings, boneConfig: { bone_r: {} } } }, /has a object as "bone_r"/);
  refused({ ...whole, model: 1 }, /does not say what it began with/);
  write(whole);
  assert.deepEqual(readRun(folder).settings, settings);
});

Deno.test("loadAdapter + names and types that no adapter has: refused, and in time where there are many", () => {
  const file = (names: readonly string[], dtype: "F32" | "U8" = "F32") => {
    const path = newPath("adapter.safetensors");
    writeTensorFile(path, {
      format: "safetensors",
      tensors: names.map((name) => ({ name, dtype, shape: [1] })),
      read: () => new Uint8Array(dtype === "F32" ? 4 : 1),
    });
    return path;
  };
  assert.throws(() => loadAdapter(file(["blocks.0.att.key.bone"], "U8")), {
    name: "AdapterError",
    message: /is U8/,
  });
  assert.throws(() => loadAdapter(file(["blocks.0.att.key.__proto__"])), { name: "AdapterError" });
  assert.throws(() => loadAdapter(file(Array.from({ length: 20_000 }, (_, i) => `blocks.0.att.key.${i}`))), {
    name: "AdapterError",
  });
});

Deno.test("readModelConfig + sizes of zero: refused", () => {
  const path = newPath("empty.safetensors");
  using model = openTensorFile(writeTinyModel(newPath("model.safetensors")));
  writeTensorFile(path, {
    format: "safetensors",
    tensors: [...model.tensors.values()].map((info) => ({ ...info, shape: info.shape.map(() => 0) })),
    read: () => new Uint8Array(),
  });
  using file = openTensorFile(path);
  assert.throws(() => readModelConfig(file), { name: "ModelError" });
});

Deno.test("readBinidx + sequences that share their tokens, leave some out, or lie outside: refused", () => {
  /** An index of sequences, each of a length and a place, and of the first sequence of each document. */
  const pair = (sequences: [number, number][], documents: number[], size: number) => {
    const prefix = newPath("tokens"), S = sequences.length, D = documents.length;
    const bytes = new Uint8Array(34 + 12 * S + 8 * D), view = new DataView(bytes.buffer);
    bytes.set(utf8.encode("MMIDIDX\0\0"));
    view.setBigUint64(9, 1n, true);
    bytes[17] = 8;
    view.setBigUint64(18, BigInt(S), true);
    view.setBigUint64(26, BigInt(D), true);
    sequences.forEach(([length, offset], i) => {
      view.setInt32(34 + 4 * i, length, true);
      view.setBigInt64(34 + 4 * S + 8 * i, BigInt(offset), true);
    });
    documents.forEach((first, i) => view.setBigInt64(34 + 12 * S + 8 * i, BigInt(first), true));
    Deno.writeFileSync(`${prefix}.idx`, bytes);
    Deno.writeFileSync(`${prefix}.bin`, new Uint8Array(size));
    return () => [...readBinidx(prefix, 10)].map(({ length }) => length);
  };
  assert.deepEqual(pair([[2, 0], [3, 4]], [0, 1, 2], 10)(), [2, 3]);
  // A hundred times the same tokens: a small pair that would be as much as one likes.
  assert.throws(
    pair(Array.from({ length: 100 }, () => [5, 0]), Array.from({ length: 101 }, (_, i) => i), 10),
    /its index has 500 tokens where 10 bytes hold 5/,
  );
  assert.throws(pair([[2, 0], [3, 4]], [1, 2], 10), /make no sense/);
  assert.throws(pair([[2, 0], [3, 6]], [0, 1, 2], 10), /lies at bytes 6 to 12 of 10|ends/);
  assert.throws(pair([[2, 0], [3, -4]], [0, 1, 2], 10), /lies at bytes -4/);
  assert.throws(pair([[2, 2 ** 53]], [0, 1], 10), /lies at bytes/);
});

Deno.test("readDocuments + a Parquet file of more rows than bytes: refused", async () => {
  const tokenizer = bytesTokenizer(256), path = newPath("table.parquet");
  const write = (data: string[]) =>
    Deno.writeFileSync(path, new Uint8Array(parquetWriteBuffer({ columnData: [{ name: "text", data }] })));
  write(["a few", "words"]);
  assert.equal((await readDocuments(path, tokenizer)).documents.length, 2);
  write(Array.from({ length: 200_000 }, () => "a"));
  await assert.rejects(readDocuments(path, tokenizer), /more than it has bytes/);
});

Deno.test("readDocuments + a quote too many before thousands of others: refused in one sentence, soon", async () => {
  const path = newPath("table.csv");
  Deno.writeTextFileSync(path, `text,mo${'"'.repeat(20_000)}\na,b\n`);
  await assert.rejects(readDocuments(path, bytesTokenizer(256)), (error: Error) => {
    assert.match(error.message, /over 100 rows are not CSV/);
    return error.message.length < 600;
  });
});
