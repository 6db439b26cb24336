// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * The exports of the compiled module; `load.ts` holds their types.
 *
 * @module
 */
export { adamW } from "./adamw";
export { crossEntropy } from "./cross_entropy";
export { expLanes, logLanes, sigmoidLanes, tanhLanes } from "./math";
export { matmul, matmulScratchBytes } from "./matmul";
export { norm, normGradient } from "./norm";
export { accumulate, reduceGroups, reduceRows, sumOfSquares } from "./reduce";
export {
  addTile,
  embedding,
  embeddingGradient,
  fold,
  previousRow,
  tile,
  tokenShift,
  tokenShiftGradient,
} from "./rows";
export { f16Lanes } from "./vector";
export { wkv7Backward, wkv7Forward, wkv7ScratchBytes } from "./wkv7";
