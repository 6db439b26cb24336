/**
 * safetensors files, and what all formats share: opening by content, names without prefixes, atomic writing.
 *
 * @module
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeFileAtomic } from "../formats/atomic.ts";
import { byteWidth, type DType, dtypeNames, tensorByteLength } from "../formats/dtype.ts";
import { writeSafetensors } from "../formats/safetensors.ts";
import {
  commonPrefix,
  FormatError,
  openTensorFile,
  type TensorInfo,
  writeTensorFile,
} from "../formats/tensor_file.ts";

const fixtures = fileURLToPath(new URL("./fixtures/", import.meta.url));
const assets = fileURLToPath(new URL("../../shared/assets/", import.meta.url));

function inTempFolder(body: (folder: string) => void): () => void {
  return () => {
    const folder = Deno.makeTempDirSync();
    try {
      body(folder);
    } finally {
      Deno.removeSync(folder, { recursive: true });
    }
  };
}

/** A safetensors file of a header text and data. */
function fileOf(header: string | Uint8Array, data: number | Uint8Array = 0): Uint8Array {
  const json = typeof header === "string" ? new TextEncoder().encode(header) : header;
  const body = typeof data === "number" ? new Uint8Array(data) : data;
  const bytes = new Uint8Array(8 + json.length + body.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(body, 8 + json.length);
  return bytes;
}

/** Opens bytes as a file and reads every tensor in full. */
function readAll(folder: string, bytes: Uint8Array): Map<string, Uint8Array> {
  const path = join(folder, "case");
  Deno.writeFileSync(path, bytes);
  using file = openTensorFile(path);
  return new Map([...file.tensors].map(([name, { dtype, shape }]) => {
    const content = file.readBytes(name);
    assert.equal(content.length, tensorByteLength(dtype, shape));
    return [name, content];
  }));
}

function verdict(folder: string, bytes: Uint8Array): "accept" | "reject" {
  try {
    readAll(folder, bytes);
    return "accept";
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    assert.match(error.message, /^Cannot read ".+": .+; .+$/s);
    return "reject";
  }
}

function pattern(length: number, seed: number): Uint8Array {
  return Uint8Array.from({ length }, (_, i) => Math.imul(i + seed, 2654435761) >>> 13);
}

// Two verdicts need a word. "duplicate name, same entry": two identical entries mean the same to every reader,
// so they are accepted; entries that differ in anything are refused. "F4 even count": the tensor is listed and
// copied byte for byte, and only its conversion to float32 is refused.
const cases: { name: string; base64: string; want: string }[] = JSON.parse(
  Deno.readTextFileSync(join(fixtures, "safetensors-cases.json")),
);
for (const { name, base64, want } of cases) {
  Deno.test(
    `openTensorFile() ${want}s safetensors: ${name}`,
    inTempFolder((folder) => assert.equal(verdict(folder, Uint8Array.fromBase64(base64)), want)),
  );
}

const entry = (offsets: string, extra = ""): string =>
  `{"dtype":"U8","shape":[1],"data_offsets":[${offsets}]${extra}}`;
const rejected: Record<string, Uint8Array> = {
  "offset beyond 2^53": fileOf(`{"a":${entry("9007199254740992,9007199254740993")}}`, 1),
  "minus zero": fileOf(`{"a":${entry("-0,1")}}`, 1),
  "leading zero": fileOf(`{"a":${entry("00,1")}}`, 1),
  "comment": fileOf(`{"a":${entry("0,1")}/**/}`, 1),
  "trailing comma": fileOf(`{"a":${entry("0,1")},}`, 1),
  "NUL padding": fileOf(`{"a":${entry("0,1")}}\0\0`, 1),
  "no-break space": fileOf(`{"a":${entry("0,1")}}\u00a0`, 1),
  "raw control character in a name": fileOf(`{"a\n":${entry("0,1")}}`, 1),
  "wrong escape": fileOf(`{"\\x61":${entry("0,1")}}`, 1),
  "string that ends in a backslash": fileOf(`{"a\\`),
  "same key twice in an entry": fileOf(`{"a":${entry("0,1", ',"dtype":"U8"')}}`, 1),
  "same key twice, once escaped": fileOf(`{"a":${entry("0,1", ',"d\\u0074ype":"I8"')}}`, 1),
  "same name twice, two types": fileOf(`{"a":${entry("0,1")},"a":${entry("0,1").replace("U8", "I8")}}`, 1),
  "key twice in the metadata": fileOf(`{"__metadata__":{"a":"1","a":"1"}}`),
  "deep unknown field": fileOf(`{"a":${entry("0,1", `,"x":${"[".repeat(200)}${"]".repeat(200)}`)}}`, 1),
  "many unknown fields": fileOf(
    `{"a":${entry("0,1", Array.from({ length: 20 }, (_, i) => `,"x${i}":0`).join(""))}}`,
    1,
  ),
  "65 dimensions": fileOf(`{"a":{"dtype":"U8","shape":[${Array(65).fill(1)}],"data_offsets":[0,1]}}`, 1),
  "data before the first tensor": fileOf(`{"a":${entry("1,2")}}`, 2),
  "gap around an empty tensor": fileOf(
    `{"a":${entry("0,1")},"e":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"b":${entry("2,3")}}`,
    3,
  ),
  "empty tensor beyond the data": fileOf(`{"e":{"dtype":"U8","shape":[0],"data_offsets":[5,5]}}`),
  "file shorter than its header": fileOf(`{"a":${entry("0,1")}}`).subarray(0, 30),
};
for (const [name, bytes] of Object.entries(rejected)) {
  Deno.test(
    `openTensorFile() rejects safetensors: ${name}`,
    inTempFolder((folder) => assert.equal(verdict(folder, bytes), "reject")),
  );
}

const accepted: Record<string, Uint8Array> = {
  "leading spaces": fileOf(`  {"a":${entry("0,1")}}`, 1),
  "unknown fields of every kind": fileOf(
    `{"a":${entry("0,1", ',"x":[{"y":-1.5e3},null,true,"z",[],{}]')}}`,
    1,
  ),
  "empty tensors between others": fileOf(
    `{"a":${entry("0,1")},"e":{"dtype":"F32","shape":[0,7],"data_offsets":[1,1]},"b":${entry("1,2")}}`,
    2,
  ),
  // 640 = 0x280 makes the first bytes those of a pickle.
  "header whose length looks like a pickle": fileOf(`{"a":${entry("0,1")}}`.padEnd(640), 1),
};
for (const [name, bytes] of Object.entries(accepted)) {
  Deno.test(
    `openTensorFile() accepts safetensors: ${name}`,
    inTempFolder((folder) => assert.equal(verdict(folder, bytes), "accept")),
  );
}

Deno.test(
  "openTensorFile() reads each tensor from its own place",
  inTempFolder((folder) => {
    const header =
      `{"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]},"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}`;
    const tensors = readAll(folder, fileOf(header, Uint8Array.of(1, 2, 3, 4, 5)));
    assert.deepEqual([...tensors], [["b", Uint8Array.of(4, 5)], ["a", Uint8Array.of(1, 2, 3)]]);
  }),
);

Deno.test(
  "openTensorFile() holds tensors named like members of every object",
  inTempFolder((folder) => {
    const names = ["__proto__", "constructor", "toString", "", "a\0b", "näme", "7", "1"];
    const tensors = names.map((name): TensorInfo => ({ name, dtype: "U8", shape: [1] }));
    for (const format of ["safetensors", "pth"] as const) {
      const path = join(folder, format);
      writeTensorFile(path, { format, tensors, read: ({ name }) => Uint8Array.of(names.indexOf(name)) });
      using file = openTensorFile(path);
      assert.deepEqual([...file.tensors.keys()], names);
      for (const name of names) assert.deepEqual(file.readBytes(name), Uint8Array.of(names.indexOf(name)));
      assert.throws(() => file.readBytes("hasOwnProperty"), FormatError);
    }
  }),
);

Deno.test(
  "writeTensorFile() round trip keeps every byte, type, shape, order and metadata",
  inTempFolder((folder) => {
    for (const format of ["safetensors", "pth"] as const) {
      const dtypes = dtypeNames.filter((dtype) =>
        format === "safetensors" || !/^U\d\d|^F[468]_|^F4|C64/.test(dtype)
      );
      const tensors = dtypes.flatMap((dtype, i): TensorInfo[] => [
        { name: `${dtype}.matrix`, dtype, shape: [i + 1, 8] },
        { name: `${dtype}.empty`, dtype, shape: [0, 3] },
        { name: `${dtype}.four`, dtype, shape: [2, 1, 3, 2] },
        ...(byteWidth(dtype) < 1 ? [] : [{ name: `${dtype}.scalar`, dtype, shape: [] }]),
      ]);
      // Patterns of all bits, so NaNs with payloads among them.
      const content = new Map(
        tensors.map((info, i) => [info.name, pattern(tensorByteLength(info.dtype, info.shape)!, i)]),
      );
      const path = join(folder, format);
      const metadata = new Map([["merged_from", 'a "b"\n'], ["__proto__", "c"]]);
      writeTensorFile(path, { format, tensors, read: ({ name }) => content.get(name)!, metadata });

      using file = openTensorFile(path);
      assert.equal(file.format, format);
      assert.equal(file.path, path);
      assert.deepEqual([...file.tensors.values()], tensors);
      for (const { name } of tensors) {
        assert.deepEqual(file.readBytes(name), content.get(name), `${format} ${name}`);
      }
      const expected = format === "safetensors" ? [["format", "pt"], ...metadata] : [...metadata];
      assert.deepEqual([...file.metadata], expected);
    }
  }),
);

Deno.test(
  "writeTensorFile() aligns safetensors of mixed types and keeps the order of the header",
  inTempFolder((folder) => {
    const path = join(folder, "mixed.safetensors");
    const dtypes: DType[] = ["U8", "F32", "BF16", "F64", "I8", "F32"];
    const tensors = dtypes.map((dtype, i): TensorInfo => ({ name: `t${i}`, dtype, shape: [3] }));
    writeTensorFile(path, {
      format: "safetensors",
      tensors,
      read: ({ dtype, shape }) => new Uint8Array(tensorByteLength(dtype, shape)!),
    });
    const bytes = Deno.readFileSync(path);
    const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    assert.equal(length % 8, 0);
    const header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + length)));
    assert.deepEqual(Object.keys(header), ["__metadata__", "t0", "t1", "t2", "t3", "t4", "t5"]);
    assert.deepEqual(header.__metadata__, { format: "pt" });
    tensors.forEach(({ name, dtype }) => {
      const [begin] = header[name].data_offsets;
      assert.equal(begin % (tensorByteLength(dtype, [1])!), 0, name);
    });
    assert.deepEqual(header.t1.data_offsets, [24, 36]);
    assert.deepEqual(header.t5.data_offsets, [36, 48]);
  }),
);

Deno.test("writeSafetensors() reproduces files of the reference writer byte for byte", () => {
  for (const name of ["rwkv7_small.safetensors", "peft_cases.safetensors"]) {
    const path = join(fixtures, name);
    using file = openTensorFile(path);
    const pieces: Uint8Array[] = [];
    writeSafetensors(
      (bytes) => pieces.push(bytes.slice()),
      [...file.tensors.values()],
      ({ name }) => [file.readBytes(name)],
      file.metadata,
    );
    const written = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
    pieces.reduce((at, piece) => (written.set(piece, at), at + piece.length), 0);
    assert.ok(Deno.readFileSync(path).every((byte, i) => byte === written[i]), name);
    assert.equal(written.length, Deno.statSync(path).size);
  }
});

Deno.test(
  "openTensorFile() reads a safetensors file of over 4 GB by ranges",
  inTempFolder((folder) => {
    const path = join(folder, "large.safetensors");
    const large = 2 ** 32 + 1_000_000;
    const header = new TextEncoder().encode(
      `{"large":{"dtype":"BF16","shape":[2,${large / 4}],"data_offsets":[0,${large}]},` +
        `"last":{"dtype":"F32","shape":[3],"data_offsets":[${large},${large + 12}]}}`,
    );
    {
      using handle = Deno.openSync(path, { write: true, createNew: true });
      handle.writeSync(fileOf(header));
      handle.truncateSync(8 + header.length + large + 12);
      handle.seekSync(8 + header.length + large, Deno.SeekMode.Start);
      handle.writeSync(new Uint8Array(Float32Array.of(1, -2, 3).buffer));
    }
    const before = Deno.memoryUsage().rss;
    using file = openTensorFile(path);
    assert.deepEqual([...file.readFloat32("last")], [1, -2, 3]);
    assert.ok(Deno.memoryUsage().rss - before < 2 ** 27, "memory must not grow with the file");
  }),
);

Deno.test(
  "openTensorFile() refuses a header over 100 MB, or beyond the end of the file, before holding it",
  inTempFolder((folder) => {
    const path = join(folder, "sparse");
    const announce = (length: number, size: number): void => {
      const prefix = new Uint8Array(9);
      new DataView(prefix.buffer).setBigUint64(0, BigInt(length), true);
      prefix[8] = "{".charCodeAt(0);
      Deno.writeFileSync(path, prefix);
      Deno.truncateSync(path, size);
    };
    announce(100_000_001, 2 ** 40);
    assert.throws(() => openTensorFile(path), FormatError);
    announce(100_000_000, 1000);
    assert.throws(() => openTensorFile(path), /ends inside its header/);
  }),
);

Deno.test(
  "openTensorFile() reports a file that shrinks under it",
  inTempFolder((folder) => {
    const path = join(folder, "shrinking");
    Deno.writeFileSync(path, fileOf(`{"a":{"dtype":"U8","shape":[100],"data_offsets":[0,100]}}`, 100));
    using file = openTensorFile(path);
    Deno.truncateSync(path, 80);
    assert.throws(() => file.readBytes("a"), FormatError);
  }),
);

Deno.test(
  "openTensorFile() refuses what is no regular file, and a closed file refuses to read",
  inTempFolder((folder) => {
    assert.throws(() => openTensorFile(folder), /it is a folder/);
    assert.throws(() => openTensorFile(join(folder, "nothing")), Deno.errors.NotFound);
    if (Deno.build.os !== "windows") assert.throws(() => openTensorFile("/dev/zero"), /not a regular file/);
    const file = openTensorFile(join(fixtures, "peft_cases.safetensors"));
    const [name] = file.tensors.keys();
    file.close();
    file.close();
    assert.throws(() => file.readBytes(name), /closed/);
  }),
);

Deno.test("commonPrefix() takes what every name begins with, and never empties a name", () => {
  assert.equal(commonPrefix([]), "");
  assert.equal(commonPrefix(["emb.weight", "module.head.weight"]), "");
  assert.equal(commonPrefix(["module.a", "module.b"]), "module.");
  assert.equal(
    commonPrefix(["_forward_module.model.module.a", "_forward_module.model.b"]),
    "_forward_module.model.",
  );
  assert.equal(commonPrefix(["base_model.model.a", "base_model.model.b"]), "base_model.model.");
  assert.equal(commonPrefix(["model.", "model.a"]), "");
  assert.equal(commonPrefix(["modeling.a"]), "");
});

Deno.test(
  "openTensorFile() strips prefixes in both formats and reads the right tensors",
  inTempFolder((folder) => {
    const names = ["_forward_module.module.a", "_forward_module.module.module.b"];
    const tensors = names.map((name): TensorInfo => ({ name, dtype: "U8", shape: [1] }));
    for (const format of ["safetensors", "pth"] as const) {
      const path = join(folder, format);
      writeTensorFile(path, { format, tensors, read: ({ name }) => Uint8Array.of(names.indexOf(name)) });
      using file = openTensorFile(path);
      assert.equal(file.prefix, "_forward_module.module.");
      assert.deepEqual([...file.tensors.keys()], ["a", "module.b"]);
      assert.equal(file.tensors.get("a")?.name, "a");
      assert.deepEqual([...file.readBytes("module.b")], [1]);
    }
  }),
);

Deno.test(
  "writeTensorFile() refuses an existing path, and replaces the file that it reads from when forced",
  inTempFolder((folder) => {
    const path = join(folder, "model");
    const tensors: TensorInfo[] = [{ name: "a", dtype: "U8", shape: [2] }];
    const options = { format: "safetensors", tensors, read: () => Uint8Array.of(1, 2) } as const;
    writeTensorFile(path, options);
    assert.throws(() => writeTensorFile(path, options), Deno.errors.AlreadyExists);
    {
      using source = openTensorFile(path);
      writeTensorFile(path, {
        ...options,
        read: () => source.readBytes("a").map((byte) => 2 * byte),
        force: true,
      });
    }
    using file = openTensorFile(path);
    assert.deepEqual([...file.readBytes("a")], [2, 4]);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["model"]);
  }),
);

Deno.test(
  "writeTensorFile() leaves nothing behind when a tensor fails",
  inTempFolder((folder) => {
    const path = join(folder, "model");
    const a: TensorInfo = { name: "a", dtype: "F32", shape: [2] };
    const attempts: [TensorInfo[], (info: TensorInfo) => Uint8Array][] = [
      [[a], () => new Uint8Array(7)],
      [[a], () => new Uint8Array(9)],
      [[a, a], () => new Uint8Array(8)],
      [[{ ...a, name: "\ud800" }], () => new Uint8Array(8)],
      [[{ ...a, shape: [-2] }], () => new Uint8Array(8)],
      [[a, { ...a, name: "b" }], ({ name }) => {
        if (name === "b") throw new RangeError("stopped");
        return new Uint8Array(8);
      }],
    ];
    for (const format of ["safetensors", "pth"] as const) {
      for (const [tensors, read] of attempts) {
        assert.throws(() => writeTensorFile(path, { format, tensors, read }), RangeError);
        assert.deepEqual([...Deno.readDirSync(folder)], []);
      }
    }
    const reserved = { format: "safetensors", tensors: [{ ...a, name: "__metadata__" }] } as const;
    assert.throws(() => writeTensorFile(path, { ...reserved, read: () => new Uint8Array(8) }), RangeError);
  }),
);

Deno.test(
  "writeFileAtomic() keeps the previous file and removes its own when writing fails",
  inTempFolder((folder) => {
    const path = join(folder, "file with späce");
    writeFileAtomic(path, "first");
    assert.throws(() => writeFileAtomic(path, "second"), Deno.errors.AlreadyExists);
    const full = Object.assign(new Error("No space left on device"), { code: "ENOSPC" });
    const attempt = (): void =>
      writeFileAtomic(path, (file) => {
        file.writeSync(Uint8Array.of(1));
        throw full;
      }, { force: true });
    assert.throws(
      attempt,
      (error) => error instanceof Error && /disk is full/.test(error.message) && error.cause === full,
    );
    assert.equal(Deno.readTextFileSync(path), "first");
    writeFileAtomic(path, Uint8Array.of(51), { force: true });
    assert.equal(Deno.readTextFileSync(path), "3");
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["file with späce"]);
    assert.throws(() => writeFileAtomic(join(folder, "no", "file"), "x"), /its folder does not exist/);
  }),
);

Deno.test(
  "writeFileAtomic() refuses a file that appeared while it was writing, and a link to nowhere",
  inTempFolder((folder) => {
    const path = join(folder, "contested");
    const attempt = (): void => writeFileAtomic(path, () => Deno.writeTextFileSync(path, "theirs"));
    assert.throws(attempt, Deno.errors.AlreadyExists);
    assert.equal(Deno.readTextFileSync(path), "theirs");
    const link = join(folder, "link");
    Deno.symlinkSync(join(folder, "nowhere"), link);
    assert.throws(() => writeFileAtomic(link, "x"), Deno.errors.AlreadyExists);
  }),
);

Deno.test(
  "openTensorFile() survives damaged headers: an error of its own, or every tensor whole",
  inTempFolder((folder) => {
    const good = fileOf(
      `{"__metadata__":{"k":"v"},"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]},` +
        `"b":{"dtype":"F32","shape":[],"data_offsets":[6,10]}}`,
      10,
    );
    const alphabet = '{}[]",:0129-\\u e.F\0\xff';
    let state = 1;
    const random = (limit: number): number => (state = Math.imul(state, 48271) >>> 0) % limit;
    for (let round = 0; round < 1500; round++) {
      const bytes = good.slice();
      for (let i = random(3); i >= 0; i--) {
        bytes[random(good.length - 10)] = alphabet.charCodeAt(random(alphabet.length));
      }
      verdict(folder, random(8) === 0 ? bytes.subarray(0, random(bytes.length)) : bytes);
    }
  }),
);

const tiny = join(assets, "tiny-rwkv7-834K.safetensors");
Deno.test({
  name: "openTensorFile() reads a real model in safetensors",
  ignore: !existsSync(tiny),
  fn: () => {
    using file = openTensorFile(tiny);
    assert.equal(file.tensors.size, 399);
    assert.deepEqual(file.tensors.get("emb.weight")?.shape, [256, 64]);
    for (const name of file.tensors.keys()) assert.ok(file.readFloat32(name).every(Number.isFinite), name);
  },
});
