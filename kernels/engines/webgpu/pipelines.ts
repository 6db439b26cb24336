/**
 * Shaders made ready, each text once. Where the provider can, many are compiled at the same time.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import { type Device, firstLines } from "./device.ts";

/** The pipelines of a device. */
export class Pipelines {
  readonly #device: Device;
  readonly #ready = new Map<string, Promise<GPUComputePipeline>>();

  constructor(device: Device) {
    this.#device = device;
  }

  /**
   * The pipeline of a shader.
   * @param op names it in errors
   * @throws EngineError if the device refuses it
   */
  get(op: string, wgsl: string): Promise<GPUComputePipeline> {
    let pipeline = this.#ready.get(wgsl);
    if (!pipeline) {
      pipeline = this.#compile(op, wgsl);
      this.#ready.set(wgsl, pipeline);
      // Whoever asks again may have a device that takes it by then, or is told again.
      pipeline.catch(() => this.#ready.delete(wgsl));
    }
    return pipeline;
  }

  async #compile(op: string, wgsl: string): Promise<GPUComputePipeline> {
    const { gpu, description } = this.#device;
    gpu.pushErrorScope("validation");
    let made: Promise<GPUComputePipeline>;
    let said: Promise<GPUError | null>;
    try {
      const module = gpu.createShaderModule({ label: op, code: wgsl });
      made = gpu.createComputePipelineAsync({
        label: op,
        layout: "auto",
        compute: { module, entryPoint: "main" },
      });
    } catch (error) {
      made = Promise.reject(error);
    } finally {
      said = gpu.popErrorScope();
    }
    const [pipeline, complaint] = await Promise.allSettled([made, said]);
    // The module's error says what is wrong, the pipeline's only that the module is.
    const error = (complaint.status === "fulfilled" && complaint.value) ||
      (pipeline.status === "rejected" ? pipeline.reason as Error : undefined);
    if (error || pipeline.status === "rejected") {
      throw new EngineError(
        `Cannot go on with ${description}: the device refused compiling ${op}: ` +
          `${firstLines(error?.message ?? "no reason is given")}; use --engine cpu`,
      );
    }
    return pipeline.value;
  }

  /** Forgets all of them. */
  clear(): void {
    this.#ready.clear();
  }
}
