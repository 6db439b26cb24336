/**
 * Turns a data set into tokens, as binidx: `deno task prepare`.
 *
 * @module
 */
import { dirname, extname } from "node:path";
import { openTensorFile } from "../formats/tensor_file.ts";
import { prepareData } from "../mod.ts";
import { readModelConfig } from "../rwkv/model.ts";
import { EXAMPLE, OptionError } from "../training/options.ts";
import { runCommand, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { choice, file, helpText, parseFlags, saidBy, text, toggle } from "./flags.ts";
import { HUB, wantedBy } from "./hub.ts";
import { FILES } from "./training_flags.ts";

const USAGE =
  `Turns a data set into tokens once, as the binidx pair that RWKV's trainers read: NAME.bin and NAME.idx.

  deno task prepare --data_file texts --vocab rwkv_vocab_v20230424.txt --output tokens
  deno task run_bone --load_model model.pth --data_file tokens.idx --proj_dir runs/mine`;

const FLAGS = {
  dataFile: text("FILE", "what to read: .jsonl, .json, .csv, .parquet, plain text, or a folder of these"),
  output: text("NAME", "where the tokens go, without extension; without it, the data file's name"),
  loadModel: file("the model that will learn it, whose vocabulary decides how text is cut into tokens"),
  vocab: file("World vocabulary; with it, no model is needed"),
  binidxType: choice(["uint16", "int32"], "type of the ids; without it uint16 where they fit"),
  dataType: FILES.dataType,
  sftField: FILES.sftField,
  sftSplit: FILES.sftSplit,
  promptFormat: FILES.promptFormat,
  force: toggle("replace existing files"),
  ...HUB,
};

/** Tokens of a World model. */
const WORLD = 65536;

/** The command. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    const defaults: Readonly<Record<string, string>> = { dataType: "auto", promptFormat: "auto" };
    console.log(helpText(USAGE, { "Flags": FLAGS }, (option) => defaults[option]));
    return 0;
  }
  const { dataFile, loadModel, vocab, binidxType, yes: _yes, hubUrl: _hubUrl, ...others } = values;
  if (dataFile === undefined) throw new OptionError("No text was given: name a file with --data_file");
  const output = outputOf(dataFile, values.output);
  const modelPath = loadModel ?? vocab ?? EXAMPLE.model;
  const { summary, tokenizer, type, marksLost } = await prepareData({
    ...others,
    dataFile,
    output,
    modelPath,
    vocabulary: loadModel === undefined && vocab !== undefined ? WORLD : vocabularyOf(modelPath),
    ...(vocab === undefined ? {} : { vocab }),
    ...(binidxType === undefined ? {} : { type: binidxType }),
  });
  work.begun = true;
  const { documents, tokens, skipped, passedOver, promptFormat } = summary;
  if (skipped) console.error(`${skipped} documents without an answer left out`);
  if (passedOver.length) console.error(`Files passed over: ${passedOver.join(", ")}`);
  if (marksLost) {
    console.error(
      `Conversations are written in the format ${promptFormat}; binidx cannot say which tokens are answers: ` +
        "train with --loss_mask qa to learn only those",
    );
  }
  console.log(`${documents} documents, ${tokens} tokens (${tokenizer}), ${type}`);
  console.log(`Written to ${output}.bin and ${output}.idx`);
  return 0;
}

/** Where the tokens go, without extension. */
function outputOf(dataFile: string, output: string | undefined): string {
  return output?.replace(/\.(bin|idx)$/i, "") ??
    dataFile.slice(0, dataFile.length - extname(dataFile).length).replace(/[\\/]+$/, "");
}

/** The pair is written beside its place and renamed into it; text, model and vocabulary are read. */
function confine(args: readonly string[]): Confinement | undefined {
  const { values, help } = parseFlags(FLAGS, args);
  if (help || values.dataFile === undefined) return undefined;
  const { dataFile, output, loadModel, vocab } = values;
  return { args, folders: [dirname(outputOf(dataFile, output))], reads: [dataFile, loadModel, vocab] };
}

function vocabularyOf(path: string): number {
  using file = openTensorFile(path);
  return readModelConfig(file).vocabulary;
}

/** What is named of the Hub. */
const wanted = (args: readonly string[]) => wantedBy(FLAGS, saidBy(FLAGS, args));

if (import.meta.main) await runCommand(main, { wanted, confine });
