/**
 * Asks for a device with everything that the adapter offers, and keeps what went wrong with it.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { DeviceLimits, MatrixUnits } from "../../op.ts";
import type { Provider } from "./provider.ts";

/** What is known of an adapter before a device is asked for. */
export interface AdapterReport {
  readonly adapter: GPUAdapter;
  readonly description: string;
  /** Matrix units that multiply f16 and add up in f32, where the provider reaches them. */
  readonly matrixUnits?: MatrixUnits;
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

/** What the matrix units need. */
const MATRIX_FEATURES = [
  "shader-f16",
  "subgroups",
  "chromium-experimental-subgroup-matrix",
] as GPUFeatureName[];

/** What an adapter of Dawn tells of itself beyond the standard. */
interface MatrixInfo {
  readonly subgroupMinSize?: number;
  readonly subgroupMaxSize?: number;
  readonly subgroupMatrixConfigs?: Iterable<
    { componentType: string; resultComponentType: string; M: number; N: number; K: number }
  >;
}

/** The largest matrix that the units take; none where subgroups vary in size, for the shaders count on theirs. */
function matrixUnits({ features, info }: GPUAdapter): MatrixUnits | undefined {
  if (!MATRIX_FEATURES.every((feature) => features.has(feature))) return undefined;
  const { subgroupMinSize, subgroupMaxSize: lanes, subgroupMatrixConfigs = [] } = info as MatrixInfo;
  if (!lanes || lanes !== subgroupMinSize) return undefined;
  const [first] = [...subgroupMatrixConfigs]
    .filter((c) => c.componentType === "f16" && c.resultComponentType === "f32" && c.M === c.N && c.M === c.K)
    .sort((a, b) => b.M - a.M);
  return first && { lanes, side: first.M };
}

/** Finds an adapter; undefined where there is none. */
export async function findAdapter(provider: Provider): Promise<AdapterReport | undefined> {
  const gpu = await provider.gpu();
  const adapter = await gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return undefined;
  const { description, vendor, device } = adapter.info;
  const name = description || [vendor, device].filter(Boolean).join(" ") || "unnamed adapter";
  const units = matrixUnits(adapter);
  const fallback = (adapter.info as { isFallbackAdapter?: boolean }).isFallbackAdapter === true;
  return {
    adapter,
    description: `${name}, ${provider.name}`,
    ...(units && { matrixUnits: units }),
    software: fallback || /llvmpipe|swiftshader|basic render/i.test(name),
  };
}

/** A device, its limits, and the first thing that went wrong with it. */
export class Device {
  readonly limits: DeviceLimits;
  #fault: string | undefined;
  #pending: Promise<void>[] = [];

  private constructor(readonly gpu: GPUDevice, readonly description: string, units: MatrixUnits | undefined) {
    this.limits = {
      ...(units && { matrixUnits: units }),
      workgroupBytes: gpu.limits.maxComputeWorkgroupStorageSize,
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
  static async request({ adapter, description, matrixUnits }: AdapterReport): Promise<Device> {
    const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
    const wished: GPUFeatureName[] = ["timestamp-query", ...(matrixUnits ? MATRIX_FEATURES : [])];
    const requiredFeatures = wished.filter((feature) => adapter.features.has(feature));
    const gpu = await adapter.requestDevice({ requiredLimits, requiredFeatures });
    return new Device(gpu, description, matrixUnits);
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
