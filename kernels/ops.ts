/**
 * The ops, for building graphs: each takes the graph first and returns tensors of it.
 *
 * @module
 */
export { blockMatmul, type BlockMatmulAttributes, type Stacking } from "./ops/block_matmul/op.ts";
export { linearCrossEntropy } from "./ops/cross_entropy/op.ts";
export { dropout } from "./ops/dropout/op.ts";
export { embedding } from "./ops/embedding/op.ts";
export { fold, tile } from "./ops/fold/op.ts";
export { Expression } from "./ops/map/expression.ts";
export type { Binary, Unary } from "./ops/map/expression.ts";
export { constant, map, mapAll, repeat } from "./ops/map/op.ts";
export { matmul } from "./ops/matmul/op.ts";
export { norm } from "./ops/norm/op.ts";
export { adamW, type AdamWGroup, sumOfSquares } from "./ops/optimizer/op.ts";
export { precomputed } from "./ops/precomputed/op.ts";
export { reduceGroups, reduceRows } from "./ops/reduce/op.ts";
export { concatRows, sliceRows } from "./ops/rows/op.ts";
export { tokenShift } from "./ops/token_shift/op.ts";
export { accumulate, assign } from "./ops/update/op.ts";
export { wkv7, type Wkv7Streams } from "./ops/wkv7/op.ts";
