/**
 * Measures how well a model predicts a text: `deno task evaluate`.
 *
 * @module
 */
import { evaluate, loadAdapter, Model } from "../mod.ts";
import { ENGINES } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { EXAMPLE, OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import { giveUpNativeCode } from "./confine.ts";
import { choice, file, files, helpText, parseFlags, saidBy, text, whole } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { Progress } from "./progress.ts";
import { FILES } from "./training_flags.ts";

const USAGE =
  `How well a model predicts a text: perplexity, or how often it gets the last word of a passage right (LAMBADA).

  deno task evaluate --load_model model.pth --data_file text.jsonl
  deno task evaluate --load_model model.pth --data_file lambada.jsonl --metric last_word`;

const FLAGS = {
  loadModel: file("model, .pth or .safetensors; without it the bundled one"),
  adapter: files("adapters to use with it, unmerged; several stack in this order"),
  ...HINTS,
  dataFile: text(
    "FILE",
    "text to predict: whatever training reads; without it, for the bundled model, the bundled one",
  ),
  metric: choice(["perplexity", "last_word"], "what to measure"),
  limit: whole("documents at most, from the first"),
  dataType: FILES.dataType,
  sftField: FILES.sftField,
  sftSplit: FILES.sftSplit,
  promptFormat: FILES.promptFormat,
  lossMask: FILES.lossMask,
  maskId: FILES.maskId,
  engine: choice(ENGINES, "what to compute on"),
  vocab: FILES.vocab,
  ...HUB,
};

const DEFAULTS: Readonly<Record<string, string>> = {
  metric: "perplexity",
  limit: "all",
  dataType: "auto",
  promptFormat: "as the adapter or the model was taught, else auto",
  lossMask: "auto",
  engine: "auto",
};

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    console.log(helpText(USAGE, { "Flags": FLAGS }, (option) => DEFAULTS[option]));
    return 0;
  }
  const {
    loadModel = EXAMPLE.model,
    adapter: adapterPaths = [],
    engine: chosen = "auto",
    ...given
  } = values;
  const dataFile = given.dataFile ?? (values.loadModel === undefined ? EXAMPLE.data : undefined);
  if (dataFile === undefined) throw new OptionError("No text was given: name a file with --data_file");
  const hints = hintsFrom(values);
  await giveUpNativeCode({ choice: chosen });
  const adapter = await Promise.all(adapterPaths.map((path) => loadAdapter(path, hints)));
  const { engine, reason } = await chooseEngine(chosen);
  console.error(reason);
  using model = Model.load(loadModel, engine);
  const progress = new Progress();
  let shown = performance.now();
  const result = await evaluate(model, {
    ...given,
    dataFile,
    adapter,
    onDocument: (done, all) => {
      work.begun = true;
      if (performance.now() - shown < 5000) return;
      shown = performance.now();
      progress.message(`${done} of ${all} documents`);
    },
  });
  const { documents, skipped, targets, loss, perplexity, bitsPerByte, accuracy } = result;
  if (skipped) console.error(`${skipped} documents left out: there is nothing to predict in them`);
  if (accuracy !== undefined) {
    console.log(`Accuracy of the last word: ${(100 * accuracy).toFixed(2)} % of ${documents} documents`);
  }
  console.log(
    `Perplexity: ${perplexity.toFixed(4)} (loss ${loss.toFixed(4)} nats a token, ${
      bitsPerByte.toFixed(4)
    } bits a byte) ` +
      `over ${targets} tokens of ${documents} documents`,
  );
  engine.dispose();
  return 0;
}

/** What is named of the Hub. */
const wanted = (args: readonly string[]) => wantedBy(FLAGS, saidBy(FLAGS, args));

if (import.meta.main) await runCommand(main, { wanted });
