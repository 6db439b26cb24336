/**
 * Views: values that are whole rows of another tensor, and so need no memory of their own and nobody to copy them.
 *
 * @module
 */
import { ownerOf, updatedBy } from "./engine.ts";
import { bytesOf, type Node, type Tensor } from "./graph.ts";

/** Where a tensor lies: so many bytes into the memory of another, or of itself. */
export interface View {
  /** The tensor that has the memory; no view itself. */
  readonly of: Tensor;
  /** Where in it the view starts. */
  readonly byteOffset: number;
}

/** Views start at multiples of this many bytes, as WebGPU bindings must; other rows are copied. */
export const VIEW_ALIGNMENT = 256;

/**
 * The values of nodes that are views. Rows of a variable are where nothing updates it, so that they are what they were.
 * @param nodes in the order in which they run
 */
export function viewsOf(nodes: readonly Node[]): Map<Tensor, View> {
  const views = new Map<Tensor, View>(), updated = updatedBy(nodes);
  for (const node of nodes) {
    const rows = node.op.views?.(node);
    if (!rows) continue;
    const whole = node.inputs[0]!, { of, byteOffset } = viewOf(views, whole);
    const offsets = rows.map((first) =>
      byteOffset + bytesOf({ shape: [first, whole.width], dtype: whole.dtype })
    );
    const isFixed = !of.variable || !updated.has(ownerOf(of));
    if (!isFixed || offsets.some((offset) => offset % VIEW_ALIGNMENT)) continue;
    node.outputs.forEach((t, i) => views.set(t, { of, byteOffset: offsets[i]! }));
  }
  return views;
}

/** Where a tensor lies, a view or not. */
export function viewOf(views: ReadonlyMap<Tensor, View>, t: Tensor): View {
  return views.get(t) ?? { of: t, byteOffset: 0 };
}
