/**
 * BAT (arXiv 2409.15371, versions 1 to 11): the weight is cut into tiles of R × R, and W_ab becomes (W_ab + I) B + W_ab, where the
 * block B [R, R] is chosen by the tile's row or by its column. The two are different functions whose files look alike.
 *
 * By input block (axis "in", RWKV-PEFT's `bat`), the tensor is [in/R, R, R]. Neither the adapted weight nor a weight's gradient is ever
 * formed: with z_b = B_b x_b for each block of the input,
 *
 *     y = W (x + z) + tile(Σ_b z_b)
 *
 * By output block (axis "out", Hugging Face PEFT's "bat"), it is [out/R, R, R], and no such form exists: W + W·B is formed for each
 * layer when it is needed, forward and again backward, and never kept; the rest is Bone's fold of the input.
 *
 * B starts at zero, so training starts from the base model exactly.
 *
 * @module
 */
import type { Graph, Tensor } from "../../kernels/graph.ts";
import { blockMatmul } from "../../kernels/ops/block_matmul/op.ts";
import { fold, tile } from "../../kernels/ops/fold/op.ts";
import { map, repeat } from "../../kernels/ops/map/op.ts";
import { matmul } from "../../kernels/ops/matmul/op.ts";
import type { AdapterForward, AdapterMethod, Settings, Site } from "../method.ts";
import { DEFAULT_RANK, requireCount, requireKnown } from "../settings.ts";
import { axisOf } from "./recognise.ts";
import { mergeTiles, unmergeTiles } from "./tiles.ts";

/** BAT's settings. */
export interface BatSettings extends Settings {
  /** Extent R of a tile. */
  readonly r: number;
  /** What chooses the block of a tile. */
  readonly axis: "in" | "out";
}

function blocks(site: Site, { r, axis }: BatSettings): number {
  return site[axis] / r;
}

function forwardByInput({ graph, site, settings, x, base, parameters }: AdapterForward<BatSettings>): Tensor {
  const { r } = settings;
  const z = blockMatmul(graph, x, parameters.bone!, {
    ...{ G: blocks(site, settings), M: x.rows, N: r, K: r, transposeB: true },
    stacking: ["beside", "below", "beside"],
  });
  const y = base(map(graph, [x, z], (x, z) => x.add(z)));
  return map(graph, [y, tile(graph, fold(graph, z, r), site.out)], (y, added) => y.add(added));
}

/** W + W·B, all but the B that is added to every tile: f32 [out, in]. */
function weightTimesBlocks(
  graph: Graph,
  weight: Tensor,
  B: Tensor,
  site: Site,
  settings: BatSettings,
): Tensor {
  const { r } = settings;
  const wide = weight.dtype === "f32" ? weight : repeat(graph, weight, weight.shape);
  const product = blockMatmul(graph, wide, B, {
    ...{ G: blocks(site, settings), M: site.in, N: r, K: r },
    stacking: ["below", "below", "below"],
  });
  return map(graph, [weight, product], (w, added) => w.add(added));
}

function forwardByOutput(call: AdapterForward<BatSettings>): Tensor {
  const { graph, site, settings, x, weight, parameters } = call, { r } = settings, B = parameters.bone!;
  const build = () => {
    const y = matmul(graph, x, weightTimesBlocks(graph, weight, B, site, settings), { transposeB: true });
    const rows = repeat(graph, B, [site.out, r]);
    return matmul(graph, fold(graph, x, r), rows, { transposeB: true, addend: y });
  };
  // Inside a block that is computed again as a whole, this is too.
  return graph.isRecomputing ? build() : graph.recomputed(build);
}

/** The method; registered as "bat". */
export const bat: AdapterMethod<BatSettings> = {
  name: "bat",
  configure(given) {
    requireKnown("bat", given, ["r", "axis"]);
    const { r = DEFAULT_RANK, axis = "in" } = given;
    if (axis !== "in" && axis !== "out") {
      throw new RangeError(`The axis of bat must be in or out: it is ${JSON.stringify(axis)}`);
    }
    return { r: requireCount("bat", "rank r", r), axis };
  },
  parameters(site, settings) {
    const { r } = settings;
    if (site.in % r || site.out % r) {
      throw new RangeError(
        `The rank r of bat is ${r}, which does not divide both widths of ${site.name}, ${site.in} and ${site.out}: choose one that does`,
      );
    }
    return { bone: { shape: [blocks(site, settings), r, r] } };
  },
  forward: (call) => call.settings.axis === "in" ? forwardByInput(call) : forwardByOutput(call),
  readsWeight: ({ axis }) => axis === "out",
  weight({ graph, site, settings, weight, parameters }) {
    const B = parameters.bone!;
    const times = weightTimesBlocks(graph, weight, B, site, settings);
    const everywhere = tile(graph, repeat(graph, B, [site.out, settings.r]), site.in);
    return map(graph, [times, everywhere], (w, b) => w.add(b));
  },
  merge: (call) => mergeTiles(call),
  unmerge: (call) => unmergeTiles(call),
  recognise: axisOf,
};
