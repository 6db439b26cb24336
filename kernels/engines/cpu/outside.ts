/**
 * Weights outside of the WebAssembly memory, which ends at 4 GiB. What is stored in 16 bits is read by products and lookups only,
 * and both go through it row by row: a worker copies the rows that come next into a window of its own within the memory and
 * calls the same kernel on them. Copying costs little beside a product of more than a few rows.
 *
 * @module
 */
import type { MemoryView } from "./memory_view.ts";
import { LAYOUT, type WasmKernels } from "./wasm/load.ts";

/** Bytes of a worker's window. Copies of less than a megabyte are slow. */
export const WINDOW_BYTES = 4 << 20;

/** The kernels whose weights lie outside, by what workers call them. */
export const OUTSIDE_KERNEL_NAMES = ["matmulOutside", "embeddingOutside", "addTileOutside"] as const;

type OutsideKernels = Record<typeof OUTSIDE_KERNEL_NAMES[number], (...args: number[]) => void>;

/** `matmul` multiplies K in blocks of this many; a window that ends between two of them changes no bit. */
const BLOCK = 256;
/** `matmul` takes columns of C by so many. */
const PANEL = 8;
/** Bytes of an element. */
const WIDTH = 2;
/** Start of the rows in the window of a lookup, behind the id. */
const BEHIND_ID = 16;

/** Bytes of a window that each kernel can read a weight through: one row, or some rows of some columns, at a time. */
export function leastWindow({ shape }: { readonly shape: readonly number[] }): number {
  return Math.max(BLOCK * PANEL, shape.at(-1) ?? 1) * WIDTH + BEHIND_ID;
}

const wholeMultiple = (n: number, of: number) => Math.max(1, Math.floor(n / of)) * of;

/**
 * Kernels on one worker's window.
 * @param weights what a program's calls name by index
 */
export function outsideKernels(
  view: MemoryView,
  kernels: WasmKernels,
  weights: readonly SharedArrayBuffer[],
): OutsideKernels {
  /** Copies `count` stretches of `bytes`, `stride` apart, one behind the other. */
  const fetch = (index: number, from: number, bytes: number, stride: number, count: number, to: number) => {
    const inside = view.bytes(to + bytes * count), outside = new Uint8Array(weights[index]!);
    if (bytes === stride) inside.set(outside.subarray(from, from + bytes * count), to);
    else {
      for (let i = 0; i < count; i++) {
        inside.set(outside.subarray(from + i * stride, from + i * stride + bytes), to + i * bytes);
      }
    }
  };
  return {
    /** As `matmul` with B in `weights[index]`. */
    matmulOutside(index, window, windowBytes, ...args) {
      const [layout, dtype, a, lda, ldb, c, ldc, M, K, accumulate, addend, m0, m1, n0, n1, scratch] =
        args as Numbers;
      if (K === 0) {
        return kernels.matmul(
          layout,
          dtype,
          a,
          lda,
          window,
          ldb,
          c,
          ldc,
          M,
          K,
          accumulate,
          addend,
          m0,
          m1,
          n0,
          n1,
          scratch,
        );
      }
      if (layout === LAYOUT.NT || layout === LAYOUT.TT) {
        // A row of B is a column of C.
        const rows = Math.max(1, Math.floor(windowBytes / (ldb * WIDTH)));
        for (let n = n0; n < n1; n += rows) {
          const count = Math.min(rows, n1 - n);
          fetch(index, n * ldb * WIDTH, ldb * WIDTH, ldb * WIDTH, count, window);
          kernels.matmul(
            layout,
            dtype,
            a,
            lda,
            window,
            ldb,
            c + n * 4,
            ldc,
            M,
            K,
            accumulate,
            addend && addend + n * 4,
            m0,
            m1,
            0,
            count,
            scratch,
          );
        }
        return;
      }
      const fitting = wholeMultiple(windowBytes / (BLOCK * WIDTH), PANEL);
      // Whole rows where a block of them fits: one long copy is quicker than many short ones, though it brings more.
      const whole = ldb <= fitting;
      const columns = whole ? n1 - n0 : fitting;
      // How K is divided depends on no worker's share: few rows are summed up over a window at a time.
      const rows = wholeMultiple(windowBytes / ((whole ? ldb : fitting) * WIDTH), BLOCK);
      for (let n = n0; n < n1; n += columns) {
        const count = Math.min(columns, n1 - n), stored = whole ? ldb : count;
        for (let k = 0; k < K; k += rows) {
          const deep = Math.min(rows, K - k), from = (k * ldb + (whole ? 0 : n)) * WIDTH;
          fetch(index, from, stored * WIDTH, ldb * WIDTH, deep, window);
          const b = window + (whole ? n * WIDTH : 0);
          const at = a + k * 4 * (layout === LAYOUT.NN ? 1 : lda);
          const add = accumulate || k > 0 ? 1 : 0, last = k + deep === K;
          kernels.matmul(
            layout,
            dtype,
            at,
            lda,
            b,
            stored,
            c + n * 4,
            ldc,
            M,
            deep,
            add,
            last ? addend && addend + n * 4 : 0,
            m0,
            m1,
            0,
            count,
            scratch,
          );
        }
      }
    },
    /** As `addTile` with w in `weights[index]`. */
    addTileOutside(index, window, windowBytes, ...args) {
      const [dtype, d, out, K, R, O, row0, row1] = args as Eight;
      const rows = Math.max(1, Math.floor(windowBytes / (K * WIDTH)));
      for (let row = row0; row < row1; row += rows) {
        const end = Math.min(row + rows, row1);
        fetch(index, row * K * WIDTH, K * WIDTH, K * WIDTH, end - row, window);
        kernels.addTile(window, dtype, d, out, K, R, O, row, end);
      }
    },
    /** As `embedding` with the table in `weights[index]`. */
    embeddingOutside(index, window, ...args) {
      const [dtype, ids, out, V, C, row0, row1] = args as [
        number,
        number,
        number,
        number,
        number,
        number,
        number,
      ];
      const words = new Int32Array(view.bytes(Math.max(window + BEHIND_ID, ids + row1 * 4)).buffer),
        bytes = C * WIDTH;
      words[window / 4] = 0;
      for (let row = row0; row < row1; row++) {
        const id = words[ids / 4 + row]!, known = id >= 0 && id < V;
        if (known) fetch(index, id * bytes, bytes, bytes, 1, window + BEHIND_ID);
        // In a table of this row alone it has the number 0; a table of none gives zeros.
        kernels.embedding(window + BEHIND_ID, dtype, window, out + row * C * 4, known ? 1 : 0, C, 0, 1);
      }
    },
  };
}

type Eight = [number, number, number, number, number, number, number, number];
// deno-fmt-ignore
type Numbers = [number, number, number, number, number, number, number, number, number, number, number, number, number, number, number, number];
