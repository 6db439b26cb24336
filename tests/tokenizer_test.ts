/**
 * The tokenizers: known ids, round trips, malformed vocabularies, streaming, and the choice for a model.
 *
 * @module
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { chooseTokenizer } from "../rwkv/tokenizer/choose.ts";
import { streamDecoder, type Tokenizer } from "../rwkv/tokenizer/tokenizer.ts";
import { worldTokenizer } from "../rwkv/tokenizer/world.ts";

const utf8 = new TextEncoder();

/** The first 256 lines of a World vocabulary: a token for each byte, id = byte + 1. */
const SINGLE_BYTES = Array.from({ length: 256 }, (_, byte) => {
  const hex = byte.toString(16).padStart(2, "0");
  return `${byte + 1} ${byte < 128 ? `'\\x${hex}'` : `b'\\x${hex}'`} 1`;
});

/** Longer tokens in every notation of the file: escapes, both quotes, spaces, code points and raw bytes. */
const LONGER = [
  `257 'ab' 2`,
  `258 'abcd' 4`,
  `259 'é' 2`,
  `260 '\\u4ee5' 3`,
  `261 "it's" 4`,
  `262 ' a  b ' 6`,
  `263 '\\n\\n' 2`,
  `264 b'\\xe4\\xbb' 2`,
  `265 '\\\\\\'' 2`,
  `266 b'a\\n\\xff' 3`,
  `267 '\\x85' 2`,
  `268 'x\u2028y' 5`,
  `300 'bc' 2`,
];

function world(lines: string[], end = "\n"): Tokenizer {
  return worldTokenizer(utf8.encode(lines.join(end)), "v.txt");
}

const small = world([...SINGLE_BYTES, ...LONGER]);

const assetFile = new URL("../../shared/assets/rwkv_vocab_v20230424.txt", import.meta.url);
const hasAsset = await Deno.stat(assetFile).then(() => true, () => false);
const realWorld = hasAsset ? worldTokenizer(await Deno.readFile(assetFile), "real") : small;

/** A reference encoder without a trie: tries every length, longest first. */
function encodeSlowly(tokenizer: Tokenizer, bytes: Uint8Array): number[] {
  const idOf = new Map<string, number>();
  let longest = 1;
  for (let id = 1; id < tokenizer.vocabularySize; id++) {
    const token = tokenizer.decodeBytes([id]);
    if (!idOf.has(token.join())) idOf.set(token.join(), id);
    longest = Math.max(longest, token.length);
  }
  const ids: number[] = [];
  for (let at = 0; at < bytes.length;) {
    let length = Math.min(longest, bytes.length - at);
    while (!idOf.has(bytes.subarray(at, at + length).join())) length--;
    ids.push(idOf.get(bytes.subarray(at, at + length).join())!);
    at += length;
  }
  return ids;
}

/** Bytes with many of the small vocabulary's tokens in them, the same at every run. */
function mixedBytes(length: number): Uint8Array {
  const pieces = [
    "abcd",
    "abc",
    "bc",
    "it's",
    " a  b ",
    "\n\n",
    "\\'",
    "x\u2028y",
    "é",
    "以",
    "\u{1F600}",
    "\x85",
  ];
  let state = 7;
  const bytes: number[] = [];
  while (bytes.length < length) {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    const pick = (state >>> 8) % (pieces.length + 2);
    if (pick < pieces.length) bytes.push(...utf8.encode(pieces[pick]));
    else bytes.push((state >>> 16) & 0xff);
  }
  return Uint8Array.from(bytes);
}

Deno.test("bytesTokenizer() maps each byte to its own value", () => {
  const bytes = bytesTokenizer();
  assert.deepEqual([...bytes.encode('"in é')], [34, 105, 110, 32, 0xc3, 0xa9]);
  assert.equal(bytes.decode([34, 105, 110, 32, 0xc3, 0xa9]), '"in é');
  assert.equal(bytes.vocabularySize, 256);
  assert.equal(bytes.endOfText, 0);
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  assert.deepEqual(bytes.decodeBytes(bytes.encodeBytes(all)), all);
});

Deno.test("bytesTokenizer() shows U+FFFD for ids that are no byte", () => {
  assert.equal(bytesTokenizer().decode([65, 256, 66]), "A\uFFFDB");
});

Deno.test("bytesTokenizer() of a smaller model refuses a byte that the model has no row for", () => {
  const ascii = bytesTokenizer(128);
  assert.deepEqual([...ascii.encode("hi")], [104, 105]);
  assert.throws(() => ascii.encode("hé"), /^RangeError: Byte 195 at offset 1 .* 128 bytes/);
});

Deno.test("worldTokenizer() takes the longest token, and falls back when a longer one does not finish", () => {
  assert.deepEqual([...small.encode("abcd")], [258]);
  assert.deepEqual([...small.encode("abcx")], [257, 100, 121]);
  assert.deepEqual([...small.encode("abc")], [257, 100]);
  assert.deepEqual([...small.encode("bc")], [300]);
  assert.deepEqual([...small.encode("")], []);
});

Deno.test("worldTokenizer() reads every notation of a literal", () => {
  assert.deepEqual([...small.encode("é以it's a  b \n\n\\'")], [259, 260, 261, 262, 263, 265]);
  assert.deepEqual([...small.encodeBytes(Uint8Array.of(0x61, 0x0a, 0xff, 0xe4, 0xbb, 0))], [266, 264, 1]);
  assert.deepEqual([...small.encode("\x85x\u2028y")], [267, 268]);
});

Deno.test("worldTokenizer() agrees with trying every length at every position", () => {
  const bytes = mixedBytes(20_000);
  const ids = small.encodeBytes(bytes);
  assert.deepEqual([...ids], encodeSlowly(small, bytes));
  assert.deepEqual(small.decodeBytes(ids), bytes);
});

Deno.test("worldTokenizer() leaves out id 0 and shows U+FFFD for unused ids", () => {
  assert.equal(small.endOfText, 0);
  assert.equal(small.vocabularySize, 301);
  assert.equal(small.decode([98, 0, 270, 301, -1, 99]), "a\uFFFD\uFFFD\uFFFDb");
});

Deno.test("worldTokenizer() accepts CRLF, a byte order mark, and a missing last newline", () => {
  const lines = [...SINGLE_BYTES, ...LONGER];
  for (const text of [lines.join("\r\n") + "\r\n", lines.join("\n") + "\n", "\uFEFF" + lines.join("\r\n")]) {
    const tokenizer = worldTokenizer(utf8.encode(text), "v.txt");
    assert.deepEqual([...tokenizer.encode("abcd é\n\n")], [258, 33, 259, 263]);
  }
});

Deno.test("worldTokenizer() reads the JSON form", () => {
  const entries: Record<string, string | number[]> = {};
  for (let byte = 0; byte < 256; byte++) entries[byte + 1] = byte < 128 ? String.fromCharCode(byte) : [byte];
  entries[257] = "abé";
  entries[300] = [0xff, 0x61];
  const tokenizer = worldTokenizer(utf8.encode(JSON.stringify(entries)), "v.json");
  assert.deepEqual([...tokenizer.encodeBytes(Uint8Array.of(0xff, 0x61))], [300]);
  assert.deepEqual([...tokenizer.encode("abéa")], [257, 98]);
  for (
    const [bad, message] of [
      [{ ...entries, 5: 7 }, /v\.json, id "5": expected a string or an array of byte values/],
      [{ ...entries, 5: [256] }, /v\.json, id "5": expected/],
      [{ ...entries, x: "x" }, /v\.json, id "x": an id is a whole number/],
      [{ ...entries, 301: "\ud800" }, /v\.json, id "301": .* surrogate/],
    ] as const
  ) assert.throws(() => worldTokenizer(utf8.encode(JSON.stringify(bad)), "v.json"), message);
  assert.throws(
    () => worldTokenizer(utf8.encode(`{"1": `), "v.json"),
    /v\.json, id "1": its token is not valid/,
  );
});

for (
  const [what, line, message] of [
    ["a wrong length", `257 'ab' 3`, /v\.txt:257: the token has 2 bytes but the line says 3/],
    ["no length", `257 'ab'`, /v\.txt:257: expected an id, a Python literal and a byte length/],
    ["no id", `'ab' 2`, /v\.txt:257: expected an id/],
    ["a blank line", ``, /v\.txt:257: expected an id/],
    ["an id with a sign", `-257 'ab' 2`, /v\.txt:257: expected an id/],
    ["an id beyond any model", `99999999 'ab' 2`, /v\.txt:257: id 99999999 is too large/],
    ["id 0", `0 'ab' 2`, /v\.txt:257: id 0 is the end of a document/],
    ["an id twice", `256 'ab' 2`, /v\.txt:257: id 256 occurs twice/],
    ["a token twice", `257 'a' 1`, /v\.txt:257: ids 98 and 257 are the same token/],
    ["an empty token", `257 '' 0`, /v\.txt:257: the token is empty/],
    ["an overlong token", `257 '${"a".repeat(2000)}' 2000`, /v\.txt:257: the token is longer/],
    ["no quotes", `257 ab 2`, /v\.txt:257: expected a Python literal in quotes, found ab/],
    ["one quote", `257 ' 0`, /v\.txt:257: expected a Python literal/],
    ["different quotes", `257 'ab" 2`, /v\.txt:257: expected a Python literal/],
    ["a quote inside", `257 'a'b' 3`, /v\.txt:257: a quote inside the literal/],
    ["an escape that takes the last quote", `257 'ab\\' 2`, /v\.txt:257: the escape \\ in/],
    ["an unknown escape", `257 'a\\q' 2`, /v\.txt:257: the escape \\q/],
    ["a short \\x", `257 'a\\x4' 2`, /v\.txt:257: the escape \\x4 /],
    ["\\u in bytes", `257 b'\\u4ee5' 3`, /v\.txt:257: the escape \\u/],
    ["text in bytes", `257 b'é' 2`, /v\.txt:257: a bytes literal holds only ASCII/],
    ["half a pair", `257 '\\ud800' 3`, /v\.txt:257: the token holds half of a surrogate pair/],
  ] as const
) {
  Deno.test(`worldTokenizer() names file and line of ${what}`, () => {
    assert.throws(() => world([...SINGLE_BYTES, line, `400 'zz' 2`]), { name: "SyntaxError", message });
  });
}

Deno.test("worldTokenizer() refuses a vocabulary without every single byte, or not UTF-8", () => {
  assert.throws(
    () => world(SINGLE_BYTES.filter((_, i) => i !== 200)),
    /v\.txt has no token for the single byte 200/,
  );
  assert.throws(() => world([]), /no token for the single byte 0/);
  assert.throws(() => worldTokenizer(Uint8Array.of(0x31, 0xff), "v.txt"), /v\.txt: it is not UTF-8/);
});

Deno.test("streamDecoder() never splits a character, at the end shows what is unfinished", () => {
  for (const tokenizer of [bytesTokenizer(), small]) {
    const text = "\uFEFFaé以\u{1F600}\uFEFFz";
    const stream = streamDecoder(tokenizer);
    let joined = "";
    for (const token of tokenizer.encode(text)) {
      const piece = stream.push(token);
      assert.ok(
        piece.isWellFormed() && !piece.includes("\uFFFD"),
        `half a character: ${JSON.stringify(piece)}`,
      );
      joined += piece;
    }
    assert.equal(joined + stream.end(), text);

    const [first] = tokenizer.encodeBytes(Uint8Array.of(0xf0));
    assert.equal(stream.push(first), "");
    assert.equal(stream.end(), "\uFFFD");
    assert.equal(stream.push(tokenizer.encode("k")[0]), "k");
  }
});

Deno.test("streamDecoder() gives what decode() gives for bytes that are not UTF-8", () => {
  const tokens = bytesTokenizer().encodeBytes(mixedBytes(4000));
  const stream = streamDecoder(bytesTokenizer());
  const pieces = Array.from(tokens, (token) => stream.push(token)).join("") + stream.end();
  assert.equal(pieces, bytesTokenizer().decode(tokens));
});

/** A folder with a model file, and perhaps a vocabulary beside it. */
async function inFolder(files: Record<string, string>, test: (folder: string) => Promise<void>) {
  const folder = await Deno.makeTempDir();
  try {
    for (const [name, text] of Object.entries(files)) await Deno.writeTextFile(join(folder, name), text);
    await test(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("chooseTokenizer() takes bytes for 256 tokens and refuses a vocabulary for them", async () => {
  const model = { vocabulary: 256, modelPath: "m.safetensors" };
  assert.equal((await chooseTokenizer(model)).name, "bytes");
  assert.equal((await chooseTokenizer({ ...model, vocabulary: 100 })).vocabularySize, 100);
  await assert.rejects(
    chooseTokenizer({ ...model, vocab: "v.txt" }),
    /v\.txt does not fit m\.safetensors.*leave out/,
  );
});

Deno.test("chooseTokenizer() finds the World vocabulary beside the model or in its folder", async () => {
  const text = [...SINGLE_BYTES, ...LONGER].join("\n");
  await inFolder({ "rwkv_vocab_v20230424.txt": text, "model.pth": "" }, async (folder) => {
    for (const modelPath of [join(folder, "model.pth"), folder]) {
      const tokenizer = await chooseTokenizer({ vocabulary: 65536, modelPath });
      assert.deepEqual([tokenizer.name, ...tokenizer.encode("ab")], ["world", 257]);
    }
  });
});

Deno.test("chooseTokenizer() says what to give when there is no vocabulary", async () => {
  await inFolder({ "model.pth": "", "other.txt": SINGLE_BYTES.join("\n") }, async (folder) => {
    const modelPath = join(folder, "model.pth");
    await assert.rejects(
      chooseTokenizer({ vocabulary: 65536, modelPath }),
      /No vocabulary lies beside .*model\.pth: put rwkv_vocab_v20230424\.txt there or give its path with --vocab$/,
    );
    await assert.rejects(
      chooseTokenizer({ vocabulary: 50277, modelPath }),
      /No tokenizer is known for the 50277 tokens of .*model\.pth.*--vocab$/,
    );
    await assert.rejects(
      chooseTokenizer({ vocabulary: 65536, modelPath, vocab: join(folder, "absent.txt") }),
      /Cannot read the vocabulary .*absent\.txt: there is no such file$/,
    );
    const vocab = join(folder, "other.txt");
    assert.equal((await chooseTokenizer({ vocabulary: 65536, modelPath, vocab })).vocabularySize, 257);
    assert.equal((await chooseTokenizer({ vocabulary: 257, modelPath, vocab })).vocabularySize, 257);
  });
});

Deno.test("chooseTokenizer() refuses a vocabulary with ids that the model lacks", async () => {
  await inFolder({ "v.txt": [...SINGLE_BYTES, ...LONGER].join("\n") }, async (folder) => {
    const vocab = join(folder, "v.txt");
    const model = { modelPath: join(folder, "m.pth"), vocab };
    await assert.rejects(
      chooseTokenizer({ ...model, vocabulary: 300 }),
      /v\.txt has ids up to 300 but .*m\.pth has only 300 tokens: give the vocabulary/,
    );
    assert.equal((await chooseTokenizer({ ...model, vocabulary: 301 })).vocabularySize, 301);
  });
});

Deno.test({
  name: "worldTokenizer() gives the published ids with the real vocabulary",
  ignore: !hasAsset,
  fn() {
    assert.equal(realWorld.vocabularySize, 65530);
    const rwkvCpp = [
      74,
      5229,
      274,
      101,
      32223,
      5092,
      27980,
      2795,
      27980,
      33,
      10399,
      10258,
      10139,
      10079,
      1682,
      3463,
    ];
    const rwkvCppRest = [295, 125, 25258, 7588, 2318, 125, 790, 125, 49520, 125, 63, 21888];
    const vectors: [string, number[]][] = [
      ["I'll 'd test блабла 以下は、]) -> <|endoftext|><|padding|> int", [...rwkvCpp, ...rwkvCppRest]],
      ["Hello world", [33155, 40213]],
      ["\n\nUser: hi\n\nAssistant:", [261, 24281, 59, 4571, 261, 5585, 41693, 59]],
      ["我们发现", [12605, 10402, 10997, 14446]],
      ["\nElon Musk has", [11, 994, 2098, 29435, 21800]],
      ["\u{1F600}", [3319, 153, 129]],
    ];
    for (const [text, ids] of vectors) {
      assert.deepEqual([...realWorld.encode(text)], ids, text);
      assert.equal(realWorld.decode(ids), text);
    }
  },
});

Deno.test({
  name: "worldTokenizer() encodes each token of the real vocabulary as itself and round-trips any bytes",
  ignore: !hasAsset,
  fn() {
    for (let id = 1; id < 65530; id++) {
      const ids = realWorld.encodeBytes(realWorld.decodeBytes([id]));
      assert.ok(ids.length === 1 && ids[0] === id, `token ${id} became ${ids}`);
    }
    const bytes = mixedBytes(50_000);
    assert.deepEqual(realWorld.decodeBytes(realWorld.encodeBytes(bytes)), bytes);
  },
});
