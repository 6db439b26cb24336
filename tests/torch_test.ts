/**
 * `.pth` files: what torch writes is read and written; whatever else the container or the pickle can say is
 * refused, and nothing that it names is reached.
 *
 * @module
 */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { crc32, inflateSync } from "node:zlib";
import { fromFloat32, tensorByteLength } from "../formats/dtype.ts";
import { pickleStateDict } from "../formats/pickle_writer.ts";
import { FormatError, openTensorFile, type TensorInfo, writeTensorFile } from "../formats/tensor_file.ts";
import { writeTorch } from "../formats/torch.ts";
import { ZipWriter } from "../formats/zip_writer.ts";

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

/** Joins bytes, where a text is taken as Latin-1 and a number as one byte. */
function join8(...parts: (Uint8Array | string | number)[]): Uint8Array {
  return Uint8Array.from(
    parts.flatMap((part) =>
      typeof part === "number"
        ? [part]
        : typeof part === "string"
        ? [...part].map((c) => c.charCodeAt(0))
        : [...part]
    ),
  );
}

const text = (value: string): Uint8Array => join8("X", value.length, 0, 0, 0, value);
const tuple = (...items: (Uint8Array | string)[]): Uint8Array => join8("(", ...items, "t");
const int = (value: number): Uint8Array => join8("J", new Uint8Array(Int32Array.of(value).buffer));
const proto = (...parts: (Uint8Array | string | number)[]): Uint8Array => join8("\x80\x02", ...parts, ".");
const dict = (...items: (Uint8Array | string)[]): Uint8Array => join8("}(", ...items, "u");
const ordered = "ccollections\nOrderedDict\n)R";

interface Window {
  type?: string;
  key?: string;
  count?: number;
  offset?: number;
  shape?: number[];
  strides?: number[];
}

/** Pickle of a tensor; by default a 3 × 4 matrix that fills storage 0. */
function tensor(window: Window = {}): Uint8Array {
  const { type = "FloatStorage", key = "0", count = 12, offset = 0, shape = [3, 4], strides = [4, 1] } =
    window;
  const storage = join8(tuple(text("storage"), `ctorch\n${type}\n`, text(key), text("cpu"), int(count)), "Q");
  const sizes = tuple(...shape.map(int));
  const steps = tuple(...strides.map(int));
  return join8(
    "ctorch._utils\n_rebuild_tensor_v2\n",
    tuple(storage, int(offset), sizes, steps, "\x89", ordered),
    "R",
  );
}

/** Runs a writer and returns what it wrote. */
function collect(writer: (write: (bytes: Uint8Array) => void) => void): Uint8Array<ArrayBuffer> {
  const pieces: Uint8Array[] = [];
  writer((bytes) => pieces.push(bytes));
  const all = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length, 0));
  pieces.reduce((at, piece) => (all.set(piece, at), at + piece.length), 0);
  return all;
}

/** An archive in memory. */
function archive(entries: Record<string, Uint8Array>): Uint8Array<ArrayBuffer> {
  return collect((write) => {
    const zip = new ZipWriter(write);
    for (const [name, bytes] of Object.entries(entries)) zip.entry(name, bytes.length, (put) => put(bytes));
    zip.finish();
  });
}

const matrix = Float32Array.from({ length: 12 }, (_, i) => i);
const record = new Uint8Array(matrix.buffer);
const version = join8("3\n");
const withPickle = (pickle: Uint8Array, data: Uint8Array = record): Uint8Array<ArrayBuffer> =>
  archive({ "m/data.pkl": pickle, "m/data/0": data, "m/version": version });

/** Opens bytes as a file and reads every tensor as float32. */
function readAll(folder: string, bytes: Uint8Array): Map<string, number[]> {
  const path = join(folder, "case.pth");
  Deno.writeFileSync(path, bytes);
  using file = openTensorFile(path);
  assert.equal(file.format, "pth");
  return new Map([...file.tensors.keys()].map((name) => [name, [...file.readFloat32(name)]]));
}

function assertRejected(folder: string, bytes: Uint8Array, pattern = /./): void {
  const rejection = (error: unknown): boolean => error instanceof FormatError && pattern.test(error.message);
  assert.throws(() => readAll(folder, bytes), rejection);
}

// The decisions on the cases that either verdict would fit:
const decisions: Record<string, "accept" | "reject"> = {
  // torch never compresses, and inflating would let a small file grow without limit.
  "control: DEFLATE entries": "reject",
  // expand() is legal in torch; it is materialised, up to four times its storage and a mebibyte.
  "control: zero stride (expanded)": "accept",
  // torch would read both tensors as the first one's type; what was meant cannot be known.
  "same storage as two dtypes": "reject",
  // Python keeps the last; another reader might keep the first.
  "duplicate key in state dict": "reject",
  // There is no name for it.
  "top level is a tensor, not a dict": "reject",
  // Bytes that no reader looks at have no business in the file.
  "data after STOP": "reject",
  // Neither is a dict; the second also passes the limit of the stack.
  "self-referencing list": "reject",
  "100000 nested lists": "reject",
};
const cases: { name: string; base64: string; zlib: boolean; want: string }[] = JSON.parse(
  Deno.readTextFileSync(join(fixtures, "pth-cases.json")),
);
for (const { name, base64, zlib, want } of cases) {
  const verdict = want === "decide" ? decisions[name] : want;
  Deno.test(
    `openTensorFile() ${verdict}s pth: ${name}`,
    inTempFolder((folder) => {
      const stored = Uint8Array.fromBase64(base64);
      const bytes = zlib ? new Uint8Array(inflateSync(stored)) : stored;
      if (verdict === "reject") return assertRejected(folder, bytes);
      assert.equal(verdict, "accept");
      assert.deepEqual([...readAll(folder, bytes).keys()], ["a"]);
    }),
  );
}

// Each would run a shell command if it were a real unpickler; each must be refused without reaching anything.
Deno.test(
  "openTensorFile() refuses every way to name or call something, and reaches nothing",
  inTempFolder((folder) => {
    const marker = join(folder, "reached");
    const command = text(`touch ${marker}`);
    const call = (target: string): Uint8Array => join8(`c${target}\n`, tuple(command), "R");
    const attacks: Record<string, Uint8Array> = {
      "posix.system": call("posix\nsystem"),
      "os.system": call("os\nsystem"),
      "nt.system": call("nt\nsystem"),
      "subprocess.Popen": call("subprocess\nPopen"),
      "builtins.eval": call("builtins\neval"),
      "builtins.exec": call("builtins\nexec"),
      "builtins.getattr": call("builtins\ngetattr"),
      "torch.load": call("torch\nload"),
      "torch.serialization, dotted": call("torch.serialization\nos.system"),
      "torch._utils, dotted": call("torch\n_utils._rebuild_tensor_v2"),
      "other split of a known name": call("torch._utils._rebuild_tensor_v2\n"),
      "prototype of an object": call("__proto__\nconstructor"),
      "constructor": call("\nconstructor"),
      "_rebuild_tensor": call("torch._utils\n_rebuild_tensor"),
      "_codecs.encode": call("_codecs\nencode"),
      "copyreg._reconstructor": call("copyreg\n_reconstructor"),
      "argparse.Namespace": join8("cargparse\nNamespace\n)\x81}b"),
      "INST": join8("(", command, "iposix\nsystem\n"),
      "OBJ": join8("(cposix\nsystem\n", command, "o"),
      "OBJ of a known name": join8("(ccollections\nOrderedDict\no"),
      "NEWOBJ": join8("ccollections\nOrderedDict\n", tuple(command), 0x81),
      "NEWOBJ_EX": join8("ccollections\nOrderedDict\n)}", 0x92),
      "STACK_GLOBAL": join8(text("posix"), text("system"), 0x93, tuple(command), "R"),
      "EXT1": join8(0x82, 1, tuple(command), "R"),
      "EXT2": join8(0x83, 1, 0),
      "EXT4": join8(0x84, 1, 0, 0, 0),
      "PERSID": join8("Pposix.system\n"),
      "call of a storage class": join8("ctorch\nFloatStorage\n", tuple(command), "R"),
      "call of a text": join8(command, tuple(command), "R"),
      "call of a dict": join8("}", tuple(command), "R"),
      "OrderedDict with arguments": join8("ccollections\nOrderedDict\n", tuple(command), "R"),
      "parameter of something else": join8(
        "ctorch._utils\n_rebuild_parameter\n",
        tuple(command, "\x88", "}"),
        "R",
      ),
      "tensor of something else": join8(
        "ctorch._utils\n_rebuild_tensor_v2\n",
        tuple(command, int(0), ")", ")", "\x89", "}"),
        "R",
      ),
      "_rebuild_tensor_v2 by a dotted name": join8(
        "ctorch\n_utils._rebuild_tensor_v2\n",
        tensor().subarray("ctorch._utils\n_rebuild_tensor_v2\n".length),
      ),
      "state of a tensor": join8(tensor(), "}", "b"),
      "state of an OrderedDict that is no dict": join8(ordered, command, "b"),
      "state of a list": join8("]}b"),
      "persistent id of another kind": join8(
        tuple(text("module"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), int(1)),
        "Q",
      ),
      "persistent id with a text for a class": join8(
        tuple(text("storage"), text("os"), text("0"), text("cpu"), int(1)),
        "Q",
      ),
      "persistent id with the tensor function": join8(
        tuple(text("storage"), "ctorch._utils\n_rebuild_tensor_v2\n", text("0"), text("cpu"), int(1)),
        "Q",
      ),
    };
    for (const [name, attack] of Object.entries(attacks)) {
      for (
        const pickle of [
          proto(attack),
          proto(dict(text("a"), tensor(), text("b"), attack)),
          proto(attack, "0", dict(text("a"), tensor())),
        ]
      ) {
        assert.throws(() => readAll(folder, withPickle(pickle)), FormatError, name);
      }
    }
    assert.ok(!existsSync(marker));
  }),
);

const malformedPickles: Record<string, Uint8Array> = {
  "empty": new Uint8Array(0),
  "second PROTO": proto(0x80, 2, "}"),
  "two values": proto("}}"),
  "open group": proto("(}"),
  "value taken through a mark": proto("}", text("a"), "(", tensor(), "s", text("b"), "Nts"),
  "65 open groups": proto(dict(text("a"), tensor(), text("x"), "(".repeat(65) + "t".repeat(65))),
  "65,536 values in one group": proto(dict(text("a"), tensor(), text("x"), `(${"N".repeat(65536)}t`)),
  "memo never stored, in an extra": proto(dict(text("a"), tensor(), text("x"), "h\x07")),
  "tensor with a seventh argument": proto(dict(text("a"), join8(tensor().subarray(0, -2), "Nt", "R"))),
  "memo of nothing": proto("q\0}"),
  "half an item": proto(dict(text("a"))),
  "tuple as a key": proto(dict(")", "N")),
  "number as a tensor's name": proto(dict(int(1), tensor())),
  "text past the end": proto("X\x05\0\0\0ab"),
  "unending name": join8("\x80\x02ctorch"),
  "rank and strides differ": proto(dict(text("a"), tensor({ strides: [1] }))),
  "65 dimensions": proto(dict(text("a"), tensor({ shape: Array(65).fill(1), strides: Array(65).fill(1) }))),
  "size in floats": proto(dict(text("a"), tensorWithFloatSize())),
  "element count overflow with zero strides": proto(
    dict(text("a"), tensor({ shape: [2 ** 30, 2 ** 30], strides: [0, 0] })),
  ),
  "expanded beyond four times its storage": proto(
    dict(text("a"), tensor({ shape: [2 ** 27, 4], strides: [0, 1] })),
  ),
  "count that does not fill the record": proto(
    dict(text("a"), tensor({ count: 11, shape: [1], strides: [1] })),
  ),
  "record of another type's size": proto(
    dict(text("a"), tensor({ type: "HalfStorage", shape: [1], strides: [1] })),
  ),
  "dict without tensors": proto(dict(text("step"), int(3))),
  "tensors two levels down": proto(dict(text("model"), dict(text("model"), dict(text("a"), tensor())))),
  "storage without a record, in an extra": proto(
    dict(text("a"), tensor(), text("x"), join8("]", tensor({ key: "9" }), "a")),
  ),
};

function tensorWithFloatSize(): Uint8Array {
  const storage = join8(
    tuple(text("storage"), "ctorch\nFloatStorage\n", text("0"), text("cpu"), int(12)),
    "Q",
  );
  const size = tuple(join8("G", 0x40, 0x08, 0, 0, 0, 0, 0x10, 0)); // just over 3.0
  return join8(
    "ctorch._utils\n_rebuild_tensor_v2\n",
    tuple(storage, int(0), size, tuple(int(1)), "\x89", ordered),
    "R",
  );
}

for (const [name, pickle] of Object.entries(malformedPickles)) {
  Deno.test(
    `openTensorFile() rejects pth: ${name}`,
    inTempFolder((folder) => assertRejected(folder, withPickle(pickle))),
  );
}

Deno.test(
  "openTensorFile() gathers transposed, sliced, expanded and scalar windows of a shared storage",
  inTempFolder((folder) => {
    const windows: [string, Window, number[]][] = [
      ["whole", {}, [...matrix]],
      ["transposed", { shape: [4, 3], strides: [1, 4] }, [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]],
      ["row", { offset: 4, shape: [4], strides: [1] }, [4, 5, 6, 7]],
      ["column", { offset: 1, shape: [3], strides: [4] }, [1, 5, 9]],
      ["expanded", { offset: 2, shape: [2, 3], strides: [0, 4] }, [2, 6, 10, 2, 6, 10]],
      ["scalar", { offset: 11, shape: [], strides: [] }, [11]],
      ["empty", { offset: 12, shape: [0, 4], strides: [4, 1] }, []],
      ["loose stride of a dimension of one", { shape: [1, 12], strides: [99, 1] }, [...matrix]],
      ["rank 3", { shape: [2, 3, 2], strides: [1, 4, 2] }, [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]],
    ];
    const pickle = proto(dict(...windows.flatMap(([name, window]) => [text(name), tensor(window)])));
    assert.deepEqual(
      [...readAll(folder, withPickle(pickle))],
      windows.map(([name, , values]) => [name, values]),
    );
  }),
);

Deno.test(
  "openTensorFile() gathers elements of one, two and eight bytes",
  inTempFolder((folder) => {
    const types = { ByteStorage: 1, ShortStorage: 2, DoubleStorage: 8 };
    for (const [type, width] of Object.entries(types)) {
      const data = Uint8Array.from({ length: 6 * width }, (_, i) => 255 - i);
      const path = join(folder, type);
      Deno.writeFileSync(
        path,
        withPickle(proto(dict(text("a"), tensor({ type, count: 6, shape: [3, 2], strides: [1, 3] }))), data),
      );
      using file = openTensorFile(path);
      const element = (i: number): number[] => [...data.subarray(i * width, (i + 1) * width)];
      assert.deepEqual([...file.readBytes("a")], [0, 3, 1, 4, 2, 5].flatMap(element), type);
    }
  }),
);

Deno.test(
  "openTensorFile() reads parameters and OrderedDict with _metadata, and ignores plain extras",
  inTempFolder((folder) => {
    const parameter = join8("ctorch._utils\n_rebuild_parameter\n", tuple(tensor(), "\x88", ordered), "R");
    const metadata = join8(
      ordered,
      "}",
      text("_metadata"),
      join8(ordered, text(""), dict(text("version"), int(1)), "s"),
      "sb",
    );
    const state = join8(
      ordered,
      "(",
      text("module.a"),
      parameter,
      text("module.b"),
      tensor(),
      "u",
      metadata.subarray(join8(ordered).length),
    );
    const list = join8(
      "q\xff]q\x01(NK\x05M\x05\x01",
      "G\0\0\0\0\0\0\0\0",
      "\x88",
      "\x8a\x09\0\0\0\0\0\0\0\0\x01",
      "h\x01",
      "e",
    );
    const optimizer = dict(int(0), dict(text("exp_avg"), tensor()), text("betas"), tuple("N", "N"));
    const whole = (key: string): Uint8Array =>
      proto(
        dict(
          text("rng"),
          tensor(),
          text("optimizer"),
          optimizer,
          text(key),
          state,
          text("step"),
          int(-3),
          text("list"),
        ).subarray(0, -1),
        list,
        "u",
      );
    for (const key of ["state_dict", "model", "module", "model_state_dict"]) {
      const tensors = readAll(folder, withPickle(whole(key)));
      assert.deepEqual([...tensors], [["a", [...matrix]], ["b", [...matrix]]], key);
    }
    assert.deepEqual([...readAll(folder, withPickle(whole("weights"))).keys()], ["rng"]);
    const plain = proto(dict(text("a"), tensor(), text("_extra_state"), "N", text("note"), text("x")));
    assert.deepEqual([...readAll(folder, withPickle(plain)).keys()], ["a"]);
    assert.equal(readAll(folder, withPickle(proto("}"))).size, 0);
  }),
);

Deno.test(
  "openTensorFile() names the format from before torch 1.6 and a bare pickle",
  inTempFolder((folder) => {
    const path = join(folder, "old.pth");
    Deno.writeFileSync(path, join8("\x80\x02\x8a\x0a", new Uint8Array(40)));
    assert.throws(() => openTensorFile(path), /before 1\.6.*newer torch/);
    Deno.writeFileSync(path, join8("\x80\x04", new Uint8Array(40)));
    assert.throws(() => openTensorFile(path), /bare pickle/);
  }),
);

const good = (): Uint8Array<ArrayBuffer> => withPickle(proto(dict(text("a"), tensor())));

/** Offsets of each record that begins with a zip signature. */
function signatures(bytes: Uint8Array, signature: number): number[] {
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length - 3 }, (_, i) => i).filter((i) =>
    view.getUint32(i, true) === signature
  );
}

const LOCAL = 0x04034b50;
const CENTRAL = 0x02014b50;
const END64 = 0x06064b50;
const LOCATOR = 0x07064b50;
const END = 0x06054b50;

/** Edits of a good archive: signature, which one, offset in it, bytes to put there. */
const damages: Record<string, [number, number, number, number[]]> = {
  "local name differs": [LOCAL, 1, 30, [..."x"].map((c) => c.charCodeAt(0))],
  "local method differs": [LOCAL, 1, 8, [8]],
  "local flags differ": [LOCAL, 1, 6, [0]],
  "local size differs": [LOCAL, 1, 22, [1]],
  "local name length differs": [LOCAL, 1, 26, [1]],
  "local extra runs out of the archive": [LOCAL, 2, 28, [0xff, 0xff]],
  "entry is compressed": [CENTRAL, 1, 10, [8]],
  "entry is encrypted": [CENTRAL, 1, 8, [9]],
  "two sizes": [CENTRAL, 1, 20, [1]],
  "size out of range": [CENTRAL, 1, 20, [0, 0, 1, 0, 0, 0, 1, 0]],
  "size overlaps the next entry": [CENTRAL, 0, 20, [255, 1, 0, 0, 255, 1, 0, 0]],
  "offset of another entry": [CENTRAL, 1, 42, [0, 0, 0, 0]],
  "offset out of range": [CENTRAL, 1, 42, [255, 255, 255, 127]],
  "zip64 size without its field": [CENTRAL, 1, 20, Array(8).fill(255)],
  "checksum of data.pkl": [CENTRAL, 0, 16, [1, 2, 3, 4]],
  "checksum of a tensor": [CENTRAL, 1, 16, [1, 2, 3, 4]],
  "split archive": [CENTRAL, 1, 34, [1]],
  "comment runs out of the directory": [CENTRAL, 2, 32, [200]],
  "fewer entries than said": [END, 0, 8, [9, 0, 9, 0]],
  "two counts": [END, 0, 8, [9]],
  "zip64 count differs": [END64, 0, 32, [9]],
  "zip64 entry counts differ": [END64, 0, 24, [9]],
  "zip64 on another disk": [END64, 0, 16, [1]],
  "directory elsewhere": [END64, 0, 48, [0]],
  "zip64 end elsewhere": [LOCATOR, 0, 8, [1]],
  "zip64 end beyond the file": [LOCATOR, 0, 8, Array(8).fill(255)],
  "archive comment that is not there": [END, 0, 20, [1]],
};
for (const [name, [signature, which, offset, edit]] of Object.entries(damages)) {
  Deno.test(
    `openTensorFile() rejects zip: ${name}`,
    inTempFolder((folder) => {
      const bytes = good();
      bytes.set(edit, signatures(bytes, signature)[which] + offset);
      assert.notDeepEqual(bytes, good());
      assertRejected(folder, bytes);
    }),
  );
}

Deno.test(
  "openTensorFile() rejects a zip with anything behind its end, in front of it, or cut anywhere",
  inTempFolder((folder) => {
    const bytes = good();
    assertRejected(folder, join8(bytes, "junk"));
    assertRejected(folder, join8("PK\x03\x04", bytes));
    for (let length = 0; length < bytes.length; length += 7) {
      assertRejected(folder, bytes.subarray(0, length));
    }
    assertRejected(folder, archive({}), /0 entries named data.pkl/);
    assertRejected(folder, archive({ "data.pkl": proto("}") }), /0 entries named data.pkl/);
  }),
);

Deno.test(
  "openTensorFile() rejects a zip whose entries share a name or a byte, though each is whole",
  inTempFolder((folder) => {
    const entries = {
      "m/data.pkl": proto(dict(text("a"), tensor())),
      "m/data/0": record,
      "m/data/1": record,
    };
    const twice = archive(entries);
    for (const at of [signatures(twice, LOCAL)[2] + 30, signatures(twice, CENTRAL)[2] + 46]) {
      twice[at + "m/data/".length] = "0".charCodeAt(0);
    }
    assertRejected(folder, twice, /"m\/data\/0" is there twice/);

    // A second file inside the content of the first: its header and content are moved there, then pointed to.
    const outer = new Uint8Array(200);
    const plain = archive({ ...entries, "m/outer": outer, "m/inner": record });
    const inner = signatures(plain, LOCAL)[4];
    outer.set(plain.subarray(inner, signatures(plain, CENTRAL)[0]).subarray(0, outer.length));
    const nested = archive({ ...entries, "m/outer": outer, "m/inner": record });
    assert.equal(readAll(folder, nested).size, 1);
    const view = new DataView(nested.buffer);
    const [moved] = signatures(nested, LOCAL).filter((at) =>
      at !== inner && at > signatures(nested, LOCAL)[3]
    );
    view.setUint32(signatures(nested, CENTRAL)[4] + 42, moved, true);
    assertRejected(folder, nested, /"m\/inner" overlaps/);
  }),
);

Deno.test(
  "openTensorFile() rejects a tensor beyond its storage before anything is read",
  inTempFolder((folder) => {
    const path = join(folder, "case.pth");
    for (
      const window of [{ offset: 1 }, { strides: [5, 1] }, { shape: [4, 4] }, {
        offset: 13,
        shape: [0],
        strides: [1],
      }]
    ) {
      Deno.writeFileSync(path, withPickle(proto(dict(text("a"), tensor(window)))));
      assert.throws(() => openTensorFile(path), /reaches element 1[3-6] of 12/);
    }
  }),
);

Deno.test(
  "readBytes() checks the CRC of a whole record, wherever in it the tensor and the damage are",
  inTempFolder((folder) => {
    for (const [offset, damage] of [[0, 47], [8, 0], [8, 47], [4, 20]]) {
      const bytes = withPickle(proto(dict(text("a"), tensor({ offset, shape: [4], strides: [1] }))));
      const [, start] = signatures(bytes, LOCAL).map((at) =>
        at + 30 + 8 + new DataView(bytes.buffer).getUint16(at + 28, true)
      );
      assert.deepEqual(bytes.subarray(start, start + 48), record);
      assert.deepEqual([...readAll(folder, bytes)], [["a", [...matrix.subarray(offset, offset + 4)]]]);
      bytes[start + damage] ^= 0x40;
      assertRejected(folder, bytes, /does not match its checksum/);
    }
  }),
);

Deno.test(
  "openTensorFile() survives damaged archives: an error of its own, or every tensor whole",
  inTempFolder((folder) => {
    const path = join(folder, "case.pth");
    const original = good();
    let state = 7;
    const random = (limit: number): number => (state = Math.imul(state, 48271) >>> 0) % limit;
    for (let round = 0; round < 2000; round++) {
      const bytes = original.slice();
      for (let i = random(3); i >= 0; i--) bytes[random(bytes.length)] = random(256);
      Deno.writeFileSync(path, bytes);
      try {
        using file = openTensorFile(path);
        for (const [name, { dtype, shape }] of file.tensors) {
          assert.equal(file.readBytes(name).length, tensorByteLength(dtype, shape));
        }
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error));
      }
    }
  }),
);

Deno.test(
  "openTensorFile() survives damaged pickles under a right checksum",
  inTempFolder((folder) => {
    const path = join(folder, "case.pth");
    const state = join8(
      ordered,
      "(",
      text("a"),
      tensor(),
      text("b"),
      tensor({ shape: [4, 3], strides: [1, 4] }),
      "u}b",
    );
    const original = proto(dict(text("state_dict"), state, text("step"), int(3)));
    const opcodes = "()].}GJKMNQRXabcehjqrstu\x80\x85\x86\x87\x88\x89\x8a";
    let seed = 3;
    const random = (limit: number): number => (seed = Math.imul(seed, 48271) >>> 0) % limit;
    for (let round = 0; round < 1500; round++) {
      const pickle = original.slice();
      for (let i = random(3); i >= 0; i--) {
        pickle[random(pickle.length)] = random(2) ? random(256) : opcodes.charCodeAt(random(opcodes.length));
      }
      Deno.writeFileSync(path, withPickle(pickle));
      try {
        using file = openTensorFile(path);
        for (const [name, { dtype, shape }] of file.tensors) {
          assert.equal(file.readBytes(name).length, tensorByteLength(dtype, shape));
        }
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error));
      }
    }
  }),
);

Deno.test("openTensorFile() reads torch's own bf16 file: equal to the float32 weights after rounding", () => {
  using narrow = openTensorFile(join(fixtures, "rwkv7_small_bf16.pth"));
  using wide = openTensorFile(join(fixtures, "rwkv7_small.safetensors"));
  const weights = [...wide.tensors.keys()].filter((name) => name.startsWith("weight."));
  assert.deepEqual(
    [...narrow.tensors.keys()].sort(),
    weights.map((name) => name.slice("weight.".length)).sort(),
  );
  for (const [name, { dtype, shape }] of narrow.tensors) {
    assert.equal(dtype, "BF16");
    assert.deepEqual(shape, wide.tensors.get(`weight.${name}`)!.shape);
    assert.deepEqual(narrow.readBytes(name), fromFloat32(wide.readFloat32(`weight.${name}`), "BF16"), name);
  }
});

Deno.test("openTensorFile() reads the state_dict of torch's own training checkpoint", () => {
  using nested = openTensorFile(join(fixtures, "nested.pth"));
  using wide = openTensorFile(join(fixtures, "rwkv7_small.safetensors"));
  assert.deepEqual([...nested.tensors.keys()], ["emb.weight", "head.weight", "ln_out.weight", "ln_out.bias"]);
  for (const [name, { dtype }] of nested.tensors) {
    assert.equal(dtype, "F32");
    assert.deepEqual(nested.readBytes(name), wide.readBytes(`weight.${name}`));
  }
});

Deno.test("writeTorch() reproduces torch's own file byte for byte up to its serialization id", () => {
  const path = join(fixtures, "rwkv7_small_bf16.pth");
  using file = openTensorFile(path);
  const expected = Deno.readFileSync(path);
  const tensors = [...file.tensors.values()];
  const options = { root: "rwkv7_small_bf16" };
  const written = collect((write) =>
    writeTorch(write, tensors, ({ name }) => [file.readBytes(name)], options)
  );
  const last = signatures(expected, LOCAL).at(-1)!;
  assert.ok(last > 900_000);
  assert.deepEqual(written.subarray(0, last), expected.subarray(0, last));
  // The directory follows at once, with the same lines.
  const directory = signatures(expected, CENTRAL);
  const lines = expected.subarray(directory[0], directory.at(-1));
  assert.deepEqual(written.subarray(last, last + lines.length), lines);
  assert.equal(written.length, last + lines.length + 56 + 20 + 22);
});

Deno.test("pickleStateDict() writes every width of integer and closes batches as CPython does", () => {
  const info = (shape: number[]): TensorInfo => ({ name: "a", dtype: "U8", shape });
  const counts: [number, string][] = [
    [255, "4bff74"],
    [256, "4d000174"],
    [65536, "4a0000010074"],
    [2 ** 31 - 1, "4affffff7f74"],
    [2 ** 31, "8a05000000800074"],
    [2 ** 39 - 1, "8a05ffffffff7f74"],
    [2 ** 39, "8a06000000008000" + "74"],
    [2 ** 40 + 1, "8a06010000000001" + "74"],
  ];
  for (const [count, bytes] of counts) {
    const pickle = pickleStateDict([info([count])]);
    assert.ok(pickle.toHex().includes("58030000006370757106" + bytes), `${count}: ${pickle.toHex()}`);
  }
  const pickled = (count: number): string => {
    const many = Array.from({ length: count }, (_, i) => ({ ...info([1]), name: `${i}` }));
    return new TextDecoder("latin1").decode(pickleStateDict(many));
  };
  const opened = (pickle: string): number => pickle.split("u(X").length;
  assert.ok(pickled(0) === "\u20ac\x02}q\0." && pickled(1).endsWith("s."));
  assert.deepEqual([999, 1000, 1001, 2000].map((count) => opened(pickled(count))), [1, 1, 2, 2]);
  assert.deepEqual([999, 1000, 1001, 2000].map((count) => pickled(count).endsWith("u(u.")), [
    false,
    true,
    false,
    true,
  ]);
});

Deno.test(
  "writeTensorFile() writes aligned records that a walk of local headers finds too",
  inTempFolder((folder) => {
    const path = join(folder, "a.pth");
    const tensors = [3, 64, 1, 0, 200].map((size, i): TensorInfo => ({
      name: `t${i}`,
      dtype: "BF16",
      shape: [size],
    }));
    writeTensorFile(path, {
      format: "pth",
      tensors,
      read: ({ shape }) => new Uint8Array(2 * shape[0]).fill(7),
      metadata: new Map([["merged_from", "x"]]),
    });
    const bytes = Deno.readFileSync(path);
    const view = new DataView(bytes.buffer);
    const names = signatures(bytes, CENTRAL).map((at) => {
      const local = view.getUint32(at + 42, true);
      const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
      const size = view.getUint32(at + 24, true);
      assert.equal(start % 64, 0);
      assert.equal(crc32(bytes.subarray(start, start + size)), view.getUint32(at + 16, true));
      assert.equal(view.getUint32(start + size, true), 0x08074b50);
      assert.equal(view.getUint32(start + size + 12, true), size);
      return new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + view.getUint16(at + 28, true)));
    });
    assert.deepEqual(
      names,
      [
        "data.pkl",
        ".format_version",
        ".storage_alignment",
        "byteorder",
        "data/0",
        "data/1",
        "data/2",
        "data/3",
        "data/4",
      ]
        .concat("version", "extra/__metadata__.json").map((name) => `archive/${name}`),
    );
  }),
);

Deno.test("writeTensorFile() refuses a type that torch has no storage class for", () => {
  const tensors: TensorInfo[] = [{ name: "a", dtype: "U16", shape: [1] }];
  const path = join(fixtures, "never.pth");
  assert.throws(
    () => writeTensorFile(path, { format: "pth", tensors, read: () => new Uint8Array(2) }),
    /"a".*U16.*safetensors/,
  );
  assert.ok(!existsSync(path));
});

Deno.test(
  "a pth file of over 4 GB is written and read in bounded memory, by zip64 sizes and offsets",
  inTempFolder((folder) => {
    const path = join(folder, "large.pth");
    const zeros = new Uint8Array(2 ** 26);
    const large: TensorInfo = { name: "large", dtype: "BF16", shape: [2 ** 17, 2 ** 14 + 2 ** 9] };
    const tensors: TensorInfo[] = [large, { name: "last", dtype: "F32", shape: [3] }];
    const pieces = tensorByteLength(large.dtype, large.shape)! / zeros.length;
    assert.ok(pieces * zeros.length > 2 ** 32);
    {
      using handle = Deno.openSync(path, { write: true, createNew: true });
      // Zeros are skipped, which leaves a hole in the file instead of 4 GB on the disk.
      const write = (bytes: Uint8Array): void => {
        if (bytes === zeros) handle.seekSync(bytes.length, Deno.SeekMode.Current);
        else assert.equal(handle.writeSync(bytes), bytes.length);
      };
      const small = new Uint8Array(Float32Array.of(1, -2, 3).buffer);
      writeTorch(write, tensors, ({ name }) => name === "large" ? Array(pieces).fill(zeros) : [small]);
    }
    const before = Deno.memoryUsage().rss;
    using file = openTensorFile(path);
    assert.deepEqual([...file.tensors.values()], tensors);
    assert.deepEqual([...file.readFloat32("last")], [1, -2, 3]);
    assert.ok(Deno.memoryUsage().rss - before < 2 ** 27, "memory must not grow with the file");
  }),
);

Deno.test(
  "a zip file of over 65,535 entries is written and read by zip64 counts",
  inTempFolder((folder) => {
    const entries: Record<string, Uint8Array> = { "m/data.pkl": proto(dict(text("a"), tensor())) };
    for (let i = 0; i < 65_600; i++) entries[`m/${i}`] = new Uint8Array(0);
    const bytes = archive({ ...entries, "m/data/0": record });
    const end = signatures(bytes.slice(-22), END)[0];
    assert.equal(new DataView(bytes.buffer, bytes.length - 22).getUint16(end + 10, true), 0xffff);
    assert.deepEqual([...readAll(folder, bytes)], [["a", [...matrix]]]);
  }),
);

const real = ["251016_rosa_1bit_run.pth", "251105_reverse_L2.pth", "251024_rosaQKV_L2_digit20.pth"];
Deno.test({
  name: "openTensorFile() reads released files",
  ignore: !real.every((name) => existsSync(join(assets, name))),
  fn: () => {
    const counts = real.map((name) => {
      using file = openTensorFile(join(assets, name));
      for (const tensor of file.tensors.keys()) {
        assert.ok(file.readFloat32(tensor).every(Number.isFinite), tensor);
      }
      return file.tensors.size;
    });
    assert.deepEqual(counts, [10, 99, 99]);
  },
});
