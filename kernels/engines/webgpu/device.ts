/**
 * Asks for a device with everything that the adapter offers, and keeps what went wrong with it.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { DeviceLimits } from "../../op.ts";
import type { Provider } from "./provider.ts";

/** What is known of an adapter before a device is asked for. */
export interface AdapterReport {
  readonly adapter: GPUAdapter;
  readonly description: string;
  /** Whether it is a processor pretending to be a GPU. */
  readonly software: boolean;
}

/** The limits that programs make use of, all asked for at the adapter's maximum. */
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupsPerDimension",
] as const;

/** Finds an adapter; undefined where there is none. */
export async function findAdapter(provider: Provider): Promise<AdapterReport | undefined> {
  const gpu = await provider.gpu();
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return undefined;
  const { description, vendor, device } = adapter.info;
  const name = description || [vendor, device].filter(Boolean).join(" ") || "unnamed adapter";
  const fallback = (adapter.info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  return {
    adapter,
    description: name,
    software: fallback || /llvmpipe|swiftshader|basic render/i.test(name),
  };
}

/** A device, its limits, and the first thing that went wrong with it. */
export class Device {
  readonly limits: DeviceLimits;
  #fault: string | undefined;
  #pending: Promise<void>[] = [];

  private constructor(readonly gpu: GPUDevice, readonly description: string) {
    this.limits = {
      bindingBytes: gpu.limits.maxStorageBufferBindingSize,
      workgroups: gpu.limits.maxComputeWorkgroupsPerDimension,
    };
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#fault ??= (event as GPUUncapturedErrorEvent).error.message;
    });
    gpu.lost.then(({ reason, message }) => {
      if (reason !== "destroyed") this.#fault ??= `the device was lost (${message || reason})`;
    });
  }

  /** Requests a device with the adapter's limits. */
  static async request({ adapter, description }: AdapterReport): Promise<Device> {
    const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
    return new Device(await adapter.requestDevice({ requiredLimits }), description);
  }

  /** Runs `action` and remembers, under the name of what it does, an error that the device reports for it. */
  guarded<T>(what: string, action: () => T): T {
    this.gpu.pushErrorScope("out-of-memory");
    this.gpu.pushErrorScope("validation");
    const result = action();
    const caught = [this.gpu.popErrorScope(), this.gpu.popErrorScope()];
    this.#pending.push(
      Promise.all(caught).then(([invalid, exhausted]) => {
        if (exhausted) {
          this.#fault ??=
            `out of GPU memory while ${what}; try --grad_cp 1, a smaller --micro_bsz or --ctx_len, ` +
            `or --engine cpu`;
        } else if (invalid) this.#fault ??= `the device refused ${what}: ${firstLines(invalid.message)}`;
      }, () => {}),
    );
    return result;
  }

  /** Waits for the reports on everything guarded so far. @throws EngineError with the first fault */
  async check(): Promise<void> {
    const pending = this.#pending;
    this.#pending = [];
    await Promise.all(pending);
    this.throwFault();
  }

  /** @throws EngineError if something went wrong that is known by now */
  throwFault(): void {
    if (this.#fault) throw new EngineError(`Cannot go on with ${this.description}: ${this.#fault}`);
  }
}

/** wgpu explains itself over many lines; the first say what is wrong. */
function firstLines(message: string): string {
  return message.trim().split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 6).join(" ");
}
