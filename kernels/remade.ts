/**
 * Less memory at the worst place: what a backward pass has made before it and reads after it is made again for that where it is cheap,
 * as long as the most that is alive at any time becomes less. Where there is room nothing is made twice.
 *
 * @module
 */
import { ownerOf, updatedBy } from "./engine.ts";
import { only } from "./fuse.ts";
import { inputsRead, type Node, Tensor } from "./graph.ts";
import { bytesAlive, type Life, livesOf } from "./lives.ts";
import { mapOp } from "./ops/map/op.ts";
import { extents, type MatmulAttributes, matmulOp } from "./ops/matmul/op.ts";

/** Most terms of a sum with which a product costs hardly more than the writing of its result. */
const FEW_TERMS = 128;

/** Whether a node costs no more than a pass or two over memory. */
function isCheap({ op, inputs, attributes }: Node): boolean {
  if (op === mapOp) return true;
  return op === matmulOp && inputs.length === 2 &&
    extents(inputs, attributes as MatmulAttributes).K <= FEW_TERMS;
}

/**
 * The same computation with less memory at the worst place of its backward pass.
 * @param nodes in the order in which they run
 * @param loss where the backward pass begins
 */
export function remakeAtWorst(nodes: readonly Node[], loss: Tensor): Node[] {
  const updated = updatedBy(nodes);
  const isFixed = (t: Tensor) => !t.variable || !updated.has(ownerOf(t));
  const begin = 1 + nodes.findIndex(({ outputs }) => outputs.includes(loss));
  let best = measured(nodes);
  for (;;) {
    const { nodes, lives, worst, most, places } = best;
    const used = new Set([...inputsRead(nodes[worst]!), ...nodes[worst]!.outputs]);
    const waits = ([t, { first, last }]: [Tensor, Life]) => first < worst && worst < last && !used.has(t);
    const waiting = new Set(lives.entries().filter(waits).map(([t]) => t));
    const makers = nodes.slice(begin, worst).filter((node) =>
      node.outputs.some((t) => waiting.has(t)) && isCheap(node) && inputsRead(node).every(isFixed)
    );
    const better = makers.values().map((maker) => measured(madeAgain(nodes, maker, waiting, worst)))
      .find((trial) => trial.most < most || trial.most === most && trial.places < places);
    if (!better) return [...nodes];
    best = better;
  }
}

/** Nodes with the most bytes that are alive while one of them runs, at how many places it is, and the first of these. */
function measured(nodes: readonly Node[]) {
  const lives = livesOf(nodes), alive = bytesAlive(lives, nodes.length);
  const most = alive.reduce((a, b) => Math.max(a, b), 0);
  return { nodes, lives, most, worst: alive.indexOf(most), places: alive.filter((x) => x === most).length };
}

/** The nodes with what a node made of `waiting` made again after the place `worst`, where it is read next. */
function madeAgain(
  nodes: readonly Node[],
  maker: Node,
  waiting: ReadonlySet<Tensor>,
  worst: number,
): Node[] {
  const again = new Map(
    maker.outputs.filter((t) => waiting.has(t)).map((t) => [t, new Tensor(t.shape, t.dtype)]),
  );
  const reads = (node: Node) => node.inputs.some((t) => again.has(t));
  const next = worst + 1 + nodes.slice(worst + 1).findIndex(reads);
  const made = only(maker, (t) => again.has(t));
  return [
    ...nodes.slice(0, next),
    { ...made, outputs: made.outputs.map((t) => again.get(t)!) },
    ...nodes.slice(next).map((node) =>
      reads(node) ? { ...node, inputs: node.inputs.map((t) => again.get(t) ?? t) } : node
    ),
  ];
}
