/**
 * Deno's built-in WebGPU (wgpu). It needs nothing but reaches no matrix units: Deno leaves wgpu's experimental features off.
 *
 * @module
 */
import type { Provider } from "./provider.ts";

/** `navigator.gpu`. */
export const denoProvider: Provider = {
  name: "Deno's WebGPU",
  gpu() {
    if (!navigator.gpu) return Promise.reject(new Error("This Deno has no WebGPU: use Deno 2.2 or newer"));
    return Promise.resolve(navigator.gpu);
  },
};
