/**
 * A document as training sees it: one 32-bit word a token, its id and whether it is only context, that is read but not learnt.
 *
 * One word holds both so that documents can be cut, held out and stored as plain arrays. A document of which everything is learnt
 * is just its token ids.
 *
 * @module
 */
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import type { Segment } from "../../rwkv/prompt_format.ts";

/** Set in the word of a token that is no target. */
export const CONTEXT = 0x8000_0000;

/** The token id of a word. */
export function tokenOf(word: number): number {
  return word & 0x7fff_ffff;
}

/** Whether the token of a word is a target, for whatever comes before it. */
export function isTarget(word: number): boolean {
  return word < CONTEXT;
}

/** Targets among the tokens of a document from `from` to `to`; its first token has nothing before it and is none. */
export function countTargets(document: Uint32Array, from = 1, to: number = document.length): number {
  let count = 0;
  for (let i = Math.max(1, from); i < to; i++) if (document[i]! < CONTEXT) count++;
  return count;
}

/** Encodes pieces one by one, so that an answer begins at the token where a prompt ends, and adds the end-of-text token. */
export function encodeDocument(
  segments: readonly Segment[],
  tokenizer: Tokenizer,
  learnsAll = false,
): Uint32Array {
  const pieces = segments.map(({ text, isAnswer }) => {
    const tokens = tokenizer.encode(text);
    if (!isAnswer && !learnsAll) { for (let i = 0; i < tokens.length; i++) tokens[i]! |= CONTEXT; }
    return tokens;
  });
  const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const document = new Uint32Array(length + 1);
  let at = 0;
  for (const piece of pieces) {
    document.set(piece, at);
    at += piece.length;
  }
  // The end is part of an answer; after a prompt without one there is nothing to learn.
  const ends = learnsAll || (segments.at(-1)?.isAnswer ?? true);
  document[length] = ends ? tokenizer.endOfText : tokenizer.endOfText | CONTEXT;
  return document;
}

/** The document with everything learnt. */
export function withoutContext(document: Uint32Array): Uint32Array {
  return document.map(tokenOf);
}
