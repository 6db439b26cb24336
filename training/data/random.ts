/**
 * Random numbers that need no saving: each sequence is a pure function of (seed, stream).
 *
 * A stream is a name such as `"epoch 3"`. Whoever needs randomness names a stream and gets a sequence of
 * its own from the start, so a resumed run draws what an uninterrupted one would have drawn. The generator
 * is xoroshiro128+ of `pure-rand`; its 128 bits of state are a hash of seed and stream, so that seeds 1 and
 * 2, or epochs 1 and 2, have nothing in common.
 *
 * @module
 */

import { uniformFloat64 } from "pure-rand/distribution/uniformFloat64";
import { uniformInt } from "pure-rand/distribution/uniformInt";
import { xoroshiro128plusFromState } from "pure-rand/generator/xoroshiro128plus";

/** A sequence of random numbers. */
export interface Random {
  /** A whole number from 0 to `limit - 1`, each equally likely; `limit` is at most 2^32. */
  integer(limit: number): number;
  /** A number from 0 up to but not including 1, a multiple of 2^-53. */
  uniform(): number;
  /** A number of the standard normal distribution. */
  normal(): number;
}

/**
 * The random sequence of a seed and a stream, from its start.
 *
 * @param seed any safe integer; the one number that a person chooses for a run
 * @param stream what the sequence is for, such as `"epoch 3"`
 * @throws {RangeError} when `seed` is not a safe integer.
 */
export function random(seed: number, stream: string): Random {
  if (!Number.isSafeInteger(seed)) throw new RangeError(`A seed is a whole number, not ${seed}`);
  const generator = xoroshiro128plusFromState(stateOf(`${seed} ${stream}`));
  const uniform = () => uniformFloat64(generator);
  return {
    integer: (limit) => uniformInt(generator, 0, limit - 1),
    uniform,
    // Box and Muller; 1 - uniform() is never 0, so the logarithm is finite.
    normal: () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform()),
  };
}

/** Puts the items into random order, in place, every order equally likely (Fisher and Yates). */
export function shuffle<Items extends { length: number; [index: number]: unknown }>(
  items: Items,
  { integer }: Random,
): Items {
  for (let last = items.length - 1; last > 0; last--) {
    const other = integer(last + 1);
    const item = items[last];
    items[last] = items[other];
    items[other] = item;
  }
  return items;
}

/** The numbers 0 to `length - 1` in an order that (seed, stream) fixes. */
export function permutation(length: number, seed: number, stream: string): Uint32Array {
  return shuffle(Uint32Array.from({ length }, (_, i) => i), random(seed, stream));
}

/** Four 32-bit words from a key: FNV-1a from four offsets, each finished with MurmurHash3's mixer. */
function stateOf(key: string): number[] {
  const bytes = new TextEncoder().encode(key);
  return [1, 2, 3, 4].map((lane) => {
    let hash = 0x811c9dc5 ^ Math.imul(lane, 0x9e3779b9);
    for (const byte of bytes) hash = Math.imul(hash ^ byte, 0x01000193);
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) | 0;
  });
}
