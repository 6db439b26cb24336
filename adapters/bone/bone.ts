/**
 * Bone (DiSHA, arXiv 2409.15371; later named MiSS) and its design space: one matrix that all shards of a weight share.
 *
 * The weight is cut into shards, and every shard gets the same D added. With shards of R columns, D is [out, R], stored transposed:
 *
 *     y = W x + Dᵀ s,   s[j] = Σ_b x[b·R + j];   merged: W'[o, i] = W[o, i] + D[i mod R, o]
 *
 * With shards of R rows, W'[o, i] = W[o, i] + D[o mod R, i]. With `mini_r`, the shards are small in the other direction too: D
 * [R, mini_r] is repeated along both. D starts at zero, so training starts from the base model exactly. Shards of columns may end
 * in a ragged one; so may shards of rows. In files R may even be more than there is to cut, where what is over has no effect.
 *
 * @module
 */
import { fold, tile } from "../../kernels/ops/fold/op.ts";
import { map } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import { sliceRows } from "../../kernels/ops/rows/op.ts";
import type { AdapterMerge, AdapterMethod, LowRank, Settings, Site } from "../method.ts";
import { DEFAULT_RANK, requireCount, requireDropout, requireKnown } from "../settings.ts";

/** Bone's settings. */
export interface BoneSettings extends Settings {
  /** Rank R: columns, or rows, of a shard. */
  readonly r: number;
  /** Extent of a shard in the other direction; the whole weight's where it is not given. */
  readonly mini_r?: number;
  /** Which way the weight is cut into shards of R; columns where it is not given. */
  readonly shards?: "rows";
  /** Share of the inputs that are zero for the adapter while it trains; 0 where it is not given. */
  readonly dropout?: number;
}

/** Periods of what is added, along the outputs and along the inputs: ΔW[o, i] = D(o mod `out`, i mod `in`). */
function periods(site: Site, { r, mini_r, shards }: BoneSettings): { out: number; in: number } {
  return shards === "rows" ? { out: r, in: mini_r ?? site.in } : { out: mini_r ?? site.out, in: r };
}

/** ΔW[o, i]. Columns are stored [in, out] by period, rows [out, in]. */
function added(
  { site, settings, parameters }: Pick<AdapterMerge<BoneSettings>, "site" | "settings" | "parameters">,
) {
  const period = periods(site, settings);
  const { bone, bone_rows } = parameters;
  return bone
    ? (o: number, i: number) => bone[(i % period.in) * period.out + o % period.out]!
    : (o: number, i: number) => bone_rows![(o % period.out) * period.in + i % period.in]!;
}

function changed(call: AdapterMerge<BoneSettings>, sign: number): Float32Array {
  const { site, weight } = call, delta = added(call), result = new Float32Array(weight.length);
  for (let o = 0; o < site.out; o++) {
    for (let i = 0; i < site.in; i++) {
      result[o * site.in + i] = weight[o * site.in + i]! + sign * delta(o, i);
    }
  }
  return result;
}

/** What R runs along, and what the other extent does. */
function directions(shards: BoneSettings["shards"]): readonly ["in" | "out", "in" | "out"] {
  return shards === "rows" ? ["out", "in"] : ["in", "out"];
}

const CHANNELS = { in: "input", out: "output" };

/** The method; registered as "bone". */
export const bone: AdapterMethod<BoneSettings> = {
  name: "bone",
  configure(given) {
    requireKnown("bone", given, ["r", "mini_r", "shards", "dropout"]);
    const { r = DEFAULT_RANK, mini_r, shards = "columns", dropout = 0 } = given;
    if (shards !== "columns" && shards !== "rows") {
      throw new RangeError(`The shards of bone must be columns or rows: they are ${JSON.stringify(shards)}`);
    }
    return {
      r: requireCount("bone", "rank r", r),
      ...(mini_r === undefined ? {} : { mini_r: requireCount("bone", "mini_r", mini_r) }),
      ...(shards === "rows" ? { shards } : {}),
      ...(requireDropout("bone", dropout) ? { dropout: dropout as number } : {}),
    };
  },
  checkFresh(site, { r, shards }) {
    const [along] = directions(shards);
    if (r <= site[along]) return;
    throw new RangeError(
      `The rank r of bone is ${r}, over the ${site[along]} ${
        CHANNELS[along]
      } channels of ${site.name}: lower r`,
    );
  },
  parameters(site, settings) {
    const { r, mini_r, shards } = settings, [, across] = directions(shards);
    if (mini_r !== undefined && site[across] % mini_r) {
      throw new RangeError(
        `The mini_r of bone is ${mini_r}, which does not divide the ${site[across]} ${
          CHANNELS[across]
        } channels of ${site.name}: choose one that does`,
      );
    }
    return { [shards === "rows" ? "bone_rows" : "bone"]: { shape: [r, mini_r ?? site[across]] } };
  },
  forward({ graph, site, x, base, parameters, settings, dropout }) {
    const period = periods(site, settings), [along] = directions(settings.shards);
    // Of a D that is larger than the weight, the rest meets nothing.
    const D = (parameters.bone ?? parameters.bone_rows)!;
    const held = D.rows > site[along] ? sliceRows(graph, D, 0, site[along]) : D;
    const kept = dropout(x, settings.dropout ?? 0);
    const folded = period.in < site.in ? fold(graph, kept, period.in) : kept;
    const small = matmul(graph, folded, held, { transposeB: settings.shards === "rows" });
    const whole = period.out < site.out ? tile(graph, small, site.out) : small;
    return map(graph, [base(x), whole], (y, added) => y.add(added));
  },
  isLinear: true,
  merge: (call) => changed(call, 1),
  unmerge: (call) => changed(call, -1),
  lowRank(call): LowRank {
    const { site, settings } = call, delta = added(call);
    // One of the periods is a rank: A says which input, or B which output, belongs to which row of D.
    const r = settings.shards === "rows" ? periods(site, settings).out : periods(site, settings).in;
    const A = new Float32Array(r * site.in), B = new Float32Array(site.out * r);
    if (settings.shards === "rows") {
      for (let o = 0; o < site.out; o++) B[o * r + o % r] = 1;
      for (let k = 0; k < r; k++) for (let i = 0; i < site.in; i++) A[k * site.in + i] = delta(k, i);
    } else {
      for (let i = 0; i < site.in; i++) A[(i % r) * site.in + i] = 1;
      for (let o = 0; o < site.out; o++) for (let k = 0; k < r; k++) B[o * r + k] = delta(o, k);
    }
    return { A, B, r };
  },
  recognise(shapes) {
    const [name, ...others] = Object.keys(shapes);
    const shape = shapes[name ?? ""];
    if (others.length || shape?.length !== 2) return undefined;
    if (name === "bone" || name === "disha") return { r: shape[0]! };
    return name === "bone_rows" ? { r: shape[0]!, shards: "rows" } : undefined;
  },
};
