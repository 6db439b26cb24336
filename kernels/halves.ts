/**
 * Values in f16 that are in f32 otherwise: what only products read which round it to that anyway, on matrix units, is written so, and
 * what is kept in f16 is read so. A pass over memory then takes half the time, and products read half as much.
 *
 * @module
 */
import { inputsRead, type Node, Tensor } from "./graph.ts";
import { type MapAttributes, mapOp } from "./ops/map/op.ts";

/** The nodes, those that may read in f16 reading what a copy in f32 was made from. @param nodes in the order in which they run */
export function readHalves(nodes: readonly Node[]): Node[] {
  const originals = new Map<Tensor, Tensor>();
  for (const { op, attributes, inputs, outputs } of nodes) {
    if (op !== mapOp) continue;
    (attributes as MapAttributes).results.forEach(({ form }, k) => {
      const from = form.kind === "input" ? inputs[form.index]! : undefined, to = outputs[k]!;
      // A variable may be another by the time that the copy is read.
      const isValue = from?.dtype === "f16" && !from.variable;
      if (isValue && from.shape.join() === to.shape.join()) originals.set(to, from);
    });
  }
  return nodes.map((node) => {
    const halves = node.op.readsHalves?.(node) ?? [];
    const inputs = node.inputs.map((t, i) => halves.includes(i) ? originals.get(t) ?? t : t);
    return { ...node, inputs };
  });
}

/** The nodes, with values in f16 that nothing reads which needs more. @param nodes in the order in which they run */
export function writeHalves(nodes: readonly Node[]): Node[] {
  const exact = new Set(nodes.flatMap((node) => {
    const halves = node.op.readsHalves?.(node) ?? [];
    const others = new Set(node.inputs.filter((_, i) => !halves.includes(i)));
    return inputsRead(node).filter((t) => others.has(t));
  }));
  const written = new Map<Tensor, Tensor>();
  for (const node of nodes) {
    for (const t of node.op.writesHalves?.(node).map((k) => node.outputs[k]!) ?? []) {
      if (t.dtype === "f32" && !exact.has(t)) written.set(t, new Tensor(t.shape, "f16"));
    }
  }
  const as = (t: Tensor) => written.get(t) ?? t;
  return nodes.map((node) => ({ ...node, inputs: node.inputs.map(as), outputs: node.outputs.map(as) }));
}
