/**
 * LoRA (Hu et al., arXiv 2106.09685): two thin matrices at each linear layer, A [R, in] and B [out, R].
 *
 *     y = W x + s · B A x,   s = alpha / R, or alpha / sqrt(R) with rslora;   merged: W' = W + s · B A
 *
 * A starts from Kaiming-uniform noise and B from zero, so training starts from the base model exactly.
 *
 * @module
 */
import { map } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import type { AdapterMethod, Noise, Settings } from "../method.ts";

/** LoRA's settings. */
export interface LoraSettings extends Settings {
  /** Rank R. */
  readonly r: number;
  /** Numerator of the scale. */
  readonly alpha: number;
  /** Scale by alpha / sqrt(R) (rank-stabilised LoRA, arXiv 2312.03732). */
  readonly rslora: boolean;
}

/** RWKV-PEFT's defaults. */
const DEFAULTS: LoraSettings = { r: 8, alpha: 32, rslora: false };

function scale({ r, alpha, rslora }: LoraSettings): number {
  return alpha / (rslora ? Math.sqrt(r) : r);
}

/** The method; registered as "lora". */
export const lora: AdapterMethod<LoraSettings> = {
  name: "lora",
  configure(given) {
    const unknown = Object.keys(given).find((name) => !(name in DEFAULTS));
    if (unknown !== undefined) {
      throw new RangeError(`Unknown setting "${unknown}" for lora: there are r, alpha and rslora`);
    }
    const settings = { ...DEFAULTS, ...given };
    const { r, alpha, rslora } = settings;
    if (!Number.isInteger(r) || r < 1) {
      throw new RangeError(`The rank r of lora must be a whole number of at least 1: it is ${r}`);
    }
    if (!Number.isFinite(alpha)) throw new RangeError(`The alpha of lora must be a number: it is ${alpha}`);
    if (typeof rslora !== "boolean") {
      throw new RangeError(`The rslora of lora must be true or false: it is ${rslora}`);
    }
    return settings;
  },
  parameters(site, { r }) {
    if (r > Math.min(site.in, site.out)) {
      throw new RangeError(
        `The rank r of lora is ${r}, over the width ${Math.min(site.in, site.out)} of ${site.name}: lower r`,
      );
    }
    // Kaiming-uniform with a = √5, as PEFT has it: within ±1/√in.
    const initial = (noise: Noise) =>
      Float32Array.from({ length: r * site.in }, () => (2 * noise.uniform() - 1) / Math.sqrt(site.in));
    return { lora_A: { shape: [r, site.in], initial }, lora_B: { shape: [site.out, r] } };
  },
  forward({ graph, x, base, parameters, settings }) {
    const inner = matmul(graph, x, parameters.lora_A!, { transposeB: true });
    const added = matmul(graph, inner, parameters.lora_B!, { transposeB: true });
    return map(graph, [base(x), added], (y, added) => y.add(added.mul(scale(settings))));
  },
  merge({ weight, parameters, site, settings }) {
    const A = parameters.lora_A!, B = parameters.lora_B!, { r } = settings, s = scale(settings);
    const merged = new Float32Array(weight.length);
    const row = new Float64Array(site.in);
    for (let o = 0; o < site.out; o++) {
      row.fill(0);
      for (let k = 0; k < r; k++) {
        const b = s * B[o * r + k]!;
        for (let i = 0; i < site.in; i++) row[i]! += b * A[k * site.in + i]!;
      }
      for (let i = 0; i < site.in; i++) merged[o * site.in + i] = weight[o * site.in + i]! + row[i]!;
    }
    return merged;
  },
  recognise(shapes, { loraAlpha }) {
    if (Object.keys(shapes).sort().join() !== "lora_A,lora_B") return undefined;
    if (loraAlpha === undefined) {
      throw new RangeError("The file is a LoRA and does not say its alpha: give it with --lora_alpha");
    }
    return { r: shapes.lora_A![0]!, alpha: loraAlpha, rslora: false };
  },
};
