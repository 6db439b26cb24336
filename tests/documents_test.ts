/**
 * Data sets of every kind as documents: records by their keys, prompt formats, what is learnt, tables, folders and binidx.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parquetWriteBuffer } from "hyparquet-writer";
import { Answer, promptFor, promptFormat, type Turn } from "../rwkv/prompt_format.ts";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { worldTokenizer } from "../rwkv/tokenizer/world.ts";
import { answersIn, onlyRanges } from "../training/data/answers.ts";
import { readBinidx, writeBinidx } from "../training/data/binidx.ts";
import { CONTEXT, countTargets, tokenOf } from "../training/data/document.ts";
import { readDocuments, type ReadDocumentsOptions } from "../training/data/documents.ts";
import { dataDigest } from "../training/data/files.ts";
import { marked } from "../training/data/text.ts";

const bytes = bytesTokenizer();

/** Runs `body` with a folder that holds these files. */
async function withFiles<T>(
  files: Record<string, string | Uint8Array>,
  body: (folder: string) => Promise<T> | T,
): Promise<T> {
  const folder = Deno.makeTempDirSync();
  try {
    for (const [name, content] of Object.entries(files)) {
      Deno.mkdirSync(join(folder, name, ".."), { recursive: true });
      Deno.writeFileSync(
        join(folder, name),
        typeof content === "string" ? new TextEncoder().encode(content) : content,
      );
    }
    return await body(folder);
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** The documents of files, as text with what is learnt in brackets, and the summary. */
function read(files: Record<string, string | Uint8Array>, options: ReadDocumentsOptions = {}, path?: string) {
  return withFiles(files, async (folder) => {
    const { documents, summary } = await readDocuments(
      join(folder, path ?? Object.keys(files)[0]!),
      bytes,
      options,
    );
    return { texts: documents.map((document) => marked(document, bytes)), documents, summary };
  });
}

const jsonl = (...records: unknown[]) => records.map((record) => JSON.stringify(record)).join("\n");
const one = async (record: unknown, options: ReadDocumentsOptions = {}) =>
  (await read({ "a.jsonl": jsonl(record) }, options)).texts[0];

const CONVERSATION = {
  messages: [
    { role: "system", content: "Be brief." },
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello!" },
    { role: "user", content: "Bye" },
    { role: "assistant", content: "Farewell." },
  ],
};

Deno.test("readDocuments + messages: turns apart by a blank line, only answers learnt, each with its end", async () => {
  assert.equal(
    await one(CONVERSATION),
    "System: Be brief.\n\nUser: Hi\n\nAssistant:⟦ Hello!\n\n⟧User: Bye\n\nAssistant:⟦ Farewell.<end>⟧",
  );
});

Deno.test("readDocuments + every known form of a record", async () => {
  const chat = "User: Q\n\nAssistant:⟦ A<end>⟧";
  const cases: [unknown, string, ReadDocumentsOptions?][] = [
    [{ text: "plain" }, "⟦plain<end>⟧"],
    [{ messages: [{ role: "user", content: "Q" }, { role: "assistant", content: "A" }] }, chat],
    [{ conversations: [{ from: "human", value: "Q" }, { from: "gpt", value: "A" }] }, chat],
    [{
      messages: [{ role: "user", content: [{ type: "text", text: "Q" }] }, {
        role: "assistant",
        content: "A",
      }],
    }, chat],
    [{ prompt: "Q", completion: "A", id: 7 }, chat],
    [{ instruction: "I", input: "X", output: "O" }, "Instruction: I\n\nInput: X\n\nResponse:⟦ O<end>⟧"],
    [{ instruction: "I", input: "", output: "O" }, "Instruction: I\n\nResponse:⟦ O<end>⟧"],
    [{ instruction: "I", output: "O", text: "ready made" }, "Instruction: I\n\nResponse:⟦ O<end>⟧"],
    [{ body: "plain", text: 5 }, "⟦plain<end>⟧", { sftField: ["body"] }],
    [{ query: "Q", response: "A" }, chat, { sftField: ["query", "response"] }],
    [
      { task: "I", context: "X", result: "O" },
      "Instruction: I\n\nInput: X\n\nResponse:⟦ O<end>⟧",
      { sftField: ["task", "context", "result"] },
    ],
    [{ instruction: "I", input: "X", output: "O" }, "User: I\nX\n\nAssistant:⟦ O<end>⟧", {
      promptFormat: "chat",
    }],
    [{ prompt: "Q", completion: "A" }, "Q⟦A<end>⟧", { promptFormat: "plain" }],
    [{ prompt: "Q", completion: "A" }, "⟦User: Q\n\nAssistant: A<end>⟧", { lossMask: "none" }],
    [{ prompt: "Q", completion: "A" }, "⟦User: Q\n\nAssistant: A<end>⟧", { lossMask: "pad" }],
    [{ prompt: "Q", completion: "A" }, "<Q>⟦A</s><end>⟧", { promptFormat: "<{prompt}>{response}</s>" }],
    [
      { instruction: "I", input: "X", output: "O" },
      "Do I\nwith X:⟦O<end>⟧",
      { promptFormat: "Do {instruction}\\nwith {input}:{output}" },
    ],
  ];
  for (const [record, wanted, options] of cases) assert.equal(await one(record, options), wanted);
});

Deno.test("readDocuments + the think formats", async () => {
  const reasoned = { role: "assistant", content: "4", reasoning_content: "2 and 2\n\nmake 4" };
  const record = (answer: unknown) => ({ messages: [{ role: "user", content: "2+2?" }, answer] });
  const whole = ">\n2 and 2\nmake 4\n</think>\n4<end>";
  assert.equal(
    await one(record(reasoned), { promptFormat: "think" }),
    `User: 2+2?\n\nAssistant: <think⟦${whole}⟧`,
  );
  assert.equal(
    await one(record(reasoned), { promptFormat: "think-a-lot" }),
    `User: 2+2? think a lot\n\nAssistant: <think⟦${whole}⟧`,
  );
  assert.equal(
    await one(record({ role: "assistant", content: "<think>Hm.</think>\n4" }), { promptFormat: "ask-think" }),
    "User: 2+2? think\n\nAssistant: <think⟦>Hm.</think>\n4<end>⟧",
  );
  assert.equal(
    await one(record({ role: "assistant", content: "4" }), { promptFormat: "fake-think" }),
    "User: 2+2?\n\nAssistant: <think>\n</think⟦>\n4<end>⟧",
  );
  const { summary } = await read({ "a.jsonl": jsonl(record(reasoned)) });
  assert.deepEqual([summary.withoutReasoning, summary.normalised, summary.promptFormat], [1, 1, "chat"]);
});

Deno.test("readDocuments + blank lines inside turns become line ends and are counted", async () => {
  const record = { prompt: "  one\r\n\r\ntwo\n \t\n\nthree \n", completion: "a\n\nb" };
  const { texts, summary } = await read({ "a.jsonl": jsonl(record, { prompt: "x\ny", completion: "z" }) });
  assert.equal(texts[0], "User: one\ntwo\nthree\n\nAssistant:⟦ a\nb<end>⟧");
  assert.equal(summary.normalised, 2);
  // A format without separators has nothing to protect.
  assert.equal(await one(record, { promptFormat: "plain" }), `${record.prompt}⟦a\n\nb<end>⟧`);
});

Deno.test("readDocuments + loss_mask qa learns only the answers of written conversations", async () => {
  const text = "Preamble\n\nUser: Hé\n\nAssistant: Yo!\n\nmore\n\nUser: Assistant: no\n\nAssistant: Bye";
  assert.equal(
    await one({ text }, { lossMask: "qa" }),
    "Preamble\n\nUser: Hé\n\nAssistant:⟦ Yo!\n\nmore\n\n⟧User: Assistant: no\n\nAssistant:⟦ Bye<end>⟧",
  );
  assert.equal(
    await one({ text: "Assistant: A\n\nUser: Q" }, { lossMask: "qa" }),
    "Assistant:⟦ A\n\n⟧User: Q<end>",
  );
  const { documents, summary } = await read({ "a.jsonl": jsonl({ text }, { text: "no roles" }) }, {
    lossMask: "qa",
  });
  assert.deepEqual([documents.length, summary.skipped], [1, 1]);
});

Deno.test("readDocuments + loss_mask se learns what stands between two texts, whatever the record is", async () => {
  const se = (mask0: string, mask1: string) => ({ lossMask: "se", maskId: { mask0, mask1 } }) as const;
  const text = "a<s>Hé</s>b</s>c<s><s>d</s><s>";
  assert.equal(await one({ text }, se("</s>", "<s>")), "a<s>⟦Hé⟧</s>b</s>c<s>⟦<s>d⟧</s><s>⟦<end>⟧");
  assert.equal(await one({ text: "x<s>y</s>" }, se("</s>", "<s>")), "x<s>⟦y⟧</s><end>");
  assert.equal(await one({ text: "1é2é3" }, se("é", "é")), "1é⟦2⟧é3<end>");
  const { messages } = CONVERSATION;
  assert.equal(
    await one({ messages }, se("User:", "Assistant:")),
    await one({ messages }, { lossMask: "qa" }),
  );
  const { documents, summary } = await read(
    { "a.jsonl": jsonl({ text }, { text: "none" }) },
    se("</s>", "<s>"),
  );
  assert.deepEqual([documents.length, summary.skipped], [1, 1]);
  await assert.rejects(
    read({ "a.jsonl": jsonl({ text: "none" }) }, se("</s>", "<s>")),
    /None of the 1 documents of .* has "<s>" with something to learn: give other texts with --mask_id, or --loss_mask none$/,
  );
  for (const maskId of [undefined, { mask0: "", mask1: "a" }, { mask0: "a", mask1: "" }]) {
    await assert.rejects(
      read({ "a.txt": "a" }, { lossMask: "se", maskId }),
      /name both, as in --mask_id '\{"mask0"/,
    );
  }
});

Deno.test("readDocuments + sftSplit: files by name, records by number and by share, and the rest counted", async () => {
  const records = (name: string, count: number) =>
    jsonl(...Array.from({ length: count }, (_, i) => ({ text: `${name}${i}` })));
  const taken = async (sftSplit: string, files: Record<string, string> = { "a.jsonl": records("", 10) }) => {
    return await withFiles(files, async (folder) => {
      const { documents, summary } = await readDocuments(folder, bytes, { sftSplit });
      return [
        documents.map((document) => marked(document, bytes).replace(/^⟦|<end>⟧$/g, "")).join(" "),
        summary.outsideSplit,
      ];
    });
  };
  assert.deepEqual(await taken("train"), ["0 1 2 3 4 5 6 7 8 9", 0]);
  assert.deepEqual(await taken("train[:3]"), ["0 1 2", 7]);
  assert.deepEqual(await taken("train[-2:]"), ["8 9", 8]);
  assert.deepEqual(await taken("train[10%:25%]"), ["1 2", 8]);
  assert.deepEqual(await taken("train[4:-4]"), ["4 5", 8]);
  assert.deepEqual(await taken("train[7:99]"), ["7 8 9", 7]);
  // A record without an answer is a record.
  const unanswered = {
    "a.jsonl": jsonl({ prompt: "", completion: "" }, { messages: [{ role: "user", content: "Q" }] }, {
      text: "x",
    }),
  };
  assert.deepEqual(await taken("train[2:]", unanswered), ["x", 1]);
  const folder = {
    "data/train-00000-of-00002.jsonl": records("a", 1),
    "data/train-00001-of-00002.jsonl": records("b", 2),
    "test.jsonl": records("t", 2),
    "training.jsonl": records("n", 1),
  };
  assert.deepEqual(await taken("train[1:]", folder), ["b0 b1", 1]);
  assert.deepEqual(await taken("test", folder), ["t0 t1", 0]);
  assert.deepEqual(await taken("train", { "one.jsonl": records("o", 1), "dev.jsonl": records("d", 1) }), [
    "o0",
    0,
  ]);
  await assert.rejects(
    taken("validation", folder),
    /has no split "validation": no file is called so, leave out --sft_split$/,
  );
  await assert.rejects(taken("train[5:5]"), /has no document in --sft_split train\[5:5\]$/);
  for (const wrong of ["", "train[", "train[3]", "train+test", "train[:200%]", "[:3]"]) {
    await assert.rejects(taken(wrong), /^Error: Cannot understand --sft_split /, wrong);
  }
});

Deno.test("readDocuments + answers of nothing are counted, and still end", async () => {
  const empty = { messages: [...CONVERSATION.messages.slice(0, 2), { role: "assistant", content: " \n" }] };
  const { texts, summary } = await read({
    "a.jsonl": jsonl(empty, { prompt: "Q", completion: "" }, CONVERSATION),
  });
  assert.equal(summary.emptyAnswers, 2);
  assert.equal(texts[1], "User: Q\n\nAssistant:⟦ <end>⟧");
});

Deno.test("readDocuments + conversations without an answer are counted, and refused where there is nothing else", async () => {
  const unanswered = { messages: [{ role: "user", content: "Hi" }] };
  const { documents, summary } = await read({ "a.jsonl": jsonl(unanswered, CONVERSATION) });
  assert.deepEqual([documents.length, summary.documents, summary.skipped], [1, 1, 1]);
  assert.equal(summary.targets, countTargets(documents[0]!));
  await assert.rejects(read({ "a.jsonl": jsonl(unanswered) }), /None of the 1 documents of .* has an answer/);
});

Deno.test("readDocuments + wrong records say where and what", async () => {
  const cases: [unknown, RegExp, ReadDocumentsOptions?][] = [
    [{ messages: [] }, /a\.jsonl:1: "messages" is an empty list$/],
    [{ messages: "Hi" }, /a\.jsonl:1: "messages" is text but no JSON list of messages$/],
    [{ messages: ["Hi"] }, /a\.jsonl:1: message 1 of "messages" must be \{"role".*, found a string$/],
    [{ messages: [{ role: "tool", content: "" }] }, /message 1 of "messages" has the role "tool": there are/],
    [{ messages: [{ content: "" }] }, /message 1 of "messages" has the role of nobody: there are/],
    [
      { messages: [{ role: "user", content: null }] },
      /message 1 of "messages": "content" must be a string, found null$/,
    ],
    [
      { messages: [{ role: "user", content: [{ type: "image_url" }] }] },
      /message 1 of "messages": "content" has a piece that is no text \("image_url"\)$/,
    ],
    [{ prompt: 1, completion: "A" }, /a\.jsonl:1: "prompt" must be a string, found a number$/],
    [{ instruction: "I", output: "O", input: [] }, /a\.jsonl:1: "input" must be a string, found an array$/],
    [{ query: "Q" }, /a\.jsonl:1: "response" is missing$/, { sftField: ["query", "response"] }],
  ];
  for (const [record, message, options] of cases) {
    await assert.rejects(read({ "a.jsonl": jsonl(record) }, options), { message });
  }
});

Deno.test("promptFormat + names and templates that are none", () => {
  const cases: [string, RegExp][] = [
    ["chatml", /Unknown prompt format "chatml": there are chat, think, .*, or a template/],
    ["toString", /Unknown prompt format "toString"/],
    ["Q: {question} A: {response}", /has \{question\}, which is nothing/],
    ["Q: {prompt}", /must have one \{prompt\}, and after it one \{response\}/],
    ["{response} to {prompt}", /must have one \{prompt\}, and after it one/],
    ["{prompt}{prompt}{response}", /must have one \{prompt\}/],
  ];
  for (const [name, message] of cases) {
    assert.throws(() => promptFormat(name), { name: "RangeError", message });
  }
});

Deno.test("promptFormat + what is learnt begins where a prompt ends, in every format", () => {
  const turns: Turn[] = [{ role: "system", content: "S" }, { role: "user", content: "Q\n\nq", input: "X" }, {
    role: "assistant",
    content: "A",
  }];
  for (
    const name of [
      "chat",
      "think",
      "ask-think",
      "think-a-bit",
      "fake-think",
      "instruction",
      "plain",
      "{system}: {prompt}+{input}={answer}.",
    ]
  ) {
    const format = promptFormat(name), { segments } = format.render(turns);
    assert.equal(format.prompt("Q\n\nq", { system: "S", input: "X" }), segments[0]!.text, name);
    assert.deepEqual(segments.map(({ isAnswer }) => isAnswer), [false, true], name);
    assert.ok(segments[0]!.text.endsWith(format.begun));
    assert.deepEqual(promptFormat(format.name).render(turns), format.render(turns));
  }
});

const WORLD = fileURLToPath(new URL("../../shared/assets/rwkv_vocab_v20230424.txt", import.meta.url));
Deno.test({
  name: "readDocuments + the World vocabulary: pieces encoded apart are the tokens of the whole text",
  ignore: !existsSync(WORLD),
  async fn() {
    const world = worldTokenizer(Deno.readFileSync(WORLD), WORLD);
    const messages = [
      { role: "system", content: "You are brief." },
      { role: "user", content: "你好！Who wrote *Emma*?" },
      { role: "assistant", content: "Jane Austen, in 1815." },
      { role: "user", content: "Thanks :)" },
      { role: "assistant", content: "不客气。" },
    ];
    await withFiles({ "a.jsonl": jsonl({ messages }) }, async (folder) => {
      const { documents: [document] } = await readDocuments(join(folder, "a.jsonl"), world);
      const text = promptFormat("chat").render(messages as Turn[]).segments.map(({ text }) => text).join("");
      assert.deepEqual(Array.from(document!, tokenOf), [...world.encode(text), 0]);
      assert.match(
        marked(document!, world),
        /Assistant:⟦ Jane Austen, in 1815\.\n\n⟧User: Thanks :\)\n\nAssistant:⟦ 不客气。<end>⟧$/,
      );
      // As the answers of the text by itself are found.
      const again = Uint32Array.from([...world.encode(text), 0]);
      assert.deepEqual(onlyRanges(again, world, answersIn), document);
    });
  },
});

Deno.test("promptFor + what is written out already: left as it is", () => {
  const chat = promptFormat("chat"), written = "User: Hi\n\nAssistant: Yes?\n\nUser: Well\n\nAssistant:";
  assert.equal(promptFor(chat, written), written);
  assert.equal(promptFor(chat, "Hi"), "User: Hi\n\nAssistant:");
  assert.equal(promptFor(promptFormat("plain"), "Hi"), "Hi");
  assert.equal(promptFor(promptFormat("{prompt}{response}"), "Hi"), "Hi");
});

Deno.test("Answer + stops: nothing of a stop is shown, however it arrives, and nothing else is lost", () => {
  const show = (pieces: string[], stops = ["\n\nUser:", "\n\nSystem:"]) => {
    const answer = new Answer(stops);
    const shown = pieces.map((piece) => answer.push(piece)).join("") + answer.end();
    return [shown, answer.ended];
  };
  assert.deepEqual(show(["Hi\n", "\nUs", "er: x", "more"]), ["Hi", true]);
  assert.deepEqual(show([..."a\n\nUse\n\nSystem: b"]), ["a\n\nUse", true]);
  assert.deepEqual(show(["a\n\nUser"]), ["a\n\nUser", false]);
  assert.deepEqual(show(["a", "b"], []), ["ab", false]);
  const early = new Answer(["\n\nUser:"]);
  assert.deepEqual([early.push("one\n"), early.push("two")], ["one", "\ntwo"]);
});

Deno.test("readDocuments + CSV and TSV: quotes, lines inside fields, a byte order mark, and rows that are none", async () => {
  const csv = `\uFEFFprompt,completion,n\r\n"Say ""hi"", please","Hi,\nthere",1\r\n\r\nQ,A,2\r\n`;
  const { texts, summary } = await read({ "a.csv": csv });
  assert.deepEqual(texts, [
    'User: Say "hi", please\n\nAssistant:⟦ Hi,\nthere<end>⟧',
    "User: Q\n\nAssistant:⟦ A<end>⟧",
  ]);
  assert.equal(summary.dataType, "csv");
  assert.deepEqual((await read({ "a.tsv": "text\tn\nHello\t1\n" })).texts, ["⟦Hello<end>⟧"]);
  const semicolons = `prompt;completion\r\n"a; b";"c, ""d"""\r\n`;
  assert.deepEqual((await read({ "a.csv": semicolons })).texts, ['User: a; b\n\nAssistant:⟦ c, "d"<end>⟧']);
  assert.deepEqual((await read({ "a.csv": `"a;b",text\n1,x;y\n` })).texts, ["⟦x;y<end>⟧"]);
  const messages = JSON.stringify(CONVERSATION.messages).replaceAll('"', '""');
  assert.match((await read({ "a.csv": `messages\n"${messages}"\n` })).texts[0]!, /Assistant:⟦ Farewell/);
  await assert.rejects(read({ "a.csv": "text,n\nok,1\nbad,2,3\nfine,4\n" }), /a\.csv:3: the row is not CSV/);
  await assert.rejects(
    read({ "a.csv": "words\nok\nyes\n" }),
    /Cannot read 2 of the 2 rows of [^]*a\.csv:2: expected/,
  );
  await assert.rejects(
    read({ "a.csv": Uint8Array.of(116, 101, 120, 116, 10, 0xe4, 10) }),
    /The data file .*a\.csv is not valid UTF-8: save it as UTF-8$/,
  );
  await assert.rejects(read({ "a.csv": "" }), /a\.csv holds no document/);
});

Deno.test("readDocuments + a JSON list: its records, and what is none", async () => {
  const list = JSON.stringify([{ instruction: "I", input: "", output: "O" }, { text: "x" }], null, 2);
  const { texts, summary } = await read({ "a.json": `\uFEFF ${list}` });
  assert.deepEqual(texts, ["Instruction: I\n\nResponse:⟦ O<end>⟧", "⟦x<end>⟧"]);
  assert.equal(summary.dataType, "json");
  await assert.rejects(
    read({ "a.json": `[{"text": "x"}, {"txt": "y"}]` }),
    /a\.json, record 2: expected "text"/,
  );
  await assert.rejects(
    read({ "a.json": `[{"text": "x"}` }),
    /Cannot read the data file .*a\.json: it is no JSON \(/,
  );
  await assert.rejects(read({ "a.json": "[]" }), /a\.json holds no document/);
});

Deno.test("readDocuments + Parquet: columns, nested messages, several row groups, and a file that is none", async () => {
  const file = (columnData: Parameters<typeof parquetWriteBuffer>[0]["columnData"], rowGroupSize = 2) =>
    new Uint8Array(parquetWriteBuffer({ columnData, rowGroupSize }));
  const table = file([
    { name: "instruction", data: ["a", "b", "c"], type: "STRING" },
    { name: "output", data: ["A", "B", "C"], type: "STRING" },
  ]);
  const { texts, summary } = await read({ "a.parquet": table });
  assert.deepEqual(texts, [..."abc"].map((x) => `Instruction: ${x}\n\nResponse:⟦ ${x.toUpperCase()}<end>⟧`));
  assert.equal(summary.dataType, "parquet");
  const nested = file([{ name: "messages", data: [CONVERSATION.messages], type: "JSON" }]);
  assert.match((await read({ "a.parquet": nested })).texts[0]!, /Assistant:⟦ Farewell/);
  const text = { type: "BYTE_ARRAY", converted_type: "UTF8", repetition_type: "OPTIONAL" } as const;
  const listOfMessages = new Uint8Array(parquetWriteBuffer({
    columnData: [{ name: "messages", data: [CONVERSATION.messages, CONVERSATION.messages.slice(1, 3)] }],
    schema: [
      { name: "root", num_children: 1 },
      { name: "messages", repetition_type: "OPTIONAL", num_children: 1, converted_type: "LIST" },
      { name: "list", repetition_type: "REPEATED", num_children: 1 },
      { name: "element", repetition_type: "OPTIONAL", num_children: 2 },
      { name: "role", ...text },
      { name: "content", ...text },
    ],
  }));
  const listed = await read({ "a.parquet": listOfMessages });
  assert.equal(listed.texts[1], "User: Hi\n\nAssistant:⟦ Hello!<end>⟧");
  assert.match(listed.texts[0]!, /^System: Be brief\..*Assistant:⟦ Farewell/s);
  const wrong = file([{ name: "words", data: ["x", "y"], type: "STRING" }]);
  await assert.rejects(
    read({ "a.parquet": wrong }),
    /Cannot read 2 of the 2 rows of [^]*a\.parquet, row 2: expected/,
  );
  await assert.rejects(read({ "a.parquet": "no table" }), /Cannot read the Parquet file .*a\.parquet: /);
  await assert.rejects(
    read({ "a.parquet": table.subarray(0, table.length - 9) }),
    /Cannot read the Parquet file/,
  );
});

Deno.test("readDocuments + a folder: all its files by name, others named, hidden ones left alone", async () => {
  const files = {
    "data/b.txt": "second",
    "data/a.jsonl": jsonl({ text: "first" }),
    "data/sub/c.csv": "text\nthird\n",
    "data/picture.png": "…",
    "data/.hidden.txt": "never",
  };
  const { texts, summary } = await read(files, {}, "data");
  assert.deepEqual(texts, ["⟦first<end>⟧", "⟦second<end>⟧", "⟦third<end>⟧"]);
  assert.deepEqual([summary.files, summary.dataType], [3, "jsonl, utf-8, csv"]);
  assert.match(String(summary.passedOver), /picture\.png$/);
  assert.deepEqual((await read(files, { dataType: "csv" }, "data")).texts, ["⟦third<end>⟧"]);
  await withFiles(files, (folder) => {
    const path = join(folder, "data"), before = dataDigest(path);
    assert.equal(dataDigest(path), before);
    Deno.renameSync(join(path, "b.txt"), join(path, "d.txt"));
    assert.notEqual(dataDigest(path), before);
  });
});

Deno.test("writeBinidx + readBinidx, in uint16 and int32, and what is not to be trusted", async () => {
  await withFiles({}, async (folder) => {
    const documents = [Uint32Array.of(1, 2, 0), Uint32Array.of(65535, 0), Uint32Array.of(5 | CONTEXT, 7, 0)];
    for (const type of ["uint16", "int32"] as const) {
      const prefix = join(folder, type);
      assert.deepEqual(writeBinidx(prefix, documents, { type }), { documents: 3, tokens: 8, type });
      assert.deepEqual([...readBinidx(prefix, 65536)].map((d) => [...d]), [[1, 2, 0], [65535, 0], [5, 7, 0]]);
      assert.equal(Deno.statSync(`${prefix}.bin`).size, type === "uint16" ? 16 : 32);
    }
    // The index as Megatron's own writer lays it out.
    const index = Deno.readFileSync(join(folder, "uint16.idx"));
    const view = new DataView(index.buffer);
    assert.equal(new TextDecoder().decode(index.subarray(0, 9)), "MMIDIDX\0\0");
    assert.deepEqual([view.getBigUint64(9, true), index[17]], [1n, 8]);
    assert.deepEqual([view.getBigUint64(18, true), view.getBigUint64(26, true)], [3n, 4n]);
    assert.deepEqual([...new Int32Array(index.slice(34, 46).buffer)], [3, 2, 3]);
    assert.deepEqual([...new BigInt64Array(index.slice(46, 70).buffer)], [0n, 6n, 10n]);
    assert.deepEqual([...new BigInt64Array(index.slice(70).buffer)], [0n, 1n, 2n, 3n]);

    const prefix = join(folder, "uint16");
    assert.throws(
      () => [...readBinidx(prefix, 256)],
      /token 65535 in document 2 is outside the vocabulary of 256/,
    );
    assert.throws(() => writeBinidx(prefix, documents), /The output .*uint16\.bin exists: name another/);
    assert.equal(writeBinidx(prefix, [Uint32Array.of(70000)], { force: true }).type, "int32");
    assert.throws(
      () => writeBinidx(join(folder, "x"), [Uint32Array.of(70000)], { type: "uint16" }),
      /Token 70000 does not fit into uint16/,
    );
    const broken: [string, (bytes: Uint8Array) => Uint8Array, RegExp][] = [
      ["magic", (b) => (b[0] = 0, b), /it is no binidx index/],
      ["version", (b) => (b[9] = 2, b), /it has version 2/],
      ["type", (b) => (b[17] = 6, b), /its tokens are float32: uint16 and int32 are read/],
      ["count", (b) => (b[18] = 200, b), /200 sequences and 4 documents need another number/],
      ["length", (b) => (b[37] = 0x80, b), /make no sense/],
      ["offset", (b) => (b[47] = 0x7f, b), /document 1 lies at bytes .* so the pair is cut off/],
      ["documents", (b) => (b[78] = 9, b), /make no sense/],
      ["short", (b) => b.subarray(0, 20), /it is no binidx index/],
    ];
    for (const [name, change, message] of broken) {
      Deno.writeFileSync(join(folder, `${name}.idx`), change(index.slice()));
      Deno.writeFileSync(join(folder, `${name}.bin`), new Uint8Array(16));
      assert.throws(() => [...readBinidx(join(folder, name), 65536)], message, name);
    }
    writeBinidx(join(folder, "bytes"), [bytes.encode("User: Q\n\nAssistant: A\0")]);
    for (const path of ["bytes", "bytes.idx", "bytes.bin"]) {
      const { documents, summary } = await readDocuments(join(folder, path), bytes, { lossMask: "qa" });
      assert.equal(marked(documents[0]!, bytes), "User: Q\n\nAssistant:⟦ A<end>⟧");
      assert.equal(summary.dataType, "binidx");
    }
  });
});
