/**
 * How long values live, and what that comes to in memory.
 *
 * @module
 */
import { bytesOf, inputsRead, type Node, type Tensor } from "./graph.ts";
import { type View, viewOf, viewsOf } from "./views.ts";

/** The places of the nodes that make a value and read it last. */
export interface Life {
  readonly first: number;
  readonly last: number;
}

/** How long each value lives that has memory of its own: until it was read, itself or by a view of it. */
export function livesOf(
  nodes: readonly Node[],
  views: ReadonlyMap<Tensor, View> = viewsOf(nodes),
): Map<Tensor, Life> {
  const lives = new Map<Tensor, { first: number; last: number }>();
  nodes.forEach((node, at) => {
    for (const t of inputsRead(node)) {
      const life = lives.get(viewOf(views, t).of);
      if (life) life.last = at;
    }
    for (const t of node.outputs) if (!views.has(t)) lives.set(t, { first: at, last: at });
  });
  return lives;
}

/** Bytes of the values that are alive while each of `count` nodes runs. */
export function bytesAlive(lives: ReadonlyMap<Tensor, Life>, count: number): number[] {
  const change = new Array<number>(count + 1).fill(0);
  for (const [t, { first, last }] of lives) {
    change[first]! += bytesOf(t);
    change[last + 1]! -= bytesOf(t);
  }
  let bytes = 0;
  return change.slice(0, count).map((more) => bytes += more);
}
