/**
 * An end-to-end proof that learning works: a model of two layers learns from scratch to write digit strings backwards
 * (the task of RWKV-LM's rwkv7_train_simplified.py, with shorter strings), and is then tested on strings it has not seen.
 *
 *     deno task bench:reverse [--digits 12] [--steps 2000] [--engine auto|cpu|webgpu]
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type EngineChoice, loadModel, pretrain } from "../mod.ts";
import { random } from "../training/data/random.ts";

const { values } = parseArgs({
  options: {
    digits: { type: "string", default: "12" },
    steps: { type: "string", default: "2000" },
    engine: { type: "string", default: "auto" },
  },
});
const digits = Number(values.digits), steps = Number(values.steps), engine = values.engine as EngineChoice;
/** Strings of a step. */
const BATCH = 64;
/** Strings that the result is tested on. */
const TESTED = 200;
/** The model reads bytes, and no byte of the task is over this. */
const VOCABULARY = 64;

const draw = random(1, "digit strings");
const string = () => Array.from({ length: 1 + draw.integer(digits) }, () => draw.integer(10)).join("");
const task = (digits: string) => `${digits},${[...digits].reverse().join("")}#`;

const folder = await Deno.makeTempDir({ prefix: "wishbone-reverse-" });
try {
  const dataFile = join(folder, "train.jsonl");
  const lines = Array.from({ length: steps * BATCH }, () => JSON.stringify({ text: task(string()) }));
  await Deno.writeTextFile(dataFile, lines.join("\n"));
  const started = performance.now();
  const { output } = await pretrain({
    nLayer: 2,
    nEmbd: 64,
    headSize: 16,
    vocabSize: VOCABULARY,
    dataFile,
    projDir: join(folder, "run"),
    ctxLen: 2 * digits + 2,
    microBsz: BATCH,
    lrInit: 4e-3,
    lrFinal: 1e-6,
    weightDecay: 0.1,
    gradCp: false,
    heldOut: 0,
    samplePrompt: "",
    engine,
  }, {
    onStep: ({ step, steps, loss, tokensPerSecond }) => {
      if (step % 100 === 0) {
        console.error(
          `step ${step} of ${steps}  loss ${loss.toFixed(4)}  ${Math.round(tokensPerSecond)} tokens/s`,
        );
      }
    },
    onMessage: (message) => console.error(message),
  });
  const seconds = (performance.now() - started) / 1000;

  const model = await loadModel(output, { engine });
  let right = 0, all = 0;
  for (let i = 0; i < TESTED; i++) {
    const given = string(), bytes = new TextEncoder().encode(task(given));
    const { logits } = await model.forward(bytes.subarray(0, -1), { all: true });
    for (let t = given.length; t < bytes.length - 1; t++) {
      const row = logits.subarray(t * VOCABULARY, (t + 1) * VOCABULARY);
      right += Number(row.indexOf(Math.max(...row)) === bytes[t + 1]);
      all++;
    }
  }
  model.dispose();
  console.log(
    `up to ${digits} digits, ${steps} steps of ${BATCH} strings in ${seconds.toFixed(0)} s: ` +
      `${right} of ${all} symbols right (${(100 * right / all).toFixed(2)} %)`,
  );
  if (right < 0.99 * all) Deno.exitCode = 1;
} finally {
  await Deno.remove(folder, { recursive: true });
}
