/**
 * Products with folds join products with weights: `x·Wᵀ + fold(x)·D`, which is what Bone makes of a linear layer, becomes `x·W'ᵀ`
 * with `W'[o, i] = W[o, i] + D[i mod R, o]`; and `dY·W + tile(dY·Dᵀ)`, its gradient, becomes `dY·W'`. That is a product less, for a
 * weight that is made where it is needed. With many rows that is a gain: for a processor, whose time goes into multiplying, and for
 * matrix units, where a thin product costs the passes over its result; those round W' to f16 as they would have rounded W.
 *
 * @module
 */
import { ownerOf, updatedBy } from "./engine.ts";
import { inputsRead, type Node, Tensor } from "./graph.ts";
import { addTileOp } from "./ops/add_tile/op.ts";
import { foldOp, tileOp } from "./ops/fold/op.ts";
import { type MapAttributes, mapOp } from "./ops/map/op.ts";
import { type MatmulAttributes, matmulOp } from "./ops/matmul/op.ts";
import { sumOf, termsOf } from "./sums.ts";

/** Whether x [M, K] has so many rows that W' is worth making: a processor counts multiplications, matrix units bytes. */
const IS_WORTH: Record<"f32" | "f16", (M: number, K: number, R: number) => boolean> = {
  f32: (M, K, R) => M * R >= 32 * K,
  f16: (M, K) => 4 * M >= K,
};

type Product = Node<MatmulAttributes>;

/**
 * The same computation with folds joined.
 * @param nodes in the order in which they run
 * @param dtype storage of W'
 */
export function joinFolds(nodes: readonly Node[], dtype: "f32" | "f16"): Node[] {
  const producers = new Map(nodes.flatMap((node) => node.outputs.map((t) => [t, node] as const)));
  const readers = new Map<Tensor, number>();
  nodes.forEach((node) => inputsRead(node).forEach((t) => readers.set(t, (readers.get(t) ?? 0) + 1)));
  const updated = updatedBy(nodes);

  /** The product that gives a term which nothing else reads, transposed as told. */
  const productOf = (t: Tensor, transposeB: boolean): Product | undefined => {
    const node = readers.get(t) === 1 ? producers.get(t) : undefined;
    if (node?.op !== matmulOp || node.inputs.length !== 2) return undefined;
    const product = node as Product;
    const fits = !product.attributes.transposeA && product.attributes.transposeB === transposeB;
    return fits ? product : undefined;
  };

  /** Whether a tensor is a matrix that stays as it is while the nodes run. */
  const isFixed = (t: Tensor) => t.variable !== undefined && t.shape.length === 2 && !updated.has(ownerOf(t));

  /** The value that a tensor is a copy of. */
  const original = (t: Tensor): Tensor => {
    const node = producers.get(t);
    if (node?.op !== mapOp) return t;
    const { form } = (node.attributes as MapAttributes).results[node.outputs.indexOf(t)]!;
    const from = form.kind === "input" ? node.inputs[form.index]! : t;
    return from !== t && !from.variable && from.shape.join() === t.shape.join() ? original(from) : t;
  };

  /** x, W and D where two terms are x·Wᵀ and fold(x)·D, or dY·W and tile(dY·Dᵀ). */
  const match = (one: Tensor, other: Tensor) => {
    const forward = productOf(one, true), folded = productOf(other, false);
    if (forward && folded) {
      const [x, w] = forward.inputs as [Tensor, Tensor], [f, d] = folded.inputs as [Tensor, Tensor];
      const source = producers.get(f);
      if (source?.op !== foldOp || original(source.inputs[0]!) !== original(x)) return undefined;
      return { product: forward, x, w, d };
    }
    const gradient = productOf(one, false),
      tile = readers.get(other) === 1 ? producers.get(other) : undefined;
    const inner = tile?.op === tileOp ? productOf(tile.inputs[0]!, true) : undefined;
    if (!gradient || !inner) return undefined;
    const [dy, w] = gradient.inputs as [Tensor, Tensor], [same, d] = inner.inputs as [Tensor, Tensor];
    return original(dy) === original(same) ? { product: gradient, x: original(dy), w, d } : undefined;
  };

  const gone = new Set<Tensor>();
  const joined = nodes.flatMap((node) => {
    let terms = termsOf(node);
    const made: Node[] = [];
    for (const one of terms ?? []) {
      for (const other of terms ?? []) {
        const found = one === other ? undefined : match(one, other);
        if (!found || !terms!.includes(one)) continue;
        const { product, x, w, d } = found;
        const isAlike = isFixed(w) && isFixed(d) && d.dtype === "f32" && d.width === w.rows;
        if (!isAlike || !IS_WORTH[dtype](x.rows, w.width, d.rows)) continue;
        const weight = new Tensor(w.shape, dtype);
        const rest = terms!.filter((t) => t !== one && t !== other);
        const out = rest.length ? new Tensor(one.shape, "f32") : node.outputs[0]!;
        made.push({
          op: addTileOp,
          attributes: { dtype },
          inputs: [w, d],
          outputs: [weight],
          block: node.block,
        });
        made.push({ ...product, inputs: [x, weight], outputs: [out, ...product.outputs.slice(1)] } as Node);
        [one, other].forEach((t) => gone.add(t));
        terms = [out, ...rest];
      }
    }
    if (!made.length) return [node];
    return terms!.length > 1 ? [...made, sumOf(terms!, node.outputs[0]!, node.block)] : made;
  });
  return joined.filter(({ outputs }) => !outputs.some((t) => gone.has(t)));
}
