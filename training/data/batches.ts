/**
 * Micro-batches as a pure function of their index, so that a resumed run needs only the index.
 *
 * Each epoch passes over all rows once, in an order of its own that (seed, epoch) fixes. The last batch
 * of an epoch may have empty rows: an epoch never borrows rows from the next.
 *
 * @module
 */

import { CONTEXT, tokenOf } from "./document.ts";
import { permutation } from "./random.ts";
import { type Dataload, packedRows, paddedRows, type Piece, type Rows, slicedRows } from "./rows.ts";

/** One micro-batch of B rows and T positions, or fewer where samples are grouped by length; all arrays are [B, T], row by row. */
export interface Batch {
  /** The tokens that the model reads; 0 where there is none. */
  inputs: Int32Array;
  /** The token that follows each input; 0 where it does not count. */
  targets: Int32Array;
  /** 1 where there is a target, 0 where the row is context or padding; padding is always on the right. */
  mask: Float32Array;
  /** Where documents share rows: 0 at the first token of each, else 1. */
  keep?: Float32Array | undefined;
  /** The number of targets, the sum of the mask: the loss is divided by it. */
  counted: number;
}

/** A batch's rows in parts of equally many, which divide them. */
export function inParts(batch: Batch, parts: number): Batch[] {
  if (parts === 1) return [batch];
  const size = batch.inputs.length / parts;
  return Array.from({ length: parts }, (_, i) => {
    const [start, end] = [i * size, (i + 1) * size];
    const mask = batch.mask.subarray(start, end);
    return {
      inputs: batch.inputs.subarray(start, end),
      targets: batch.targets.subarray(start, end),
      mask,
      keep: batch.keep?.subarray(start, end),
      counted: mask.reduce((sum, weight) => sum + weight, 0),
    };
  });
}

/** What {@linkcode Batches} is made from. */
export interface BatchesOptions {
  /** Words of tokens; what is no context after the first is a target. */
  documents: readonly Uint32Array[];
  /** T, the positions of a row. */
  ctxLen: number;
  /** B, the rows of a micro-batch. */
  microBsz: number;
  /** Fixes the order of every epoch. */
  seed: number;
  /** Whether each epoch has an order of its own; else rows come in the order of the documents. */
  shuffle?: boolean | undefined;
  /** How documents come into rows; `pad` without it. */
  dataload?: Dataload | undefined;
  /** Whether rows of like length come together, in micro-batches that are as short as they can be. */
  groupByLength?: boolean | undefined;
}

/** What a row's length is rounded up to where rows are grouped: halves, quarters and eighths of T, each a program of its own. */
const SHORTER = [8, 4, 2];
/** Micro-batches within which rows are sorted: of all, the shortest would always come together. */
const GROUP = 32;

/** The micro-batches of a set of documents, over any number of epochs. */
export class Batches {
  /** Rows of one epoch: windows of documents, where each has a row of its own. */
  readonly windows: number;
  /** Micro-batches of one epoch, the last perhaps not full. */
  readonly batchesPerEpoch: number;
  /** Targets of one epoch. */
  readonly tokensPerEpoch: number;
  /** Documents of fewer than two tokens, which are in no batch. */
  readonly skipped: number;
  /** Documents that are longer than a row, and so are cut. */
  readonly cut: number;
  /** Stretches of documents without a target, which are in no batch. */
  readonly contextOnly: number;
  /** Tokens that are in no batch, as `only` takes the beginnings of documents. */
  readonly dropped: number;
  /** The share of the rows' positions that hold an input; the rest is padding. */
  readonly filled: number;

  /** Lengths below T that micro-batches have, rising. */
  readonly shorter: readonly number[];

  readonly #options: BatchesOptions;
  readonly #rows: Rows;
  /** The order of one epoch; another epoch's is computed again when it is asked for. */
  #order: { epoch: number; rows: Uint32Array } = { epoch: -1, rows: new Uint32Array(0) };
  /** Inputs of each row, where rows are grouped. */
  readonly #lengths: Uint32Array | undefined;

  /** @throws {RangeError} when a size is not positive or no document has a target. */
  constructor(options: BatchesOptions) {
    const { documents, ctxLen, microBsz } = options;
    if (!Number.isInteger(microBsz) || microBsz < 1) {
      throw new RangeError(`micro_bsz is ${microBsz} but must be a whole number of at least 1`);
    }
    this.#options = options;
    this.#rows = rowsOf(options);
    if (this.#rows.count === 0) {
      throw new RangeError(
        `None of the ${documents.length} documents has two tokens, so there is nothing to learn`,
      );
    }
    this.windows = this.#rows.count;
    this.batchesPerEpoch = Math.ceil(this.windows / microBsz);
    this.tokensPerEpoch = this.#rows.targets;
    this.skipped = this.#rows.skipped;
    this.cut = this.#rows.cut;
    this.contextOnly = this.#rows.contextOnly;
    this.dropped = this.#rows.dropped;
    if (options.groupByLength) {
      this.#lengths = Uint32Array.from(
        { length: this.windows },
        (_, row) => this.#rows.pieces(0, row).reduce((sum, { length }) => sum + length - 1, 0),
      );
    }
    this.shorter = [...new Set(this.#lengths && Array.from(this.#lengths, (length) => this.#rounded(length)))]
      .filter((length) => length < ctxLen).sort((a, b) => a - b);
    this.filled = this.#rows.filled / (this.windows * ctxLen);
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
    const { microBsz: B, dataload } = this.#options;
    const epoch = Math.floor(index / this.batchesPerEpoch);
    const from = (index % this.batchesPerEpoch) * B;
    const rows = this.#orderOf(epoch).subarray(from, from + B);
    const T = this.#lengthOf(rows);
    const batch: Batch = {
      inputs: new Int32Array(B * T),
      targets: new Int32Array(B * T),
      mask: new Float32Array(B * T),
      keep: dataload === "pack" ? new Float32Array(B * T).fill(1) : undefined,
      counted: 0,
    };
    rows.forEach((row, b) => {
      const pieces = this.#rows.pieces(epoch, row);
      if (dataload === "get") this.#writeRow(batch, b * T, pieces);
      else pieces.reduce((at, piece) => (this.#writeRow(batch, at, [piece]), at + piece.length - 1), b * T);
    });
    return batch;
  }

  /** Writes pieces, joined, as inputs and targets from position `at`. */
  #writeRow(batch: Batch, at: number, pieces: readonly Piece[]): void {
    const { documents } = this.#options;
    const { inputs, targets, mask, keep } = batch;
    if (keep) keep[at] = 0;
    let position = at;
    pieces.forEach(({ document, start, length }, i) => {
      for (let k = 0; k < length; k++, position++) {
        const word = documents[document]![start + k]!;
        const isLast = i + 1 === pieces.length && k + 1 === length;
        if (!isLast) inputs[position] = tokenOf(word);
        if (position === at || word >= CONTEXT) continue;
        targets[position - 1] = word;
        mask[position - 1] = 1;
        batch.counted++;
      }
    });
  }

  #orderOf(epoch: number): Uint32Array {
    if (this.#order.epoch !== epoch) {
      const { seed, shuffle = true } = this.#options;
      const rows = shuffle
        ? permutation(this.windows, seed, `epoch ${epoch}`)
        : Uint32Array.from({ length: this.windows }, (_, i) => i);
      this.#order = { epoch, rows: this.#lengths ? this.#grouped(rows, epoch, this.#lengths) : rows };
    }
    return this.#order.rows;
  }

  /** Sorts the rows of some tens of micro-batches at a time by length, and puts the micro-batches into an order of their own. */
  #grouped(rows: Uint32Array, epoch: number, lengths: Uint32Array): Uint32Array {
    const { microBsz: B, seed, shuffle = true } = this.#options;
    const sorted = rows.slice();
    for (let from = 0; from < sorted.length; from += GROUP * B) {
      sorted.subarray(from, from + GROUP * B).sort((a, b) => lengths[b]! - lengths[a]!);
    }
    if (!shuffle) return sorted;
    // The last micro-batch, which may not be full, stays the last.
    const full = Math.ceil(sorted.length / B) - 1, grouped = sorted.slice();
    permutation(full, seed, `batches of epoch ${epoch}`).forEach((batch, at) => {
      grouped.set(sorted.subarray(batch * B, (batch + 1) * B), at * B);
    });
    return grouped;
  }

  #lengthOf(rows: Uint32Array): number {
    const lengths = this.#lengths;
    return lengths
      ? this.#rounded(rows.reduce((most, row) => Math.max(most, lengths[row]!), 0))
      : this.#options.ctxLen;
  }

  /** The shortest length that micro-batches may have for a row. */
  #rounded(length: number): number {
    const { ctxLen } = this.#options;
    return SHORTER.map((parts) => Math.ceil(ctxLen / parts)).find((fits) => fits >= length) ?? ctxLen;
  }
}

function rowsOf({ documents, ctxLen, seed, dataload = "pad" }: BatchesOptions): Rows {
  if (dataload === "pack") return packedRows(documents, ctxLen, seed);
  if (dataload !== "get") return paddedRows(documents, ctxLen, dataload === "only");
  if (documents.some((document) => document.some((word) => word >= CONTEXT))) {
    throw new RangeError(
      "--dataload get takes slices of raw text, where everything is learnt: load conversations with pad or pack",
    );
  }
  return slicedRows(documents, ctxLen, seed);
}
