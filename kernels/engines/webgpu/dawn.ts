/**
 * Dawn, Chrome's WebGPU, through the npm package `webgpu`: it reaches the matrix units of a GPU and checks no bounds.
 *
 * The package is some 30 MB to load, so its name is put together where the module graph does not see it: only who takes Dawn is
 * sent it. Two things about it are known from its source and from crashes. What `create` gives must stay reachable for ever,
 * because its poller goes on using it after a collection. And while a promise is pending it polls through `setImmediate`,
 * looked up on the global object each time, which would keep a core busy: after a millisecond it is made to wait between polls.
 *
 * @module
 */
import type { Provider } from "./provider.ts";

const PACKAGE = ["npm:webgpu", "0.6.2"].join("@");

/** Matrix units are an unsafe API to Dawn, and f16 on NVIDIA's cards is behind a toggle; our shaders stay within bounds. */
const FLAGS = [
  "enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia,disable_robustness,disable_workgroup_init",
  "disable-dawn-features=timestamp_quantization",
];

/** Keeps what must never be collected. */
const PIN = Symbol.for("wishbone: Dawn, pinned");

/** Dawn. A process that loaded it ends by `Deno.exit`, not by itself. */
export const dawnProvider: Provider = {
  name: "Dawn",
  gpu() {
    const pinned = globalThis as unknown as Record<symbol, Promise<GPU> | undefined>;
    return pinned[PIN] ??= open().catch((error: Error) => {
      pinned[PIN] = undefined;
      throw new Error(`Dawn (${PACKAGE}) could not be loaded: ${error.message.split("\n")[0]}`);
    });
  },
};

async function open(): Promise<GPU> {
  const { create } = await import(PACKAGE) as { create(flags: readonly string[]): GPU };
  slowPolling();
  return create(FLAGS);
}

/** Callbacks that follow one another for longer than this, in milliseconds, are a poller's. */
const SPIN = 1;
/** A pause in milliseconds after which a new series begins. */
const PAUSE = 5;

/** Lets the first callbacks of a series run at once, as short work is done soon, and the later ones a millisecond apart. */
function slowPolling(): void {
  const immediately = globalThis.setImmediate;
  let began = 0, last = 0;
  globalThis.setImmediate = ((callback: (...given: unknown[]) => void, ...given: unknown[]) => {
    const now = performance.now();
    if (now - last > PAUSE) began = now;
    last = now;
    return now - began < SPIN ? immediately(callback, ...given) : setTimeout(callback, 1, ...given);
  }) as typeof setImmediate;
}
