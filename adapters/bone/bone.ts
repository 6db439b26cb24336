/**
 * Bone (DiSHA, arXiv 2409.15371; later named MiSS): one matrix D [R, out] at each linear layer, shared by all of the input's
 * shards of R channels.
 *
 *     y = W x + Dᵀ s,   s[j] = Σ_b x[b·R + j];   merged: W'[o, i] = W[o, i] + D[i mod R, o]
 *
 * D starts at zero, so training starts from the base model exactly. The last shard may be ragged.
 *
 * @module
 */
import { fold } from "../../kernels/ops/fold/op.ts";
import { map } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import type { AdapterMethod, Settings } from "../method.ts";

/** Bone's settings. */
export interface BoneSettings extends Settings {
  /** Rank R: rows of D. */
  readonly r: number;
}

/** RWKV-PEFT's default rank. */
export const DEFAULT_RANK = 64;

/** The method; registered as "bone". */
export const bone: AdapterMethod<BoneSettings> = {
  name: "bone",
  configure({ r = DEFAULT_RANK, ...others }) {
    const unknown = Object.keys(others);
    if (unknown.length) throw new RangeError(`Unknown setting "${unknown[0]}" for bone: there is r`);
    if (!Number.isInteger(r) || (r as number) < 1) {
      throw new RangeError(`The rank r of bone must be a whole number of at least 1: it is ${r}`);
    }
    return { r: r as number };
  },
  parameters(site, { r }) {
    if (r > site.in) {
      throw new RangeError(
        `The rank r of bone is ${r}, over the ${site.in} input channels of ${site.name}: lower r`,
      );
    }
    return { bone: { shape: [r, site.out] } };
  },
  forward({ graph, x, base, parameters, settings }) {
    const added = matmul(graph, fold(graph, x, settings.r), parameters.bone!);
    return map(graph, [base(x), added], (y, added) => y.add(added));
  },
  merge({ weight, parameters, site, settings: { r } }) {
    const D = parameters.bone!, merged = new Float32Array(weight.length);
    for (let o = 0; o < site.out; o++) {
      for (let i = 0; i < site.in; i++) {
        merged[o * site.in + i] = weight[o * site.in + i]! + D[(i % r) * site.out + o]!;
      }
    }
    return merged;
  },
  recognise(shapes) {
    const [name, ...others] = Object.keys(shapes);
    if (others.length || (name !== "bone" && name !== "disha")) return undefined;
    const shape = shapes[name]!;
    return shape.length === 2 ? { r: shape[0]! } : undefined;
  },
};
