/**
 * Asks for a device with everything that the adapter offers, and keeps what went wrong with it.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { DeviceLimits, MatrixUnits } from "../../op.ts";
import type { Provider } from "./provider.ts";
import { SMALLER, tellWaiting } from "./waiting.ts";

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

/** Milliseconds that work may take after which nothing is heard of it, unless a device is given others. */
const PATIENCE = 600_000;
/** Milliseconds in which a device that fails says why it does. */
const LAST_WORDS = 500;

/** A device, its limits, and the first thing that went wrong with it. */
export class Device {
  #limits: DeviceLimits;
  /** What was submitted last, for people. */
  running = "nothing";
  #fault: string | undefined;
  #pending: Promise<void>[] = [];
  #released = false;

  private constructor(
    readonly gpu: GPUDevice,
    readonly description: string,
    units: MatrixUnits | undefined,
    readonly patience: number,
  ) {
    this.#limits = {
      ...(units && { matrixUnits: units }),
      workgroupBytes: gpu.limits.maxComputeWorkgroupStorageSize,
      bindingBytes: gpu.limits.maxStorageBufferBindingSize,
      workgroups: gpu.limits.maxComputeWorkgroupsPerDimension,
    };
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#fault ??= firstLines((event as GPUUncapturedErrorEvent).error.message);
    });
    gpu.lost.then(({ reason, message }) => {
      if (this.#released) return;
      const why = firstLines(message) || reason || "no reason is given";
      this.#fault ??= `the device was lost (${why}) while running ${this.running}; ${SMALLER}`;
    });
  }

  /**
   * Requests a device with the adapter's limits.
   *
   * @param patience milliseconds after which work that does not end is given up
   * @throws EngineError if the adapter gives none
   */
  static async request(
    { adapter, description, matrixUnits }: AdapterReport,
    patience: number = PATIENCE,
  ): Promise<Device> {
    const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
    const wished: GPUFeatureName[] = ["timestamp-query", ...(matrixUnits ? MATRIX_FEATURES : [])];
    const requiredFeatures = wished.filter((feature) => adapter.features.has(feature));
    try {
      const gpu = await adapter.requestDevice({ requiredLimits, requiredFeatures });
      return new Device(gpu, description, matrixUnits, patience);
    } catch (error) {
      const why = firstLines((error as Error).message);
      throw new EngineError(`Cannot use ${description}: it gives no device (${why}); use --engine cpu`);
    }
  }

  /** What lowerings may count on. */
  get limits(): DeviceLimits {
    return this.#limits;
  }

  /** Leaves the matrix units alone from here on. */
  giveUpMatrixUnits(): void {
    const { matrixUnits: _, ...limits } = this.#limits;
    this.#limits = limits;
  }

  /** Gives the device back. */
  release(): void {
    this.#released = true;
    this.gpu.destroy();
  }

  /** Runs `action` and remembers, under the name of what it does, an error that the device reports for it. */
  guarded<T>(what: string, action: () => T): T {
    this.gpu.pushErrorScope("out-of-memory");
    this.gpu.pushErrorScope("validation");
    try {
      return action();
    } catch (error) {
      if (error instanceof EngineError) throw error;
      throw new EngineError(
        `Cannot go on with ${this.description}: ${what} failed: ${firstLines(`${error}`)}; ${SMALLER}`,
      );
    } finally {
      const caught = [this.gpu.popErrorScope(), this.gpu.popErrorScope()];
      this.#pending.push(
        Promise.all(caught).then(([invalid, exhausted]) => {
          if (exhausted) this.#fault ??= `out of GPU memory while ${what}; ${SMALLER}`;
          else if (invalid) {
            this.#fault ??= `the device refused ${what}: ${firstLines(invalid.message)}; use --engine cpu`;
          }
        }, () => {}),
      );
    }
  }

  /**
   * Runs `action`; an error that the device reports for it is thrown and not held against the device.
   * @throws EngineError if the device reports one
   */
  async attempt<T>(action: () => T): Promise<T> {
    this.gpu.pushErrorScope("out-of-memory");
    this.gpu.pushErrorScope("validation");
    let caught: Promise<GPUError | null>[] = [], result: T;
    try {
      result = action();
    } finally {
      caught = [this.gpu.popErrorScope(), this.gpu.popErrorScope()];
    }
    const error = (await Promise.all(caught)).find((error) => error !== null);
    if (error) throw new EngineError(`${this.description} refused: ${firstLines(error.message)}`);
    return result;
  }

  /**
   * Waits for work of the device. Deno's own provider waits without letting timers run, so that there only what is late is seen.
   *
   * @throws EngineError if it fails, or has not ended when patience has
   */
  async wait<T>(what: string, work: Promise<T>): Promise<T> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<"late">((resolve) => timer = setTimeout(resolve, this.patience, "late"));
    tellWaiting(`${what}, after running ${this.running}`);
    try {
      // Work that ended while timers could not run is not late.
      if (await Promise.race([work.then(() => "done"), late]) === "late" && await isPending(work)) {
        const seconds = Math.round(this.patience / 1000);
        this.#fault ??= `nothing was heard for ${seconds} s while ${what}, after running ${this.running}: ` +
          `the device's queue hangs; ${SMALLER}`;
        this.throwFault();
      }
      return await work;
    } catch (error) {
      // That the device was lost may be told a little after its work has failed.
      await Promise.race([this.gpu.lost, new Promise((resolve) => setTimeout(resolve, LAST_WORDS))]);
      await this.check();
      throw error instanceof EngineError ? error : new EngineError(
        `Cannot go on with ${this.description}: ${what} failed: ${firstLines(`${error}`)}; ${SMALLER}`,
      );
    } finally {
      tellWaiting("");
      clearTimeout(timer);
    }
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

/** Whether a promise is not settled yet, when all that is known of it has been heard. */
async function isPending(work: Promise<unknown>): Promise<boolean> {
  const soon = new Promise<"soon">((resolve) => setTimeout(resolve, 0, "soon"));
  return await Promise.race([work.then(() => "done", () => "done"), soon]) === "soon";
}

/** wgpu explains itself over many lines; the first say what is wrong. */
export function firstLines(message: string): string {
  return message.trim().split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 6).join(" ");
}
