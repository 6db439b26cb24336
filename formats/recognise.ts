/**
 * What kind of file lies before us, by its content and never by its name: one of the two formats of tensors, or what people take
 * for one by mistake.
 *
 * @module
 */

import type { RandomAccessFile } from "./random_access_file.ts";
import { looksLikeSafetensors } from "./safetensors.ts";

/** The formats that are read and written. */
export type TensorFormat = "safetensors" | "pth";

/** Bytes of a file that tell its kind, in Latin-1, at its start or where it says. */
type Mark = string | readonly [text: string, at: number];

/** As many bytes as marks reach. */
const START = 512;
const RESAVE = "load it and torch.save it with a newer torch, or convert it to safetensors";
const DOWNLOAD = "download the file itself";

/** Files that are given by mistake, and what to do about each. */
const OTHERS: readonly (readonly [kind: string, remedy: string, marks: readonly Mark[]])[] = [
  ["in the torch format from before 1.6", RESAVE, ["\x80\x02\x8a\x0a"]],
  ["a tar archive, as the first versions of torch wrote", RESAVE, [["ustar", 257]]],
  [
    "a bare pickle, not a zip archive of torch",
    "name a file saved by torch.save",
    ["\x80\x02", "\x80\x03", "\x80\x04", "\x80\x05"],
  ],
  [
    "a GGUF or GGML file",
    "name the .pth or .safetensors file that it was made from",
    ["GGUF", "lmgg", "fmgg", "tjgg"],
  ],
  ["a pointer of Git LFS, not what it stands for", DOWNLOAD, ["version https://git-lfs"]],
  ["a web page", DOWNLOAD, ["<!DOCTYPE", "<!doctype", "<html", "<HTML"]],
  [
    "a compressed file",
    "unpack it first",
    ["\x1f\x8b", "BZh", "\xfd7zXZ", "\x28\xb5\x2f\xfd", "7z\xbc\xaf", "Rar!"],
  ],
];

/**
 * The format of a file; safetensors where nothing speaks against it, whose reader says what is wrong.
 *
 * @throws {FormatError} that says what it is, where it is something else
 */
export function recognise(file: RandomAccessFile): TensorFormat {
  if (looksLikeSafetensors(file)) return "safetensors";
  const start = file.read(0, Math.min(file.size, START));
  if (has(start, "PK")) return "pth";
  for (const [kind, remedy, marks] of OTHERS) {
    if (marks.some((mark) => has(start, mark))) throw file.error(`it is ${kind}`, remedy);
  }
  if (start.length >= SHORT_TEXT && start.every(isText)) {
    throw file.error(
      "it is a text and no safetensors file",
      "name a .safetensors file, or a .pth file saved by torch 1.6 or newer",
    );
  }
  return "safetensors";
}

/** Fewer letters than this may be anything. A header's length, with which safetensors begin, has bytes of zero in any file there is. */
const SHORT_TEXT = 16;

/** Whether a byte is one of a text: no control but tab, line feed and carriage return. */
function isText(byte: number): boolean {
  return byte >= 0x20 && byte !== 0x7f || byte === 0x09 || byte === 0x0a || byte === 0x0d;
}

function has(start: Uint8Array, mark: Mark): boolean {
  const [text, at] = typeof mark === "string" ? [mark, 0] : mark;
  return start.length >= at + text.length &&
    Array.from(text).every((letter, i) => start[at + i] === letter.charCodeAt(0));
}
