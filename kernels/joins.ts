/**
 * Nodes of one kind that do the same to several things run as one, for a dispatch costs a GPU as much as a small op: the mixes of a
 * token shift, or weights of the same shape with what is added to them. What an op can do at once it says itself (`Op.joined`).
 *
 * @module
 */
import { ownerOf } from "./engine.ts";
import { bytesOf, inputsRead, type Node } from "./graph.ts";
import { bytesAlive, livesOf } from "./lives.ts";
import { viewOf, viewsOf } from "./views.ts";

/** Nodes further apart than this have nothing to do with each other. */
const NEAR = 16;

/**
 * The same computation with such nodes as one, where the first of them is, as long as no more memory is alive at the worst place.
 * @param nodes in the order in which they run
 * @param operands of one node, at most
 */
export function joinAlike(nodes: readonly Node[], operands: number): Node[] {
  const list: (Node | undefined)[] = [...nodes];
  const views = viewsOf(nodes), lives = livesOf(nodes, views), alive = bytesAlive(lives, nodes.length);
  const most = alive.reduce((a, b) => Math.max(a, b), 0);
  const madeAt = new Map(nodes.flatMap(({ outputs }, at) => outputs.map((t) => [t, at] as const)));

  /** Whether the node at `at`, with results of `more` bytes, may run at `to`, before that. */
  const mayMove = (node: Node, more: number, at: number, to: number) => {
    if (alive.slice(to, at).some((bytes) => bytes + more > most)) return false;
    return inputsRead(node).every((t) => {
      const { of: { variable } } = viewOf(views, t);
      if (!variable) return madeAt.get(t)! < to;
      const updates = ({ op, inputs }: Node) =>
        op.mutates?.some((i) => ownerOf(inputs[i]!) === ownerOf(viewOf(views, t).of));
      return !list.slice(to, at).some((other) => other && updates(other));
    });
  };

  nodes.forEach((node, at) => {
    if (!node.op.joined) return;
    const more = node.outputs.reduce((sum, t) => sum + bytesOf(t), 0);
    for (let to = at - 1; to >= Math.max(0, at - NEAR); to--) {
      const before = list[to], one = before?.op === node.op ? node.op.joined(before, node) : undefined;
      if (!one || one.inputs.length + one.outputs.length > operands || !mayMove(node, more, at, to)) continue;
      list[to] = one;
      list[at] = undefined;
      for (let i = to; i < at; i++) alive[i]! += more;
      return;
    }
  });
  return list.filter((node) => node !== undefined);
}
