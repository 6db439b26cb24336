/**
 * What an op is: shapes, a gradient, code for the processor and a lowering to WebGPU passes. One folder in `ops/` each.
 *
 * Conventions that a reader would trip over: a value is written whole and once (outputs are overwritten, never added to);
 * only variables are updated in place, by the ops that say so in `mutates`; an output never shares memory with an input.
 *
 * @module
 */
import type { Graph, Node, StorageType, Tensor, TensorType } from "./graph.ts";

/** Memory of one operand on the processor: f64 in the oracle, raw 16-bit words for f16 and bf16. */
export type NumberArray = Float32Array | Float64Array | Int32Array | Uint16Array;

/** What the processor's code of an op is given. */
export interface CpuCall<A> {
  /** What the op is told besides its inputs. */
  readonly attributes: A;
  /** What it reads. */
  readonly inputs: readonly Tensor[];
  /** What it computes. */
  readonly outputs: readonly Tensor[];
  /** Memory of the inputs, then of the outputs. */
  readonly memory: readonly NumberArray[];
  /** The share to compute: units `start` (included) to `end` (excluded) of `units()`. */
  readonly start: number;
  /** The end of the share, excluded. */
  readonly end: number;
}

/** A part of an operand: the operand's index (inputs first, then outputs), and a byte range for one over the binding limit. */
export interface Binding {
  /** Index of the operand. */
  readonly operand: number;
  /** Start of the range. */
  readonly byteOffset?: number;
  /** Length of the range. */
  readonly byteLength?: number;
}

/** One dispatch. */
export interface Pass {
  /** Complete WGSL with an entry point `main`; equal text is compiled once. Binding 0 is the uniform block. */
  readonly wgsl: string;
  /** 32-bit words of the uniform block; floats through {@link float}. */
  readonly uniforms: readonly number[];
  /** Storage bindings 1, 2, … in order. */
  readonly bindings: readonly Binding[];
  /** Workgroups in three dimensions. */
  readonly workgroups: readonly [number, number, number];
}

/** Units that multiply small f16 matrices and add up in f32, a subgroup at a time. */
export interface MatrixUnits {
  /** Rows and columns of the matrices. */
  readonly side: number;
  /** Invocations of a subgroup. */
  readonly lanes: number;
}

/** What a lowering may count on. */
export interface DeviceLimits {
  /** Where they may be used. */
  readonly matrixUnits?: MatrixUnits;
  /** Bytes of workgroup memory. */
  readonly workgroupBytes: number;
  /** Largest storage binding in bytes. */
  readonly bindingBytes: number;
  /** Largest number of workgroups in one dimension. */
  readonly workgroups: number;
}

/** What a gradient is given. */
export interface GradientCall<A> {
  /** The graph to build on. */
  readonly graph: Graph;
  /** What the op is told besides its inputs. */
  readonly attributes: A;
  /** What it reads. */
  readonly inputs: readonly Tensor[];
  /** What it computes. */
  readonly outputs: readonly Tensor[];
  /** Gradients of the outputs; undefined where nothing depends on one. */
  readonly dOutputs: readonly (Tensor | undefined)[];
  /** Which inputs' gradients are wanted. */
  readonly wanted: readonly boolean[];
}

/** An op: its meaning and its implementations. */
export interface Op<A = unknown> {
  /** Names the op in errors and profiles. */
  readonly name: string;
  /** Types of the outputs; throws a RangeError that names the op and the shapes if the inputs do not fit. */
  outputs(inputs: readonly Tensor[], attributes: A): TensorType[];
  /** Gradients of the inputs as tensors of the same graph; undefined entries are zero or not wanted. */
  gradient?(call: GradientCall<A>): (Tensor | undefined)[];
  /** Indexes of the inputs, all variables, that the op updates in place. */
  readonly mutates?: readonly number[];
  /** Indexes of the inputs that running the op reads, where others serve only its gradient. */
  reads?(node: Node<A>): readonly number[];
  /** One node that does what two of the op do, where there is such a node. */
  joined?(one: Node<A>, other: Node<A>): Node<A> | undefined;
  /** Indexes of the inputs which may as well be in f16, because matrix units round what they multiply to that. */
  readsHalves?(node: Node<A>): readonly number[];
  /** Indexes of the outputs that the op can write in f16 as well. */
  writesHalves?(node: Node<A>): readonly number[];
  /** Indexes of the outputs that only its own passes on a GPU read and write, or those of its gradient. */
  readonly scratch?: readonly number[];
  /** Where outputs are only rows of input 0: the first row of each. They are not copied where they can be bound. */
  views?(node: Node<A>): readonly number[];
  /** How many equal units of work the op splits into; any split gives the same bits. */
  units(node: Node<A>): number;
  /** Plain TypeScript, also the float64 oracle. */
  cpu(call: CpuCall<A>): void;
  /** Lowers a node to dispatches. */
  webgpu(node: Node<A>, limits: DeviceLimits): Pass[];
  /** Other lowerings with the same meaning, for an engine that measures which is fastest; the first is the most trusted. */
  alternatives?(node: Node<A>, limits: DeviceLimits): Alternative[];
}

/** One way to lower a node. */
export interface Alternative {
  /** By which it is remembered; one name stands for the same shaders everywhere. */
  readonly name: string;
  /** Whether it may be the fastest for the node's sizes. */
  readonly worthTrying: boolean;
  /** The dispatches. */
  passes(): Pass[];
}

const word = new DataView(new ArrayBuffer(4));

/** The bits of a float, for a uniform block. */
export function float(value: number): number {
  word.setFloat32(0, value);
  return word.getUint32(0);
}

/** Workgroups for `count` groups, of which there may be none, in two dimensions, for shaders that index by `y * num_workgroups.x + x`. */
export function grid(count: number, limits: DeviceLimits): [number, number, number] {
  const x = Math.min(count, limits.workgroups);
  return [x, Math.ceil(count / Math.max(x, 1)), 1];
}

/** The sentence for inputs that do not fit an op. */
export function shapeError(op: string, inputs: readonly TensorType[], wanted: string): RangeError {
  const shapes = inputs.map((t) => `${t.dtype}[${t.shape.join(", ")}]`).join(", ");
  return new RangeError(`Cannot apply ${op} to ${shapes}: ${wanted}`);
}

/** @throws RangeError if an input, but for the `except`ed ones, is not f32 */
export function requireF32(op: string, inputs: readonly TensorType[], except: readonly number[] = []): void {
  if (inputs.some(({ dtype }, i) => dtype !== "f32" && !except.includes(i))) {
    throw shapeError(op, inputs, "f32 is needed");
  }
}

/** WGSL that declares storage binding `binding` as `name` and a function `<name>_at(i)` that reads one element as f32. */
export function wgslReader(name: string, binding: number, dtype: StorageType): string {
  const packed = dtype === "f16" || dtype === "bf16";
  const declaration = `@group(0) @binding(${binding}) var<storage, read> ${name}: array<${
    packed ? "u32" : dtype
  }>;\n`;
  if (dtype === "bf16") {
    return declaration +
      `fn ${name}_at(i: u32) -> f32 {\n` +
      `  let w = ${name}[i >> 1u];\n` +
      `  return bitcast<f32>(select(w << 16u, w & 0xffff0000u, (i & 1u) == 1u));\n}\n`;
  }
  if (dtype === "f16") {
    return declaration +
      `fn ${name}_at(i: u32) -> f32 {\n  return unpack2x16float(${name}[i >> 1u])[i & 1u];\n}\n`;
  }
  return declaration + `fn ${name}_at(i: u32) -> f32 {\n  return f32(${name}[i]);\n}\n`;
}

/** WGSL's expressions for four neighbours as f32, of a value `w` that holds them as they are stored. */
const FOUR: Readonly<Record<StorageType, (w: string) => string>> = {
  f32: (w) => w,
  bf16: (w) =>
    `bitcast<vec4<f32>>(vec4(${w}.x << 16u, ${w}.x & 0xffff0000u, ${w}.y << 16u, ${w}.y & 0xffff0000u))`,
  f16: (w) => `vec4(unpack2x16float(${w}.x), unpack2x16float(${w}.y))`,
  i32: () => "",
};

/** WGSL that declares storage binding `binding` as `name` and a function `<name>_four(i)` that reads elements 4i to 4i + 3 as f32. */
export function wgslFours(name: string, binding: number, dtype: StorageType): string {
  const type = dtype === "f32" ? "vec4<f32>" : "vec2<u32>";
  return `@group(0) @binding(${binding}) var<storage, read> ${name}: array<${type}>;\n` +
    `fn ${name}_four(i: u32) -> vec4<f32> {\n  let w = ${name}[i];\n  return ${FOUR[dtype]("w")};\n}\n`;
}

/** The same for a function `<name>_eight(i)` that reads elements 8i to 8i + 7: 16 bytes where they have 16 bits. */
export function wgslEights(name: string, binding: number, dtype: StorageType): string {
  const [type, low, high] = dtype === "f32" ? ["mat2x4<f32>", "w[0]", "w[1]"] : ["vec4<u32>", "w.xy", "w.zw"];
  return `@group(0) @binding(${binding}) var<storage, read> ${name}: array<${type}>;\n` +
    `fn ${name}_eight(i: u32) -> mat2x4<f32> {\n  let w = ${name}[i];\n` +
    `  return mat2x4<f32>(${FOUR[dtype](low!)}, ${FOUR[dtype](high!)});\n}\n`;
}

/** Numbers that a thread takes at a time, and WGSL's type for them. */
export interface Stride {
  /** 4 or 1. */
  readonly count: number;
  /** `vec4<f32>` or `f32`. */
  readonly type: string;
}

/** Four numbers at a time where all extents are multiples of four: loads of 16 bytes, which memory serves fastest; else one. */
export function stride(...extents: readonly number[]): Stride {
  return extents.every((extent) => extent % 4 === 0)
    ? { count: 4, type: "vec4<f32>" }
    : { count: 1, type: "f32" };
}

/**
 * Threads of a workgroup that works on elements by themselves: as many as every device allows. Of smaller ones a large GPU cannot
 * start enough to be busy: with 64 threads an H200 copies at 1.6 TB/s, with 256 at 3.5.
 */
const ELEMENTS = 256;

/** A {@link grid} of workgroups for so many elements. */
export function elementGrid(count: number, limits: DeviceLimits): [number, number, number] {
  return grid(Math.ceil(count / ELEMENTS), limits);
}

/** WGSL of an entry point that runs `body` for each element `i` below `p.size`, in an {@link elementGrid}. */
export function forEachElement(body: readonly string[]): string {
  return [
    `@compute @workgroup_size(${ELEMENTS})`,
    "fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,",
    "        @builtin(local_invocation_index) lane: u32) {",
    `  let i = (group.y * groups.x + group.x) * ${ELEMENTS}u + lane;`,
    "  if (i >= p.size) { return; }",
    ...body.map((line) => `  ${line}`),
    "}",
  ].join("\n");
}

/**
 * Writes the loops `for (var j = 0u; j < BOUND; j++) { … }` out, so that arrays indexed by j stay in registers: drivers put an
 * array that is indexed at run time into memory. Bodies hold no braces.
 */
export function unrolled(wgsl: string, bound: string, count: number): string {
  const loop = new RegExp(`for \\(var j = 0u; j < ${bound}; j\\+\\+\\) \\{([^{}]*)\\}`, "g");
  return wgsl.replace(
    loop,
    (_, body: string) =>
      Array.from({ length: count }, (_, j) => `{${body.replace(/\bj\b/g, `${j}u`)}}`).join("\n"),
  );
}

/** WGSL of four numbers, by name, as two words of halves. */
export function wgslHalves(four: string): string {
  return `vec2(pack2x16float(${four}.xy), pack2x16float(${four}.zw))`;
}

/** Processor memory of a result, f32 or f16, as numbers to write to. */
export function writable(memory: NumberArray): Float32Array | Float64Array | Float16Array {
  return memory instanceof Uint16Array
    ? new Float16Array(memory.buffer, memory.byteOffset, memory.length)
    : memory as Float32Array | Float64Array;
}

/** Reads element `i` of processor memory as a number, whatever its storage. */
export function widened(memory: NumberArray, dtype: StorageType): Float32Array | Float64Array | Int32Array {
  if (!(memory instanceof Uint16Array)) return memory;
  if (dtype === "f16") {
    return Float32Array.from(new Float16Array(memory.buffer, memory.byteOffset, memory.length));
  }
  const bits = new Uint32Array(memory.length);
  for (let i = 0; i < bits.length; i++) bits[i] = memory[i]! << 16;
  return new Float32Array(bits.buffer);
}
