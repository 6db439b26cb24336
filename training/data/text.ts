/**
 * A run's text: read, cut into micro-batches, and a part of it held out to measure on.
 *
 * @module
 */
import { chooseTokenizer } from "../../rwkv/tokenizer/choose.ts";
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import type { TrainSettings } from "../options.ts";
import { Batches } from "./batches.ts";
import { readDocuments } from "./documents.ts";
import { splitHeldOut } from "./split.ts";
import { requireOneSample } from "./windows.ts";

/** What a run learns from. */
export interface Text {
  readonly tokenizer: Tokenizer;
  readonly batches: Batches;
  /** In the order of the text; undefined where nothing is held out. */
  readonly heldOut: Batches | undefined;
}

/** Reads the text and cuts it into batches and what is held out. @param vocabulary V of the model */
export async function readText(
  settings: TrainSettings,
  vocabulary: number,
  onMessage: (message: string) => void,
): Promise<Text> {
  const { loadModel, dataFile, dataType, vocab, ctxLen, microBsz, randomSeed } = settings;
  const tokenizer = await chooseTokenizer({
    vocabulary,
    modelPath: loadModel,
    ...(vocab === undefined ? {} : { vocab }),
  });
  const { documents, summary } = await readDocuments(dataFile, tokenizer, { dataType });
  requireOneSample(documents, ctxLen, dataFile);
  const split = settings.evalFile === undefined
    ? splitHeldOut(documents, { ctxLen, seed: randomSeed, fraction: settings.heldOut })
    : { train: documents, heldOut: (await readDocuments(settings.evalFile, tokenizer)).documents };
  const batches = new Batches({ documents: split.train, ctxLen, microBsz, seed: randomSeed });
  const heldOut = split.heldOut.length
    ? new Batches({ documents: split.heldOut, ctxLen, microBsz, seed: 0, shuffle: false })
    : undefined;
  onMessage(
    `Text: ${summary.documents} documents, ${summary.tokens} tokens (${tokenizer.name}) in ${dataFile}; ` +
      `${batches.tokensPerEpoch} targets an epoch in ${batches.batchesPerEpoch} micro-batches` +
      (batches.skipped ? `; ${batches.skipped} documents of under two tokens skipped` : ""),
  );
  return { tokenizer, batches, heldOut };
}
