/**
 * What every tensor format has in common: the description of a tensor, and what a reader of one format gives.
 *
 * @module
 */

import type { DType } from "./dtype.ts";

/** Name, element type and dimensions of a tensor in a file. */
export interface TensorInfo {
  /** Name in the state dict, such as `blocks.0.att.key.weight`. */
  readonly name: string;
  /** Element type. */
  readonly dtype: DType;
  /** Dimensions, slowest first; empty for a scalar. */
  readonly shape: readonly number[];
}

/** What a reader of one format hands over: tensors under the names in the file, checked but not yet read. */
export interface TensorSource {
  /** Tensors in file order. */
  readonly tensors: ReadonlyMap<string, TensorInfo>;
  /** Free text that the file carries. */
  readonly metadata: ReadonlyMap<string, string>;
  /** Reads one of `tensors` as contiguous row-major little-endian bytes. */
  readonly read: (name: string) => Uint8Array<ArrayBuffer>;
  /** Reads the bytes from `begin` to before `end` of what `read` would give, in memory of that size where the file allows. */
  readonly range: (name: string, begin: number, end: number) => Uint8Array<ArrayBuffer>;
}

/** Most dimensions of a tensor: torch's own limit, and what keeps a hostile file from listing millions. */
export const maxRank = 64;

/** Takes the bytes of a file that is being written, in order. */
export type Write = (bytes: Uint8Array) => void;

/** Gives the content of a tensor in one or more pieces, in order. */
export type Content = (info: TensorInfo) => Iterable<Uint8Array>;

/**
 * Checks that the tensors can be named in a file: no name twice, and none that UTF-8 cannot hold.
 *
 * @throws {RangeError} with the name at fault
 */
export function checkNames(tensors: readonly TensorInfo[]): void {
  const names = new Set<string>();
  for (const { name } of tensors) {
    if (names.has(name)) {
      throw new RangeError(`Cannot write tensor "${name}": the name is given twice, rename one`);
    }
    if (!name.isWellFormed()) {
      throw new RangeError(`Cannot write tensor "${name}": the name is not valid Unicode`);
    }
    names.add(name);
  }
}

/**
 * Passes the pieces of a tensor to `write` and checks that they add up to its size.
 *
 * @throws {RangeError} where the content is shorter or longer than `length` bytes
 */
export function writeContent(info: TensorInfo, length: number, content: Content, write: Write): void {
  let written = 0;
  for (const piece of content(info)) {
    written += piece.length;
    write(piece);
  }
  if (written !== length) {
    throw new RangeError(
      `Cannot write tensor "${info.name}": ${info.dtype} [${info.shape}] takes ${length} bytes, ` +
        `but its content has ${written}`,
    );
  }
}
