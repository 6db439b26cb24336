/**
 * LoRA (Hu et al., arXiv 2106.09685): two thin matrices at each linear layer, A [R, in] and B [out, R].
 *
 *     y = W x + s · B A x,   s = alpha / R, or alpha / sqrt(R) with rslora;   merged: W' = W + s · B A
 *
 * A starts from Kaiming-uniform noise and B from zero, so training starts from the base model exactly. Dropout is on x, before A.
 *
 * @module
 */
import { map } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import type { AdapterMerge, AdapterMethod, AdapterParameter, Noise, Settings, Site } from "../method.ts";
import { requireBoolean, requireCount, requireDropout, requireKnown, requireNumber } from "../settings.ts";
import { plusProduct } from "./product.ts";

/** LoRA's settings. */
export interface LoraSettings extends Settings {
  /** Rank R. */
  readonly r: number;
  /** Numerator of the scale. */
  readonly alpha: number;
  /** Scale by alpha / sqrt(R) (rank-stabilised LoRA, arXiv 2312.03732). */
  readonly rslora: boolean;
  /** Share of the inputs that are zero for A while it trains; 0 where it is not given. */
  readonly dropout?: number;
  /** B learns at this multiple of the learning rate (LoRA+, arXiv 2402.12354); 1 where it is not given. */
  readonly lr_ratio?: number;
}

/** RWKV-PEFT's defaults. */
const DEFAULTS = { r: 8, alpha: 32, rslora: false, dropout: 0, lr_ratio: 1 };

/** What B·A is multiplied by. */
export function loraScale({ r, alpha, rslora }: Pick<LoraSettings, "r" | "alpha" | "rslora">): number {
  return alpha / (rslora ? Math.sqrt(r) : r);
}

/** Checks LoRA's settings for the method `name`. @throws RangeError in one sentence */
export function configureLora(name: string, given: Settings): LoraSettings {
  requireKnown(name, given, Object.keys(DEFAULTS));
  const { r, alpha, rslora, dropout, lr_ratio } = { ...DEFAULTS, ...given };
  return {
    r: requireCount(name, "rank r", r),
    alpha: requireNumber(name, "alpha", alpha),
    rslora: requireBoolean(name, "rslora", rslora),
    ...(requireDropout(name, dropout) ? { dropout } : {}),
    ...(requireNumber(name, "lr_ratio", lr_ratio, (x) => x > 0, "above 0") === 1 ? {} : { lr_ratio }),
  };
}

/** @throws RangeError if the rank is over the width of the site, where it can do no more than that width */
export function checkLoraRank(name: string, site: Site, { r }: LoraSettings): void {
  const width = Math.min(site.in, site.out);
  if (r > width) {
    throw new RangeError(`The rank r of ${name} is ${r}, over the width ${width} of ${site.name}: lower r`);
  }
}

/** A and B. */
export function loraParameters(
  site: Site,
  { r, lr_ratio }: LoraSettings,
): { lora_A: AdapterParameter; lora_B: AdapterParameter } {
  // Kaiming-uniform with a = √5, as PEFT has it: within ±1/√in.
  const initial = (noise: Noise) =>
    Float32Array.from({ length: r * site.in }, () => (2 * noise.uniform() - 1) / Math.sqrt(site.in));
  return {
    lora_A: { shape: [r, site.in], initial },
    lora_B: { shape: [site.out, r], ...(lr_ratio === undefined ? {} : { rate: lr_ratio }) },
  };
}

function changed(
  { site, settings, weight, parameters }: AdapterMerge<LoraSettings>,
  sign: number,
): Float32Array {
  const { lora_A: A, lora_B: B } = parameters;
  return plusProduct(weight, site, [{ A: A!, B: B!, r: settings.r, scale: sign * loraScale(settings) }]);
}

/** The method; registered as "lora". */
export const lora: AdapterMethod<LoraSettings> = {
  name: "lora",
  configure: (given) => configureLora("lora", given),
  checkFresh: (site, settings) => checkLoraRank("lora", site, settings),
  parameters: (site, settings) => loraParameters(site, settings),
  forward({ graph, x, base, parameters, settings, dropout }) {
    const kept = dropout(x, settings.dropout ?? 0);
    const inner = matmul(graph, kept, parameters.lora_A!, { transposeB: true });
    const added = matmul(graph, inner, parameters.lora_B!, { transposeB: true });
    return map(graph, [base(x), added], (y, added) => y.add(added.mul(loraScale(settings))));
  },
  merge: (call) => changed(call, 1),
  unmerge: (call) => changed(call, -1),
  lowRank: ({ settings, parameters: { lora_A: A, lora_B: B } }) => ({
    A: A!,
    B: B!.map((b) => b * loraScale(settings)),
    r: settings.r,
  }),
  recognise(shapes, { loraAlpha }) {
    if (Object.keys(shapes).sort().join() !== "lora_A,lora_B") return undefined;
    if (loraAlpha === undefined) {
      throw new RangeError("it is a LoRA and does not say its alpha: give it with --lora_alpha");
    }
    return { r: shapes.lora_A![0]!, alpha: loraAlpha, rslora: false };
  },
};
