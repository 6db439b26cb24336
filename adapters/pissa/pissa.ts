/**
 * PiSSA (Meng et al., arXiv 2404.02948): LoRA that starts from the principal part of the weight, while the rest stays frozen.
 *
 *     y = (W − B₀A₀) x + B A x;   merged: W' = W − B₀A₀ + B A
 *
 * With the R largest singular values, A₀ = √S Vᵀ and B₀ = U √S; A and B start as copies, so training starts from the base model
 * exactly. There is no scale and no dropout, as in RWKV-PEFT. The residual W − B₀A₀ is never stored, so nothing is lost to rounding
 * it: A₀ and B₀ are kept in the adapter instead, by the names of RWKV-PEFT's `init_pissa.pth`.
 *
 * @module
 */
import { map } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import { plusProduct } from "../lora/product.ts";
import type { AdapterMerge, AdapterMethod, Noise, Settings, Site } from "../method.ts";
import { requireCount, requireKnown, requireNumber } from "../settings.ts";
import { EngineProducts } from "./products.ts";
import { type Decomposition, leadingSingularValues } from "./svd.ts";

/** PiSSA's settings. */
export interface PissaSettings extends Settings {
  /** Rank R. */
  readonly r: number;
  /** Power iterations of the randomised decomposition. */
  readonly niter: number;
}

/** √S Vᵀ [R, in] and U √S [out, R]. */
function factors(site: Site, { left, S, right }: Decomposition): { A: Float32Array; B: Float32Array } {
  const A = right.slice(), B = new Float32Array(left.length), r = S.length;
  for (let k = 0; k < r; k++) {
    const root = Math.sqrt(S[k]!);
    for (let i = 0; i < site.in; i++) A[k * site.in + i]! *= root;
    for (let o = 0; o < site.out; o++) B[o * r + k] = root * left[k * site.out + o]!;
  }
  return { A, B };
}

/** The same of a weight, without an engine. */
function principalPart(weight: Float32Array, site: Site, { r, niter }: PissaSettings, noise: Noise) {
  const sizes = { rows: site.out, columns: site.in, r, iterations: niter };
  return factors(site, leadingSingularValues(weight, sizes, noise));
}

function changed({ site, settings: { r }, weight, parameters }: AdapterMerge<PissaSettings>, sign: number) {
  const { lora_A, lora_B, init_lora_A, init_lora_B } = parameters;
  return plusProduct(weight, site, [
    { A: lora_A!, B: lora_B!, r, scale: sign },
    { A: init_lora_A!, B: init_lora_B!, r, scale: -sign },
  ]);
}

/** The method; registered as "pissa". */
export const pissa: AdapterMethod<PissaSettings> = {
  name: "pissa",
  configure(given) {
    requireKnown("pissa", given, ["r", "niter"]);
    const { r = 8, niter = 4 } = given;
    return {
      r: requireCount("pissa", "rank r", r),
      niter: requireNumber(
        "pissa",
        "niter",
        niter,
        (x) => Number.isInteger(x) && x >= 0,
        "a whole number of at least 0",
      ),
    };
  },
  parameters(site, settings) {
    const { r } = settings;
    if (r > Math.min(site.in, site.out)) {
      throw new RangeError(
        `The rank r of pissa is ${r}, over the width ${Math.min(site.in, site.out)} of ${site.name}: lower r`,
      );
    }
    let part: ReturnType<typeof principalPart> | undefined;
    const first = (noise: Noise, weight: () => Float32Array) =>
      part ??= principalPart(weight(), site, settings, noise);
    const A = { shape: [r, site.in], initial: (n: Noise, w: () => Float32Array) => first(n, w).A.slice() };
    const B = { shape: [site.out, r], initial: (n: Noise, w: () => Float32Array) => first(n, w).B.slice() };
    return { lora_A: A, lora_B: B, init_lora_A: { ...A, frozen: true }, init_lora_B: { ...B, frozen: true } };
  },
  initialiser(engine) {
    const products = new EngineProducts(engine);
    return {
      async tensors({ site, settings: { r, niter }, noise, weight }) {
        const sizes = { rows: site.out, columns: site.in, r, iterations: niter };
        const { A, B } = factors(site, await products.decompose(weight, sizes, noise));
        return { lora_A: A, lora_B: B, init_lora_A: A.slice(), init_lora_B: B.slice() };
      },
      [Symbol.dispose]: () => products[Symbol.dispose](),
    };
  },
  forward({ graph, x, base, parameters }) {
    const through = (A: string, B: string) =>
      matmul(graph, matmul(graph, x, parameters[A]!, { transposeB: true }), parameters[B]!, {
        transposeB: true,
      });
    const now = through("lora_A", "lora_B"), before = through("init_lora_A", "init_lora_B");
    return map(graph, [base(x), now, before], (y, now, before) => y.add(now.sub(before)));
  },
  merge: (call) => changed(call, 1),
  unmerge: (call) => changed(call, -1),
  lowRank({ site, settings: { r }, parameters }) {
    const { lora_A, lora_B, init_lora_A, init_lora_B } = parameters;
    const A = new Float32Array(2 * r * site.in), B = new Float32Array(site.out * 2 * r);
    A.set(lora_A!);
    A.set(init_lora_A!, r * site.in);
    for (let o = 0; o < site.out; o++) {
      for (let k = 0; k < r; k++) {
        B[o * 2 * r + k] = lora_B![o * r + k]!;
        B[o * 2 * r + r + k] = -init_lora_B![o * r + k]!;
      }
    }
    return { A, B, r: 2 * r };
  },
  recognise(shapes) {
    const names = Object.keys(shapes).sort().join();
    if (names === "init_lora_A,init_lora_B") {
      throw new RangeError(
        "it holds what a PiSSA began with and no adapter: name it beside the adapter, with --lora_init",
      );
    }
    if (names !== "init_lora_A,init_lora_B,lora_A,lora_B") return undefined;
    return { r: shapes.lora_A![0]!, niter: 4 };
  },
};
