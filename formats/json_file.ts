/**
 * Small JSON files, such as a run's configuration: read whole, but not before their size is known.
 *
 * @module
 */

import { FormatError } from "./format_error.ts";
import { JsonCursor, type JsonValue } from "./json.ts";
import { RandomAccessFile } from "./random_access_file.ts";
import { decodeUtf8 } from "./text.ts";

/** No configuration has this many bytes. */
const MAX_BYTES = 1 << 20;

/**
 * Reads a JSON file of at most a mebibyte.
 *
 * @throws {FormatError} where it is larger, no regular file, or not JSON; see {@linkcode JsonCursor.value}
 * @throws {Deno.errors.NotFound} where nothing is there
 */
export function readJsonFile(path: string): JsonValue {
  const cursor = new JsonCursor(readSmallText(path), (reason) => new FormatError(path, reason));
  const value = cursor.value("its text");
  cursor.end("its text");
  return value;
}

/**
 * Reads a text of at most a mebibyte.
 *
 * @throws {FormatError} where it is larger, no regular file, or not UTF-8
 * @throws {Deno.errors.NotFound} where nothing is there
 */
export function readSmallText(path: string): string {
  using file = new RandomAccessFile(path);
  const error = file.error.bind(file);
  if (file.size > MAX_BYTES) throw error(`it has ${file.size} bytes, and at most ${MAX_BYTES} are read`);
  return decodeUtf8(file.read(0, file.size), "its text", error);
}
