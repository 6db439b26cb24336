/**
 * Text in untrusted files.
 *
 * @module
 */

/** Makes the error for a reason and, optionally, a remedy; see `FormatError` for the two clauses. */
export type MakeError = (reason: string, remedy?: string) => Error;

/** Decodes UTF-8 as it stands: wrong bytes are an error, and a byte order mark is not dropped. */
export function decodeUtf8(bytes: Uint8Array, where: string, error: MakeError): string {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw error(`${where} is not valid UTF-8`);
  }
}

const QUOTED_LENGTH = 80;

/** Text from a file as it may be shown to a person: in quotes, on one line, and not endless. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > QUOTED_LENGTH ? `${text.slice(0, QUOTED_LENGTH)}…` : text);
}
