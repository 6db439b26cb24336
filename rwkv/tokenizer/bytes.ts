/**
 * The byte tokenizer: a token is a byte, its id the byte's value. Small test models use it (V = 256).
 *
 * @module
 */

import { REPLACEMENT, type Tokenizer } from "./tokenizer.ts";

/**
 * The byte tokenizer of a model whose vocabulary is `vocabularySize` (1 to 256; below 256 only text of
 * smaller bytes can be encoded). Id 0 is both the end of a document and the byte 0, which text does not
 * hold.
 *
 * @throws {RangeError} from `encode`, for a byte at or above `vocabularySize`.
 */
export function bytesTokenizer(vocabularySize = 256): Tokenizer {
  if (!Number.isInteger(vocabularySize) || vocabularySize < 1 || vocabularySize > 256) {
    throw new RangeError(`A byte vocabulary has 1 to 256 tokens, not ${vocabularySize}`);
  }

  function encodeBytes(bytes: Uint8Array): Uint32Array {
    if (vocabularySize < 256) {
      const at = bytes.findIndex((byte) => byte >= vocabularySize);
      if (at >= 0) {
        throw new RangeError(
          `Byte ${bytes[at]} at offset ${at} of the text is not in the model's vocabulary of ` +
            `${vocabularySize} bytes: remove it or use a model with 256`,
        );
      }
    }
    return Uint32Array.from(bytes);
  }

  function decodeBytes(tokens: ArrayLike<number>): Uint8Array {
    const bytes: number[] = [];
    for (let i = 0; i < tokens.length; i++) {
      if (tokens[i] >= 0 && tokens[i] < vocabularySize) bytes.push(tokens[i]);
      else bytes.push(...REPLACEMENT);
    }
    return Uint8Array.from(bytes);
  }

  return {
    name: "bytes",
    vocabularySize,
    endOfText: 0,
    encode: (text) => encodeBytes(new TextEncoder().encode(text)),
    encodeBytes,
    decode: (tokens) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(decodeBytes(tokens)),
    decodeBytes,
  };
}
