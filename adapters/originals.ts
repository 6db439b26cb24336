/**
 * What the base model held where an adapter has weights of its own, such as norms that trained along. Merging replaces those, so that
 * nothing in a merged model tells what was there; the adapter carries it, bit for bit, and can be taken out again.
 *
 * In files it lies in the metadata beside the description, where programs that know tensors only do not meet it.
 *
 * @module
 */
import { type DType, tensorByteLength } from "../formats/dtype.ts";
import type { TensorFile } from "../formats/tensor_file.ts";

/** A tensor as it lies in the base model's file. */
export interface Original {
  /** Element type. */
  readonly dtype: DType;
  /** Extents. */
  readonly shape: readonly number[];
  /** Content, row-major, little-endian. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

/** Originals by the names of their tensors. */
export type Originals = ReadonlyMap<string, Original>;

/** Where files keep them. */
export const ORIGINALS = "wishbone.originals";

/** Most bytes of all originals of an adapter: enough for all norms and mixes of a large model, and for no embedding. */
const MOST_BYTES = 1 << 24;

/** Reads the originals of tensors, the smallest first, as far as they are small enough to be carried along. */
export function originalsOf(names: Iterable<string>, file: TensorFile): Originals {
  const found = [...names].flatMap((name) => file.tensors.get(name) ?? [])
    .map((info) => ({ ...info, length: tensorByteLength(info.dtype, info.shape) ?? Infinity }));
  let left = MOST_BYTES;
  const kept = new Set<string>();
  for (const { name, length } of found.toSorted((a, b) => a.length - b.length)) {
    if ((left -= length) < 0) break;
    kept.add(name);
  }
  return new Map(
    found.filter(({ name }) => kept.has(name)).map(({ name, dtype, shape }) =>
      [name, { dtype, shape, bytes: file.readBytes(name) }] as const
    ),
  );
}

/** Originals as a file's metadata keeps them. */
export function encodeOriginals(originals: Originals): string {
  const entries = [...originals].map(([name, { dtype, shape, bytes }]) =>
    [name, { dtype, shape, content: bytes.toBase64() }] as const
  );
  return JSON.stringify(Object.fromEntries(entries));
}

/**
 * Reads {@link encodeOriginals}, which may be anybody's.
 * @returns undefined where it is malformed
 */
export function decodeOriginals(text: string): Originals | undefined {
  try {
    const json = JSON.parse(text);
    return new Map(
      Object.entries(json).map(([name, value]) => {
        const { dtype, shape, content } = value as { dtype: DType; shape: number[]; content: string };
        const bytes = Uint8Array.fromBase64(content);
        if (tensorByteLength(dtype, shape) !== bytes.length) throw new RangeError(name);
        return [name, { dtype, shape, bytes }];
      }),
    );
  } catch {
    return undefined;
  }
}
