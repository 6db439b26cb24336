/**
 * DoRA (Liu et al., arXiv 2402.09353): LoRA on the direction of each row of the weight, and a magnitude m [out] for its length.
 *
 *     V = W + s · B A;   W' = m ⊙ V / ‖V‖, row by row;   y = W' x
 *
 * V is never formed: with w the lengths of W's rows, ‖V‖² = w² + 2 s Σ_k B ∘ (W Aᵀ) + s² Σ_k B ∘ (B A Aᵀ), all thin products.
 * Gradients take ‖V‖ for a constant, as in the paper (4.3) and in PEFT. The lengths w are kept in the adapter (`weight_norm`), from which m starts: training starts from the base model exactly. Files of PEFT
 * lack them, and they are worked out from the base weight.
 *
 * @module
 */
import type { Graph, Tensor } from "../../kernels/graph.ts";
import { map, repeat } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import { reduceGroups } from "../../kernels/ops/reduce/op.ts";
import { checkLoraRank, configureLora, loraParameters, loraScale, type LoraSettings } from "../lora/lora.ts";
import { plusProduct } from "../lora/product.ts";
import type { AdapterMethod, AdapterWeight, Noise, Site } from "../method.ts";
import { unmergeRows } from "./unmerge.ts";

/** A row shorter than this is taken to be this long, so that rows of zeros do not divide by zero. */
export const LEAST_LENGTH = 1e-6;

function rowLengths(weight: Float32Array, site: Site): Float32Array {
  return Float32Array.from({ length: site.out }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < site.in; i++) sum += weight[o * site.in + i]! ** 2;
    return Math.sqrt(sum);
  });
}

/** m / ‖V‖, [out]. */
function rowFactors({ graph, settings, weight, parameters, site }: AdapterWeight<LoraSettings>): Tensor {
  const { lora_A: A, lora_B: B, lora_magnitude_vector: m, weight_norm: w } = parameters;
  const s = loraScale(settings);
  const wide = weight.dtype === "f32" ? weight : repeat(graph, weight, weight.shape);
  const WA = matmul(graph, wide, A!, { transposeB: true });
  const BAA = matmul(graph, B!, matmul(graph, A!, A!, { transposeB: true }));
  const terms = map(graph, [B!, WA, BAA], (b, wa, baa) => b.mul(wa.mul(2 * s).add(baa.mul(s * s))));
  const added = graph.detach(reduceGroups(graph, terms, [site.out, 1]));
  return map(graph, [m!, w!, added], (m, w, added) => {
    const length = w.max(LEAST_LENGTH);
    return m.div(length).div(added.div(length.square()).add(1).sqrt());
  });
}

/** W + s · B A as a tensor. */
function direction(graph: Graph, { weight, parameters, settings }: AdapterWeight<LoraSettings>): Tensor {
  const product = matmul(graph, parameters.lora_B!, parameters.lora_A!);
  return map(graph, [weight, product], (w, added) => w.add(added.mul(loraScale(settings))));
}

/** The method; registered as "dora". */
export const dora: AdapterMethod<LoraSettings> = {
  name: "dora",
  configure: (given) => configureLora("dora", given),
  checkFresh: (site, settings) => checkLoraRank("dora", site, settings),
  parameters(site, settings) {
    const initial = (_: Noise, weight: () => Float32Array) => rowLengths(weight(), site);
    return {
      ...loraParameters(site, settings),
      lora_magnitude_vector: { shape: [site.out], initial },
      weight_norm: { shape: [site.out], initial, frozen: true, derived: true },
    };
  },
  forward(call) {
    const { graph, x, base, parameters, settings, dropout } = call;
    const inner = matmul(graph, dropout(x, settings.dropout ?? 0), parameters.lora_A!, { transposeB: true });
    const added = matmul(graph, inner, parameters.lora_B!, { transposeB: true });
    // Apart, so that their sum alone is kept for the gradient of the lengths.
    const whole = map(graph, [base(x), added], (y, added) => y.add(added.mul(loraScale(settings))));
    return map(graph, [whole, rowFactors(call)], (y, factor) => y.mul(factor));
  },
  readsWeight: () => true,
  weight(call) {
    const { graph, site } = call;
    const factors = repeat(graph, rowFactors(call), [site.out, 1]);
    return map(graph, [direction(graph, call), factors], (v, factor) => v.mul(factor));
  },
  merge({ site, settings, weight, parameters }) {
    const { lora_A: A, lora_B: B, lora_magnitude_vector: m, weight_norm: w } = parameters;
    const zero = new Float32Array(weight.length);
    const added = plusProduct(zero, site, [{ A: A!, B: B!, r: settings.r, scale: loraScale(settings) }]);
    const result = new Float32Array(weight.length);
    for (let o = 0; o < site.out; o++) {
      let more = 0;
      for (let i = o * site.in; i < (o + 1) * site.in; i++) more += added[i]! * (2 * weight[i]! + added[i]!);
      const length = Math.max(w![o]!, LEAST_LENGTH);
      const factor = m![o]! / length / Math.sqrt(1 + more / length ** 2);
      for (let i = o * site.in; i < (o + 1) * site.in; i++) result[i] = (weight[i]! + added[i]!) * factor;
    }
    return result;
  },
  unmerge: (call) => unmergeRows(call),
  recognise(shapes, { loraAlpha }) {
    const names = Object.keys(shapes).sort().join();
    if (!/^lora_A,lora_B,lora_magnitude_vector(,weight_norm)?$/.test(names)) return undefined;
    if (loraAlpha === undefined) {
      throw new RangeError("it is a DoRA and does not say its alpha: give it with --lora_alpha");
    }
    return { r: shapes.lora_A![0]!, alpha: loraAlpha, rslora: false };
  },
};
