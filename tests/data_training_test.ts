/**
 * Training on data sets of every kind: packing changes nothing, conversations are learnt in their answers, and their format goes
 * where the adapter goes.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { generate, loadAdapter, loadModel, mergeAdapter, train, type TrainOptions } from "../mod.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { writeBinidx } from "../training/data/binidx.ts";
import { readDocuments } from "../training/data/documents.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const BASE: TrainOptions = {
  loadModel: MODEL,
  ctxLen: 16,
  lrInit: 1e-3,
  lrFinal: 1e-3,
  boneConfig: { bone_r: 4 },
  trainParts: [],
  heldOut: 0,
  samplePrompt: "",
  engine: "cpu",
};

/** Trains in a new folder. */
async function run(options: TrainOptions) {
  const messages: string[] = [], losses: number[] = [], norms: number[] = [];
  const projDir = newPath("run");
  const result = await train({ projDir, ...BASE, ...options }, {
    onMessage: (message) => messages.push(message),
    onStep: ({ loss, gradientNorm }) => (losses.push(loss), norms.push(gradientNorm)),
  });
  return { ...result, messages, losses, norms, all: messages.join("\n") };
}

function writeRecords(records: readonly unknown[]): string {
  const path = newPath("records.jsonl");
  Deno.writeTextFileSync(path, records.map((record) => JSON.stringify(record) + "\n").join(""));
  return path;
}

const QUESTIONS = Array.from(
  { length: 6 },
  (_, i) => ({ prompt: `${i} and ${i}?`, completion: `${2 * i}.` }),
);

Deno.test("train + dataload pack: loss, gradient norm and weights of an epoch in one step as with padding", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(9, 24));
  const whole = { dataFile, microBsz: 16, maxSteps: 2, l2wrap: false };
  const padded = await run(whole), packed = await run({ ...whole, dataload: "pack" });
  const recomputed = await run({ ...whole, dataload: "pack", gradCp: false });
  for (const other of [packed, recomputed]) {
    for (const i of [0, 1]) {
      // Sums in f32 in another order.
      assert.ok(
        Math.abs(other.losses[i]! - padded.losses[i]!) < 1e-5,
        `${other.losses} for ${padded.losses}`,
      );
      assert.ok(
        Math.abs(other.norms[i]! / padded.norms[i]! - 1) < 1e-4,
        `${other.norms} for ${padded.norms}`,
      );
    }
  }
});

Deno.test("train + groupByLength: an epoch in one step as without it, and on by bits", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(24, 16));
  const whole = { dataFile, microBsz: 4, accumulateGradBatches: 6, maxSteps: 1, l2wrap: false };
  const plain = await run(whole), grouped = await run({ ...whole, groupByLength: true });
  // Sums in f32 in another order.
  assert.ok(Math.abs(grouped.losses[0]! - plain.losses[0]!) < 1e-5, `${grouped.losses} for ${plain.losses}`);
  assert.ok(Math.abs(grouped.norms[0]! / plain.norms[0]! - 1) < 1e-4, `${grouped.norms} for ${plain.norms}`);
  const stepped = { dataFile, microBsz: 4, groupByLength: true, epochCount: 2 };
  const all = await run(stepped), part = await run({ ...stepped, maxSteps: 4 });
  await train({ resume: part.projDir, maxSteps: all.steps });
  assert.deepEqual(Deno.readFileSync(part.output), Deno.readFileSync(all.output));
  await assert.rejects(
    run({ dataFile, dataload: "pack", groupByLength: true }),
    { name: "OptionError", message: /--group_by_length is for samples of many lengths/ },
  );
});

Deno.test("train + conversations: the sample shows what is learnt, only that counts, and the format is kept", async () => {
  const dataFile = writeRecords(QUESTIONS);
  const { messages, all, output } = await run({ dataFile, ctxLen: 40, microBsz: 6, maxSteps: 2 });
  assert.match(
    all,
    /First document, with what is learnt in ⟦ ⟧:\n {4}User: 0 and 0\?\n {4}\n {4}Assistant:⟦ 0\.<end>⟧/,
  );
  // " 0.<end>", and " 10.<end>" of one document.
  assert.match(
    messages.find((message) => message.startsWith("Text: "))!,
    /; 25 targets an epoch \(\d+\.\d % of the/,
  );
  const adapter = await loadAdapter(output);
  assert.equal(adapter.promptFormat, "chat");

  const merged = newPath("merged.safetensors");
  await mergeAdapter({ base: MODEL, adapter: output, output: merged, engine: "cpu" });
  {
    using file = openTensorFile(merged);
    assert.equal(file.metadata.get("prompt_format"), "chat");
  }
  const text = async (path: string, options: Partial<Parameters<typeof generate>[1]>) => {
    using model = await loadModel(path, { engine: "cpu" });
    let text = "";
    for await (
      const piece of generate(model, { prompt: "2 and 2?", tokens: 12, temperature: 0, ...options })
    ) text += piece;
    return text;
  };
  const wanted = await text(MODEL, {
    adapter,
    promptFormat: "plain",
    prompt: "User: 2 and 2?\n\nAssistant:",
  });
  assert.ok(wanted.length > 0);
  assert.equal(await text(MODEL, { adapter }), wanted);
  assert.notEqual(await text(MODEL, { adapter, promptFormat: "plain" }), wanted);
  assert.equal(
    await text(MODEL, { adapter, promptFormat: "{prompt}{response}" }),
    await text(MODEL, { adapter, promptFormat: "plain" }),
  );
  assert.equal(await text(merged, {}), await text(merged, { promptFormat: "chat" }));
});

Deno.test("train + conversations in a given template, and all of a text where that is asked for", async () => {
  const dataFile = writeRecords(QUESTIONS);
  const { output } = await run({ dataFile, ctxLen: 40, maxSteps: 1, promptFormat: "{prompt}={response};" });
  assert.equal((await loadAdapter(output)).promptFormat, "{prompt}={response};");
  const { all } = await run({ dataFile, ctxLen: 40, maxSteps: 1, lossMask: "none" });
  assert.match(all, /what is learnt in ⟦ ⟧:\n {4}⟦User: 0 and 0\?\n {4}\n {4}Assistant: 0\.<end>⟧/);
  assert.doesNotMatch(all, /% of the tokens/);
  const plain = await run({
    dataFile: writeDocuments(newPath("t.jsonl"), ["some text"]),
    maxSteps: 1,
    ctxLen: 8,
  });
  assert.equal((await loadAdapter(plain.output)).promptFormat, undefined);
  const written = writeDocuments(newPath("t.jsonl"), ["User: Hi\n\nAssistant: Ho"]);
  const said = await run({ dataFile: written, maxSteps: 1, ctxLen: 8, lossMask: "qa", promptFormat: "chat" });
  assert.equal((await loadAdapter(said.output)).promptFormat, "chat");
});

Deno.test("train + targets: none refused, few warned of, cut and skipped ones counted", async () => {
  const question = { role: "user", content: "x".repeat(300) };
  await assert.rejects(
    run({ dataFile: writeRecords([{ messages: [question] }]) }),
    /None of the 1 documents of .* has an answer to learn/,
  );
  const long = { messages: [question, { role: "assistant", content: "y" }] };
  const { all } = await run({
    dataFile: writeRecords([long, { messages: [question] }, ...QUESTIONS.slice(0, 1)]),
    ctxLen: 40,
    maxSteps: 1,
  });
  assert.match(all, /Warning: only 7 of \d+ tokens are targets, under 5 %/);
  assert.match(
    all,
    /1 documents longer than a sample cut into several; 7 samples' worth of nothing but prompt left out; 1 documents without an answer left out/,
  );
  const blank = await run({
    dataFile: writeRecords([{ prompt: "a\n\nb", completion: "c" }]),
    ctxLen: 8,
    maxSteps: 1,
  });
  assert.match(blank.all, /1 turns with blank lines inside, which end a turn, made plain line ends/);
});

Deno.test("train + a folder, binidx and slices: trains, and goes on bit for bit", async () => {
  const folder = newPath("data"), texts = randomTexts(8, 30);
  Deno.mkdirSync(folder);
  writeDocuments(join(folder, "a.jsonl"), texts.slice(0, 4));
  Deno.writeTextFileSync(join(folder, "b.txt"), texts.slice(4).join("\n"));
  const { documents } = await readDocuments(folder, bytesTokenizer(128));
  const prefix = newPath("tokens");
  writeBinidx(prefix, documents);
  for (
    const options of [{ dataFile: folder, dataload: "pack" }, { dataFile: prefix, dataload: "get" }] as const
  ) {
    const whole = await run({ ...options, microBsz: 2, epochCount: 3 });
    const part = await run({ ...options, microBsz: 2, epochCount: 3, maxSteps: 2 });
    await train({ resume: part.projDir, maxSteps: whole.steps });
    const bytesOf = (path: string) => Deno.readFileSync(path);
    assert.deepEqual(bytesOf(part.output), bytesOf(whole.output));
  }
  Deno.writeTextFileSync(join(folder, "c.txt"), "one more");
  const first = await run({ dataFile: prefix, maxSteps: 1 });
  writeBinidx(prefix, documents.slice(1), { force: true });
  await assert.rejects(train({ resume: first.projDir, maxSteps: 2 }), /has changed since it began/);
});

Deno.test("train + short documents: padding is pointed out; --data_shuffle 0 keeps the order of the text", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(12, 8));
  const { all, losses } = await run({ dataFile, microBsz: 4, dataShuffle: false });
  assert.match(all, /; \d\d % of the positions are padding, which --dataload pack would fill/);
  const whole = await run({ dataFile, microBsz: 4, dataShuffle: false, randomSeed: 7 });
  assert.deepEqual(whole.losses, losses);
  assert.notDeepEqual((await run({ dataFile, microBsz: 4 })).losses, losses);
});

Deno.test("train + what is held out and what --sft_split leaves out: the tokens of the summary add up", async () => {
  const length = 20,
    dataFile = writeDocuments(
      newPath("text.jsonl"),
      Array.from({ length: 40 }, () => "x".repeat(length - 1)),
    );
  const { all } = await run({ dataFile, ctxLen: 32, heldOut: 0.2, sftSplit: "train[:75%]", maxSteps: 1 });
  const [, documents, tokens, targets, heldOut] =
    /Text: (\d+) documents, (\d+) tokens .*; (\d+) targets an epoch .*; 10 documents outside of --sft_split left out; (\d+) tokens held out/
      .exec(all)!.map(Number);
  assert.deepEqual([documents, tokens, heldOut], [30, 600, 120]);
  // The first token of each document is no target.
  assert.equal(targets! + (tokens! - heldOut!) / length, tokens! - heldOut!);
});

Deno.test("train + samples of a conversation: the prompt is what the user says", async () => {
  const dataFile = writeRecords(QUESTIONS);
  const { samples } = await run({ dataFile, ctxLen: 40, maxSteps: 1, samplePrompt: "1 and 1?" });
  assert.match(samples!.before, /^User: 1 and 1\?\n\nAssistant:/);
});

Deno.test("train + packed documents that do not begin with a state of zeros: refused, whichever way the state comes in", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(9, 24));
  const packed = { dataFile, dataload: "pack" } as const;
  for (const options of [{ peft: "state" }, { trainParts: ["time_state"] }]) {
    await assert.rejects(run({ ...packed, ...options }), {
      name: "OptionError",
      message: /^--dataload pack begins .* and the initial state trains here: use --dataload pad$/,
    });
  }
  const { output } = await run({ dataFile, peft: "state", maxSteps: 2, lrInit: 1, lrFinal: 1 });
  const tuned = newPath("tuned.safetensors");
  await mergeAdapter({ base: MODEL, adapter: await loadAdapter(output), output: tuned, engine: "cpu" });
  await assert.rejects(run({ ...packed, loadModel: tuned }), {
    name: "OptionError",
    message: /^--dataload pack begins .*tuned\.safetensors has a tuned one: use --dataload pad$/,
  });
});

Deno.test("train + get with conversations: one sentence", async () => {
  await assert.rejects(
    run({ dataFile: writeRecords(QUESTIONS), dataload: "get" }),
    { name: "OptionError", message: /--dataload get takes slices of raw text/ },
  );
  await assert.rejects(run({ dataFile: "x", promptFormat: "chatml" }), {
    name: "OptionError",
    message: /Unknown prompt format/,
  });
  await assert.rejects(run({ dataFile: "x", sftField: ["a", "b", "c", "d"] }), {
    name: "OptionError",
    message: /--sft_field names/,
  });
});
