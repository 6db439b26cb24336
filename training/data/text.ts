/**
 * A run's text: read, cut into micro-batches, and a part of it held out to measure on.
 *
 * @module
 */
import { chooseTokenizer } from "../../rwkv/tokenizer/choose.ts";
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import { OptionError, type TrainSettings } from "../options.ts";
import { Batches } from "./batches.ts";
import { CONTEXT, countTargets, tokenOf } from "./document.ts";
import { type DocumentsSummary, readDocuments } from "./documents.ts";
import { splitHeldOut } from "./split.ts";
import { requireOneSample } from "./windows.ts";

/** What a run learns from. */
export interface Text {
  readonly tokenizer: Tokenizer;
  readonly batches: Batches;
  /** In the order of the text; undefined where nothing is held out. */
  readonly heldOut: Batches | undefined;
  /** How most conversations are written; undefined where there are none. */
  readonly promptFormat: string | undefined;
}

/** The share of targets below which something is likely to be wrong. */
const FEW_TARGETS = 0.05;
/** The share of positions with an input below which packing is pointed out. */
const MUCH_PADDING = 0.5;
/** Characters of the sample that are shown, and of one piece of it. */
const SHOWN = 1600, SHOWN_PIECE = 400;

/** Reads the text and cuts it into batches and what is held out. @param vocabulary V of the model */
export async function readText(
  settings: TrainSettings,
  vocabulary: number,
  onMessage: (message: string) => void,
): Promise<Text> {
  const { loadModel, dataFile, vocab, ctxLen, microBsz, dataload, dataShuffle, groupByLength, randomSeed } =
    settings;
  const tokenizer = await chooseTokenizer({
    vocabulary,
    modelPath: loadModel,
    ...(vocab === undefined ? {} : { vocab }),
  });
  const { sftField, promptFormat, lossMask, maskId } = settings;
  const reading = { sftField, promptFormat, lossMask, maskId };
  const { documents, summary } = await readDocuments(dataFile, tokenizer, {
    ...reading,
    dataType: settings.dataType,
    sftSplit: settings.sftSplit,
  });
  // In chunks, a sample is as long as its document, and ctxLen only a bound.
  const shortest = settings.trainType === "infctx" ? Math.min(settings.chunkCtx, ctxLen) : ctxLen;
  requireOneSample(documents, settings.trainType === "infctx" ? 1 : ctxLen, dataFile);
  const split = settings.evalFile === undefined
    ? splitHeldOut(documents, { ctxLen: shortest, seed: randomSeed, fraction: settings.heldOut })
    : { train: documents, heldOut: (await readDocuments(settings.evalFile, tokenizer, reading)).documents };
  if (dataload === "get" && documents.some(hasContext)) {
    throw new OptionError(
      "--dataload get takes slices of raw text, where everything is learnt: load conversations with pad or pack",
    );
  }
  const batches = new Batches({
    documents: split.train,
    ctxLen,
    microBsz,
    seed: randomSeed,
    dataload,
    shuffle: dataShuffle,
    groupByLength,
  });
  // What is measured on is never cut at other places from time to time.
  const order = { seed: 0, shuffle: false, dataload: dataload === "get" ? "pad" : dataload } as const;
  const heldOut = split.heldOut.some((document) => countTargets(document) > 0)
    ? new Batches({ documents: split.heldOut, ctxLen, microBsz, ...order })
    : undefined;
  const isSplit = settings.evalFile === undefined;
  const heldOutTokens = isSplit ? split.heldOut.reduce((sum, { length }) => sum + length, 0) : 0;
  describe(summary, batches, tokenizer, heldOutTokens).forEach(onMessage);
  const shown = split.train.find(hasContext) ??
    (summary.promptFormat === undefined ? undefined : split.train[0]);
  if (shown) onMessage(`First document, with what is learnt in ⟦ ⟧:${indented(marked(shown, tokenizer))}`);
  return { tokenizer, batches, heldOut, promptFormat: summary.promptFormat };
}

function hasContext(document: Uint32Array): boolean {
  return document.some((word) => word >= CONTEXT);
}

/** What was found and what becomes of it, in sentences. */
function describe(
  summary: DocumentsSummary,
  batches: Batches,
  tokenizer: Tokenizer,
  heldOutTokens: number,
): string[] {
  const { path, files, documents, tokens, targets, skipped, passedOver } = summary;
  const few = targets < FEW_TARGETS * tokens;
  const counted = (count: number, what: string) => count ? [`${count} ${what}`] : [];
  const done = [
    ...counted(summary.outsideSplit, "documents outside of --sft_split left out"),
    ...counted(heldOutTokens, "tokens held out"),
    ...counted(
      batches.cut,
      `documents longer than a sample ${batches.dropped ? "cut off" : "cut into several"}`,
    ),
    ...counted(batches.contextOnly, "samples' worth of nothing but prompt left out"),
    ...counted(batches.dropped, "tokens beyond it left out"),
    ...counted(skipped, "documents without an answer left out"),
    ...counted(summary.emptyAnswers, "answers in which nothing is said"),
    ...counted(batches.skipped, "documents of under two tokens skipped"),
    ...counted(summary.blankLines, "blank lines passed over"),
    ...counted(summary.crlf, "CRLF line ends made LF"),
    ...counted(summary.normalised, "turns with blank lines inside, which end a turn, made plain line ends"),
    ...counted(
      summary.withoutReasoning,
      "answers' reasoning left out, which --prompt_format think would keep",
    ),
    ...counted(
      passedOver.length,
      `files passed over: ${passedOver.slice(0, 3).join(", ")}${passedOver.length > 3 ? ", …" : ""}`,
    ),
  ];
  const share = targets === tokens - documents
    ? ""
    : ` (${(100 * targets / tokens).toFixed(1)} % of the tokens)`;
  return [
    `Text: ${documents} documents, ${tokens} tokens (${tokenizer.name}) in ` +
    `${files > 1 ? `${files} files of ` : ""}${path}; ` +
    `${batches.tokensPerEpoch} targets an epoch${share} in ${batches.batchesPerEpoch} micro-batches` +
    (done.length ? `; ${done.join("; ")}` : "") +
    (batches.filled < MUCH_PADDING && batches.shorter.length === 0 && batches.batchesPerEpoch > 1
      ? `; ${
        (100 * (1 - batches.filled)).toFixed(0)
      } % of the positions are padding, which --dataload pack would fill and --group_by_length 1 cut`
      : ""),
    ...(few
      ? [
        `Warning: only ${targets} of ${tokens} tokens are targets, under ${100 * FEW_TARGETS} %: ` +
        "is the answer in the right field, or --loss_mask meant otherwise?",
      ]
      : []),
  ];
}

/** A document as text, with what is learnt in brackets; long pieces without their middle. */
export function marked(document: Uint32Array, tokenizer: Tokenizer): string {
  let text = "", from = 0;
  for (let at = 1; at <= document.length; at++) {
    const learnt = document[from]! < CONTEXT;
    if (at < document.length && (document[at]! < CONTEXT) === learnt) continue;
    const ids = Array.from(document.subarray(from, at), tokenOf);
    const ends = at === document.length && ids.at(-1) === tokenizer.endOfText;
    const piece = tokenizer.decode(ends ? ids.slice(0, -1) : ids) + (ends ? "<end>" : "");
    const shown = piece.length > SHOWN_PIECE
      ? `${piece.slice(0, SHOWN_PIECE / 2)} … ${piece.slice(-SHOWN_PIECE / 2)}`
      : piece;
    text += learnt ? `⟦${shown}⟧` : shown;
    from = at;
  }
  return text.length > SHOWN ? `${text.slice(0, SHOWN)}…` : text;
}

function indented(text: string): string {
  return text.split("\n").map((line) => `\n    ${line}`).join("");
}
