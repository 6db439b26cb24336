/**
 * The conformance table where there is nothing: no rows, no columns, sums over nothing. Nothing at all is a size too: a text may
 * end where a batch begins.
 *
 * @module
 */
import { blockMatmul } from "../kernels/ops/block_matmul/op.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { dropout } from "../kernels/ops/dropout/op.ts";
import { embedding } from "../kernels/ops/embedding/op.ts";
import { fold, tile } from "../kernels/ops/fold/op.ts";
import { constant, map, repeat } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { norm } from "../kernels/ops/norm/op.ts";
import { adamW, sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { precomputed } from "../kernels/ops/precomputed/op.ts";
import { reduceGroups, reduceRows } from "../kernels/ops/reduce/op.ts";
import { concatRows, sliceRows } from "../kernels/ops/rows/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { accumulate, assign } from "../kernels/ops/update/op.ts";
import { wkv7 } from "../kernels/ops/wkv7/op.ts";
import { type Case, fixed, given, stored, uniform } from "./conformance.ts";

const PRODUCTS: Case[] = [
  { name: "no rows", a: [0, 7], b: [5, 7], transposeB: true },
  { name: "no columns", a: [6, 7], b: [0, 7], transposeB: true },
  { name: "a sum over nothing", a: [6, 0], b: [0, 5] },
  { name: "a sum over nothing, both transposed", a: [0, 3], b: [5, 0], transposeA: true, transposeB: true },
].flatMap(({ name, a, b, transposeA = false, transposeB = false }): Case[] => {
  const shape = [transposeA ? a[1]! : a[0]!, transposeB ? b[0]! : b[1]!];
  return [
    {
      name: `matmul + ${name}`,
      inputs: [uniform(a), uniform(b), uniform(shape)],
      build: (g, [a, b, addend]) => [
        matmul(g, a!, b!, { transposeA, transposeB }),
        matmul(g, a!, b!, { transposeA, transposeB, addend: addend! }),
      ],
    },
    {
      name: `matmul + ${name}, B in 16 bits`,
      inputs: [fixed(uniform(a)), stored("bf16", b)],
      build: (g, [a, b]) => [matmul(g, a!, b!, { transposeA, transposeB })],
    },
  ];
});

const BLOCK_PRODUCTS: Case[] = [[0, 3, 4], [5, 0, 4], [5, 3, 0]].map(([M, N, K]): Case => ({
  name: `blockMatmul + blocks of ${M}×${N}×${K}`,
  inputs: [uniform([2 * M!, K!]), uniform([2 * K!, N!])],
  build: (g, [a, b]) => [
    blockMatmul(g, a!, b!, { G: 2, M: M!, N: N!, K: K!, stacking: ["below", "below", "below"] }),
  ],
}));

/** Every op without rows, and where it matters without columns. */
export const EMPTY_CASES: readonly Case[] = [
  ...PRODUCTS,
  ...BLOCK_PRODUCTS,
  {
    name: "map + no rows",
    inputs: [uniform([0, 5]), uniform([5]), uniform([1])],
    build: (g, [x, v, s]) => [map(g, [x!, v!, s!], (x, v, s) => x.mul(v).add(s)), repeat(g, v!, [0, 5])],
  },
  {
    name: "map + no columns",
    inputs: [uniform([5, 0]), uniform([0])],
    build: (g, x) => [map(g, x, (x, v) => x.mul(v)), constant(g, [0], 3)],
  },
  {
    name: "reduceRows + no rows, and no columns",
    inputs: [uniform([0, 5]), uniform([4, 0])],
    build: (g, [x, y]) => [reduceRows(g, x!, [5]), reduceRows(g, y!, [0])],
  },
  {
    name: "reduceGroups + no rows, no groups, and groups of nothing",
    inputs: [uniform([0, 6]), uniform([4, 0])],
    build: (
      g,
      [x, y],
    ) => [reduceGroups(g, x!, [0, 3]), reduceGroups(g, y!, [4, 2]), reduceGroups(g, x!, [1])],
  },
  {
    name: "norm + no rows",
    inputs: [uniform([0, 8]), uniform([8]), uniform([8])],
    build: (g, [x, weight, bias]) => [norm(g, x!, weight!, bias!, { groups: 2, eps: 1e-5 })],
  },
  {
    name: "tokenShift + no rows",
    inputs: [uniform([0, 6]), ...Array.from({ length: 4 }, () => uniform([6]))],
    build: (g, [x, ...mixes]) => tokenShift(g, x!, mixes, { T: 5 }),
  },
  {
    name: "tokenShift + no rows and a carried row for none",
    inputs: [uniform([0, 6]), uniform([6]), fixed(uniform([0, 6]))],
    build: (g, [x, mix, carried]) => tokenShift(g, x!, [mix!], { T: 5, carried: carried! }),
  },
  {
    name: "wkv7 + no sequences",
    inputs: Array.from({ length: 6 }, () => uniform([0, 8])),
    build: (g, [r, w, k, v, a, b]) => {
      const { y, state } = wkv7(g, { r: r!, w: w!, k: k!, v: v!, a: a!, b: b! }, { T: 5, N: 4 });
      return [y, state];
    },
  },
  {
    name: "sliceRows + no rows",
    inputs: [uniform([5, 3])],
    build: (g, [x]) => [sliceRows(g, x!, 2, 0), sliceRows(g, x!, 5, 0)],
  },
  {
    name: "concatRows + parts without rows, first, amid and last",
    inputs: [[0, 3], [2, 3], [0, 3], [3, 3], [0, 3]].map((shape) => uniform(shape)),
    build: (g, parts) => [concatRows(g, parts)],
  },
  {
    name: "concatRows + nothing but parts without rows, or without columns",
    inputs: [[0, 3], [0, 3], [2, 0], [1, 0]].map((shape) => uniform(shape)),
    build: (g, parts) => [concatRows(g, parts.slice(0, 2)), concatRows(g, parts.slice(2))],
  },
  {
    name: "fold and tile + no rows",
    inputs: [uniform([0, 8])],
    build: (g, [x]) => [fold(g, x!, 3), tile(g, x!, 19)],
  },
  {
    name: "embedding + no ids",
    inputs: [uniform([11, 5]), given([], [0, 1], "i32")],
    build: (g, [table, ids]) => [embedding(g, table!, ids!)],
  },
  {
    name: "dropout + no rows",
    inputs: [uniform([0, 5]), given([3], [1], "i32")],
    build: (g, [x, seed]) => [dropout(g, x!, seed!, { share: 0.5, salt: "here" })],
  },
  {
    name: "linearCrossEntropy + no rows: a loss of 0",
    inputs: [uniform([0, 6]), uniform([9, 6]), given([], [0, 1], "i32"), given([], [0, 1])],
    build: (g, [hidden, head, targets, weights]) => [
      linearCrossEntropy(g, hidden!, head!, targets!, weights!, { headTrains: true }),
    ],
  },
  {
    name: "precomputed + a gradient of nothing",
    inputs: [uniform([0, 3])],
    build: (g, [x]) => [
      precomputed(g, reduceGroups(g, x!, [1]), [{ of: x!, gradient: constant(g, [0, 3], 1) }]),
    ],
  },
  {
    name: "sumOfSquares + nothing",
    inputs: [fixed(uniform([0]))],
    build: (g, [x]) => [sumOfSquares(g, x!)],
  },
  {
    name: "adamW + nothing",
    inputs: [
      ...Array.from({ length: 4 }, () => fixed(uniform([0]))),
      given([1e-2, 0.9, 0.99, 1e-8, 0.1, 0.19, 0.0199, 1, 1], [9]),
    ],
    updates: [0, 1, 2, 3],
    build: (graph, [, gradient], [p, g, m, v, settings]) => {
      const group = { p: p!, g: g!, m: m!, v: v!, rate: 1, decay: 1 };
      adamW(graph, group, sumOfSquares(graph, gradient!), settings!);
      return [];
    },
  },
  {
    name: "assign and accumulate + nothing",
    inputs: [fixed(uniform([0, 3])), fixed(uniform([0]))],
    updates: [0],
    build: (g, [, value], [variable]) => {
      assign(g, variable!, value!);
      accumulate(g, variable!, value!);
      return [];
    },
  },
];
