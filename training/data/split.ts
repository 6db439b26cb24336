/**
 * Sets a part of the data aside, to measure the loss on text that training never sees.
 *
 * Of many documents, whole ones are chosen by the seed. Where none is small enough for the share that is
 * wanted, and so always with a single document, the end of the longest is cut off instead. Either way no
 * token is in both parts, and the same data and seed give the same split.
 *
 * @module
 */

import { permutation } from "./random.ts";

/** What {@linkcode splitHeldOut} needs. */
export interface SplitOptions {
  /** T: training keeps at least one full window of a document that is cut. */
  ctxLen: number;
  /** Chooses among many documents. */
  seed: number;
  /** The share of all tokens to hold out, 0 (nothing) to below 1; 0.05 when `tokens` is not given either. */
  fraction?: number | undefined;
  /** The number of tokens to hold out, instead of a share. */
  tokens?: number | undefined;
}

/** Two disjoint parts of the data; documents keep their order and share memory with the given ones. */
export interface Split {
  /** What to train on. */
  train: Uint32Array[];
  /** What to measure on; empty when nothing was wanted, or a small share of too little text. */
  heldOut: Uint32Array[];
  /** Tokens of `train`. */
  trainTokens: number;
  /** Tokens of `heldOut`, at most as many as wanted. */
  heldOutTokens: number;
}

/** Two tokens make the smallest part with a target. */
const SMALLEST = 2;

/**
 * Splits documents into a training part and a held-out part. A wanted share that comes to less than two
 * tokens, or that the text is too short to give, holds out nothing; a wanted number of tokens is an error
 * then.
 *
 * @throws {RangeError} when `fraction` or `tokens` is out of range.
 * @throws {Error} one sentence when the text is too short for the wanted number of tokens, or nothing would
 * be left to train on.
 */
export function splitHeldOut(
  documents: readonly Uint32Array[],
  { ctxLen, seed, fraction = 0.05, tokens }: SplitOptions,
): Split {
  if (tokens === undefined && !(fraction >= 0 && fraction < 1)) {
    throw new RangeError(`The held-out share is ${fraction} but must be at least 0 and below 1`);
  }
  if (tokens !== undefined && (!Number.isInteger(tokens) || tokens < 0)) {
    throw new RangeError(`The held-out tokens are ${tokens} but must be a whole number of at least 0`);
  }
  const wanted = tokens ?? Math.floor(fraction * countTokens(documents));
  const split = chooseDocuments(documents, wanted, seed) ?? cutLongest(documents, wanted, ctxLen);
  const nothingHeldOut = tokens !== undefined && tokens > 0 && split.heldOutTokens === 0;
  const nothingToTrain = split.heldOutTokens > 0 && !split.train.some(({ length }) => length >= SMALLEST);
  if (nothingHeldOut || nothingToTrain) {
    throw new Error(
      `Cannot hold out ${wanted} of ${countTokens(documents)} tokens and still train at ctx_len ${ctxLen}: ` +
        `hold out fewer (but at least ${SMALLEST}), lower --ctx_len or give more text`,
    );
  }
  return split;
}

/** Whole documents, taken in a seeded order as long as they fit; undefined when none does. */
function chooseDocuments(documents: readonly Uint32Array[], wanted: number, seed: number): Split | undefined {
  if (documents.length < 2) return undefined;
  const chosen = new Set<number>();
  let left = wanted;
  for (const index of permutation(documents.length, seed, "held-out documents")) {
    const { length } = documents[index];
    if (length < SMALLEST || length > left) continue;
    chosen.add(index);
    left -= length;
  }
  if (chosen.size === 0) return undefined;
  return splitOf(documents.filter((_, i) => !chosen.has(i)), documents.filter((_, i) => chosen.has(i)));
}

/** The end of the longest document, as long as its beginning keeps a full window. */
function cutLongest(documents: readonly Uint32Array[], wanted: number, ctxLen: number): Split {
  const longest = documents.reduce(
    (best, document, i) => document.length > documents[best].length ? i : best,
    0,
  );
  const document = documents[longest] ?? new Uint32Array(0);
  const cut = document.length - wanted;
  if (wanted < SMALLEST || cut < ctxLen + 1) return splitOf([...documents], []);
  const train = documents.map((other, i) => i === longest ? document.subarray(0, cut) : other);
  return splitOf(train, [document.subarray(cut)]);
}

function splitOf(train: Uint32Array[], heldOut: Uint32Array[]): Split {
  return { train, heldOut, trainTokens: countTokens(train), heldOutTokens: countTokens(heldOut) };
}

function countTokens(documents: readonly Uint32Array[]): number {
  return documents.reduce((sum, document) => sum + document.length, 0);
}
