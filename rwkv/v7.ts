/**
 * RWKV-7 "Goose" (x070; Peng et al., arXiv 2503.14456) as a graph: embedding to the normalised rows before the head.
 *
 * Names and formulas are those of the official weights. Two things are easy to get wrong: the removal key is normalised from k
 * before the in-context rate changes k, and v_first is layer 0's v, which every later layer mixes in.
 *
 * @module
 */
import type { Graph, Tensor } from "../kernels/graph.ts";
import { embedding } from "../kernels/ops/embedding/op.ts";
import { map, mapAll, repeat } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { norm } from "../kernels/ops/norm/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { concatRows, sliceRows } from "../kernels/ops/rows/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { wkv7 } from "../kernels/ops/wkv7/op.ts";
import type { ModelConfig } from "./config.ts";

/** LayerNorm's eps. */
const LAYER_NORM_EPS = 1e-5;
/** GroupNorm's eps: 1e-5 times the square of RWKV's head size divisor, 8, whatever the head size is. */
const GROUP_NORM_EPS = 64e-5;
/** The decay is exp(−e^(−1/2) · sigmoid(·)), so it never falls below 0.545. */
const DECAY_SCALE = Math.exp(-0.5);

/** What one layer carries from one stretch of text to the next. */
export interface LayerState {
  /** [B, C], the last normalised row that the time mix saw. */
  readonly attShift: Tensor;
  /** [B, H·N·N] */
  readonly wkv: Tensor;
  /** [B, C], the last normalised row that the channel mix saw. */
  readonly ffnShift: Tensor;
}

/** How the model's graph reaches what it does not own. */
export interface Wiring {
  /** The graph to build on. */
  readonly graph: Graph;
  /** The model's sizes. */
  readonly config: ModelConfig;
  /** A weight by its name in the file. */
  weight(name: string): Tensor;
  /** The linear layer at a site, adapters included: [M, in] → [M, out]. */
  linear(site: string, x: Tensor): Tensor;
  /** The WKV state that a layer begins a text with, [H·N·N]; undefined for zeros. */
  initialState(layer: number): Tensor | undefined;
}

/**
 * The model up to its last normalisation.
 * @param tokens i32 [B·T, 1]
 * @param options.T steps of each of the B sequences
 * @param options.state what each layer carries in; the model's initial state where it is not given, else zeros
 * @param options.keep [B·T, 1], 0 at the first token of each document where several share a row, else 1: nothing is carried
 * over a 0, forward or backward, so that documents in one row are what they would be in rows of their own
 * @param options.recompute whether blocks are computed again in the backward pass instead of being kept
 * @returns hidden [B·T, C] and what each layer carries out
 */
export function forwardV7(
  wiring: Wiring,
  tokens: Tensor,
  options: { T: number; state?: readonly LayerState[]; keep?: Tensor | undefined; recompute?: boolean },
): { hidden: Tensor; state: LayerState[] } {
  const { graph, config, weight } = wiring;
  const { T, state, keep, recompute = false } = options;
  if (keep && wiring.initialState(0)) {
    throw new RangeError(
      "A model with an initial state begins every row with it: give each document a row of its own",
    );
  }
  let x = layerNorm(wiring, embedding(graph, weight("emb.weight"), tokens), "blocks.0.ln0");
  let vFirst: Tensor | undefined;
  const states: LayerState[] = [];
  for (let layer = 0; layer < config.layers; layer++) {
    const block = () => blockV7(wiring, layer, x, { T, vFirst, carried: state?.[layer], keep });
    const result = recompute ? graph.recomputed(block) : block();
    x = result.x;
    vFirst ??= result.v;
    states.push(result.state);
  }
  return { hidden: layerNorm(wiring, x, "ln_out"), state: states };
}

/** LayerNorm with the weights of a name. */
function layerNorm({ graph, weight }: Wiring, x: Tensor, name: string): Tensor {
  return norm(graph, x, weight(`${name}.weight`), weight(`${name}.bias`), { eps: LAYER_NORM_EPS });
}

/**
 * One block: [B·T, C] → [B·T, C].
 * @param options.vFirst the v of layer 0; undefined for layer 0 itself
 * @param options.carried what the layer carries in; else its initial state, or zeros
 * @returns with the layer's own v, and what it carries out
 */
export function blockV7(
  wiring: Wiring,
  layer: number,
  x: Tensor,
  { T, vFirst, carried, keep }: {
    T: number;
    vFirst: Tensor | undefined;
    carried?: LayerState | undefined;
    keep?: Tensor | undefined;
  },
): { x: Tensor; v: Tensor; state: LayerState } {
  const { graph } = wiring, name = `blocks.${layer}`;
  const attIn = layerNorm(wiring, x, `${name}.ln1`);
  const wkv = carried?.wkv ?? startingState(wiring, layer, x.rows / T);
  const att = timeMix(wiring, `${name}.att`, attIn, vFirst, { T, carried: carried?.attShift, wkv, keep });
  const middle = map(graph, [x, att.out], (x, out) => x.add(out));
  const ffnIn = layerNorm(wiring, middle, `${name}.ln2`);
  const out = channelMix(wiring, `${name}.ffn`, ffnIn, { T, carried: carried?.ffnShift, keep });
  return {
    x: map(graph, [middle, out], (x, out) => x.add(out)),
    v: att.v,
    state: { attShift: lastRows(graph, attIn, T), wkv: att.state, ffnShift: lastRows(graph, ffnIn, T) },
  };
}

/** The WKV state that each of B sequences begins with, [B, H·N·N]; undefined for zeros. */
export function startingState({ graph, initialState }: Wiring, layer: number, B: number): Tensor | undefined {
  const state = initialState(layer);
  return state && repeat(graph, state, [B, state.size]);
}

/** The last row of each sequence: [B·T, C] → [B, C]. */
function lastRows(graph: Graph, x: Tensor, T: number): Tensor {
  const B = x.rows / T;
  return concatRows(graph, Array.from({ length: B }, (_, b) => sliceRows(graph, x, b * T + T - 1, 1)));
}

function timeMix(
  { graph, config, weight, linear }: Wiring,
  name: string,
  x: Tensor,
  vFirst: Tensor | undefined,
  { T, carried, wkv, keep }: {
    T: number;
    carried: Tensor | undefined;
    wkv: Tensor | undefined;
    keep: Tensor | undefined;
  },
): { out: Tensor; v: Tensor; state: Tensor } {
  const { heads: H, headSize: N } = config;
  const perHead = [x.rows, H];
  const own = (tensor: string) => weight(`${name}.${tensor}`);
  const mixes = [..."rwkvag"].map((stream) => own(`x_${stream}`));
  const shift = { T, carried, keep };
  const [xr, xw, xk, xv, xa, xg] = tokenShift(graph, x, mixes, shift) as [
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
    Tensor,
  ];

  const r = linear(`${name}.receptance`, xr);
  const kRaw = linear(`${name}.key`, xk);
  const vRaw = linear(`${name}.value`, xv);
  const decayInner = map(graph, [matmul(graph, xw, own("w1"))], (x) => x.tanh());
  const decay = matmul(graph, decayInner, own("w2"));
  const rate = matmul(graph, matmul(graph, xa, own("a1")), own("a2"));
  const gateInner = map(graph, [matmul(graph, xg, own("g1"))], (x) => x.sigmoid());

  let v = vRaw;
  if (vFirst) {
    const mix = matmul(graph, matmul(graph, xv, own("v1")), own("v2"));
    v = map(
      graph,
      [vRaw, vFirst, mix, own("v0")],
      (v, first, mix, v0) => v.add(first.sub(v).mul(mix.add(v0).sigmoid())),
    );
  }
  const w = map(graph, [decay, own("w0")], (x, w0) => x.add(w0).sigmoid().mul(-DECAY_SCALE).exp());
  const squares = map(graph, [kRaw, own("k_k")], (k, kk) => k.mul(kk).square());
  const length = map(graph, [reduceGroups(graph, squares, perHead)], (sum) => sum.max(1e-24).sqrt());
  const [k, a, b] = mapAll(
    graph,
    [kRaw, rate, length, own("k_k"), own("k_a"), own("a0")],
    (k, rate, length, kK, kA, a0) => {
      const a = rate.add(a0).sigmoid();
      const kk = k.mul(kK).div(length);
      return [k.mul(a.sub(1).mul(kA).add(1)), kk.neg(), kk.mul(a)];
    },
  ) as [Tensor, Tensor, Tensor];

  const products = map(graph, [r, k, own("r_k")], (r, k, rK) => r.mul(k).mul(rK));
  const bonus = reduceGroups(graph, products, perHead);

  // A step of no decay factor and no removal key, S ← v ⊗ k, begins a state afresh.
  const kept = (x: Tensor) => keep ? map(graph, [x, keep], (x, keep) => x.mul(keep)) : x;
  const options = wkv ? { T, N, state: wkv } : { T, N };
  const { y, state } = wkv7(graph, { r, w: kept(w), k, v, a: kept(a), b }, options);
  // Here rather than above, so that what its gradient leaves to keep during the recurrence's is narrow.
  const gate = matmul(graph, gateInner, own("g2"));
  const normed = norm(graph, y, own("ln_x.weight"), own("ln_x.bias"), { groups: H, eps: GROUP_NORM_EPS });
  const gated = map(graph, [normed, bonus, v, gate], (y, bonus, v, g) => y.add(bonus.mul(v)).mul(g));
  return { out: linear(`${name}.output`, gated), v, state };
}

function channelMix(
  { graph, weight, linear }: Wiring,
  name: string,
  x: Tensor,
  shift: { T: number; carried: Tensor | undefined; keep: Tensor | undefined },
): Tensor {
  const [xk] = tokenShift(graph, x, [weight(`${name}.x_k`)], shift);
  const k = map(graph, [linear(`${name}.key`, xk!)], (k) => k.relu().square());
  return linear(`${name}.value`, k);
}
