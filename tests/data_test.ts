/**
 * Training data: random streams, reading documents, windows, batches and the held-out split.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { Batches } from "../training/data/batches.ts";
import { CONTEXT } from "../training/data/document.ts";
import { readDocuments } from "../training/data/documents.ts";
import { permutation, random, shuffle } from "../training/data/random.ts";
import { splitHeldOut } from "../training/data/split.ts";
import { cutWindows, requireOneSample } from "../training/data/windows.ts";

const bytes = bytesTokenizer();
const ascending = (length: number) => Array.from({ length }, (_, i) => i);

/** Documents of the given lengths; every token of all of them is different, counted from 1. */
function distinctDocuments(...lengths: number[]): Uint32Array[] {
  let next = 1;
  return lengths.map((length) => Uint32Array.from({ length }, () => next++));
}

// Random streams

Deno.test("random() gives the same sequence for the same seed and stream, and fixed numbers for ever", () => {
  const draw = (seed: number, stream: string) => {
    const { integer } = random(seed, stream);
    return ascending(4).map(() => integer(1000));
  };
  assert.deepEqual(draw(42, "epoch 0"), draw(42, "epoch 0"));
  // These must not change: a run that was begun with an older version would resume in another order.
  assert.deepEqual(draw(42, "epoch 0"), [65, 607, 684, 130]);
  assert.deepEqual([...permutation(8, 42, "epoch 0")], [5, 3, 2, 7, 6, 4, 0, 1]);
});

Deno.test("random() gives unrelated sequences for neighbouring seeds and streams", () => {
  const keys: [number, string][] = [[0, "a"], [1, "a"], [-1, "a"], [0, "b"], [0, "epoch 1"], [0, "epoch 2"], [
    2 ** 40,
    "a",
  ]];
  const orders = keys.map(([seed, stream]) => permutation(100, seed, stream));
  for (const [i, one] of orders.entries()) {
    for (const other of orders.slice(i + 1)) {
      const same = one.filter((value, at) => value === other[at]).length;
      assert.ok(same < 10, `${same} of 100 positions agree`);
    }
  }
});

Deno.test("random().integer is uniform, for limits that do not divide 2^32 too", () => {
  // With a bare remainder, 3 * 2^30 would give the lower third twice as often as the rest.
  const { integer } = random(1, "bias");
  const limit = 3 * 2 ** 30;
  const draws = ascending(30_000).map(() => integer(limit));
  const inThirds = [0, 0, 0];
  for (const draw of draws) inThirds[Math.floor(draw / 2 ** 30)]++;
  for (const count of inThirds) assert.ok(Math.abs(count - 10_000) < 5 * Math.sqrt(10_000), `${inThirds}`);
  assert.ok(draws.every((draw) => Number.isInteger(draw) && draw >= 0 && draw < limit));
  assert.equal(integer(1), 0);
});

Deno.test("random().normal has mean 0, variance 1 and the tails of a normal distribution", () => {
  const { normal } = random(3, "normal");
  const draws = ascending(40_000).map(normal);
  const mean = draws.reduce((sum, x) => sum + x, 0) / draws.length;
  const variance = draws.reduce((sum, x) => sum + (x - mean) ** 2, 0) / draws.length;
  const beyondTwo = draws.filter((x) => Math.abs(x) > 2).length / draws.length;
  assert.ok(Math.abs(mean) < 0.025 && Math.abs(variance - 1) < 0.04, `${mean} ${variance}`);
  assert.ok(Math.abs(beyondTwo - 0.0455) < 0.006, `${beyondTwo}`);
});

Deno.test("random() refuses a seed that is no whole number", () => {
  for (const seed of [0.5, NaN, Infinity, 2 ** 60]) assert.throws(() => random(seed, "a"), RangeError);
});

Deno.test("shuffle() gives every order of three items equally often", () => {
  const source = random(5, "orders");
  const counts = new Map<string, number>();
  for (let i = 0; i < 6000; i++) {
    const order = shuffle(["a", "b", "c"], source).join("");
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  assert.equal(counts.size, 6);
  for (const count of counts.values()) assert.ok(Math.abs(count - 1000) < 150, `${[...counts]}`);
});

Deno.test("permutation() holds every number once", () => {
  for (const length of [0, 1, 2, 1000]) {
    assert.deepEqual([...permutation(length, 1, "p")].sort((a, b) => a - b), ascending(length));
  }
});

// Documents

/** Writes a file, reads it as documents of bytes, and removes it. */
async function read(name: string, contents: string | Uint8Array, dataType?: "utf-8" | "jsonl" | "auto") {
  const folder = await Deno.makeTempDir();
  try {
    const path = join(folder, name);
    await Deno.writeFile(path, typeof contents === "string" ? new TextEncoder().encode(contents) : contents);
    const { documents, summary } = await readDocuments(path, bytes, { dataType });
    return { texts: documents.map((document) => bytes.decode(document)), documents, summary };
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("readDocuments() takes a plain text file as one document that ends with end-of-text", async () => {
  const { texts, summary } = await read("a.txt", "Two\nlines, é\n\n");
  assert.deepEqual(texts, ["Two\nlines, é\n\n\0"]);
  assert.equal(summary.dataType, "utf-8");
  assert.deepEqual([summary.documents, summary.tokens, summary.bytes, summary.crlf], [1, 16, 15, 0]);
});

Deno.test("readDocuments() drops a byte order mark and makes LF of CRLF in plain text", async () => {
  const { texts, summary } = await read("a.txt", "\uFEFFone\r\ntwo\r\r\n\rthree\r");
  assert.deepEqual(texts, ["one\ntwo\r\n\rthree\r\0"]);
  assert.equal(summary.crlf, 2);
});

Deno.test("readDocuments() takes each jsonl line as a document, blank lines and CRLF between allowed", async () => {
  const lines = `\uFEFF{"text": "a\\r\\nb"}\r\n\r\n  \n{"id": 1, "text": ""}\n{"text":"\\ud83d\\ude00é"}`;
  const { texts, summary } = await read("a.jsonl", lines);
  assert.deepEqual(texts, ["a\r\nb\0", "\0", "\u{1F600}é\0"]);
  assert.deepEqual([summary.dataType, summary.documents, summary.blankLines, summary.tokens], [
    "jsonl",
    3,
    2,
    13,
  ]);
});

Deno.test("readDocuments() joins jsonl lines that lie across its blocks", async () => {
  const wanted = ascending(7).map((i) => `${i} ` + "é".repeat(300_000 + i));
  const { texts } = await read("a.jsonl", wanted.map((text) => JSON.stringify({ text })).join("\n"));
  assert.deepEqual(texts, wanted.map((text) => text + "\0"));
});

Deno.test("readDocuments() accepts a long plain text whose characters lie across blocks", async () => {
  const text = "x" + "以".repeat(800_000);
  assert.deepEqual((await read("a.txt", text)).texts, [text + "\0"]);
});

Deno.test("readDocuments() takes the format that was named over the file's ending", async () => {
  assert.deepEqual((await read("a.txt", `{"text": "x"}`, "jsonl")).texts, ["x\0"]);
  assert.deepEqual((await read("a.jsonl", `{"text": "x"}`, "utf-8")).texts, [`{"text": "x"}\0`]);
  assert.deepEqual((await read("a.NDJSON", `{"text": "x"}`, "auto")).texts, ["x\0"]);
  assert.deepEqual((await read("a.json", `{"text": "x"}\n{"text": "y"}`)).texts, ["x\0", "y\0"]);
});

for (
  const [what, line, message] of [
    ["broken JSON", `{"text": "a`, /a\.jsonl:3: the line is not JSON \(/],
    [
      "no text",
      `{"prompt": "a", "b": 1}`,
      /a\.jsonl:3: expected "text", "messages", .*, found "prompt", "b"$/,
    ],
    ["a number as text", `{"text": 5}`, /a\.jsonl:3: "text" must be a string, found a number$/],
    ["null as text", `{"text": null}`, /a\.jsonl:3: "text" must be a string, found null$/],
    ["an inherited key only", `{"toString": "a"}`, /a\.jsonl:3: expected "text", .*, found "toString"$/],
    ["a bare string", `"text"`, /a\.jsonl:3: expected \{"text": "\.\.\."\}, found a string$/],
    ["an array", `["text"]`, /a\.jsonl:3: expected .* found an array$/],
    ["half a surrogate pair", `{"text": "\\ud83d"}`, /a\.jsonl:3: "text" holds half of a surrogate pair$/],
    ["a NUL for a byte model", `{"text": "a\\u0000b"}`, /a\.jsonl:3: "text" holds a NUL character/],
  ] as const
) {
  Deno.test(`readDocuments() names file and line of ${what}`, async () => {
    await assert.rejects(read("a.jsonl", `{"text": "ok"}\n\n${line}\n{"text": "ok"}\n`), { message });
  });
}

Deno.test("readDocuments() names the line of bytes that are not UTF-8", async () => {
  const broken = Uint8Array.of(
    ...new TextEncoder().encode(`{"text": "é"}\n{"text": "`),
    0xc3,
    0x22,
    0x7d,
    0x0a,
  );
  await assert.rejects(read("a.jsonl", broken), /a\.jsonl:2: the line is not valid UTF-8$/);
  await assert.rejects(read("a.txt", broken), /a\.txt:2: the line is not valid UTF-8: save/);
  await assert.rejects(
    read("a.txt", Uint8Array.of(0x61, 0x0a, 0x0a, 0xe4, 0xbb)),
    /a\.txt:3: the line is not/,
  );
});

Deno.test("readDocuments() shows the first ten bad lines and counts the rest", async () => {
  const lines = ascending(30).map((i) => i % 2 === 0 ? `{"text": "ok"}` : `{"txt": "typo"}`);
  const error: Error = await read("a.jsonl", lines.join("\n")).then(() => assert.fail(), (error) => error);
  const [head, ...shown] = error.message.split("\n");
  assert.match(head, /^Cannot read 15 of the 30 lines of .*a\.jsonl:$/);
  assert.equal(shown.length, 11);
  assert.match(shown[0], /a\.jsonl:2: expected "text", .*, found "txt"$/);
  assert.match(shown[9], /a\.jsonl:20: /);
  assert.equal(shown[10], "  and 5 more");
});

Deno.test("readDocuments() refuses what holds no text, in one sentence", async () => {
  await assert.rejects(read("a.txt", ""), /The data file .*a\.txt is empty: give it some text$/);
  await assert.rejects(read("a.txt", "\uFEFF"), /a\.txt is empty/);
  await assert.rejects(read("a.jsonl", ""), /a\.jsonl holds no document/);
  await assert.rejects(read("a.jsonl", "\n \r\n"), /a\.jsonl holds no document: give it lines/);
  await assert.rejects(
    read("a.txt", Uint8Array.of(0xff, 0xfe, 0x61, 0)),
    /a\.txt is UTF-16 text: save it as UTF-8$/,
  );
  await assert.rejects(read("a.jsonl", Uint8Array.of(0xfe, 0xff, 0, 0x61)), /a\.jsonl is UTF-16 text/);
  await assert.rejects(
    read("a.bin", Uint8Array.of(0x50, 0x4b, 0, 4)),
    /a\.bin is not plain text, .* offset 2/,
  );
  await assert.rejects(
    read("alone.idx", "MMIDIDX\0\0"),
    /Cannot read the data file .*alone\.idx: there is no pair .*alone\.idx and .*alone\.bin$/,
  );
  const absent = join("no", "such", "file.jsonl");
  await assert.rejects(
    readDocuments(absent, bytes),
    /Cannot read the data file .*file\.jsonl: there is no such file$/,
  );
  await assert.rejects(
    readDocuments("docs", bytes),
    /Cannot read the data folder docs: none of its \d+ files is \.jsonl/,
  );
});

// Windows

Deno.test("cutWindows() makes every token after the first of a document a target exactly once", () => {
  for (const ctxLen of [1, 2, 5, 16]) {
    const documents = distinctDocuments(0, 1, 2, 5, 6, 7, 16, 17, 18, 33, 100);
    const windows = cutWindows(documents, ctxLen);
    const targets: number[] = [];
    for (let i = 0; i < windows.count; i++) {
      const tokens = documents[windows.document[i]].subarray(
        windows.start[i],
        windows.start[i] + windows.length[i],
      );
      assert.ok(tokens.length >= 2 && tokens.length <= ctxLen + 1 && tokens.length === windows.length[i]);
      targets.push(...tokens.subarray(1));
    }
    assert.deepEqual(targets, documents.flatMap((document) => [...document.subarray(1)]));
    assert.equal(windows.targets, targets.length);
    assert.equal(windows.skipped, 2);
  }
});

Deno.test("cutWindows() refuses a context length below 1", () => {
  for (const ctxLen of [0, -1, 1.5, NaN]) {
    assert.throws(() => cutWindows([], ctxLen), /^RangeError: ctx_len is/);
  }
});

Deno.test("requireOneSample() refuses a single text shorter than a sample and accepts many short ones", () => {
  const check = (...lengths: number[]) => requireOneSample(distinctDocuments(...lengths), 16, "a.txt");
  check(17);
  check(2, 2);
  check(1, 5);
  assert.throws(
    () => check(16),
    /The text in a\.txt is 16 tokens, shorter than one sample of ctx_len 16 \+ 1: lower --ctx_len to at most 15/,
  );
  assert.throws(
    () => check(1, 1, 1),
    /The text in a\.txt is 3 tokens in 3 documents, none .* \(it is 16\): give/,
  );
});

// Batches

/** All (input, target) pairs of an epoch that count, and that padding is as it should be. */
function pairsOf(batches: Batches, epoch: number): [number, number][] {
  const pairs: [number, number][] = [];
  for (let i = 0; i < batches.batchesPerEpoch; i++) {
    const { inputs, targets, mask, counted } = batches.at(epoch * batches.batchesPerEpoch + i);
    const before = pairs.length;
    mask.forEach((weight, at) => {
      if (weight === 1) pairs.push([inputs[at], targets[at]]);
      else assert.deepEqual([weight, inputs[at], targets[at]], [0, 0, 0]);
    });
    assert.equal(counted, pairs.length - before);
    assert.ok(counted > 0);
  }
  return pairs;
}

Deno.test("Batches.at() shows every target once an epoch, after the right input", () => {
  const documents = distinctDocuments(1, 2, 9, 10, 3, 25, 0, 8);
  for (const [ctxLen, microBsz] of [[8, 1], [8, 2], [4, 3], [3, 100]]) {
    const batches = new Batches({ documents, ctxLen, microBsz, seed: 1 });
    for (const epoch of [0, 3]) {
      const pairs = pairsOf(batches, epoch).sort(([a], [b]) => a - b);
      assert.deepEqual(
        pairs,
        documents.flatMap((d) => Array.from(d.subarray(1), (token) => [token - 1, token])),
      );
      assert.equal(pairs.length, batches.tokensPerEpoch);
    }
    assert.equal(batches.batchesPerEpoch, Math.ceil(batches.windows / microBsz));
    assert.equal(batches.skipped, 2);
  }
});

Deno.test("Batches.at() is a pure function of its index", () => {
  const options = { documents: distinctDocuments(50, 7, 31), ctxLen: 4, microBsz: 2, seed: 9 };
  const forwards = new Batches(options);
  const count = 3 * forwards.batchesPerEpoch;
  const expected = ascending(count).map((i) => forwards.at(i));
  const backwards = new Batches(options);
  for (const i of ascending(count).reverse()) assert.deepEqual(backwards.at(i), expected[i]);
  expected[0].inputs.fill(-1);
  assert.ok(!forwards.at(0).inputs.includes(-1));
});

Deno.test("Batches.at() gives each epoch and each seed an order of its own, or the documents' with shuffle off", () => {
  const options = { documents: distinctDocuments(200), ctxLen: 2, microBsz: 4, seed: 1 };
  const order = (batches: Batches, epoch: number) => pairsOf(batches, epoch).map(([input]) => input).join();
  const batches = new Batches(options);
  assert.notEqual(order(batches, 0), order(batches, 1));
  assert.notEqual(order(batches, 0), order(new Batches({ ...options, seed: 2 }), 0));
  const inOrder = new Batches({ ...options, shuffle: false });
  assert.equal(order(inOrder, 0), ascending(199).map((i) => i + 1).join());
  assert.equal(order(inOrder, 1), order(inOrder, 0));
});

Deno.test("Batches.at() pads a short window on the right and leaves rows of the last batch empty", () => {
  const batches = new Batches({
    documents: distinctDocuments(3, 5),
    ctxLen: 4,
    microBsz: 3,
    seed: 0,
    shuffle: false,
  });
  const { inputs, targets, mask, counted } = batches.at(0);
  assert.deepEqual([...inputs], [1, 2, 0, 0, 4, 5, 6, 7, 0, 0, 0, 0]);
  assert.deepEqual([...targets], [2, 3, 0, 0, 5, 6, 7, 8, 0, 0, 0, 0]);
  assert.deepEqual([...mask], [1, 1, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]);
  assert.equal(counted, 6);
});

Deno.test("Batches refuses sizes and indices that make no sense, and documents with nothing to learn", () => {
  const options = { documents: distinctDocuments(9), ctxLen: 4, microBsz: 1, seed: 0 };
  assert.throws(() => new Batches({ ...options, microBsz: 0 }), /micro_bsz is 0/);
  assert.throws(() => new Batches({ ...options, ctxLen: 0 }), /ctx_len is 0/);
  assert.throws(
    () => new Batches({ ...options, documents: distinctDocuments(1, 1) }),
    /None of the 2 documents/,
  );
  for (const index of [-1, 0.5, NaN]) assert.throws(() => new Batches(options).at(index), RangeError);
});

/** For each target that counts, in every row of an epoch: what a model may use to predict it, and the target. */
function contextsOf(batches: Batches, ctxLen: number, epoch = 0): [number[], number][] {
  const contexts: [number[], number][] = [];
  for (let i = 0; i < batches.batchesPerEpoch; i++) {
    const { inputs, targets, mask, keep } = batches.at(epoch * batches.batchesPerEpoch + i);
    let seen: number[] = [];
    inputs.forEach((input, at) => {
      if (at % ctxLen === 0 || keep?.[at] === 0) seen = [];
      seen = [...seen, input];
      if (mask[at]) contexts.push([seen, targets[at]]);
    });
  }
  return contexts.sort(([, a], [, b]) => a - b);
}

Deno.test("Batches + pack: every target in the same context as with a row to each document, in far fewer rows", () => {
  const documents = distinctDocuments(3, 2, 9, 1, 5, 4, 30, 2, 7, 6, 3, 2);
  documents[2] = documents[2].map((word, i) => i < 4 ? word | CONTEXT : word);
  const options = { documents, ctxLen: 8, microBsz: 2, seed: 3 };
  const padded = new Batches(options), packed = new Batches({ ...options, dataload: "pack" });
  assert.deepEqual(contextsOf(packed, 8), contextsOf(padded, 8));
  assert.deepEqual([packed.tokensPerEpoch, packed.cut, packed.skipped], [padded.tokensPerEpoch, 1, 1]);
  assert.ok(packed.windows <= 9 && padded.windows === 14, `${packed.windows} rows for ${padded.windows}`);
  assert.ok(packed.filled > 0.8 && padded.filled < 0.7);
  assert.deepEqual(packed.at(1), new Batches({ ...options, dataload: "pack" }).at(1));
});

Deno.test("Batches + pack keeps a hundred thousand short documents together without delay", () => {
  const documents = Array.from({ length: 100_000 }, (_, i) => new Uint32Array(2 + i % 40).fill(1));
  const { filled } = new Batches({ documents, ctxLen: 256, microBsz: 8, seed: 1, dataload: "pack" });
  assert.ok(filled > 0.99, `${filled}`);
});

Deno.test("Batches + only takes the beginning of each document and counts what it leaves out", () => {
  const batches = new Batches({
    documents: distinctDocuments(4, 20, 9, 1),
    ctxLen: 8,
    microBsz: 4,
    seed: 1,
    shuffle: false,
    dataload: "only",
  });
  assert.deepEqual(
    pairsOf(batches, 0).map(([, target]) => target),
    [2, 3, 4, ...ascending(8).map((i) => i + 6), ...ascending(8).map((i) => i + 26)],
  );
  assert.deepEqual([batches.windows, batches.cut, batches.dropped, batches.skipped], [3, 1, 11, 1]);
});

Deno.test("Batches + groupByLength: rows of like length together, in batches as short as they can be, every target once", () => {
  const documents = distinctDocuments(...ascending(300).map((i) => 2 + (i * 37) % 64));
  const options = { documents, ctxLen: 64, microBsz: 4, seed: 5 };
  const plain = new Batches(options), grouped = new Batches({ ...options, groupByLength: true });
  assert.deepEqual(grouped.shorter, [8, 16, 32]);
  assert.deepEqual(plain.shorter, []);
  let positions = 0;
  const lengths: number[] = [];
  for (let i = 0; i < grouped.batchesPerEpoch; i++) {
    const { inputs } = grouped.at(i);
    positions += inputs.length;
    lengths.push(inputs.length / 4);
  }
  const targets = (batches: Batches, epoch: number) => pairsOf(batches, epoch).map(([, target]) => target);
  for (const epoch of [0, 1]) {
    assert.deepEqual(
      targets(grouped, epoch).sort((a, b) => a - b),
      targets(plain, epoch).sort((a, b) => a - b),
    );
  }
  assert.notDeepEqual(targets(grouped, 0), targets(grouped, 1));
  assert.deepEqual([...new Set(lengths)].sort((a, b) => a - b), [8, 16, 32, 64]);
  assert.ok(positions < 0.75 * grouped.batchesPerEpoch * 4 * 64, `${positions}`);
  // Not from the longest to the shortest.
  assert.ok(lengths.slice(0, 20).includes(8) && lengths.slice(-20).includes(64));
  assert.deepEqual(grouped.at(30), new Batches({ ...options, groupByLength: true }).at(30));
  const inOrder = new Batches({
    ...options,
    documents: documents.slice(0, 6),
    groupByLength: true,
    shuffle: false,
  });
  assert.equal(targets(inOrder, 0).length, inOrder.tokensPerEpoch);
});

Deno.test("Batches + get slices all documents joined, from another place each epoch, every token once", () => {
  const documents = distinctDocuments(5, 30, 1, 11), total = 47;
  const batches = new Batches({ documents, ctxLen: 8, microBsz: 2, seed: 1, dataload: "get" });
  const starts = ascending(4).map((epoch) => {
    const pairs = pairsOf(batches, epoch);
    assert.deepEqual(
      pairs.map(([, target]) => target).sort((a, b) => a - b),
      ascending(total).map((i) => i + 1),
    );
    for (const [input, target] of pairs) assert.equal(target, input % total + 1);
    const rows = ascending(batches.batchesPerEpoch).flatMap((i) => {
      const { inputs } = batches.at(epoch * batches.batchesPerEpoch + i);
      return [inputs[0], inputs[8]].filter((input) => input > 0);
    });
    return rows.map((start) => start % 8).sort().join();
  });
  assert.equal(batches.tokensPerEpoch, total);
  assert.ok(new Set(starts).size > 1, "epochs cut at the same places");
  const masked = [Uint32Array.of(1, 2 | CONTEXT, 3)];
  assert.throws(
    () => new Batches({ documents: masked, ctxLen: 8, microBsz: 2, seed: 1, dataload: "get" }),
    /--dataload get takes slices of raw text/,
  );
});

Deno.test("Batches + context: it is read and no target, and windows of nothing else are left out", () => {
  const words = Uint32Array.from(ascending(12), (i) => i < 7 || i === 9 ? i + 1 | CONTEXT : i + 1);
  const batches = new Batches({ documents: [words], ctxLen: 3, microBsz: 1, seed: 0, shuffle: false });
  assert.equal(batches.windows, 2);
  const { inputs, targets, mask, counted } = batches.at(0);
  assert.deepEqual([[...inputs], [...targets], [...mask], counted], [[7, 8, 9], [8, 9, 0], [1, 1, 0], 2]);
  assert.equal(batches.tokensPerEpoch, 4);
});

// The held-out split

const tokensOf = (documents: Uint32Array[]) => documents.flatMap((document) => [...document]);

Deno.test("splitHeldOut() holds out whole documents that the seed chooses, and loses none", () => {
  const documents = distinctDocuments(...ascending(100).map((i) => 20 + i % 7));
  const total = tokensOf(documents).length;
  const split = (seed: number) => splitHeldOut(documents, { ctxLen: 16, seed });
  const { train, heldOut, trainTokens, heldOutTokens } = split(1);
  assert.deepEqual(
    tokensOf([...train, ...heldOut]).sort((a, b) => a - b),
    ascending(total).map((i) => i + 1),
  );
  for (const document of [...train, ...heldOut]) assert.ok(documents.includes(document));
  assert.deepEqual([tokensOf(train).length, tokensOf(heldOut).length], [trainTokens, heldOutTokens]);
  assert.ok(heldOutTokens > 0.03 * total && heldOutTokens <= 0.05 * total, `${heldOutTokens} of ${total}`);
  assert.deepEqual(split(1), split(1));
  assert.notDeepEqual(split(1).heldOut, split(2).heldOut);
});

Deno.test("splitHeldOut() cuts the end of a single document at a token", () => {
  const documents = distinctDocuments(1000);
  const { train, heldOut } = splitHeldOut(documents, { ctxLen: 16, seed: 1, fraction: 0.1 });
  assert.deepEqual(tokensOf(train), ascending(900).map((i) => i + 1));
  assert.deepEqual(tokensOf(heldOut), ascending(100).map((i) => i + 901));
});

Deno.test("splitHeldOut() cuts the longest of a few documents when none is small enough to hold out whole", () => {
  const { train, heldOut } = splitHeldOut(distinctDocuments(100, 300, 100), {
    ctxLen: 16,
    seed: 1,
    tokens: 40,
  });
  assert.deepEqual(train.map((document) => document.length), [100, 260, 100]);
  assert.deepEqual(tokensOf(heldOut), ascending(40).map((i) => i + 361));
});

Deno.test("splitHeldOut() keeps a full window to train on and holds out nothing from too short a text", () => {
  const short = distinctDocuments(20);
  assert.deepEqual(splitHeldOut(short, { ctxLen: 16, seed: 1, tokens: 3 }).trainTokens, 17);
  assert.deepEqual(splitHeldOut(short, { ctxLen: 16, seed: 1, fraction: 0.5 }).heldOut, []);
  assert.deepEqual(splitHeldOut(short, { ctxLen: 16, seed: 1, fraction: 0 }).heldOut, []);
  assert.deepEqual(splitHeldOut(short, { ctxLen: 16, seed: 1, tokens: 0 }).heldOut, []);
});

Deno.test("splitHeldOut() says in one sentence that the text cannot give the tokens wanted", () => {
  const split = (tokens: number, ...lengths: number[]) => () =>
    splitHeldOut(distinctDocuments(...lengths), { ctxLen: 16, seed: 1, tokens });
  assert.throws(split(4, 20), /Cannot hold out 4 of 20 tokens and still train at ctx_len 16: hold out fewer/);
  assert.throws(split(1, 500), /Cannot hold out 1 of 500 tokens .* at least 2/);
  assert.throws(split(41, 20, 20, 1), /Cannot hold out 41 of 41 tokens/);
  for (const fraction of [-0.1, 1, NaN]) {
    assert.throws(
      () => splitHeldOut([], { ctxLen: 1, seed: 1, fraction }),
      /^RangeError: The held-out share/,
    );
  }
  for (const tokens of [-1, 0.5]) assert.throws(split(tokens, 20), /^RangeError: The held-out tokens/);
});
