/**
 * Cuts documents into the windows that a model is trained on.
 *
 * A window is at most T + 1 tokens (T = ctxLen): the first T are inputs, the last T targets. Windows of one
 * document start T tokens apart, so the last token of a window is the first of the next: every token
 * after the first of a document is a target exactly once, and nothing is dropped. A window never spans two
 * documents. The last window of a document may be short.
 *
 * @module
 */

/** Where the windows lie; window i is `documents[document[i]]` from `start[i]`, `length[i]` tokens. */
export interface Windows {
  /** The index of the document of each window. */
  readonly document: Uint32Array;
  /** The position of each window's first token in its document. */
  readonly start: Uint32Array;
  /** The tokens of each window, 2 to T + 1; one more than its targets. */
  readonly length: Uint32Array;
  /** How many windows there are. */
  readonly count: number;
  /** Targets in all windows. */
  readonly targets: number;
  /** Documents of fewer than two tokens, which have no target. */
  readonly skipped: number;
}

/**
 * Cuts documents into windows of at most `ctxLen + 1` tokens.
 *
 * @throws {RangeError} when `ctxLen` is not a positive whole number.
 */
export function cutWindows(documents: readonly Uint32Array[], ctxLen: number): Windows {
  if (!Number.isInteger(ctxLen) || ctxLen < 1) {
    throw new RangeError(`ctx_len is ${ctxLen} but must be a whole number of at least 1`);
  }
  const targetsOf = (tokens: Uint32Array) => Math.max(0, tokens.length - 1);
  const count = documents.reduce((sum, tokens) => sum + Math.ceil(targetsOf(tokens) / ctxLen), 0);
  const document = new Uint32Array(count);
  const start = new Uint32Array(count);
  const length = new Uint32Array(count);
  let window = 0;
  let targets = 0;
  documents.forEach((tokens, index) => {
    for (let at = 0; at < targetsOf(tokens); at += ctxLen) {
      document[window] = index;
      start[window] = at;
      length[window] = Math.min(ctxLen + 1, tokens.length - at);
      window++;
    }
    targets += targetsOf(tokens);
  });
  const skipped = documents.filter((tokens) => tokens.length < 2).length;
  return { document, start, length, count, targets, skipped };
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
  if (documents.length === 1 && tokens < ctxLen + 1) {
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
