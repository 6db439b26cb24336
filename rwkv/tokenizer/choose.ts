/**
 * Which tokenizer a model needs. The model's vocabulary size decides, so a person names a file only when
 * the World vocabulary does not lie beside the model.
 *
 * @module
 */

import { dirname, join } from "node:path";
import { FormatError } from "../../formats/format_error.ts";
import { RandomAccessFile } from "../../formats/random_access_file.ts";
import { bytesTokenizer } from "./bytes.ts";
import type { Tokenizer } from "./tokenizer.ts";
import { worldTokenizer } from "./world.ts";

/** The names under which the World vocabulary is looked for beside a model. */
export const WORLD_FILES: readonly string[] = ["rwkv_vocab_v20230424.txt", "rwkv_vocab_v20230424.json"];
/** The World vocabulary's largest id is 65529; models round it up to 65536. */
export const WORLD_SIZE = 65530;
/** World's has one megabyte. */
const MAX_VOCABULARY = 1 << 22;

/** What {@linkcode chooseTokenizer} decides from. */
export interface TokenizerChoice {
  /** V, the number of rows of the model's embedding. */
  vocabulary: number;
  /** The model's file, or its folder; the World vocabulary is looked for beside it, or in it. */
  modelPath: string;
  /** The path of a vocabulary file in the World format (`--vocab`). */
  vocab?: string | undefined;
}

/**
 * The tokenizer of a model: bytes for V up to 256; for a larger V the vocabulary of `vocab`; without one,
 * for V of 65530 and more, `rwkv_vocab_v20230424.txt` or `.json` beside the model.
 *
 * @throws {Error} one sentence that says what to give when there is no vocabulary for this model, when one
 * was given that cannot be read, or when it does not fit.
 */
export async function chooseTokenizer({ vocabulary, modelPath, vocab }: TokenizerChoice): Promise<Tokenizer> {
  if (vocabulary <= 256) {
    if (vocab !== undefined) {
      throw new Error(
        `The vocabulary ${vocab} does not fit ${modelPath}, whose ${vocabulary} tokens are bytes: leave out --vocab`,
      );
    }
    return bytesTokenizer(vocabulary);
  }
  const file = vocab ?? (vocabulary >= WORLD_SIZE ? await worldFileBeside(modelPath) : undefined);
  if (file === undefined) {
    throw new Error(
      vocabulary >= WORLD_SIZE
        ? `No vocabulary lies beside ${modelPath}: put ${WORLD_FILES[0]} there or give its path with --vocab`
        : `No tokenizer is known for the ${vocabulary} tokens of ${modelPath} (256 are bytes, 65536 are RWKV World): ` +
          `give a vocabulary file in the World format with --vocab`,
    );
  }
  const tokenizer = readTokenizer(file);
  if (tokenizer.vocabularySize > vocabulary) {
    throw new Error(
      `The vocabulary ${file} has ids up to ${tokenizer.vocabularySize - 1} but ${modelPath} has only ` +
        `${vocabulary} tokens: give the vocabulary that this model was trained with`,
    );
  }
  return tokenizer;
}

/** @throws Error in one sentence for what is no vocabulary */
function readTokenizer(file: string): Tokenizer {
  try {
    return worldTokenizer(readVocabulary(file), file);
  } catch (error) {
    throw error instanceof SyntaxError ? new Error(error.message, { cause: error }) : error;
  }
}

async function worldFileBeside(modelPath: string): Promise<string | undefined> {
  const folder = (await stat(modelPath))?.isDirectory ? modelPath : dirname(modelPath);
  for (const name of WORLD_FILES) {
    const path = join(folder, name);
    if ((await stat(path))?.isFile) return path;
  }
}

async function stat(path: string): Promise<Deno.FileInfo | undefined> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

function readVocabulary(path: string): Uint8Array {
  try {
    using file = new RandomAccessFile(path);
    if (file.size > MAX_VOCABULARY) throw file.error(`it has ${file.size} bytes, too many for a vocabulary`);
    return file.read(0, file.size);
  } catch (error) {
    const reason = error instanceof Deno.errors.NotFound
      ? "there is no such file"
      : error instanceof FormatError
      ? error.reason
      : (error as Error).message;
    throw new Error(`Cannot read the vocabulary ${path}: ${reason}`);
  }
}
