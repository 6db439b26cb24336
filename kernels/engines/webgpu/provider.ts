/**
 * Where a WebGPU device comes from: Deno's own `navigator.gpu`. Another provider is another function of this type.
 *
 * @module
 */

/** Gives the entry point of WebGPU, or says in one sentence why there is none. */
export interface Provider {
  readonly name: string;
  gpu(): Promise<GPU>;
}

/** Deno's built-in WebGPU (wgpu). */
export const denoProvider: Provider = {
  name: "Deno",
  gpu() {
    if (!navigator.gpu) return Promise.reject(new Error("This Deno has no WebGPU: use Deno 2.2 or newer"));
    return Promise.resolve(navigator.gpu);
  },
};
