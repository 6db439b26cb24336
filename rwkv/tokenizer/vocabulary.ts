/**
 * Reads the RWKV World vocabulary, as text or as JSON.
 *
 * Text, one token a line: the id, a Python literal (`'...'`, `"..."` or `b'...'`) and the number of bytes,
 * with one space between. The literal may hold spaces, so the id ends at the first space and the length
 * starts after the last. Every line is checked against its length, as a single wrong byte would shift a
 * model's whole reading of a text without any error. JSON (the form that web-rwkv and Ai00 use): an object
 * from id to a string, or to an array of byte values where the token is not valid UTF-8.
 *
 * @module
 */

import { JsonCursor, type JsonValue } from "../../formats/json.ts";
import { quoted } from "../../formats/text.ts";

/** Tokens and their ids, in the order of the file. Id 0 is never among them: it ends a document. */
export interface Vocabulary {
  /** The id of each token. */
  readonly ids: Uint32Array;
  /** Where each token begins in `pool`, and at last where the last one ends. */
  readonly starts: Uint32Array;
  /** The bytes of all tokens; no two tokens are equal, and all 256 single bytes are there. */
  readonly pool: Uint8Array;
}

/** More tokens, or bytes of tokens, are taken for damage: the real vocabulary has 65,529, of half a million bytes. */
const MOST_TOKENS = 1 << 17, MOST_BYTES = 1 << 21;
/** So are ids far above the number of tokens: a table of all ids is kept. */
const ID_SLACK = 4, WORLD_IDS = 1 << 16, ID_LIMIT = ID_SLACK * MOST_TOKENS + WORLD_IDS;
/** The longest token of the real vocabulary has 128 bytes; far longer ones are damage too. */
const LENGTH_LIMIT = 1024;
/** Characters of a line: an escape takes ten for a byte at most. */
const LINE_LIMIT = 10 * LENGTH_LIMIT + 64;
const SHOWN_LENGTH = 80;

const utf8 = new TextEncoder();

/**
 * Reads a World vocabulary from the contents of its file. LF and CRLF line ends, a leading byte order
 * mark, and a missing last newline are all accepted.
 *
 * @param contents the file's bytes
 * @param file the file's name, for messages
 * @throws {SyntaxError} one sentence with file and line (text) or id (JSON) for anything malformed.
 */
export function parseVocabulary(contents: Uint8Array, file: string): Vocabulary {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(contents);
  } catch {
    throw new SyntaxError(`Cannot read the vocabulary ${file}: it is not UTF-8 text`);
  }
  const vocabulary = /^\s*\{/.test(text) ? parseJson(text, file) : parseLines(text, file);
  const largest = vocabulary.ids.reduce((a, b) => Math.max(a, b), 0);
  if (largest >= ID_SLACK * vocabulary.ids.length + WORLD_IDS) {
    throw new SyntaxError(
      `The vocabulary ${file} has ${vocabulary.ids.length} tokens, but ids up to ${largest}: use a complete World vocabulary`,
    );
  }
  const { starts, pool } = vocabulary, isThere = new Uint8Array(256);
  vocabulary.ids.forEach((_, i) => {
    if (starts[i + 1] - starts[i] === 1) isThere[pool[starts[i]]] = 1;
  });
  for (let byte = 0; byte < 256; byte++) {
    if (!isThere[byte]) {
      throw new SyntaxError(
        `The vocabulary ${file} has no token for the single byte ${byte}, so it cannot encode every text: ` +
          `use a complete World vocabulary`,
      );
    }
  }
  return vocabulary;
}

function parseLines(text: string, file: string): Vocabulary {
  const add = collector(text.length);
  let number = 0;
  for (let at = 0, end = 0; at < text.length; at = end + 1) {
    end = text.indexOf("\n", at);
    if (end < 0) end = text.length;
    number++;
    const line = text.slice(at, text[end - 1] === "\r" ? end - 1 : end);
    try {
      if (line.length > LINE_LIMIT) {
        throw new SyntaxError(
          `the line has ${line.length} characters, more than a token of ${LENGTH_LIMIT} bytes needs`,
        );
      }
      const first = line.indexOf(" ");
      const last = line.lastIndexOf(" ");
      const id = line.slice(0, first);
      const length = line.slice(last + 1);
      if (first === last || !/^\d+$/.test(id) || !/^\d+$/.test(length)) {
        throw new SyntaxError("expected an id, a Python literal and a byte length, with spaces between");
      }
      const token = parseLiteral(line.slice(first + 1, last));
      if (token.length !== Number(length)) {
        throw new SyntaxError(`the token has ${token.length} bytes but the line says ${length}`);
      }
      add(Number(id), token);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      throw new SyntaxError(`Cannot read the vocabulary ${file}:${number}: ${error.message}`);
    }
  }
  return add.vocabulary();
}

function parseJson(text: string, file: string): Vocabulary {
  let at = "";
  const error = (reason: string) =>
    new SyntaxError(`Cannot read the vocabulary ${file}${at || " as JSON"}: ${reason}`);
  const cursor = new JsonCursor(text, error);
  const add = collector(text.length);
  cursor.object("the vocabulary", (id) => {
    at = `, id ${quoted(id)}`;
    const value = cursor.value("its token");
    try {
      if (!/^\d+$/.test(id)) throw new SyntaxError("an id is a whole number");
      if (typeof value === "string") add(Number(id), encodeStrict(value));
      else if (Array.isArray(value) && value.every(isByte)) add(Number(id), Uint8Array.from(value));
      else throw new SyntaxError("expected a string or an array of byte values");
    } catch (cause) {
      throw cause instanceof SyntaxError ? error(cause.message) : cause;
    }
    at = "";
  });
  cursor.end("the vocabulary");
  return add.vocabulary();
}

function isByte(value: JsonValue): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) < 256;
}

/** Gathers tokens and refuses the ones that no vocabulary may hold. @param length characters of the file */
function collector(length: number) {
  // A token takes four characters of the file at least, and a character stands for three bytes at most.
  const room = Math.min(MOST_TOKENS, Math.ceil(length / 4));
  const ids = new Uint32Array(room), starts = new Uint32Array(room + 1);
  const pool = new Uint8Array(Math.min(MOST_BYTES, 3 * length)), isKnown = new Uint8Array(ID_LIMIT);
  const knownTokens = new Map<string, number>();
  let count = 0;
  function add(id: number, token: Uint8Array) {
    if (id === 0) throw new SyntaxError("id 0 is the end of a document and has no token");
    if (id >= ID_LIMIT) throw new SyntaxError(`id ${id} is too large, the limit is ${ID_LIMIT - 1}`);
    if (isKnown[id]) throw new SyntaxError(`id ${id} occurs twice`);
    if (token.length === 0) throw new SyntaxError("the token is empty");
    if (token.length > LENGTH_LIMIT) throw new SyntaxError(`the token is longer than ${LENGTH_LIMIT} bytes`);
    const key = binaryString(token);
    const same = knownTokens.get(key);
    if (same !== undefined) throw new SyntaxError(`ids ${same} and ${id} are the same token`);
    if (count === MOST_TOKENS || starts[count] + token.length > MOST_BYTES) {
      throw new SyntaxError(
        `it has over ${MOST_TOKENS} tokens or ${MOST_BYTES} bytes of them, use a World vocabulary`,
      );
    }
    isKnown[id] = 1;
    knownTokens.set(key, id);
    ids[count] = id;
    pool.set(token, starts[count]);
    starts[count + 1] = starts[count] + token.length;
    count++;
  }
  add.vocabulary = (): Vocabulary => ({
    ids: ids.slice(0, count),
    starts: starts.slice(0, count + 1),
    pool: pool.slice(0, starts[count]),
  });
  return add;
}

/** One UTF-16 unit a byte, so that bytes can be a key. */
function binaryString(bytes: Uint8Array): string {
  return String.fromCharCode(...bytes);
}

/** A literal as a message may hold it. */
function shown(literal: string): string {
  return literal.length > SHOWN_LENGTH ? `${literal.slice(0, SHOWN_LENGTH)}…` : literal;
}

function encodeStrict(text: string): Uint8Array {
  if (!text.isWellFormed()) throw new SyntaxError("the token holds half of a surrogate pair");
  return utf8.encode(text);
}

const SHORT_ESCAPES: Record<string, string> = { n: "\n", t: "\t", r: "\r", "\\": "\\", "'": "'", '"': '"' };
const CODE_ESCAPES: Record<string, number> = { x: 2, u: 4, U: 8 };

/**
 * The bytes of a Python string or bytes literal, with the escapes that `repr` writes. In a string `\xNN` is
 * a code point, in bytes it is a byte.
 */
function parseLiteral(literal: string): Uint8Array {
  const isBytes = literal.startsWith("b");
  const quote = literal[isBytes ? 1 : 0];
  const body = literal.slice(isBytes ? 2 : 1, -1);
  const opening = isBytes ? 3 : 2;
  if ((quote !== "'" && quote !== '"') || literal.length < opening || !literal.endsWith(quote)) {
    throw new SyntaxError(`expected a Python literal in quotes, found ${shown(literal)}`);
  }
  let text = "";
  for (let i = 0; i < body.length; i++) {
    if (body[i] === quote) {
      throw new SyntaxError(`a quote inside the literal ${shown(literal)} is not escaped`);
    }
    if (body[i] !== "\\") {
      if (isBytes && body.charCodeAt(i) > 0x7f) {
        throw new SyntaxError(`a bytes literal holds only ASCII, found ${shown(literal)}`);
      }
      text += body[i];
      continue;
    }
    const escape = body[++i] ?? "";
    const digits = CODE_ESCAPES[escape];
    if (escape in SHORT_ESCAPES) text += SHORT_ESCAPES[escape];
    else if (digits !== undefined && (escape === "x" || !isBytes)) {
      const hex = body.slice(i + 1, i + 1 + digits);
      const code = parseInt(hex, 16);
      if (hex.length < digits || !/^[0-9a-fA-F]+$/.test(hex) || code > 0x10ffff) {
        throw new SyntaxError(`the escape \\${escape}${hex} in ${shown(literal)} is not complete`);
      }
      text += String.fromCodePoint(code);
      i += digits;
    } else throw new SyntaxError(`the escape \\${escape} in ${shown(literal)} is unknown`);
  }
  return isBytes ? Uint8Array.from(text, (character) => character.charCodeAt(0)) : encodeStrict(text);
}
