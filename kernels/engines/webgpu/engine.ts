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
import { viewOf } from "../../views.ts";
import { type AdapterReport, Device } from "./device.ts";
import { Pipelines } from "./pipelines.ts";
import { matrixUnitsFault } from "./probe.ts";
import { timedPasses } from "./timing.ts";
import { type Trial, Tuner } from "./tuner.ts";

/** Uniform blocks start at multiples of this. */
const UNIFORM_ALIGNMENT = 256;

/** Dispatches a submission: long enough to amortise it, short enough for the watchdogs of operating systems. */
const DISPATCHES_A_SUBMISSION = 400;

/** Operands of one dispatch, even where a device can bind more: each takes registers. */
const MOST_OPERANDS = 16;

/** Bytes of a buffer and of a binding, at least: one vector of four. */
const LEAST_BINDING = 16;

/** Milliseconds of work before measurements: an idle GPU runs at low clocks. */
const WARM_UP = 400;

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
  /** Why matrix units that the device offers are not used; undefined where they are, or were not wanted. */
  matrixUnitsFault: string | undefined;
  readonly #device: Device;
  readonly #variables = new Map<Variable, GPUBuffer>();
  readonly #pipelines: Pipelines;
  readonly #tuner: Tuner;
  #allocatedBytes = 0;

  private constructor(device: Device, tuned: boolean) {
    this.#device = device;
    this.#pipelines = new Pipelines(device);
    const bind = (node: Node, passes: readonly Pass[], buffers: readonly GPUBuffer[]) =>
      this.#trial(node, passes, buffers);
    this.#tuner = new Tuner(device, bind, tuned);
    this.description = device.description;
  }

  /**
   * Opens an engine on an adapter. Its matrix units are used once they have multiplied rightly.
   * @param options.precision "fp32" leaves the matrix units alone, whose operands are f16
   * @param options.tuned whether the fastest of several shaders is found out by measuring; default: where there is hardware
   * @param options.patience milliseconds after which work that does not end is given up
   */
  static async open(
    report: AdapterReport,
    options: { precision?: Precision; patience?: number; tuned?: boolean } = {},
  ): Promise<WebGpuEngine> {
    const { matrixUnits, ...plain } = report;
    const withUnits = matrixUnits && options.precision !== "fp32";
    const device = await Device.request(withUnits ? report : plain, options.patience);
    const fault = withUnits && await matrixUnitsFault(new WebGpuEngine(device, false));
    if (fault) device.giveUpMatrixUnits();
    const engine = new WebGpuEngine(device, options.tuned ?? !report.software);
    if (fault) engine.matrixUnitsFault = fault;
    return engine;
  }

  /** What lowerings count on. */
  get limits(): DeviceLimits {
    return this.#device.limits;
  }

  /** Which lowering was chosen for which op and shapes, by measuring. */
  get choices(): ReadonlyMap<string, string> {
    return this.#tuner.choices;
  }

  get lowerings(): ReadonlyMap<string, string> {
    return this.#tuner.given;
  }

  keepTo(lowerings: ReadonlyMap<string, string>): void {
    this.#tuner.keepTo(lowerings);
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

  get joinsFolds(): "f16" | undefined {
    return this.matrixUnits ? "f16" : undefined;
  }

  get keeps(): "f16" | undefined {
    return this.matrixUnits ? "f16" : undefined;
  }

  get rounds(): "f16" | undefined {
    return this.matrixUnits ? "f16" : undefined;
  }

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

  async load(program: Program): Promise<Executable> {
    const buffers: GPUBuffer[] = [];
    const dispose = () => buffers.forEach((buffer) => this.#release(buffer));
    try {
      const dispatches = await this.#prepare(program, buffers);
      await this.#device.check();
      return { run: () => this.#run(dispatches), dispose, [Symbol.dispose]: dispose };
    } catch (error) {
      dispose();
      throw error;
    }
  }

  /** Makes what a program needs; every buffer is also put into `buffers`, so that they can be released whatever happens. */
  async #prepare(program: Program, buffers: GPUBuffer[]): Promise<Dispatch[]> {
    const { limits } = this.#device;
    await this.#tuner.tune(program.nodes);
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
      const size = byteLength || LEAST_BINDING, view = viewOf(program.views, t);
      const at = view.of.variable ? this.#home(view.of.variable) : program.placement.get(view.of)!;
      const buffer = "slot" in at ? slots[at.slot]! : at.buffer;
      return { buffer, offset: byteLength ? at.byteOffset + view.byteOffset + byteOffset : 0, size };
    };

    const computes = ({ op, outputs }: Node) => op.mutates?.length || outputs.some(({ size }) => size > 0);
    const passes: { node: Node; pass: Pass; operands: Tensor[] }[] = program.nodes.filter(computes).flatMap((
      node,
    ) =>
      this.#tuner.passes(node).filter(({ workgroups }) => !workgroups.includes(0)).map((pass) => ({
        node,
        pass,
        operands: [...node.inputs, ...node.outputs],
      }))
    );
    const uniforms = this.#uniforms(passes.map(({ pass }) => pass.uniforms));
    buffers.push(uniforms.buffer);
    const pipelines = await Promise.all(
      passes.map(({ node, pass }) => this.#pipelines.get(node.op.name, pass.wgsl)),
    );
    return passes.map(({ node, pass, operands }, index) => {
      const at = { buffer: uniforms.buffer, offset: uniforms.offsets[index]! };
      const bindGroup = this.#device.guarded(
        `binding ${node.op.name}`,
        () =>
          this.#bindGroup(
            pipelines[index]!,
            pass,
            at,
            (binding) => place(operands[binding.operand]!, binding),
          ),
      );
      return { node, pipeline: pipelines[index]!, bindGroup, workgroups: pass.workgroups };
    });
  }

  /** A pass's operands, each where `place` says, and its uniform block. */
  #bindGroup(
    pipeline: GPUComputePipeline,
    { bindings, uniforms }: Pass,
    block: { buffer: GPUBuffer; offset: number },
    place: (binding: Binding) => GPUBufferBinding,
  ): GPUBindGroup {
    const size = Math.max(16, Math.ceil(uniforms.length / 4) * 16);
    return this.#device.gpu.createBindGroup({
      layout: pipeline.getBindGroupLayout(0),
      entries: [
        { binding: 0, resource: { ...block, size } },
        ...bindings.map((binding, i) => ({ binding: i + 1, resource: place(binding) })),
      ],
    });
  }

  /** Makes passes ready on buffers of the tuner's, one for each operand. */
  async #trial(node: Node, passes: readonly Pass[], buffers: readonly GPUBuffer[]): Promise<Trial> {
    const pipelines = await Promise.all(passes.map(({ wgsl }) => this.#pipelines.get(node.op.name, wgsl)));
    const uniforms = this.#uniforms(passes.map((pass) => pass.uniforms));
    const release = () => this.#release(uniforms.buffer);
    const operands = [...node.inputs, ...node.outputs];
    const place = ({ operand, byteOffset = 0, byteLength = bytesOf(operands[operand]!) }: Binding) => ({
      buffer: buffers[operand]!,
      offset: byteOffset,
      size: byteLength,
    });
    try {
      const dispatches = await this.#device.attempt(() =>
        passes.map((pass, i): Dispatch => {
          const at = { buffer: uniforms.buffer, offset: uniforms.offsets[i]! }, pipeline = pipelines[i]!;
          const bindGroup = this.#bindGroup(pipeline, pass, at, place);
          return { node, pipeline, bindGroup, workgroups: pass.workgroups };
        })
      );
      const all = (pass: GPUComputePassEncoder) => dispatches.forEach((dispatch) => encode(pass, dispatch));
      return { encode: all, [Symbol.dispose]: release };
    } catch (error) {
      release();
      throw error;
    }
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
   * Runs a program a few times, and then with each dispatch timed on the device.
   * @returns milliseconds of each node's dispatches, in the program's order
   * @throws EngineError if the device cannot time
   */
  async profile(program: Program): Promise<Map<Node, number>> {
    const buffers: GPUBuffer[] = [];
    try {
      const dispatches = await this.#prepare(program, buffers);
      await this.#device.check();
      const run = () => this.#run(dispatches);
      for (const end = performance.now() + WARM_UP; performance.now() < end;) {
        run();
        await this.settle();
      }
      const passes = dispatches.map((dispatch) => (pass: GPUComputePassEncoder) => encode(pass, dispatch));
      const times = await timedPasses(this.#device, passes, run);
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
    this.#device.release();
  }
}
