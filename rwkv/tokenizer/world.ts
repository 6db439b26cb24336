/**
 * The RWKV World tokenizer: at each position of the UTF-8 bytes, the longest token that matches.
 *
 * There is no pre-splitting and no normalisation. As every single byte is a token, every text can be
 * encoded. The tokens lie in a trie of flat typed arrays, about 2 MB for the 65,529 tokens of the real
 * vocabulary; a step down the trie is one subtraction, one comparison and one load.
 *
 * @module
 */

import { REPLACEMENT, type Tokenizer } from "./tokenizer.ts";
import { parseVocabulary, type Vocabulary } from "./vocabulary.ts";

/**
 * The World tokenizer of the vocabulary file whose bytes are given, in its text or its JSON form.
 *
 * @param contents the bytes of `rwkv_vocab_v20230424.txt` or `.json`
 * @param file the file's name, for messages
 * @throws {SyntaxError} one sentence with file and line for a malformed file.
 */
export function worldTokenizer(contents: Uint8Array, file: string): Tokenizer {
  const vocabulary = parseVocabulary(contents, file);
  const trie = buildTrie(vocabulary, file);
  const { start, pool } = layOut(vocabulary);

  function decodeBytes(tokens: ArrayLike<number>): Uint8Array {
    const parts: Uint8Array[] = [];
    let length = 0;
    for (let i = 0; i < tokens.length; i++) {
      const id = tokens[i];
      if (id === 0) continue;
      const known = id > 0 && id < start.length - 1 && start[id + 1] > start[id];
      const part = known ? pool.subarray(start[id], start[id + 1]) : REPLACEMENT;
      parts.push(part);
      length += part.length;
    }
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const part of parts) {
      bytes.set(part, at);
      at += part.length;
    }
    return bytes;
  }

  const encodeBytes = (bytes: Uint8Array) => encodeLongest(trie, bytes);
  return {
    name: "world",
    vocabularySize: start.length - 1,
    endOfText: 0,
    encode: (text) => encodeBytes(new TextEncoder().encode(text)),
    encodeBytes,
    decode: (tokens) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(decodeBytes(tokens)),
    decodeBytes,
  };
}

/** All tokens' bytes in the order of their ids: token `id` is `pool[start[id] .. start[id + 1])`. */
function layOut({ ids, starts, pool: tokens }: Vocabulary): { start: Uint32Array; pool: Uint8Array } {
  const size = ids.reduce((largest, id) => Math.max(largest, id), 0) + 1;
  const start = new Uint32Array(size + 1);
  ids.forEach((id, i) => start[id + 1] = starts[i + 1] - starts[i]);
  for (let id = 0; id < size; id++) start[id + 1] += start[id];
  const pool = new Uint8Array(start[size]);
  ids.forEach((id, i) => pool.set(tokens.subarray(starts[i], starts[i + 1]), start[id]));
  return { start, pool };
}

/**
 * A byte trie; node 0 is the root. The children of node n by byte b are at
 * `children[first[n] + b - low[n]]` for `low[n] <= b < low[n] + span[n]`, where 0 means none.
 */
interface Trie {
  readonly first: Uint32Array;
  readonly low: Uint8Array;
  /** How many bytes the children's slots cover, at most 256. */
  readonly span: Uint16Array;
  readonly children: Uint32Array;
  /** The id of the token that ends at a node, 0 where none does. */
  readonly id: Uint32Array;
}

/** Slots of children beyond a few for each byte of the tokens are taken for damage: World has fewer than one. */
const SLOTS_A_BYTE = 2, FREE_SLOTS = 1 << 16;

function buildTrie({ ids, starts, pool }: Vocabulary, file: string): Trie {
  const most = FREE_SLOTS + SLOTS_A_BYTE * pool.length;
  const lengthOf = (token: number) => starts[token + 1] - starts[token];
  const order = Uint32Array.from(ids.keys()).sort((a, b) => {
    const common = Math.min(lengthOf(a), lengthOf(b));
    for (let i = 0; i < common; i++) {
      const difference = pool[starts[a] + i] - pool[starts[b] + i];
      if (difference) return difference;
    }
    return lengthOf(a) - lengthOf(b);
  });
  // A node for each byte of the tokens at most, and the root.
  const first = new Uint32Array(pool.length + 1), low = new Uint8Array(pool.length + 1);
  const span = new Uint16Array(pool.length + 1), id = new Uint32Array(pool.length + 1);
  let children = new Uint32Array(FREE_SLOTS), nodes = 0, slots = 0;

  /** Adds the node for the sorted tokens `from` to `to`, which share their first `depth` bytes. */
  function addNode(from: number, to: number, depth: number): number {
    const node = nodes++;
    if (lengthOf(order[from]) === depth) id[node] = ids[order[from++]];
    if (from === to) return node;
    const byteOf = (position: number) => pool[starts[order[position]] + depth];
    first[node] = slots;
    low[node] = byteOf(from);
    span[node] = byteOf(to - 1) - low[node] + 1;
    slots += span[node];
    if (slots > most) {
      throw new SyntaxError(
        `The vocabulary ${file} has tokens that are spread too wide: use a complete World vocabulary`,
      );
    }
    if (slots > children.length) {
      const grown = new Uint32Array(Math.min(most, 2 * slots));
      grown.set(children);
      children = grown;
    }
    while (from < to) {
      const byte = byteOf(from);
      let end = from + 1;
      while (end < to && byteOf(end) === byte) end++;
      const child = addNode(from, end, depth + 1);
      children[first[node] + byte - low[node]] = child;
      from = end;
    }
    return node;
  }

  addNode(0, order.length, 0);
  return {
    first: first.slice(0, nodes),
    low: low.slice(0, nodes),
    span: span.slice(0, nodes),
    children: children.slice(0, slots),
    id: id.slice(0, nodes),
  };
}

function encodeLongest({ first, low, span, children, id }: Trie, bytes: Uint8Array): Uint32Array {
  // A World token has some four bytes of English or Chinese; the array grows for text that packs worse.
  let tokens = new Uint32Array((bytes.length >>> 2) + 16);
  let count = 0;
  let at = 0;
  while (at < bytes.length) {
    let node = 0;
    let longest = 0;
    let end = at;
    for (let i = at; i < bytes.length; i++) {
      const slot = bytes[i] - low[node];
      if (slot < 0 || slot >= span[node]) break;
      node = children[first[node] + slot];
      if (node === 0) break;
      if (id[node] !== 0) {
        longest = id[node];
        end = i + 1;
      }
    }
    if (count === tokens.length) {
      const grown = new Uint32Array(2 * tokens.length);
      grown.set(tokens);
      tokens = grown;
    }
    tokens[count++] = longest;
    at = end;
  }
  return tokens.slice(0, count);
}
