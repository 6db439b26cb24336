/**
 * Taking an adapter out of the weights that it replaced whole: norms that trained along, an initial state. What was there before is
 * in the adapter, or it is lost.
 *
 * @module
 */
import { type DType, fromFloat32, toFloat32 } from "../formats/dtype.ts";
import type { TensorFile } from "../formats/tensor_file.ts";
import { type Adapter, AdapterError, type HostTensor } from "./adapter.ts";
import { type Fit, isInitialState } from "./fit.ts";
import { transposed } from "./transpose.ts";

/** What becomes of the tensors of a merged file that an adapter replaced, by their names in the file. */
export interface Restoration {
  /** Those that the base model did not have. */
  readonly dropped: ReadonlySet<string>;
  /** What the others were. */
  readonly restored: ReadonlyMap<string, HostTensor>;
}

/**
 * Finds out what there was in place of the weights that an adapter replaced.
 * @throws AdapterError where that is lost
 */
export function restorationOf(adapter: Adapter, fit: Fit): Restoration {
  const dropped = new Set<string>(), restored = new Map<string, HostTensor>(), lost: string[] = [];
  for (const [at, { name, turned }] of fit.replaced) {
    const original = adapter.originals.get(name);
    if (original) {
      const { shape, dtype, bytes } = original, tensor = { shape, data: toFloat32(bytes, dtype) };
      restored.set(at, turned ? transposed(tensor) : tensor);
    } else if (isInitialState(name)) dropped.add(at);
    else lost.push(name);
  }
  if (!lost.length) return { dropped, restored };
  throw new AdapterError(
    `Cannot take the ${adapter.method.name} adapter out again: it replaced "${lost[0]}"` +
      `${
        lost.length > 1 ? ` and ${lost.length - 1} more` : ""
      }, whose first content its file does not keep; ` +
      "go back to the base model itself",
  );
}

/** What a merge may have rounded to, before the file got its dtype. */
const ROUNDED: readonly DType[] = ["F32", "BF16", "F16"];

/** The first of the weights that an adapter brings which is not in a model, as a clause; undefined where the model has all of them. */
export function broughtButMissing(file: TensorFile, adapter: Adapter, fit: Fit): string | undefined {
  if (fit.added.length) return `"${fit.added[0]}" there is missing`;
  for (const [at, { name, turned }] of fit.replaced) {
    // A layer that the adapter also sits on is not what the adapter brings any more.
    if (fit.sites.has(at)) continue;
    const tensor = adapter.tensors.get(name)!, { dtype } = file.tensors.get(at)!;
    const { data } = turned ? transposed(tensor) : tensor, found = file.readBytes(at);
    const isThere = ROUNDED.some((via) =>
      isEqual(fromFloat32(toFloat32(fromFloat32(data, via), via), dtype), found)
    );
    if (!isThere) return `"${at}" there is not what the adapter brings`;
  }
  return undefined;
}

function isEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, i) => byte === b[i]);
}
