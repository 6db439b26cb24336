/**
 * Cuts documents into the windows that a model is trained on.
 *
 * A window is at most T + 1 tokens (T = ctxLen): the first T are inputs, the last T targets. Windows of one
 * document start T tokens apart, so the last token of a window is the first of the next: every token
 * after the first of a document is in the place of a target exactly once, and nothing is dropped but windows in
 * which all is context. A window never spans two documents. The last window of a document may be short.
 *
 * @module
 */
import { countTargets } from "./document.ts";

/** Where the windows lie; window i is `documents[document[i]]` from `start[i]`, `length[i]` tokens. */
export interface Windows {
  /** The index of the document of each window. */
  readonly document: Uint32Array;
  /** The position of each window's first token in its document. */
  readonly start: Uint32Array;
  /** The tokens of each window, 2 to T + 1; one more than its inputs. */
  readonly length: Uint32Array;
  /** How many windows there are. */
  readonly count: number;
  /** Targets in all windows. */
  readonly targets: number;
  /** Documents of fewer than two tokens, which have no target. */
  readonly skipped: number;
  /** Documents that are longer than a window. */
  readonly cut: number;
  /** Stretches of documents that would be windows, but hold no target. */
  readonly contextOnly: number;
  /** Tokens that are in no window: those beyond the first of each document, where only that was wanted. */
  readonly dropped: number;
}

/**
 * Cuts documents into windows of at most `ctxLen + 1` tokens.
 *
 * @param onlyFirst takes the first window of each document and drops the rest
 * @throws {RangeError} when `ctxLen` is not a positive whole number.
 */
export function cutWindows(documents: readonly Uint32Array[], ctxLen: number, onlyFirst = false): Windows {
  if (!Number.isInteger(ctxLen) || ctxLen < 1) {
    throw new RangeError(`ctx_len is ${ctxLen} but must be a whole number of at least 1`);
  }
  const most = documents.reduce(
    (sum, { length }) => sum + (onlyFirst ? 1 : Math.ceil(Math.max(0, length - 1) / ctxLen)),
    0,
  );
  const document = new Uint32Array(most);
  const start = new Uint32Array(most);
  const length = new Uint32Array(most);
  let count = 0, targets = 0, skipped = 0, cut = 0, contextOnly = 0, dropped = 0;
  documents.forEach((tokens, index) => {
    if (tokens.length < 2) skipped++;
    if (tokens.length > ctxLen + 1) cut++;
    const end = onlyFirst ? Math.min(tokens.length, ctxLen + 1) : tokens.length;
    dropped += tokens.length - end;
    for (let at = 0; at + 1 < end; at += ctxLen) {
      const last = Math.min(at + ctxLen + 1, end);
      const counted = countTargets(tokens, at + 1, last);
      if (counted === 0) {
        contextOnly++;
        continue;
      }
      document[count] = index;
      start[count] = at;
      length[count] = last - at;
      targets += counted;
      count++;
    }
  });
  const used = (places: Uint32Array) => places.subarray(0, count);
  return {
    document: used(document),
    start: used(start),
    length: used(length),
    count,
    targets,
    skipped,
    cut,
    contextOnly,
    dropped,
  };
}

/**
 * Refuses text that cannot fill one training sample: no document with two tokens, or a single document of
 * fewer than `ctxLen + 1`. Many short documents are fine, as each is padded; a single short text is more
 * likely a wrong file or a forgotten `--ctx_len`, and its every batch would be mostly padding.
 *
 * @param path the data file's name, for the message
 * @throws {Error} one sentence with the tokens found, ctx_len, and what to do.
 */
export function requireOneSample(documents: readonly Uint32Array[], ctxLen: number, path: string): void {
  const tokens = documents.reduce((sum, document) => sum + document.length, 0);
  const onlyText = documents.length === 1 && countTargets(documents[0]!) === documents[0]!.length - 1;
  if (onlyText && tokens < ctxLen + 1) {
    throw new Error(
      `The text in ${path} is ${tokens} tokens, shorter than one sample of ctx_len ${ctxLen} + 1: ` +
        `lower --ctx_len to at most ${Math.max(1, tokens - 1)} or give more text`,
    );
  }
  if (!documents.some((document) => document.length >= 2)) {
    throw new Error(
      `The text in ${path} is ${tokens} tokens in ${documents.length} documents, none with a token to predict ` +
        `at any ctx_len (it is ${ctxLen}): give more text`,
    );
  }
}
