/**
 * The conformance table: every op, with sizes that are odd, ragged, and over one workgroup.
 *
 * @module
 */
import type { Graph, Tensor } from "../kernels/graph.ts";
import { addTile } from "../kernels/ops/add_tile/op.ts";
import { blockMatmul, type BlockMatmulAttributes, type Stacking } from "../kernels/ops/block_matmul/op.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { dropout } from "../kernels/ops/dropout/op.ts";
import { embedding } from "../kernels/ops/embedding/op.ts";
import { fold, tile } from "../kernels/ops/fold/op.ts";
import { constant, map, mapAll, repeat } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { norm } from "../kernels/ops/norm/op.ts";
import { adamW, sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { precomputed } from "../kernels/ops/precomputed/op.ts";
import { reduceGroups, reduceRows } from "../kernels/ops/reduce/op.ts";
import { concatRows, sliceRows } from "../kernels/ops/rows/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { wkv7 } from "../kernels/ops/wkv7/op.ts";
import { type Case, type CaseInput, fixed, given, stored, uniform } from "./conformance.ts";
import { EMPTY_CASES } from "./conformance_empty_cases.ts";

const MAP: Case[] = [
  {
    name: "map + unary functions of any number",
    inputs: [uniform([7, 19], -3, 3)],
    build: (g, [x]) =>
      mapAll(g, [x!], (x) => [x.neg(), x.exp(), x.tanh(), x.sigmoid(), x.step(), x.square(), x.relu()]),
  },
  {
    name: "map + unary functions of positive numbers",
    inputs: [uniform([7, 19], 0.3, 3)],
    build: (g, [x]) => mapAll(g, [x!], (x) => [x.log(), x.sqrt()]),
  },
  {
    name: "map + arguments where exp overflows or vanishes",
    inputs: [given([-1e30, -1000, -100, -20, -1e-30, 0, 1e-30, 20, 88, 100, 1000, 1e30])],
    build: (g, [x]) => mapAll(g, [x!], (x) => [x.tanh(), x.sigmoid(), x.max(x.neg()).neg().exp(), x.step()]),
  },
  {
    name: "map + binary functions",
    inputs: [uniform([7, 19]), uniform([7, 19], 0.5, 2)],
    build: (g, [x, y]) => mapAll(g, [x!, y!], (x, y) => [x.add(y), x.sub(y), x.mul(y), x.div(y), x.max(y)]),
  },
  {
    name: "map + constants on either side",
    inputs: [uniform([65], 0.5, 2)],
    build: (g, [x]) =>
      mapAll(g, [x!], (x) => {
        const two = x.sub(x).add(2);
        return [
          x.add(0.3).sub(1e-3),
          two.sub(x).div(3),
          two.div(x).max(1.1),
          x.mul(-1.5),
          x.sub(-0.25).neg(),
        ];
      }),
  },
  {
    name: "map + parts that several results share",
    inputs: [uniform([5, 13]), uniform([5, 13])],
    build: (g, [x, y]) =>
      mapAll(g, [x!, y!], (x, y) => {
        const s = x.mul(y).sigmoid();
        return [s.mul(x), s.sub(1).mul(y).exp(), s];
      }),
  },
  {
    name: "map + a vector, a matrix of groups, a column, a scalar and another shape of the same size",
    inputs: [uniform([6, 12]), uniform([12]), uniform([6, 3]), uniform([6, 1]), uniform([1]), uniform([72])],
    build: (g, x) => [map(g, x, (x, v, h, c, s, flat) => x.mul(v).add(h.mul(s)).mul(c.add(flat)))],
  },
  {
    name: "map + broadcasts over three dimensions and several workgroups",
    inputs: [uniform([3, 5, 24]), uniform([24]), uniform([15, 4])],
    build: (g, [x, v, h]) => [map(g, [x!, v!, h!], (x, v, h) => x.mul(v).sub(h.square()))],
  },
  {
    name: "map + inputs in 16 bits",
    inputs: [uniform([9, 7]), stored("bf16", [9, 7]), stored("f16", [9, 7])],
    build: (g, x) => [map(g, x, (x, b, h) => x.mul(b).add(h))],
  },
  {
    name: "map + more results than one pass can bind",
    inputs: [uniform([70]), uniform([70])],
    build: (g, [x, y]) =>
      mapAll(g, [x!, y!], (x, y) => Array.from({ length: 9 }, (_, i) => x.mul(i + 2).add(y.mul(0.5 - i)))),
  },
  {
    name: "constant + several workgroups",
    inputs: [],
    build: (g) => [constant(g, [3, 67], -0.125), constant(g, [1], 1e-24)],
  },
  {
    name: "repeat + a vector, a matrix of groups and a scalar",
    inputs: [uniform([14]), uniform([9, 2]), uniform([1])],
    build: (g, x) => x.map((x) => repeat(g, x, [9, 14])),
  },
];

const REDUCE: Case[] = [
  ...[1, 3, 64, 65, 200].map((rows): Case => ({
    name: `reduceRows + ${rows} rows`,
    inputs: [uniform([rows, 71])],
    build: (g, [x]) => [reduceRows(g, x!, [71])],
  })),
  ...[[5, 1], [5, 7], [3, 64], [2, 203]].map(([groups, size]): Case => ({
    name: `reduceGroups + groups of ${size}`,
    inputs: [uniform([4, groups! * size!])],
    build: (g, [x]) => [reduceGroups(g, x!, [4, groups!])],
  })),
  {
    name: "reduceGroups + everything into one number",
    inputs: [uniform([31, 37])],
    build: (g, [x]) => [reduceGroups(g, x!, [1])],
  },
];

const LAYOUTS = [[false, false], [false, true], [true, false], [true, true]] as const;

function product(
  [transposeA, transposeB]: readonly [boolean, boolean],
  [M, N, K]: readonly [number, number, number],
  options: { dtype?: "f32" | "f16" | "bf16"; addend?: boolean } = {},
): Case {
  const { dtype = "f32", addend = false } = options;
  const a = uniform(transposeA ? [K, M] : [M, K]), shapeB = transposeB ? [N, K] : [K, N];
  return {
    name: `matmul + ${transposeA ? "Aᵀ" : "A"}·${transposeB ? "Bᵀ" : "B"} of ${M}×${N}×${K}, ${dtype} B` +
      (addend ? " and an addend" : ""),
    inputs: [
      // A transposed product is differentiated by its first operand with a 16-bit first operand, which there is not.
      transposeA && dtype !== "f32" ? fixed(a) : a,
      dtype === "f32" ? uniform(shapeB) : stored(dtype, shapeB),
      ...(addend ? [uniform([M, N])] : []),
    ],
    build: (
      g,
      [a, b, addend],
    ) => [matmul(g, a!, b!, { transposeA, transposeB, ...(addend ? { addend } : {}) })],
  };
}

const MATMUL: Case[] = [
  ...LAYOUTS.flatMap((layout) => [
    product(layout, [67, 71, 35]),
    product(layout, [5, 3, 7], { dtype: "f16" }),
    product(layout, [33, 67, 129], { dtype: "bf16" }),
    product(layout, [9, 130, 17], { addend: true }),
  ]),
  product([false, true], [65, 9, 33], { dtype: "bf16", addend: true }),
  product([false, true], [1, 97, 64]),
  // So few tiles and so long a sum that a GPU adds it up in parts.
  product([true, false], [70, 9, 1603]),
  product([false, true], [3, 5, 1100], { dtype: "bf16" }),
  product([false, false], [1, 1, 1]),
  {
    name: "matmul + leading dimensions of three",
    inputs: [uniform([2, 3, 11]), uniform([5, 11])],
    build: (g, [a, b]) => [matmul(g, a!, b!, { transposeB: true })],
  },
  {
    name: "matmul + one tensor on both sides",
    inputs: [uniform([13, 9])],
    build: (g, [x]) => [matmul(g, x!, x!, { transposeB: true })],
  },
];

/**
 * M, groups and C. The later ones on a GPU: more groups than a workgroup takes, of RWKV's size and a ragged one; groups for all
 * threads of a workgroup, in fours and in ones; and one of more numbers than they have registers for.
 */
const NORMS = [[7, 1, 100], [7, 2, 100], [7, 5, 100], [7, 1, 3], [7, 4, 8]].concat(
  [[23, 3, 192], [7, 5, 180], [5, 1, 768], [3, 1, 2052], [3, 1, 1021], [2, 1, 2061]],
);
const NORM: Case[] = [
  ...NORMS.map(([M, groups, C]): Case => ({
    name: `norm + ${M} rows of ${groups} groups of ${C! / groups!}`,
    inputs: [uniform([M!, C!]), uniform([C!], 0.5, 1.5), uniform([C!])],
    build: (g, [x, weight, bias]) => [norm(g, x!, weight!, bias!, { groups: groups!, eps: 64e-5 })],
  })),
  {
    name: "norm + a mean of a hundred times the deviation",
    inputs: [uniform([5, 96], 99, 101), uniform([96], 0.5, 1.5), uniform([96])],
    build: (g, [x, weight, bias]) => [norm(g, x!, weight!, bias!, { eps: 1e-5 })],
    // The mean itself is rounded to 1 / 2²⁴ of 100, that is 6e-6 of the deviation.
    tolerance: 2e-5,
  },
];

const TOKEN_SHIFT: Case[] = [1, 2, 3, 4, 5, 6].flatMap((mixes) =>
  [false, true].map((carried): Case => ({
    name: `tokenShift + ${mixes} mixes${carried ? " and a carried row" : ""}`,
    inputs: [
      uniform([15, 7]),
      ...Array.from({ length: mixes }, () => uniform([7])),
      ...(carried ? [fixed(uniform([3, 7]))] : []),
    ],
    build: (g, [x, ...rest]) =>
      tokenShift(g, x!, rest.slice(0, mixes), { T: 5, ...(carried ? { carried: rest[mixes]! } : {}) }),
  }))
);
TOKEN_SHIFT.push({
  name: "tokenShift + one step and a carried row",
  inputs: [uniform([2, 70]), uniform([70]), fixed(uniform([2, 70]))],
  build: (g, [x, mix, carried]) => tokenShift(g, x!, [mix!], { T: 1, carried: carried! }),
});

for (const mixes of [1, 4]) {
  TOKEN_SHIFT.push({
    name: `tokenShift + ${mixes} mixes and steps that do not see the one before`,
    inputs: [
      uniform([10, 7]),
      given([0, 1, 0, 1, 1, 1, 0, 0, 1, 1]),
      ...Array.from({ length: mixes }, () => uniform([7])),
    ],
    build: (g, [x, keep, ...rest]) => tokenShift(g, x!, rest, { T: 5, keep: keep! }),
  });
}

function recurrence(
  [B, T, H, N]: readonly [number, number, number, number],
  options: { state?: boolean; give?: "y" | "state" | "both"; least?: number } = {},
): Case {
  const { state = false, give = "both", least = 0.55 } = options;
  const stream = (low: number, high: number) => uniform([B * T, H * N], low, high);
  return {
    name: `wkv7 + B ${B}, T ${T}, H ${H}, N ${N}${state ? " from a state" : ""}, giving ${give}${
      least < 0.5 ? `, decays from ${least}` : ""
    }`,
    inputs: [
      stream(-1, 1),
      stream(least, 1),
      stream(-1, 1),
      stream(-1, 1),
      stream(-1 / N, 1 / N),
      stream(-1, 1),
      ...(state ? [uniform([B, H * N * N])] : []),
    ],
    build: (g, [r, w, k, v, a, b, initial]) => {
      const streams = { r: r!, w: w!, k: k!, v: v!, a: a!, b: b! };
      const { y, state } = wkv7(g, streams, { T, N, ...(initial ? { state: initial } : {}) });
      return give === "y" ? [y] : give === "state" ? [state] : [y, state];
    },
  };
}

/** The recurrence where the state begins afresh at some steps: at the first, within a chunk, at its border, twice running. */
function restarts([B, T, H, N]: readonly [number, number, number, number]): Case {
  const afresh = [0, 3, 5, 6, 16, 20];
  const stream = (low: number, high: number) => uniform([B * T, H * N], low, high);
  return {
    name: `wkv7 + B ${B}, T ${T}, H ${H}, N ${N}, a state that begins afresh`,
    inputs: [
      stream(-1, 1),
      stream(0.55, 1),
      stream(-1, 1),
      stream(-1, 1),
      stream(-1 / N, 1 / N),
      stream(-1, 1),
      uniform([B, H * N * N]),
      given(Array.from({ length: B * T }, (_, i) => afresh.includes(i % T) ? 0 : 1)),
    ],
    build: (g, [r, w, k, v, a, b, initial, keep]) => {
      const kept = (x: Tensor) => map(g, [x, keep!], (x, keep) => x.mul(keep));
      const streams = { r: r!, w: kept(w!), k: k!, v: v!, a: kept(a!), b: b! };
      const { y, state } = wkv7(g, streams, { T, N, state: initial! });
      return [y, state];
    },
  };
}

const WKV7: Case[] = [
  restarts([2, 21, 2, 4]),
  restarts([1, 40, 1, 64]),
  recurrence([1, 1, 1, 4]),
  recurrence([2, 21, 3, 4], { state: true }),
  recurrence([2, 16, 2, 8]),
  recurrence([1, 33, 2, 16], { state: true, give: "y" }),
  recurrence([2, 17, 1, 16], { state: true, give: "state" }),
  recurrence([2, 19, 2, 64], { state: true }),
  recurrence([1, 34, 3, 5], { state: true }),
  // More columns than a workgroup of the gradient has, and their number odd, or not a multiple of its threads'.
  recurrence([1, 18, 1, 35], { state: true }),
  recurrence([1, 18, 1, 70], { state: true }),
  recurrence([2, 9, 2, 12], { state: true }),
  recurrence([1, 18, 2, 32], { state: true }),
  recurrence([1, 7, 1, 128], { state: true }),
  recurrence([2, 21, 2, 4], { state: true, least: 0.001 }),
  recurrence([1, 37, 1, 64], { state: true, least: 0.2 }),
  recurrence([2, 0, 3, 4], { state: true, give: "state" }),
];

const ROWS: Case[] = [
  ...[[0, 3], [4, 7], [2, 9], [0, 11]].map(([first, end]): Case => ({
    name: `sliceRows + rows ${first} to ${end} of 11`,
    inputs: [uniform([11, 13])],
    build: (g, [x]) => [map(g, [sliceRows(g, x!, first!, end! - first!)], (x) => x.mul(3))],
  })),
  {
    name: "sliceRows + integers",
    inputs: [uniform([6, 5]), given([5, 4, 3, 0, 1], [5, 1], "i32")],
    build: (g, [table, ids]) => [embedding(g, table!, sliceRows(g, ids!, 1, 3))],
  },
  {
    name: "sliceRows + rows that begin where they can be bound, of an input, of a value, and of such rows",
    inputs: [uniform([7, 64]), uniform([3, 64])],
    build(g, [x, y]) {
      const whole = map(g, [x!], (x) => x.exp()), rows = sliceRows(g, whole, 2, 4);
      const sum = map(g, [rows, sliceRows(g, x!, 3, 4)], (a, b) => a.add(b));
      return [
        matmul(g, sum, y!, { transposeB: true }),
        map(g, [sliceRows(g, rows, 1, 3), y!], (a, b) => a.mul(b)),
      ];
    },
  },
  {
    name: "concatRows + parts whose gradients begin where they can be bound",
    inputs: [1, 3, 2].map((rows) => uniform([rows, 64])),
    build: (g, parts) => [map(g, [concatRows(g, parts)], (x) => x.square())],
  },
  ...[1, 2, 9].map((parts): Case => ({
    name: `concatRows + ${parts} parts`,
    inputs: Array.from({ length: parts }, (_, i) => uniform([i % 3 + 1, 33])),
    build: (g, parts) => [map(g, [concatRows(g, parts)], (x) => x.square())],
  })),
];

/** M, K and R; the last ones with so many shards that threads of a GPU share them, in numbers odd and even, over several workgroups. */
const FOLDS = [[5, 10, 4], [5, 12, 4], [5, 5, 5], [5, 3, 8], [5, 130, 64], [5, 7, 1]].concat(
  [[67, 160, 16], [3, 1444, 8], [19, 331, 7], [35, 75, 3], [300, 77, 1]],
);
const FOLD: Case[] = FOLDS.flatMap(([M, K, R]): Case[] => [
  {
    name: `fold + ${M} rows of ${K} into ${R}`,
    inputs: [uniform([M!, K!])],
    build: (g, [x]) => [fold(g, x!, R!)],
  },
  {
    name: `tile + ${M} rows of ${R} over ${K}`,
    inputs: [uniform([M!, R!])],
    build: (g, [x]) => [tile(g, x!, K!)],
  },
]);

/** Ids with repetitions, and two outside a table of 11 rows. */
const IDS = given([3, 0, 10, 3, -1, 11, 3, 7], [8, 1], "i32");

const STACKINGS: [Stacking, Stacking, Stacking][] = [
  ["beside", "below", "beside"],
  ["below", "below", "below"],
  ["beside", "beside", "below"],
  ["below", "beside", "beside"],
];

const BLOCK_MATMUL: Case[] = [
  ...STACKINGS.flatMap((stacking) =>
    [false, true].flatMap((transposeA) =>
      [false, true].map((transposeB) => blocks({ G: 3, M: 5, N: 7, K: 4, transposeA, transposeB, stacking }))
    )
  ),
  blocks({ G: 1, M: 70, N: 33, K: 35, transposeA: false, transposeB: true, stacking: STACKINGS[0]! }),
  blocks({ G: 5, M: 33, N: 32, K: 65, transposeA: true, transposeB: false, stacking: STACKINGS[1]! }),
  // A K that WebGPU cuts into parts.
  blocks({ G: 2, M: 9, N: 8, K: 1100, transposeA: true, transposeB: false, stacking: STACKINGS[2]! }),
  ...(["f16", "bf16"] as const).map((dtype): Case => ({
    name: `blockMatmul + B in ${dtype}`,
    inputs: [uniform([9, 12]), stored(dtype, [12, 4])],
    build: (g, [a, b]) => [
      blockMatmul(g, a!, b!, { G: 3, M: 9, N: 4, K: 4, stacking: ["beside", "below", "beside"] }),
    ],
  })),
];

function blocks(attributes: BlockMatmulAttributes): Case {
  const { G, M, N, K, transposeA, transposeB, stacking } = attributes;
  const mark = `${transposeA ? "Aᵀ" : "A"}·${transposeB ? "Bᵀ" : "B"}, blocks ${stacking.join(", ")}`;
  return {
    name: `blockMatmul + ${G} of ${M}×${N}×${K}, ${mark}`,
    inputs: [uniform([G * M * K, 1]), uniform([G * K * N, 1])],
    build: (g, [a, b]) => [blockMatmul(g, a!, b!, attributes)],
  };
}

const DROPOUT: Case[] = [0, 0.3, 0.9].map((share) => ({
  name: `dropout + a share of ${share}`,
  inputs: [uniform([37, 21]), given([-7], [1], "i32")],
  build: (g, [x, seed]) => [dropout(g, x!, seed!, { share, salt: "here" })],
}));

/** O, K and R: one number a time, four and eight; rows that eight threads do not divide, shards that four do not, ragged ones. */
const TILES = [[5, 7, 3], [9, 130, 64], [3, 4, 6], [70, 8, 8], [9, 44, 16], [130, 64, 64]].concat(
  [[11, 100, 12], [17, 72, 8], [9, 1000, 24], [260, 168, 16], [3, 40, 64], [24, 2048, 64]],
);

/** addTile of each storage of a weight into one of the sum; f16 is for a GPU alone. */
export function addTileCases(sum: "f32" | "f16"): Case[] {
  return (["f32", "f16", "bf16"] as const).flatMap((dtype) =>
    TILES.map(([O, K, R]): Case => ({
      name: `addTile + ${dtype} [${O}, ${K}] and shards of ${R}, in ${sum}`,
      inputs: [
        dtype === "f32" ? fixed(uniform([O!, K!])) : stored(dtype, [O!, K!]),
        fixed(uniform([R!, O!])),
      ],
      build: (g, [w, d]) => [map(g, [addTile(g, w!, d!, sum)], (x) => x.mul(1))],
      // WGSL leaves open to which of its two neighbours in f16 a sum is rounded: they are up to 2⁻¹⁰ of it apart.
      ...(sum === "f16" ? { tolerance: 1e-3 } : {}),
    }))
  );
}

const EMBEDDING: Case[] = [uniform([11, 13]), stored("f16", [11, 13]), stored("bf16", [11, 13])].map((
  table,
) => ({
  name: `embedding + ${table.dtype} table, ids repeated and outside it`,
  inputs: [table, IDS],
  build: (g, [table, ids]) => [embedding(g, table!, ids!)],
}));

function entropy(
  name: string,
  [M, C, V]: readonly [number, number, number],
  options: { head?: CaseInput; spread?: number; l2?: number; weights?: (row: number) => number } = {},
): Case {
  const { head = uniform([V, C]), spread = 1, l2 = 0, weights = (row) => 0.1 + row % 3 } = options;
  const rows = Array.from({ length: M }, (_, row) => row);
  return {
    name: `linearCrossEntropy + ${name}`,
    inputs: [
      uniform([M, C], -spread, spread),
      head,
      given(rows.map((row) => row * 7 % V), [M, 1], "i32"),
      given(rows.map(weights)),
    ],
    build: (g, [hidden, head, targets, weights]) => [
      linearCrossEntropy(g, hidden!, head!, targets!, weights!, { headTrains: true, l2 }),
    ],
    ...(l2 ? { differences: false as const } : {}),
  };
}

const CROSS_ENTROPY: Case[] = [
  entropy("a vocabulary below one workgroup", [9, 6, 5]),
  entropy("a vocabulary above one workgroup", [13, 10, 197]),
  entropy("a head in bf16", [6, 12, 66], { head: stored("bf16", [66, 12]) }),
  entropy("rows of weight 0", [10, 6, 70], { weights: (row) => row % 2 }),
  entropy("logits that would overflow exp", [5, 4, 67], { spread: 300 }),
  entropy("L2Wrap", [7, 5, 83], { l2: 1e-2 }),
];

const PRECOMPUTED: Case[] = [{
  name: "precomputed + two tensors",
  inputs: [uniform([5, 3]), uniform([5, 3])],
  build: (g, [x, y]) => {
    const value = reduceGroups(g, map(g, [x!, y!], (x, y) => x.square().mul(y)), [1]);
    return [precomputed(g, value, [
      { of: x!, gradient: map(g, [x!, y!], (x, y) => x.mul(2).mul(y)) },
      { of: y!, gradient: map(g, [x!], (x) => x.square()) },
    ])];
  },
}];

function adam(
  name: string,
  settings: {
    norm: (graph: Graph, g: Tensor) => Tensor;
    clip?: number;
    rate?: number;
    decay?: number;
    unit?: number;
  },
): Case {
  const { norm, clip = 1, rate = 1, decay = 1, unit = 1 } = settings;
  const size = 131, wide = (low: number, high: number) => fixed(uniform([size], low, high));
  return {
    name: `adamW + ${name}`,
    inputs: [
      wide(-1, 1),
      wide(-0.1, 0.1),
      wide(-0.1, 0.1),
      wide(1e-4, 1e-2),
      given([1e-2, 0.9, 0.99, 1e-8, 0.1, 0.19, 0.0199, clip, unit], [9]),
    ],
    updates: [0, 1, 2, 3],
    build: (graph, [, gradient], [p, g, m, v, settings]) => {
      adamW(graph, { p: p!, g: g!, m: m!, v: v!, rate, decay }, norm(graph, gradient!), settings!);
      return [];
    },
  };
}

const globalNorm = (graph: Graph, g: Tensor) => map(graph, [sumOfSquares(graph, g)], (s) => s.sqrt());

const OPTIMIZER: Case[] = [
  ...[1, 63, 4096, 9001].map((size): Case => ({
    name: `sumOfSquares + ${size} elements`,
    inputs: [fixed(uniform([size]))],
    build: (g, [x]) => [sumOfSquares(g, x!)],
  })),
  adam("a norm above the clip", { norm: globalNorm, clip: 0.1 }),
  adam("a norm below the clip", { norm: globalNorm, clip: 100 }),
  adam("a rate of its own and no decay", { norm: globalNorm, rate: 2.5, decay: 0 }),
  adam("gradients that are stored at a scale", { norm: globalNorm, clip: 0.01, unit: 1 / 64 }),
  // Infinity is not a literal of WGSL.
  adam("a norm of infinity", { norm: (g, x) => map(g, [constant(g, [1], 1000), x], (c) => c.exp()) }),
  adam("a norm of NaN", { norm: (g, x) => map(g, [constant(g, [1], -1), x], (c) => c.sqrt()) }),
];

const UPDATE: Case[] = [false, true].map((add) => ({
  name: `${add ? "accumulate" : "assign"} + several workgroups`,
  inputs: [fixed(uniform([11, 17])), fixed(uniform([187]))],
  updates: [0],
  build: (g, [, value], [variable]) => {
    (add ? accumulate : assign)(g, variable!, value!);
    return [];
  },
}));

/** Every op at least once. */
export const CASES: readonly Case[] = [
  ...EMPTY_CASES,
  ...MAP,
  ...REDUCE,
  ...MATMUL,
  ...BLOCK_MATMUL,
  ...DROPOUT,
  ...NORM,
  ...TOKEN_SHIFT,
  ...WKV7,
  ...ROWS,
  ...FOLD,
  ...addTileCases("f32"),
  ...EMBEDDING,
  ...CROSS_ENTROPY,
  ...PRECOMPUTED,
  ...OPTIMIZER,
  ...UPDATE,
];
