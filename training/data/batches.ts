/**
 * Micro-batches as a pure function of their index, so that a resumed run needs only the index.
 *
 * Each epoch passes over all windows once, in an order of its own that (seed, epoch) fixes. The last batch
 * of an epoch may have empty rows: an epoch never borrows windows from the next.
 *
 * @module
 */

import { permutation } from "./random.ts";
import { cutWindows, type Windows } from "./windows.ts";

/** One micro-batch of B rows and T positions; all arrays are [B, T], row by row. */
export interface Batch {
  /** The tokens that the model reads; 0 where there is none. */
  inputs: Int32Array;
  /** The token that follows each input; 0 where there is none. */
  targets: Int32Array;
  /** 1 where there is a target, 0 where the row is padding; padding is always on the right. */
  mask: Float32Array;
  /** The number of targets, the sum of the mask: the loss is divided by it. */
  counted: number;
}

/** What {@linkcode Batches} is made from. */
export interface BatchesOptions {
  /** Token ids; a document's tokens after the first are its targets. */
  documents: readonly Uint32Array[];
  /** T, the positions of a row. */
  ctxLen: number;
  /** B, the rows of a micro-batch. */
  microBsz: number;
  /** Fixes the order of every epoch. */
  seed: number;
  /** Whether each epoch has an order of its own; else windows come in the order of the documents. */
  shuffle?: boolean | undefined;
}

/** The micro-batches of a set of documents, over any number of epochs. */
export class Batches {
  /** Windows, and so rows, of one epoch. */
  readonly windows: number;
  /** Micro-batches of one epoch, the last perhaps not full. */
  readonly batchesPerEpoch: number;
  /** Targets of one epoch. */
  readonly tokensPerEpoch: number;
  /** Documents of fewer than two tokens, which are in no batch. */
  readonly skipped: number;

  readonly #options: BatchesOptions;
  readonly #windows: Windows;
  /** The order of one epoch; another epoch's is computed again when it is asked for. */
  #order: { epoch: number; windows: Uint32Array } = { epoch: -1, windows: new Uint32Array(0) };

  /** @throws {RangeError} when a size is not positive or no document has two tokens. */
  constructor(options: BatchesOptions) {
    const { documents, ctxLen, microBsz } = options;
    if (!Number.isInteger(microBsz) || microBsz < 1) {
      throw new RangeError(`micro_bsz is ${microBsz} but must be a whole number of at least 1`);
    }
    this.#options = options;
    this.#windows = cutWindows(documents, ctxLen);
    if (this.#windows.count === 0) {
      throw new RangeError(
        `None of the ${documents.length} documents has two tokens, so there is nothing to learn`,
      );
    }
    this.windows = this.#windows.count;
    this.batchesPerEpoch = Math.ceil(this.windows / microBsz);
    this.tokensPerEpoch = this.#windows.targets;
    this.skipped = this.#windows.skipped;
  }

  /**
   * Micro-batch `index`, counted from 0 over all epochs: batch `index % batchesPerEpoch` of epoch
   * `floor(index / batchesPerEpoch)`. The arrays are new at each call.
   *
   * @throws {RangeError} when `index` is not a whole number of at least 0.
   */
  at(index: number): Batch {
    if (!Number.isSafeInteger(index) || index < 0) {
      throw new RangeError(`A batch has a whole number of at least 0 as its index, not ${index}`);
    }
    const { documents, ctxLen: T, microBsz: B } = this.#options;
    const { document, start, length } = this.#windows;
    const order = this.#orderOf(Math.floor(index / this.batchesPerEpoch));
    const from = (index % this.batchesPerEpoch) * B;

    const inputs = new Int32Array(B * T);
    const targets = new Int32Array(B * T);
    const mask = new Float32Array(B * T);
    let counted = 0;
    order.subarray(from, from + B).forEach((window, row) => {
      const first = start[window];
      const last = first + length[window] - 1;
      const tokens = documents[document[window]];
      inputs.set(tokens.subarray(first, last), row * T);
      targets.set(tokens.subarray(first + 1, last + 1), row * T);
      mask.fill(1, row * T, row * T + last - first);
      counted += last - first;
    });
    return { inputs, targets, mask, counted };
  }

  #orderOf(epoch: number): Uint32Array {
    if (this.#order.epoch !== epoch) {
      const { seed, shuffle = true } = this.#options;
      const windows = shuffle
        ? permutation(this.windows, seed, `epoch ${epoch}`)
        : Uint32Array.from({ length: this.windows }, (_, i) => i);
      this.#order = { epoch, windows };
    }
    return this.#order.windows;
  }
}
