/**
 * Finds what is learnt of text that is written out already. For `--loss_mask qa` that is what follows `Assistant:` or `Response:` at the
 * start of a turn, up to the next turn of somebody else; for `--loss_mask se` what follows one text, up to another.
 *
 * @module
 */
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import { CONTEXT, tokenOf } from "./document.ts";
import type { ReadDocumentsOptions } from "./documents.ts";

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

/** The texts of `--loss_mask se`. */
export interface MaskId {
  /** From here on nothing is learnt. */
  readonly mask0: string;
  /** What follows this is learnt. */
  readonly mask1: string;
}

/** @throws Error in one sentence where `se` lacks its texts */
export function requireMaskId({ lossMask, maskId }: Pick<ReadDocumentsOptions, "lossMask" | "maskId">): void {
  if (lossMask !== "se") return;
  const { mask0, mask1 } = maskId ?? {};
  if (typeof mask0 === "string" && typeof mask1 === "string" && mask0 !== "" && mask1 !== "") return;
  throw new Error(
    `--loss_mask se learns what follows one text up to another: name both, as in --mask_id '{"mask0":"User:","mask1":"Assistant:"}'`,
  );
}

/** Ranges between the texts of a mask, without these, in a text of which every character is one byte. */
export function between(bytes: string, { mask0, mask1 }: MaskId): { start: number; end: number }[] {
  const [stop, begin] = [mask0, mask1].map((text) => String.fromCharCode(...new TextEncoder().encode(text)));
  const ranges: { start: number; end: number }[] = [];
  for (let at = bytes.indexOf(begin!); at >= 0;) {
    const start = at + begin!.length, end = bytes.indexOf(stop!, start);
    ranges.push({ start, end: end < 0 ? bytes.length : end });
    at = end < 0 ? -1 : bytes.indexOf(begin!, end + stop!.length);
  }
  return ranges;
}

/** The document with all but some ranges of its text as context; the end-of-text token belongs to the last of them. */
export function onlyRanges(
  document: Uint32Array,
  tokenizer: Tokenizer,
  find: (bytes: string) => { start: number; end: number }[],
): Uint32Array {
  const pieces = Array.from(document, (word) => tokenizer.decodeBytes([tokenOf(word)]));
  const text = pieces.map((piece) => String.fromCharCode(...piece)).join("");
  const answers = find(text);
  let at = 0, answer = 0;
  return document.map((word, i) => {
    while (answer < answers.length && at >= answers[answer]!.end && i + 1 < document.length) answer++;
    const inside = answer < answers.length && at >= answers[answer]!.start;
    at += pieces[i]!.length;
    return inside ? tokenOf(word) : tokenOf(word) | CONTEXT;
  });
}
