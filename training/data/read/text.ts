/**
 * Reads plain text and the lines of a file, in UTF-8 that is never repaired.
 *
 * @module
 */
import type { Row } from "./row.ts";

const LF = 0x0a;
const CR = 0x0d;
const BLOCK_BYTES = 1 << 20;

/**
 * The bytes of a plain text file, less its byte order mark and with LF for CRLF (an editor put it there, the models were
 * trained on LF).
 * @throws Error in one sentence with file and line
 */
export async function readText(path: string): Promise<{ text: Uint8Array; crlf: number }> {
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
  return { text, crlf: bytes.length - text.length };
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

/** The records of a jsonl file, one a line. */
export async function* readJsonLines(path: string): AsyncGenerator<Row> {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  let line = 0;
  for await (const bytes of linesOf(path)) {
    yield { place: `${path}:${++line}`, read: () => jsonOf(bytes, utf8) };
  }
}

/**
 * The records of a JSON file: those of the one list that it holds, or one a line where it begins with an object.
 * @throws Error in one sentence where it is no JSON
 */
export async function* readJson(path: string): AsyncGenerator<Row> {
  const bytes = afterByteOrderMark(await Deno.readFile(path), path);
  const first = bytes.find((byte) => byte > 0x20);
  if (first === undefined) return;
  if (first !== "[".charCodeAt(0)) {
    yield* readJsonLines(path);
    return;
  }
  let list: unknown[];
  try {
    list = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    const what = error instanceof SyntaxError ? `no JSON (${error.message})` : "not valid UTF-8";
    throw new Error(`Cannot read the data file ${path}: it is ${what}`);
  }
  for (const [i, value] of list.entries()) {
    yield { place: `${path}, record ${i + 1}`, read: () => value };
  }
}

function jsonOf(bytes: Uint8Array, utf8: TextDecoder): unknown {
  let source: string;
  try {
    source = utf8.decode(bytes);
  } catch {
    throw new Error("the line is not valid UTF-8");
  }
  if (/^[ \t\r]*$/.test(source)) return undefined;
  try {
    return JSON.parse(source);
  } catch (error) {
    throw new Error(`the line is not JSON (${(error as Error).message})`);
  }
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

/** The bytes without UTF-8's mark; refuses the marks of UTF-16. */
export function afterByteOrderMark(bytes: Uint8Array, path: string): Uint8Array {
  if ((bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff)) {
    throw new Error(`The data file ${path} is UTF-16 text: save it as UTF-8`);
  }
  return bytes[0] === 0xef && bytes[1] === 0xbb && bytes[2] === 0xbf ? bytes.subarray(3) : bytes;
}
