/**
 * Text in untrusted files.
 *
 * @module
 */

import { Buffer, isAscii } from "node:buffer";

/** Makes the error for a reason and, optionally, a remedy; see `FormatError` for the two clauses. */
export type MakeError = (reason: string, remedy?: string) => Error;

/** Bytes that are decoded at once where they are not all ASCII: what a decoder needs besides is bounded by that. */
const BLOCK = 1 << 20;

/** Decodes UTF-8 as it stands: wrong bytes are an error, and a byte order mark is not dropped. */
export function decodeUtf8(bytes: Uint8Array, where: string, error: MakeError): string {
  if (isAscii(bytes)) return latin1(bytes);
  const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let text = "";
  try {
    for (let at = 0, end = 0; at < bytes.length; at = end) {
      end = Math.min(at + BLOCK, bytes.length);
      // Not inside a character, which has three bytes after its first at most.
      for (let back = 0; back < 3 && end < bytes.length && (bytes[end] & 0xc0) === 0x80; back++) end--;
      const block = bytes.subarray(at, end);
      text += isAscii(block) ? latin1(block) : decoder.decode(block);
    }
  } catch {
    throw error(`${where} is not valid UTF-8`);
  }
  return text;
}

/** Text of one byte a character: Deno's decoder makes two of each, and a copy of those. */
function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("latin1");
}

const QUOTED_LENGTH = 80;

/** Text from a file as it may be shown to a person: in quotes, on one line, and not endless. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > QUOTED_LENGTH ? `${text.slice(0, QUOTED_LENGTH)}…` : text);
}
