/**
 * What the forward pass leaves for the backward pass takes less memory: it is not kept where it is cheap to compute again from what is
 * kept, which changes no bit, and what is kept is so in f16 for engines whose products round their operands to that anyway.
 *
 * Eleven digits of a value do for a gradient; bf16's eight would not, and no activation of a model comes near the end of f16's
 * range: what does becomes infinite, and shows in the norm of the gradients. Losses do not change, as the forward pass goes on with
 * what it computed. Gradients that are known before the loss is, and whatever is small, stay in f32.
 *
 * @module
 */
import { ownerOf, updatedBy } from "./engine.ts";
import { bytesOf, inputsRead, type Node, Tensor } from "./graph.ts";
import { Expression } from "./ops/map/expression.ts";
import { type MapAttributes, mapOp } from "./ops/map/op.ts";
import { normOp } from "./ops/norm/op.ts";

/** Values are worth a pass that are at least this part of the largest. */
const LEAST_SHARE = 1 / 16;
/** A value that was widened stays so for readers that are so many nodes away. */
const NEAR = 16;

/** Whether a node costs no more than a pass or two over memory. */
const isCheap = ({ op }: Node) => op === mapOp || op === normOp;

/** A map that only changes the storage of a value. */
function copied(from: Tensor, to: Tensor): Node {
  const attributes: MapAttributes = { shape: from.shape, results: [Expression.input(0)] };
  return { op: mapOp, attributes, inputs: [from], outputs: [to], block: undefined } as Node;
}

/**
 * The same computation with less that is kept.
 * @param nodes in the order in which they run
 * @param loss where the forward pass ends and the backward pass begins
 * @param storage of what is kept
 */
export function keepLess(nodes: readonly Node[], loss: Tensor, storage: "f32" | "f16"): Node[] {
  const end = 1 + nodes.findIndex(({ outputs }) => outputs.includes(loss));
  const forward = nodes.slice(0, end), backward = nodes.slice(end);
  const producers = new Map(forward.flatMap((node) => node.outputs.map((t) => [t, node] as const)));
  // What a node does not read is given to it for its gradient, and may be a gradient itself; what is written down, as the state
  // between chunks is, goes on in other forward passes.
  const exact = new Set([
    ...forward.flatMap((node) => {
      const read = new Set(inputsRead(node));
      return node.inputs.filter((t) => !read.has(t));
    }),
    ...backward.flatMap(({ op, inputs }) => op.mutates?.length ? inputs : []),
  ]);
  const updated = updatedBy(nodes);
  const crossing = new Set(
    backward.flatMap(inputsRead).filter((t) => producers.has(t) && t.dtype === "f32" && !exact.has(t)),
  );
  const least = LEAST_SHARE * [...crossing].reduce((most, t) => Math.max(most, bytesOf(t)), 0);
  const isLarge = (t: Tensor) => bytesOf(t) >= least;

  /** Nodes that compute again what is not kept, by what they compute. */
  const again = new Map<Tensor, Node>();
  /** What is kept, by what it is kept of. */
  const kept = new Map<Tensor, Tensor>();
  for (const node of forward) {
    const large = node.outputs.filter((t) => crossing.has(t) && isLarge(t));
    if (!large.length) continue;
    const isKnown = (t: Tensor) =>
      t.variable ? !updated.has(ownerOf(t)) : kept.has(t) || again.has(t) || !isLarge(t) && t.dtype === "f32";
    const read = inputsRead(node);
    if (isCheap(node) && read.some((t) => !t.variable) && read.every(isKnown)) {
      for (const t of node.outputs) if (crossing.has(t)) again.set(t, node);
    } else for (const t of large) kept.set(t, storage === "f32" ? t : new Tensor(t.shape, storage));
  }
  return [
    ...forward.flatMap((node) => [
      node,
      ...node.outputs.flatMap((t) => kept.has(t) && kept.get(t) !== t ? [copied(t, kept.get(t)!)] : []),
    ]),
    ...reading(backward, kept, again),
  ];
}

/** The backward pass, reading what is kept. */
function reading(
  backward: readonly Node[],
  kept: ReadonlyMap<Tensor, Tensor>,
  again: ReadonlyMap<Tensor, Node>,
): Node[] {
  const result: Node[] = [];
  const wide = new Map<Tensor, { t: Tensor; at: number }>(), remade = new Map<Tensor, Tensor>();
  const known = (t: Tensor, reader: Node): Tensor => {
    const made = remade.get(t);
    if (made) return made;
    const node = again.get(t), stored = kept.get(t) ?? t;
    if (node) {
      const outputs = node.outputs.map(({ shape, dtype }) => new Tensor(shape, dtype));
      put({ ...node, outputs, block: undefined });
      node.outputs.forEach((t, i) => again.has(t) && remade.set(t, outputs[i]!));
      return remade.get(t)!;
    }
    if (stored === t || reader.op === mapOp) return stored;
    const last = wide.get(t);
    if (last && result.length - last.at <= NEAR) {
      last.at = result.length;
      return last.t;
    }
    const widened = new Tensor(t.shape, "f32");
    result.push(copied(stored, widened));
    wide.set(t, { t: widened, at: result.length });
    return widened;
  };
  const put = (node: Node) => {
    const read = new Set(inputsRead(node));
    const inputs = node.inputs.map((t) => read.has(t) ? known(t, node) : t);
    result.push({ ...node, inputs });
  };
  backward.forEach(put);
  return result;
}
