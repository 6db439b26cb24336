/**
 * Finds the answers in text that is written as a conversation already, for `--loss_mask qa`: what follows `Assistant:` or
 * `Response:` at the start of a turn, up to the next turn of somebody else.
 *
 * @module
 */
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import { CONTEXT, tokenOf } from "./document.ts";

const ROLE = /(?:^|\n\n)(?:(User|System|Instruction|Input)|Assistant|Response):/g;

/** Ranges of the answers in a text of which every character is one byte. */
export function answersIn(bytes: string): { start: number; end: number }[] {
  const answers: { start: number; end: number }[] = [];
  let start: number | undefined;
  for (const match of bytes.matchAll(ROLE)) {
    const begin = match.index + (match[0].startsWith("\n\n") ? 2 : 0);
    if (match[1] !== undefined) {
      if (start !== undefined) answers.push({ start, end: begin });
      start = undefined;
    } else start ??= match.index + match[0].length;
  }
  if (start !== undefined) answers.push({ start, end: bytes.length });
  return answers;
}

/** The document with all but its answers as context; the end-of-text token belongs to the last answer. */
export function onlyAnswers(document: Uint32Array, tokenizer: Tokenizer): Uint32Array {
  const pieces = Array.from(document, (word) => tokenizer.decodeBytes([tokenOf(word)]));
  const text = pieces.map((piece) => String.fromCharCode(...piece)).join("");
  const answers = answersIn(text);
  let at = 0, answer = 0;
  return document.map((word, i) => {
    while (answer < answers.length && at >= answers[answer]!.end && i + 1 < document.length) answer++;
    const inside = answer < answers.length && at >= answers[answer]!.start;
    at += pieces[i]!.length;
    return inside ? tokenOf(word) : tokenOf(word) | CONTEXT;
  });
}
