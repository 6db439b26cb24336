/**
 * Weights that are made more than once, as W' is (`folds.ts`) where a block is recomputed, are made once and kept until they are read
 * again, wherever that does not raise the most memory that is alive at any time.
 *
 * @module
 */
import { bytesOf, type Node, type Tensor } from "./graph.ts";
import { bytesAlive, livesOf } from "./lives.ts";
import { addTileOp } from "./ops/add_tile/op.ts";

/** The same computation with fewer weights made. @param nodes in the order in which they run, with weights of what stays as it is */
export function reuseWeights(nodes: readonly Node[]): Node[] {
  const lives = livesOf(nodes), alive = bytesAlive(lives, nodes.length);
  const most = alive.reduce((a, b) => Math.max(a, b), 0);
  /** The last weight that was made of the same two, and the place where it is read last. */
  const made = new Map<Tensor, Map<Tensor, { weight: Tensor; last: number }>>();
  const standIn = new Map<Tensor, Tensor>();
  return nodes.flatMap((node, at) => {
    if (node.op !== addTileOp) {
      return [{ ...node, inputs: node.inputs.map((t) => standIn.get(t) ?? t) }];
    }
    const [w, d] = node.inputs as [Tensor, Tensor], weight = node.outputs[0]!, { last } = lives.get(weight)!;
    const before = made.get(w)?.get(d), bytes = bytesOf(weight);
    const between = before ? alive.slice(before.last + 1, at) : [];
    const fits = before && between.every((others) => others + bytes <= most);
    if (!fits) {
      if (!made.has(w)) made.set(w, new Map());
      made.get(w)!.set(d, { weight, last });
      return [node];
    }
    for (let i = before.last + 1; i < at; i++) alive[i]! += bytes;
    standIn.set(weight, before.weight);
    before.last = last;
    return [];
  });
}
