/**
 * Reverse-mode differentiation: writes the backward pass of a graph as more nodes of the same graph.
 *
 * @module
 */
import { type Graph, type Node, Tensor } from "./graph.ts";
import { constant, map, repeat } from "./ops/map/op.ts";

/** Most inputs that one sum reads, so that it stays within eight storage bindings. */
const SUM_ARITY = 7;

function sum(graph: Graph, terms: readonly Tensor[]): Tensor {
  if (terms.length === 1) return terms[0]!;
  const head = terms.slice(0, SUM_ARITY);
  const total = map(graph, head, (...x) => x.reduce((a, b) => a.add(b)));
  return sum(graph, [total, ...terms.slice(SUM_ARITY)]);
}

/**
 * Gradients of a scalar with respect to the tensors in `wanted`.
 *
 * Nodes of a recomputed block are appended once more just before their gradients, so that the plan need not keep
 * what they computed the first time.
 *
 * @param loss a tensor with one element
 * @returns one tensor for each wanted one, in its shape; undefined where the loss does not depend on it
 * @throws RangeError if a node on the way has no gradient
 */
export function backward(graph: Graph, loss: Tensor, wanted: readonly Tensor[]): (Tensor | undefined)[] {
  if (loss.size !== 1) throw new RangeError(`A loss has one element: this one has ${loss.size}`);
  const forward = graph.nodes.slice();
  graph.loss ??= loss;
  const dependent = new Set<Tensor>(wanted);
  for (const node of forward) {
    if (!node.inputs.some((t) => dependent.has(t))) continue;
    for (const t of node.outputs) if (!graph.isDetached(t)) dependent.add(t);
  }

  const contributions = new Map<Tensor, Tensor[]>([[loss, [constant(graph, loss.shape, 1)]]]);
  /** The block that the last contribution came from. */
  const begunIn = new Map<Tensor, number | undefined>();
  const gradientOf = (t: Tensor): Tensor | undefined => {
    const terms = contributions.get(t);
    if (!terms) return undefined;
    const total = sum(graph, terms);
    contributions.set(t, [total]);
    return total;
  };

  const replay = new Map<Tensor, Tensor>();
  const current = (t: Tensor) => replay.get(t) ?? t;
  let replayed: number | undefined;
  for (const node of forward.toReversed()) {
    const { op, attributes, inputs, outputs, block } = node;
    const needed = inputs.map((t) => dependent.has(t));
    // One that is wanted itself has a gradient, which goes no further where it is detached.
    const flows = outputs.map((t) => contributions.has(t) && !graph.isDetached(t));
    if (!needed.includes(true) || !flows.includes(true)) continue;
    if (!op.gradient) throw new RangeError(`Cannot differentiate ${op.name}: it has no gradient`);
    if (block !== replayed) {
      replay.clear();
      replayed = block;
      if (block !== undefined) recompute(graph, forward.filter((n) => n.block === block), replay);
    }
    const gradients = op.gradient({
      graph,
      attributes,
      inputs: inputs.map(current),
      outputs: outputs.map(current),
      dOutputs: outputs.map((t, i) => flows[i] ? gradientOf(t) : undefined),
      wanted: needed,
    });
    gradients.forEach((gradient, i) => {
      if (!gradient || !needed[i]) return;
      const input = inputs[i]!;
      // Ops see rows and widths only, so a gradient may come back with the leading dimensions flattened.
      const same = gradient.shape.join() === input.shape.join();
      const fitted = same ? gradient : repeat(graph, gradient, input.shape);
      const terms = contributions.get(input);
      if (!terms) contributions.set(input, [fitted]);
      // What every recomputed block adds to is added up as it comes, or each block's share would be kept to the end.
      else if (begunIn.get(input) !== block) contributions.set(input, [sum(graph, [...terms, fitted])]);
      else terms.push(fitted);
      begunIn.set(input, block);
    });
  }
  return wanted.map(gradientOf);
}

/** Appends copies of a block's nodes and records which tensor stands for which. */
function recompute(graph: Graph, nodes: readonly Node[], replay: Map<Tensor, Tensor>): void {
  for (const node of nodes) {
    const inputs = node.inputs.map((t) => replay.get(t) ?? t);
    const outputs = graph.add(node.op, inputs, node.attributes);
    node.outputs.forEach((t, i) => replay.set(t, outputs[i]!));
  }
}
