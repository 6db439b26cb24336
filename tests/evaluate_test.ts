/**
 * Measuring a model on a text, and turning a text into tokens: the library and the commands.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { computeGradients, createAdapter, evaluate, loadModel, saveAdapter, train } from "../mod.ts";
import { bytesTokenizer } from "../rwkv/tokenizer/bytes.ts";
import { Session } from "../rwkv/session.ts";
import { readDocuments } from "../training/data/documents.ts";
import { testOnEngines } from "./engines.ts";
import { smallModel } from "./small_model.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const MODEL = writeTinyModel(newPath("model.safetensors"), { layers: 2 });
const bytes = bytesTokenizer(128);

/** Runs a task of deno.json. */
async function task(name: string, ...args: string[]) {
  const config = fileURLToPath(new URL("../deno.json", import.meta.url));
  const { code, stdout, stderr } = await new Deno.Command("deno", {
    args: ["task", "--quiet", "--config", config, name, ...args],
    env: { NO_COLOR: "1", INIT_CWD: Deno.cwd() },
  }).output();
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

testOnEngines("Session.score + tokens over several pieces: as the logits of feed have it", async (engine) => {
  using model = smallModel(engine);
  const { vocabulary: V } = model.config;
  const tokens = Array.from({ length: 150 }, (_, i) => (i * i + 3 * i + 1) % V);
  const session = new Session(model.config, (graph) => model.wire(graph), engine);
  const logits = await session.feed(tokens, "all");
  let wanted = 0;
  for (let i = 0; i + 1 < tokens.length; i++) {
    if (i % 3 === 0) continue;
    const row = logits.subarray(i * V, (i + 1) * V);
    wanted += Math.log(row.reduce((sum, x) => sum + Math.exp(x), 0)) - row[tokens[i + 1]!]!;
  }
  session.reset();
  const sum = await session.score(tokens, (i) => i % 3 !== 0);
  assert.ok(Math.abs(sum / wanted - 1) < 1e-5, `${sum} for ${wanted}`);
  await assert.rejects(session.score([1]), /Cannot score a single token/);
  session.dispose();
});

Deno.test("evaluate + perplexity: the loss of training's targets, with an adapter and without", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(5, 30));
  const { documents } = await readDocuments(dataFile, bytes);
  using model = await loadModel(MODEL, { engine: "cpu" });
  const adapter = createAdapter(model, { r: 4 });
  for (const { data } of adapter.tensors.values()) data.forEach((_, i) => data[i] = Math.sin(i) / 10);
  for (const options of [{}, { adapter }]) {
    let nats = 0, targets = 0;
    for (const document of documents) {
      const { loss } = await computeGradients(model, {
        tokens: [[...document]],
        ...options,
        parameters: "all",
      });
      nats += loss * (document.length - 1);
      targets += document.length - 1;
    }
    const found = await evaluate(model, { dataFile, ...options });
    assert.ok(Math.abs(found.loss - nats / targets) < 1e-5, `${found.loss} for ${nats / targets}`);
    assert.deepEqual([found.targets, found.documents, found.accuracy], [targets, 5, undefined]);
    assert.equal(found.perplexity, Math.exp(found.loss));
    // A token of this model is a byte.
    assert.ok(Math.abs(found.bitsPerByte - found.loss / Math.LN2) < 1e-12);
  }
  const few = await evaluate(model, { dataFile, limit: 2 });
  assert.equal(few.documents, 2);
  await assert.rejects(
    evaluate(model, { dataFile: writeDocuments(newPath("e.jsonl"), ["", ""]) }),
    /has nothing to predict: give documents of at least two tokens/,
  );
});

Deno.test("evaluate + conversations: only the answers count", async () => {
  const dataFile = newPath("chat.jsonl");
  Deno.writeTextFileSync(dataFile, JSON.stringify({ prompt: "1+1?", completion: "2" }) + "\n");
  using model = await loadModel(MODEL, { engine: "cpu" });
  const found = await evaluate(model, { dataFile });
  assert.equal(found.targets, " 2".length + 1);
  assert.equal(
    (await evaluate(model, { dataFile, lossMask: "none" })).targets,
    "User: 1+1?\n\nAssistant: 2".length,
  );
});

Deno.test("evaluate + last_word: right for a model that knows the text, wrong for one that does not", async () => {
  const texts = ["the cat sat on the mat", "we all live in a house"];
  const dataFile = writeDocuments(newPath("learnt.jsonl"), texts);
  const projDir = newPath("run");
  const { output } = await train({
    loadModel: MODEL,
    dataFile,
    projDir,
    peft: "none",
    ctxLen: 32,
    microBsz: 2,
    lrInit: 2e-2,
    lrFinal: 2e-3,
    epochCount: 60,
    heldOut: 0,
    samplePrompt: "",
    engine: "cpu",
  });
  using taught = await loadModel(output, { engine: "cpu" });
  using untaught = await loadModel(MODEL, { engine: "cpu" });
  const passages = writeDocuments(newPath("passages.jsonl"), [...texts, "the cat sat on the hat", "single"]);
  const right = await evaluate(taught, { dataFile: passages, metric: "last_word" });
  assert.deepEqual([right.accuracy, right.documents, right.skipped], [2 / 3, 3, 1]);
  assert.equal(right.targets, " mat house hat".length);
  const wrong = await evaluate(untaught, { dataFile: passages, metric: "last_word" });
  assert.ok(wrong.accuracy === 0 && wrong.loss > 2 * right.loss, `${wrong.loss} and ${right.loss}`);
});

Deno.test("evaluate and prepare as commands: what they print, and that training reads what was prepared", async () => {
  const dataFile = writeDocuments(newPath("text.jsonl"), randomTexts(6, 40)), output = newPath("tokens");
  const prepared = await task("prepare", "--data_file", dataFile, "--load_model", MODEL, "--output", output);
  assert.equal(prepared.code, 0, prepared.stderr);
  assert.match(
    prepared.stdout,
    /^6 documents, \d+ tokens \(bytes\), uint16\nWritten to .*tokens\.bin and .*tokens\.idx\n$/,
  );
  const again = await task("prepare", "--data_file", dataFile, "--load_model", MODEL, "--output", output);
  assert.deepEqual([again.code, again.stdout], [2, ""]);
  assert.match(again.stderr, /^The output .*tokens\.bin exists: name another, or replace it with --force\n$/);
  const adapterPath = newPath("adapter.safetensors");
  {
    using model = await loadModel(MODEL, { engine: "cpu" });
    saveAdapter(createAdapter(model, { r: 4 }), adapterPath);
  }
  const results = await Promise.all([
    task("evaluate", "--load_model", MODEL, "--data_file", dataFile, "--engine", "cpu"),
    task(
      "evaluate",
      "--load_model",
      MODEL,
      "--data_file",
      `${output}.idx`,
      "--adapter",
      adapterPath,
      "--engine",
      "cpu",
    ),
  ]);
  for (const { code, stdout, stderr } of results) {
    assert.equal(code, 0, stderr);
    assert.match(
      stdout,
      /^Perplexity: \d+\.\d{4} \(loss \d\.\d{4} nats a token, .* bits a byte\) over \d+ tokens of 6 documents\n$/,
    );
  }
  // A fresh adapter changes nothing.
  assert.equal(results[0].stdout, results[1].stdout);
  const none = await task("evaluate", "--load_model", MODEL);
  assert.deepEqual([none.code, none.stderr], [2, "No text was given: name a file with --data_file\n"]);
});
