/**
 * The webgpu engine: every variable and every slot of a program is a buffer, and a program is replayed as one list of
 * dispatches whose pipelines and bind groups were made when it was loaded.
 *
 * @module
 */
import { type Engine, EngineError, type Executable, home } from "../../engine.ts";
import { bytesOf, type Node, sizeOf, type StorageType, type Tensor, type Variable } from "../../graph.ts";
import type { Binding, DeviceLimits, Pass } from "../../op.ts";
import type { Program } from "../../plan.ts";
import { type AdapterReport, Device } from "./device.ts";
import { timedPasses } from "./timing.ts";

/** Uniform blocks start at multiples of this. */
const UNIFORM_ALIGNMENT = 256;

/** Dispatches a submission: long enough to amortise it, short enough for the watchdogs of operating systems. */
const DISPATCHES_A_SUBMISSION = 400;

/** Operands of one dispatch, even where a device can bind more: each takes registers. */
const MOST_OPERANDS = 16;

/** Bytes of a buffer and of a binding, at least: one vector of four. */
const LEAST_BINDING = 16;

interface Dispatch {
  readonly node: Node;
  readonly pipeline: GPUComputePipeline;
  readonly bindGroup: GPUBindGroup;
  readonly workgroups: readonly [number, number, number];
}

function encode(pass: GPUComputePassEncoder, { pipeline, bindGroup, workgroups: [x, y, z] }: Dispatch): void {
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, bindGroup);
  pass.dispatchWorkgroups(x, y, z);
}

/** How exact products are: "auto" takes the fastest that the device has with f32 sums, "fp32" keeps operands in f32 as well. */
export type Precision = "auto" | "fp32";

/** Runs programs on a WebGPU device. */
export class WebGpuEngine implements Engine {
  readonly name = "webgpu";
  readonly description: string;
  readonly #device: Device;
  readonly #variables = new Map<Variable, GPUBuffer>();
  readonly #pipelines = new Map<string, GPUComputePipeline>();
  #allocatedBytes = 0;

  private constructor(device: Device) {
    this.#device = device;
    this.description = device.description;
  }

  /**
   * Opens an engine on an adapter.
   * @param options.precision "fp32" leaves the matrix units alone, whose operands are f16
   * @param options.patience milliseconds after which work that does not end is given up
   */
  static async open(
    report: AdapterReport,
    options: { precision?: Precision; patience?: number } = {},
  ): Promise<WebGpuEngine> {
    const { matrixUnits, ...plain } = report;
    const withUnits = matrixUnits && options.precision !== "fp32";
    return new WebGpuEngine(await Device.request(withUnits ? report : plain, options.patience));
  }

  /** What lowerings count on. */
  get limits(): DeviceLimits {
    return this.#device.limits;
  }

  /** Whether products are made on matrix units, whose operands are f16. */
  get matrixUnits(): boolean {
    return this.#device.limits.matrixUnits !== undefined;
  }

  /** WebGPU does not tell how much memory a device has. */
  room(_dtype?: StorageType): number {
    return Infinity;
  }

  readonly scratch = true;

  get operands(): number {
    return Math.min(this.#device.gpu.limits.maxStorageBuffersPerShaderStage, MOST_OPERANDS);
  }

  get allocatedBytes(): number {
    return this.#allocatedBytes;
  }

  #buffer(bytes: number, label: string): GPUBuffer {
    const { gpu } = this.#device;
    if (bytes > gpu.limits.maxBufferSize) {
      throw new EngineError(
        `Cannot allocate ${label} of ${bytes} bytes on ${this.description}, whose largest buffer is ` +
          `${gpu.limits.maxBufferSize}: use --engine cpu or a smaller model`,
      );
    }
    this.#allocatedBytes += bytes;
    return this.#device.guarded(`allocating ${bytes} bytes for ${label}`, () =>
      gpu.createBuffer({
        label,
        size: bytes,
        usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_DST | GPUBufferUsage.COPY_SRC,
      }));
  }

  #release(buffer: GPUBuffer): void {
    this.#allocatedBytes -= buffer.size;
    buffer.destroy();
  }

  allocate(variable: Variable, content?: ArrayBufferView): void {
    if (variable.within) throw new EngineError(`Cannot allocate ${variable.name}: its pack holds it`);
    this.#variables.set(variable, this.#buffer(Math.max(LEAST_BINDING, bytesOf(variable)), variable.name));
    if (content) this.write(variable, content);
  }

  #home(variable: Variable): { buffer: GPUBuffer; byteOffset: number } {
    const { owner, byteOffset } = home(variable);
    const buffer = this.#variables.get(owner);
    if (!buffer) throw new EngineError(`Cannot use ${variable.name}: it was not allocated`);
    return { buffer, byteOffset };
  }

  write(variable: Variable, content: ArrayBufferView): void {
    const { buffer, byteOffset } = this.#home(variable);
    let bytes = new Uint8Array(content.buffer as ArrayBuffer, content.byteOffset, content.byteLength);
    // Deno 2.9 ends the process on a write of nothing.
    if (bytes.length === 0) return;
    if (bytes.length % 4) {
      const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
      padded.set(bytes);
      bytes = padded;
    }
    this.#device.guarded(
      `writing ${variable.name}`,
      () => this.#device.gpu.queue.writeBuffer(buffer, byteOffset, bytes),
    );
  }

  async read(variable: Variable): Promise<Float32Array> {
    const { gpu } = this.#device;
    const { buffer, byteOffset } = this.#home(variable);
    const size = sizeOf(variable.shape) * 4;
    if (size === 0) return new Float32Array();
    const staging = this.#device.guarded(`reading ${variable.name}`, () => {
      const staging = gpu.createBuffer({ size, usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST });
      const encoder = gpu.createCommandEncoder();
      encoder.copyBufferToBuffer(buffer, byteOffset, staging, 0, size);
      gpu.queue.submit([encoder.finish()]);
      return staging;
    });
    try {
      await this.#device.wait(`reading ${variable.name}`, staging.mapAsync(GPUMapMode.READ));
      const content = new Float32Array(staging.getMappedRange().slice(0));
      await this.#device.check();
      return content;
    } finally {
      staging.destroy();
    }
  }

  free(variable: Variable): void {
    const buffer = this.#variables.get(variable);
    if (!buffer) return;
    this.#release(buffer);
    this.#variables.delete(variable);
  }

  #pipeline(op: string, wgsl: string): GPUComputePipeline {
    let pipeline = this.#pipelines.get(wgsl);
    if (!pipeline) {
      const { gpu } = this.#device;
      pipeline = this.#device.guarded(`compiling ${op}`, () => {
        const module = gpu.createShaderModule({ label: op, code: wgsl });
        return gpu.createComputePipeline({
          label: op,
          layout: "auto",
          compute: { module, entryPoint: "main" },
        });
      });
      this.#pipelines.set(wgsl, pipeline);
    }
    return pipeline;
  }

  async load(program: Program): Promise<Executable> {
    const buffers: GPUBuffer[] = [];
    const dispose = () => buffers.forEach((buffer) => this.#release(buffer));
    try {
      const dispatches = this.#prepare(program, buffers);
      await this.#device.check();
      return { run: () => this.#run(dispatches), dispose, [Symbol.dispose]: dispose };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  /** Makes what a program needs; every buffer is also put into `buffers`, so that they can be released whatever happens. */
  #prepare(program: Program, buffers: GPUBuffer[]): Dispatch[] {
    const { gpu, limits } = this.#device;
    program.slots.forEach((bytes, i) => buffers.push(this.#buffer(bytes, `slot ${i}`)));
    const slots = buffers.slice();
    const place = (t: Tensor, { byteOffset = 0, byteLength = bytesOf(t) }: Binding): GPUBufferBinding => {
      if (byteLength > limits.bindingBytes) {
        throw new EngineError(
          `Cannot bind a tensor [${t.shape}] of ${byteLength} bytes on ${this.description}, whose limit is ` +
            `${limits.bindingBytes}: use a smaller --micro_bsz or --ctx_len, or --engine cpu`,
        );
      }
      // Nothing is bound as what lies at the start, which the shader does not read.
      const size = byteLength || LEAST_BINDING, offset = byteLength ? byteOffset : 0;
      if (!t.variable) return { buffer: slots[program.placement.get(t)!]!, offset, size };
      const at = this.#home(t.variable);
      return { buffer: at.buffer, offset: byteLength ? at.byteOffset + offset : 0, size };
    };

    const computes = ({ op, outputs }: Node) => op.mutates?.length || outputs.some(({ size }) => size > 0);
    const passes: { node: Node; pass: Pass; operands: Tensor[] }[] = program.nodes.filter(computes).flatMap((
      node,
    ) =>
      node.op.webgpu(node, limits).filter(({ workgroups }) => !workgroups.includes(0)).map((pass) => ({
        node,
        pass,
        operands: [...node.inputs, ...node.outputs],
      }))
    );
    const uniforms = this.#uniforms(passes.map(({ pass }) => pass.uniforms));
    buffers.push(uniforms.buffer);
    return passes.map(({ node, pass, operands }, index) => {
      const op = node.op.name, pipeline = this.#pipeline(op, pass.wgsl);
      const size = Math.max(16, Math.ceil(pass.uniforms.length / 4) * 16);
      const entries = [
        { binding: 0, resource: { buffer: uniforms.buffer, offset: uniforms.offsets[index]!, size } },
        ...pass.bindings.map((binding, i) => ({
          binding: i + 1,
          resource: place(operands[binding.operand]!, binding),
        })),
      ];
      const bindGroup = this.#device.guarded(
        `binding ${op}`,
        () => gpu.createBindGroup({ layout: pipeline.getBindGroupLayout(0), entries }),
      );
      return { node, pipeline, bindGroup, workgroups: pass.workgroups };
    });
  }

  /** All uniform blocks in one buffer. */
  #uniforms(blocks: readonly (readonly number[])[]): { buffer: GPUBuffer; offsets: number[] } {
    let bytes = 0;
    const offsets = blocks.map((block) => {
      const offset = bytes;
      bytes += Math.max(1, Math.ceil(block.length * 4 / UNIFORM_ALIGNMENT)) * UNIFORM_ALIGNMENT;
      return offset;
    });
    const words = new Uint32Array(Math.max(bytes, UNIFORM_ALIGNMENT) / 4);
    blocks.forEach((block, i) => words.set(block, offsets[i]! / 4));
    const { gpu } = this.#device;
    const buffer = gpu.createBuffer({
      label: "uniforms",
      size: words.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.#allocatedBytes += buffer.size;
    gpu.queue.writeBuffer(buffer, 0, words);
    return { buffer, offsets };
  }

  #run(dispatches: readonly Dispatch[]): void {
    this.#device.throwFault();
    const { gpu } = this.#device;
    for (let first = 0; first < dispatches.length; first += DISPATCHES_A_SUBMISSION) {
      const some = dispatches.slice(first, first + DISPATCHES_A_SUBMISSION);
      this.#device.running =
        `${some[0]!.node.op.name} to ${some.at(-1)!.node.op.name} (dispatches ${first + 1} to ` +
        `${first + some.length} of ${dispatches.length})`;
      this.#device.guarded(`running ${this.#device.running}`, () => {
        const encoder = gpu.createCommandEncoder();
        const pass = encoder.beginComputePass();
        for (const dispatch of some) encode(pass, dispatch);
        pass.end();
        gpu.queue.submit([encoder.finish()]);
      });
    }
  }

  /**
   * Runs a program with each dispatch timed on the device.
   * @returns milliseconds of each node's dispatches, in the program's order
   * @throws EngineError if the device cannot time
   */
  async profile(program: Program): Promise<Map<Node, number>> {
    const buffers: GPUBuffer[] = [];
    try {
      const dispatches = this.#prepare(program, buffers);
      await this.#device.check();
      const times = await timedPasses(
        this.#device,
        dispatches.map((dispatch) => (pass) => encode(pass, dispatch)),
      );
      const byNode = new Map<Node, number>();
      dispatches.forEach(({ node }, i) => byNode.set(node, (byNode.get(node) ?? 0) + times[i]!));
      return byNode;
    } finally {
      buffers.forEach((buffer) => this.#release(buffer));
    }
  }

  async settle(): Promise<void> {
    await this.#device.wait("waiting for it", this.#device.gpu.queue.onSubmittedWorkDone());
    await this.#device.check();
  }

  dispose(): void {
    for (const buffer of this.#variables.values()) buffer.destroy();
    this.#variables.clear();
    this.#pipelines.clear();
    this.#allocatedBytes = 0;
    this.#device.gpu.destroy();
  }
}
