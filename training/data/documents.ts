/**
 * Reads training text and turns it into token ids.
 *
 * A plain text file is one document. In a `.jsonl` file each line `{"text": "..."}` is one. Every document
 * ends with the tokenizer's end-of-text token, so that a model learns where texts end. What is done to the
 * text, and nothing else: a byte order mark at the start is dropped; in plain text CRLF becomes LF (an
 * editor put it there, the models were trained on LF; the count is in the summary). Text inside JSON
 * strings is taken exactly as it is written. Text that is not valid UTF-8 is refused, never repaired.
 *
 * A `.jsonl` file is read in blocks, so only its tokens are held (four bytes each); plain text is read whole.
 *
 * @module
 */

import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";

/** Options of {@linkcode readDocuments}. */
export interface ReadDocumentsOptions {
  /** The format; `auto`, the default, takes `.jsonl` and `.ndjson` for jsonl and the rest for plain text. */
  dataType?: "utf-8" | "jsonl" | "auto" | undefined;
}

/** What was found in a data file. */
export interface DocumentsSummary {
  /** The file as it was named. */
  path: string;
  /** How it was read. */
  dataType: "utf-8" | "jsonl";
  /** Its size in bytes. */
  bytes: number;
  /** The number of documents. */
  documents: number;
  /** Tokens of all documents, with one end-of-text token each. */
  tokens: number;
  /** Lines of a jsonl file that were blank and passed over. */
  blankLines: number;
  /** CRLF line ends of a plain text file that became LF. */
  crlf: number;
}

/** Token ids, one array a document, and what was found. */
export interface Documents {
  /** Each ends with the end-of-text token. */
  documents: Uint32Array[];
  /** What was found in the file. */
  summary: DocumentsSummary;
}

const LF = 0x0a;
const CR = 0x0d;
const BLOCK_BYTES = 1 << 20;
const SHOWN_ERRORS = 10;

/**
 * Reads the documents of a data file and encodes them.
 *
 * @param path a plain text or `.jsonl` file, in UTF-8
 * @throws {Error} one sentence that names the file, and the line where there is one; for a jsonl file with
 * several bad lines, the first ten of them and a count.
 */
export async function readDocuments(
  path: string,
  tokenizer: Tokenizer,
  { dataType = "auto" }: ReadDocumentsOptions = {},
): Promise<Documents> {
  const bytes = await sizeOf(path);
  const type = dataType === "auto" ? dataTypeOf(path) : dataType;
  const counts = { blankLines: 0, crlf: 0 };
  const documents = type === "jsonl"
    ? await readLines(path, tokenizer, counts)
    : await readText(path, tokenizer, counts);
  const tokens = documents.reduce((sum, document) => sum + document.length, 0);
  return {
    documents,
    summary: { path, dataType: type, bytes, documents: documents.length, tokens, ...counts },
  };
}

function dataTypeOf(path: string): "utf-8" | "jsonl" {
  if (/\.(jsonl|ndjson)$/i.test(path)) return "jsonl";
  if (/\.json$/i.test(path)) {
    throw new Error(
      `Cannot tell how to read ${path}: write one {"text": "..."} a line as .jsonl, or say --data_type jsonl or utf-8`,
    );
  }
  return "utf-8";
}

async function sizeOf(path: string): Promise<number> {
  let info: Deno.FileInfo;
  try {
    info = await Deno.stat(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw new Error(`Cannot read the data file ${path}: there is no such file`);
  }
  if (info.isDirectory) {
    throw new Error(`Cannot read the data file ${path}: it is a folder, give a .jsonl or text file`);
  }
  return info.size;
}

async function readText(
  path: string,
  tokenizer: Tokenizer,
  counts: { crlf: number },
): Promise<Uint32Array[]> {
  const bytes = afterByteOrderMark(await Deno.readFile(path), path);
  if (bytes.length === 0) throw new Error(`The data file ${path} is empty: give it some text`);
  const nul = bytes.indexOf(0);
  if (nul >= 0) {
    throw new Error(
      `The data file ${path} is not plain text, it has a NUL byte at offset ${nul}: give UTF-8 text or .jsonl`,
    );
  }
  if (!isUtf8(bytes)) {
    throw new Error(`${path}:${firstBadLine(bytes)}: the line is not valid UTF-8: save the file as UTF-8`);
  }
  const text = withoutCarriageReturns(bytes);
  counts.crlf = bytes.length - text.length;
  return [endDocument(tokenizer.encodeBytes(text), tokenizer)];
}

/** Decodes in blocks: one string of a whole big file could pass the longest string that there can be. */
function isUtf8(bytes: Uint8Array): boolean {
  const utf8 = new TextDecoder("utf-8", { fatal: true });
  try {
    for (let at = 0; at < bytes.length; at += BLOCK_BYTES) {
      utf8.decode(bytes.subarray(at, at + BLOCK_BYTES), { stream: true });
    }
    utf8.decode();
    return true;
  } catch {
    return false;
  }
}

/** The number of the first line that is not UTF-8; a line end is never inside a character. */
function firstBadLine(bytes: Uint8Array): number {
  let line = 1;
  for (let from = 0;; line++) {
    const end = bytes.indexOf(LF, from);
    if (end < 0 || !isUtf8(bytes.subarray(from, end))) return line;
    from = end + 1;
  }
}

/** The text with LF for CRLF; a CR alone stays. Works in place. */
function withoutCarriageReturns(bytes: Uint8Array): Uint8Array {
  let from = bytes.indexOf(CR);
  if (from < 0) return bytes;
  let to = from;
  for (; from < bytes.length; from++) {
    if (bytes[from] !== CR || bytes[from + 1] !== LF) bytes[to++] = bytes[from];
  }
  return bytes.subarray(0, to);
}

async function readLines(
  path: string,
  tokenizer: Tokenizer,
  counts: { blankLines: number },
): Promise<Uint32Array[]> {
  const documents: Uint32Array[] = [];
  const errors: string[] = [];
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let failed = 0;
  let line = 0;
  for await (const bytes of linesOf(path)) {
    line++;
    try {
      const text = textOf(bytes, utf8, tokenizer);
      if (text === undefined) counts.blankLines++;
      else if (failed === 0) documents.push(endDocument(tokenizer.encode(text), tokenizer));
    } catch (error) {
      if (++failed <= SHOWN_ERRORS) errors.push(`${path}:${line}: ${(error as Error).message}`);
    }
  }
  if (failed === 1) throw new Error(errors[0]);
  if (failed > 1) {
    const more = failed > SHOWN_ERRORS ? `\n  and ${failed - SHOWN_ERRORS} more` : "";
    throw new Error(
      `Cannot read ${failed} of the ${line} lines of ${path}:\n  ${errors.join("\n  ")}${more}`,
    );
  }
  if (documents.length === 0) {
    throw new Error(`The data file ${path} holds no document: give it lines of {"text": "..."}`);
  }
  return documents;
}

/** The lines of a file as bytes, without their LF; read in blocks. */
async function* linesOf(path: string): AsyncGenerator<Uint8Array> {
  using file = await Deno.open(path);
  let unfinished: Uint8Array[] = [];
  let isFirst = true;
  while (true) {
    const buffer = new Uint8Array(BLOCK_BYTES);
    const read = await file.read(buffer);
    if (read === null) break;
    const block = isFirst ? afterByteOrderMark(buffer.subarray(0, read), path) : buffer.subarray(0, read);
    isFirst = false;
    let from = 0;
    for (let end = block.indexOf(LF); end >= 0; end = block.indexOf(LF, from)) {
      yield join([...unfinished, block.subarray(from, end)]);
      unfinished = [];
      from = end + 1;
    }
    if (from < block.length) unfinished.push(block.subarray(from));
  }
  if (unfinished.length > 0) yield join(unfinished);
}

function join(parts: Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0];
  const joined = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** The text of one jsonl line, undefined for a blank one; throws what is wrong with it. */
function textOf(bytes: Uint8Array, utf8: TextDecoder, tokenizer: Tokenizer): string | undefined {
  let source: string;
  try {
    source = utf8.decode(bytes);
  } catch {
    throw new Error("the line is not valid UTF-8");
  }
  if (/^[ \t\r]*$/.test(source)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(source);
  } catch (error) {
    throw new Error(`the line is not JSON (${(error as Error).message})`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new Error(`expected {"text": "..."}, found ${nameOf(value)}`);
  }
  if (!Object.hasOwn(value, "text")) {
    const keys = Object.keys(value).slice(0, 3).map((key) => `"${key}"`);
    throw new Error(`"text" is missing${keys.length > 0 ? `, found ${keys.join(", ")}` : ""}`);
  }
  const { text } = value as { text: unknown };
  if (typeof text !== "string") throw new Error(`"text" must be a string, found ${nameOf(text)}`);
  if (!text.isWellFormed()) throw new Error(`"text" holds half of a surrogate pair`);
  if (tokenizer.name === "bytes" && text.includes("\0")) {
    throw new Error(`"text" holds a NUL character, which ends a document for this model`);
  }
  return text;
}

function nameOf(value: unknown): string {
  if (value === null) return "null";
  return Array.isArray(value) ? "an array" : typeof value === "object" ? "an object" : `a ${typeof value}`;
}

/** The bytes without UTF-8's mark; refuses the marks of UTF-16. */
function afterByteOrderMark(bytes: Uint8Array, path: string): Uint8Array {
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    throw new Error(`The data file ${path} is UTF-16 text: save it as UTF-8`);
  }
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}

function endDocument(tokens: Uint32Array, tokenizer: Tokenizer): Uint32Array {
  const document = new Uint32Array(tokens.length + 1);
  document.set(tokens);
  document[tokens.length] = tokenizer.endOfText;
  return document;
}
