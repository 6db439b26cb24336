/**
 * The rows of the conformance table of methods: every method, every point of its settings that computes something else, weights that
 * train along, and training of all weights. Where a clause has no meaning, the row says why.
 *
 * @module
 */
import type { Adapter, HostTensor } from "../adapters/adapter.ts";
import type { Settings } from "../adapters/method.ts";

/** What every row is held to besides its gradients and its start, unless it says why not. */
type Clause = "merge" | "unmerge" | "refusals";

/** One row: a method with settings. */
export interface Row {
  readonly peft: string;
  readonly settings: Settings;
  /** Weights that train along. */
  readonly trainParts?: readonly string[];
  /** Whether such adapters are read and used, but not begun: ranks over a layer's width. */
  readonly comesFromFiles?: boolean;
  /** Clauses that have no meaning here, and why. */
  readonly without?: Partial<Record<Clause, string>>;
  /** What the gradients take for a constant: the adapter with A and B moved and those lengths as they were. */
  held?(moved: Adapter, at: Adapter, weight: (site: string) => Float32Array): Adapter;
  /** Settings that cannot be, and what is said. */
  readonly wrong: readonly (readonly [Settings, RegExp])[];
}

const RANKS = [[{ r: 0 }, /whole number of at least 1: it is 0/], [{ r: 2.5 }, /it is 2\.5/]] as const;
const UNKNOWN = [{ rank: 2 }, /Unknown setting "rank"/] as const;

export const ROWS: readonly Row[] = [
  {
    peft: "bone",
    settings: { r: 5 },
    wrong: [...RANKS, UNKNOWN, [
      { r: 17 },
      /is 17, over the 16 input channels of blocks\.0\.att\.receptance: lower r/,
    ]],
  },
  { peft: "bone", settings: { r: 20 }, comesFromFiles: true, wrong: [] },
  { peft: "bone", settings: { r: 20, shards: "rows" }, comesFromFiles: true, wrong: [] },
  {
    peft: "bone",
    settings: { r: 5, mini_r: 4 },
    wrong: [[{ r: 4, mini_r: 5 }, /mini_r of bone is 5, which does not divide the 16 output channels/]],
  },
  {
    peft: "bone",
    settings: { r: 5, shards: "rows" },
    wrong: [
      [{ r: 17, shards: "rows" }, /over the 16 output channels/],
      [{ r: 4, shards: "diagonals" }, /must be columns or rows: they are "diagonals"/],
    ],
  },
  { peft: "bone", settings: { r: 5, mini_r: 8, shards: "rows" }, wrong: [] },
  {
    peft: "bat",
    settings: { r: 4, axis: "in" },
    wrong: [...RANKS, UNKNOWN, [
      { r: 5 },
      /is 5, which does not divide both widths of blocks\.0\.att\.receptance, 16 and 16/,
    ], [
      { axis: "up" },
      /axis of bat must be in or out: it is "up"/,
    ]],
  },
  { peft: "bat", settings: { r: 4, axis: "out" }, wrong: [] },
  {
    peft: "lora",
    settings: { r: 3, alpha: 5 },
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /is 17, over the width 16/], [
      { alpha: NaN },
      /alpha of lora must be a number/,
    ], [
      { dropout: 1 },
      /dropout of lora must be from 0 to below 1: it is 1/,
    ]],
  },
  {
    peft: "lora",
    settings: { r: 3, alpha: 5, rslora: true },
    wrong: [[{ rslora: 1 }, /must be true or false: it is 1/]],
  },
  {
    peft: "pissa",
    settings: { r: 3, niter: 2 },
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /over the width 16/], [
      { niter: -1 },
      /niter of pissa must be a whole/,
    ]],
  },
  {
    peft: "dora",
    settings: { r: 3, alpha: 5 },
    held: withLengthsOf,
    wrong: [...RANKS, UNKNOWN, [{ r: 17 }, /rank r of dora is 17, over the width 16/]],
  },
  {
    peft: "state",
    settings: {},
    wrong: [[{ r: 2 }, /Unknown setting "r" for state: it has none/]],
  },
  {
    peft: "bone",
    settings: { r: 5 },
    trainParts: ["ln", "att.w", "att.r_k", "time_state", "emb", "head"],
    wrong: [],
  },
  {
    peft: "full",
    settings: {},
    without: {
      merge: "what comes out is a model, and there is nothing to merge",
      unmerge: "the base model is another file, which stays as it is",
      refusals: "its settings are none, and its shapes are those of the model's file, which loading checks",
    },
    wrong: [],
  },
];

/** The lengths of the rows of W + s·B·A. */
function lengths({ tensors, settings }: Adapter, site: string, weight: Float32Array): Float64Array {
  const [A, B] = ["A", "B"].map((x) => tensors.get(`${site}.lora_${x}`)!) as [HostTensor, HostTensor];
  const [r, width] = A.shape as [number, number], scale = settings.alpha as number / r;
  return Float64Array.from({ length: B.shape[0]! }, (_, o) => {
    let sum = 0;
    for (let i = 0; i < width; i++) {
      let v = weight[o * width + i]!;
      for (let k = 0; k < r; k++) v += scale * B.data[o * r + k]! * A.data[k * width + i]!;
      sum += v * v;
    }
    return Math.sqrt(sum);
  });
}

/** A DoRA whose A and B moved, as if it divided by the lengths of rows that it had before: m makes up for it. */
function withLengthsOf(moved: Adapter, at: Adapter, weight: (site: string) => Float32Array): Adapter {
  const tensors = [...moved.tensors].map(([name, tensor]) => {
    const [site, own] = name.split(/\.(?=[^.]*$)/) as [string, string];
    if (own !== "lora_magnitude_vector") return [name, tensor] as const;
    const now = lengths(moved, site, weight(site)), before = lengths(at, site, weight(site));
    return [name, { ...tensor, data: tensor.data.map((m, o) => m * now[o]! / before[o]!) }] as const;
  });
  return moved.withTensors(new Map(tensors));
}

/** A row in a test's name. */
export const nameOf = ({ peft, settings, trainParts }: Row) =>
  `${peft} ${JSON.stringify(settings)}${trainParts ? ` with ${trainParts.join(", ")}` : ""}`;
