/**
 * Which pieces of which documents stand in the rows of a batch, for each way of loading data.
 *
 * - `pad`: one window a row, the rest is padding.
 * - `pack`: as many windows as fit, each a document of its own to the model.
 * - `only`: the first window of each document, one a row.
 * - `get`: slices of all documents joined, at places that differ from epoch to epoch.
 *
 * @module
 */
import { permutation, random } from "./random.ts";
import { cutWindows, type Windows } from "./windows.ts";

/** A way of loading data. */
export type Dataload = "pad" | "pack" | "only" | "get";

/** Tokens of a document: `length` of them, one more than the inputs that they give. */
export interface Piece {
  readonly document: number;
  readonly start: number;
  readonly length: number;
}

/** The rows of epochs. */
export interface Rows {
  /** Rows of one epoch. */
  readonly count: number;
  /** Targets of one epoch. */
  readonly targets: number;
  /** Documents of fewer than two tokens. */
  readonly skipped: number;
  /** Documents that are longer than a row. */
  readonly cut: number;
  /** Stretches of documents that would be rows, but hold no target. */
  readonly contextOnly: number;
  /** Tokens that are in no row. */
  readonly dropped: number;
  /** Positions of one epoch's rows that hold an input, of all that there are. */
  readonly filled: number;
  /** The pieces of row `row` of an epoch, rows in the order of the documents. */
  pieces(epoch: number, row: number): Piece[];
}

/** Rows that a packer keeps open: more gain next to nothing. */
const OPEN_ROWS = 64;

/** Rows with one window each. */
export function paddedRows(documents: readonly Uint32Array[], ctxLen: number, onlyFirst: boolean): Rows {
  const windows = cutWindows(documents, ctxLen, onlyFirst);
  return {
    ...shared(windows),
    count: windows.count,
    filled: inputs(windows),
    pieces: (_, row) => [pieceOf(windows, row)],
  };
}

/** Rows with as many windows as fit, put together in an order that the seed fixes. */
export function packedRows(documents: readonly Uint32Array[], ctxLen: number, seed: number): Rows {
  const windows = cutWindows(documents, ctxLen);
  const rows: number[][] = [], open: { row: number[]; left: number }[] = [];
  for (const window of permutation(windows.count, seed, "packing")) {
    const needed = windows.length[window]! - 1;
    const fitting = open.filter(({ left }) => left >= needed);
    let best = fitting.reduce((a, b) => b.left < a.left ? b : a, fitting[0]!);
    if (!best) {
      best = { row: [], left: ctxLen };
      rows.push(best.row);
      if (open.push(best) > OPEN_ROWS) {
        open.splice(open.reduce((fullest, { left }, i) => left < open[fullest]!.left ? i : fullest, 0), 1);
      }
    }
    best.row.push(window);
    best.left -= needed;
    if (best.left === 0) open.splice(open.indexOf(best), 1);
  }
  return {
    ...shared(windows),
    count: rows.length,
    filled: inputs(windows),
    pieces: (_, row) => rows[row]!.map((window) => pieceOf(windows, window)),
  };
}

/**
 * Slices of the documents joined to a circle: each epoch begins at another place, so that over the epochs a slice may begin
 * anywhere, and still sees every token once.
 */
export function slicedRows(documents: readonly Uint32Array[], ctxLen: number, seed: number): Rows {
  const { skipped } = cutWindows(documents, ctxLen);
  const ends = new Float64Array(documents.length);
  documents.reduce((sum, { length }, i) => ends[i] = sum + length, 0);
  const total = ends.at(-1) ?? 0;
  const count = Math.ceil(total / ctxLen);
  const documentAt = (position: number) => {
    let low = 0, high = ends.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (ends[middle]! > position) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  return {
    count,
    targets: total,
    skipped,
    cut: 0,
    contextOnly: 0,
    dropped: 0,
    filled: total,
    pieces(epoch, row) {
      const offset = Math.floor(random(seed, `slices of epoch ${epoch}`).uniform() * total);
      const pieces: Piece[] = [];
      let position = (offset + row * ctxLen) % total;
      let left = Math.min(ctxLen, total - row * ctxLen) + 1;
      while (left > 0) {
        const document = documentAt(position),
          start = position - (ends[document]! - documents[document]!.length);
        const length = Math.min(left, documents[document]!.length - start);
        pieces.push({ document, start, length });
        left -= length;
        position = (position + length) % total;
      }
      return pieces;
    },
  };
}

function shared({ targets, skipped, cut, contextOnly, dropped }: Windows) {
  return { targets, skipped, cut, contextOnly, dropped };
}

function inputs({ length, count }: Windows): number {
  return length.reduce((sum, length) => sum + length, 0) - count;
}

function pieceOf({ document, start, length }: Windows, window: number): Piece {
  return { document: document[window]!, start: start[window]!, length: length[window]! };
}
