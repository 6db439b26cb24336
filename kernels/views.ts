/**
 * Views: values that are whole rows of another tensor, and so need no memory of their own and nobody to copy them.
 *
 * @module
 */
import { ownerOf, updatedBy } from "./engine.ts";
import { bytesOf, inputsRead, type Node, type Tensor } from "./graph.ts";

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
 * The values of nodes that are views. Rows of a variable are where nothing updates it, so that they are what they were; rows of a
 * value are where they are half of it or more, or do not outlive it, so that a few rows do not keep many.
 * @param nodes in the order in which they run
 */
export function viewsOf(nodes: readonly Node[]): Map<Tensor, View> {
  const views = new Map<Tensor, View>(), updated = updatedBy(nodes), reads = lastReads(nodes);
  for (const node of nodes) {
    const rows = node.op.views?.(node), { outputs } = node;
    if (!rows) continue;
    const whole = node.inputs[0]!, { of, byteOffset } = viewOf(views, whole);
    const offsets = rows.map((first) =>
      byteOffset + bytesOf({ shape: [first, whole.width], dtype: whole.dtype })
    );
    const isMost = 2 * outputs.reduce((sum, t) => sum + bytesOf(t), 0) >= bytesOf(of);
    const outlives = outputs.some((t) => (reads.get(t)?.through ?? 0) > reads.get(of)!.itself);
    const isKept = of.variable ? !updated.has(ownerOf(of)) : isMost || !outlives;
    if (!isKept || offsets.some((offset) => offset % VIEW_ALIGNMENT)) continue;
    outputs.forEach((t, i) => views.set(t, { of, byteOffset: offsets[i]! }));
  }
  return views;
}

/** Where each tensor is read last, itself, and through rows of it. */
function lastReads(nodes: readonly Node[]): Map<Tensor, { itself: number; through: number }> {
  const reads = new Map<Tensor, { itself: number; through: number }>();
  for (let at = nodes.length - 1; at >= 0; at--) {
    const { op, outputs } = nodes[at]!;
    const through = op.views ? Math.max(at, ...outputs.map((t) => reads.get(t)?.through ?? at)) : at;
    for (const t of inputsRead(nodes[at]!)) {
      const known = reads.get(t);
      if (known) known.through = Math.max(known.through, through);
      else reads.set(t, { itself: at, through });
    }
  }
  return reads;
}

/** Where a tensor lies, a view or not. */
export function viewOf(views: ReadonlyMap<Tensor, View>, t: Tensor): View {
  return views.get(t) ?? { of: t, byteOffset: 0 };
}
