/**
 * What both of the product's shaders share: the kinds of product, and the uniform block.
 *
 * @module
 */
import type { StorageType } from "../../graph.ts";

/** One kind of product. */
export interface Layout {
  /** Storage of A: f32 or f16. */
  readonly dtypeA: StorageType;
  /** Storage of B. */
  readonly dtype: StorageType;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  /** What the product is added to: nothing, another tensor, or what is there. */
  readonly mode: "write" | "addend" | "accumulate";
  /** Whether it is one of several products of a kind, which lie at equal distances. */
  readonly blocks?: boolean;
}

/** Declares the uniform block `p`. @param blocks whether there are several products */
export const parameters = (blocks = false): string => `
struct Parameters {
  M: u32, N: u32, K: u32,
  a_start: u32, out_start: u32,
  a_m: u32, a_k: u32,      // strides of A in elements
  b_k: u32, b_n: u32,      // strides of B
  out_m: u32,              // stride of the output's rows
  part: u32,               // extent of K that one workgroup adds up
  out_part: u32,           // elements between the outputs of two parts
  ${blocks ? "blocks: u32, a_block: u32, b_block: u32, out_block: u32," : ""}
}
@group(0) @binding(0) var<uniform> p: Parameters;
`;
