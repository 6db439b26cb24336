/**
 * What every tokenizer does, and text that grows token by token.
 *
 * A tokenizer maps UTF-8 bytes to token ids and back. It is lossless: the bytes of the tokens, one after
 * the other, are the bytes of the text. Id 0 ends a document in both vocabularies.
 *
 * @module
 */

/** Text to token ids and back. */
export interface Tokenizer {
  /** Which vocabulary: raw bytes, or RWKV World. */
  readonly name: "bytes" | "world";
  /** One more than the largest id; a model fits when its V is at least this. */
  readonly vocabularySize: number;
  /** The id that ends a document, 0. */
  readonly endOfText: number;
  /** The ids of a text, of its UTF-8 bytes to be exact; a lone surrogate counts as U+FFFD. */
  encode(text: string): Uint32Array;
  /** The ids of bytes, which need not be valid UTF-8. */
  encodeBytes(bytes: Uint8Array): Uint32Array;
  /** The text of ids; bytes that are not valid UTF-8 become U+FFFD. */
  decode(tokens: ArrayLike<number>): string;
  /**
   * The bytes of ids. An id with no entry gives the bytes of U+FFFD, because a model whose vocabulary is
   * padded can produce one.
   */
  decodeBytes(tokens: ArrayLike<number>): Uint8Array;
}

/** The UTF-8 bytes of U+FFFD, shown for an id that the vocabulary does not hold. */
export const REPLACEMENT: Uint8Array = new Uint8Array([0xef, 0xbf, 0xbd]);

/** Text from tokens that arrive one at a time; made by {@linkcode streamDecoder}. */
export interface StreamDecoder {
  /** The characters that `token` completes; empty while a character is still incomplete. */
  push(token: number): string;
  /** What an unfinished character leaves behind: U+FFFD, or nothing. Starts afresh afterwards. */
  end(): string;
}

/**
 * Decodes tokens as they are generated. A character whose bytes are spread over several tokens comes out
 * whole, with the last of them, so that a terminal never shows half of it.
 */
export function streamDecoder(tokenizer: Tokenizer): StreamDecoder {
  const utf8 = new TextDecoder("utf-8", { ignoreBOM: true });
  return {
    push: (token) => utf8.decode(tokenizer.decodeBytes([token]), { stream: true }),
    end: () => utf8.decode(),
  };
}
