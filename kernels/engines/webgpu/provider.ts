/**
 * Where a WebGPU device comes from. One file beside this one each: Deno's own WebGPU, and Dawn.
 *
 * @module
 */

/** Gives the entry point of WebGPU, or says in one sentence why there is none. */
export interface Provider {
  /** For people. */
  readonly name: string;
  /** @throws Error with one sentence, if it cannot be had */
  gpu(): Promise<GPU>;
}
