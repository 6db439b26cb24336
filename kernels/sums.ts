/**
 * Sums end in products: where a product is only added to something, as a residual branch or one of several gradients is, the
 * product's shader adds it, and a pass that reads both and writes their sum is saved.
 *
 * One of the terms takes the sum of the others as its addend; that sum is treated in the same way. The product moves to where
 * the last term is known, unless more would have to be kept for it than its own result.
 *
 * @module
 */
import { inputsRead, type Node, Tensor } from "./graph.ts";
import { Expression, type Form } from "./ops/map/expression.ts";
import { type MapAttributes, mapOp } from "./ops/map/op.ts";
import { takesAddend } from "./ops/matmul/op.ts";

/** The terms of a node that only adds up values of one shape; undefined for every other node. */
export function termsOf(node: Node): readonly Tensor[] | undefined {
  if (node.op !== mapOp) return undefined;
  const { results } = node.attributes as MapAttributes, out = node.outputs[0]!;
  if (results.length !== 1) return undefined;
  const indexes: number[] = [], open: Form[] = [results[0]!.form];
  for (let form = open.pop(); form; form = open.pop()) {
    if (form.kind === "input") indexes.push(form.index);
    else if (form.kind === "binary" && form.name === "add") open.push(form.y.form, form.x.form);
    else return undefined;
  }
  const distinct = new Set(indexes).size === indexes.length && indexes.length > 1;
  const terms = indexes.map((i) => node.inputs[i]!);
  const alike = new Set(terms).size === terms.length &&
    terms.every((t) => t.dtype === "f32" && t.shape.join() === out.shape.join());
  return distinct && alike ? terms : undefined;
}

/** A map that adds up these tensors. */
export function sumOf(terms: readonly Tensor[], out: Tensor, block: number | undefined): Node {
  const result = terms.map((_, i) => Expression.input(i)).reduce((a, b) => a.add(b));
  const attributes: MapAttributes = { shape: out.shape, results: [result] };
  return { op: mapOp, attributes, inputs: terms, outputs: [out], block } as Node;
}

/** The same computation with sums that end in products. @param nodes in the order in which they run */
export function addInProducts(nodes: readonly Node[]): Node[] {
  const list = nodes.slice();
  const producers = new Map(list.flatMap((node) => node.outputs.map((t) => [t, node] as const)));
  const readers = new Map<Tensor, number>();
  list.forEach((node) => inputsRead(node).forEach((t) => readers.set(t, (readers.get(t) ?? 0) + 1)));
  const at = (t: Tensor) => producers.has(t) ? list.indexOf(producers.get(t)!) : -1;

  /** Whether a product may run just after the node at `end`: it does where nothing has to be kept for it that was not anyway. */
  const mayMove = (product: Node, end: number) => {
    const kept = product.inputs.filter((t) =>
      !t.variable && !list.slice(end + 1).some((node) => inputsRead(node).includes(t))
    );
    return kept.reduce((sum, t) => sum + t.size, 0) <= product.outputs[0]!.size;
  };

  /** Lets one of the terms add the others, as late as the last of them is known; whether it could. */
  const absorb = (terms: readonly Tensor[], out: Tensor): boolean => {
    const places = new Map(terms.map((t) => [t, at(t)]));
    const end = Math.max(...places.values());
    const term = terms.toSorted((a, b) => places.get(b)! - places.get(a)!).find((t) => {
      const product = producers.get(t);
      return product && readers.get(t) === 1 && takesAddend(product) &&
        (places.get(t) === end || mayMove(product, end));
    });
    if (!term) return false;
    const product = producers.get(term)!, rest = terms.filter((t) => t !== term);
    list.splice(end + 1, 0, list[places.get(term)!]!);
    list.splice(places.get(term)!, 1);
    let addend = rest[0]!;
    if (rest.length > 1) {
      addend = new Tensor(out.shape, out.dtype);
      if (!absorb(rest, addend)) put(sumOf(rest, addend, product.block), list.indexOf(product), 0);
    }
    put(
      { ...product, inputs: [...product.inputs, addend], outputs: [out] },
      list.indexOf(product),
      1,
    );
    return true;
  };
  const put = (node: Node, index: number, instead: number) => {
    list.splice(index, instead, node);
    node.outputs.forEach((t) => producers.set(t, node));
  };

  /** The terms of a sum, with those of sums that only it reads in their place, and the nodes of all these sums. */
  const flattened = (sum: Node): { terms: Tensor[]; sums: Node[] } | undefined => {
    const parts = termsOf(sum)?.map((t) => {
      const inner = readers.get(t) === 1 ? producers.get(t) : undefined;
      return inner && flattened(inner) || { terms: [t], sums: [] };
    });
    return parts && { terms: parts.flatMap((p) => p.terms), sums: [sum, ...parts.flatMap((p) => p.sums)] };
  };

  // From the last to the first, so that a sum of sums is found before its parts.
  for (const node of nodes.toReversed()) {
    const sum = list.includes(node) ? flattened(node) : undefined;
    if (!sum || new Set(sum.terms).size !== sum.terms.length) continue;
    if (absorb(sum.terms, node.outputs[0]!)) sum.sums.forEach((gone) => list.splice(list.indexOf(gone), 1));
  }
  return list;
}
