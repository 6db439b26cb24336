/**
 * Compiles an elementwise expression to a WebAssembly module of its own: `out[i] = f(x₀[…], x₁[…], …)` in one pass over memory,
 * four elements at a time, with every intermediate in a register. exp, log, tanh and sigmoid are the functions of the kernel
 * module, which the emitted one imports: engines link vectors between modules though JavaScript cannot hold one.
 *
 * A broadcast input changes its place only at multiples of some run length. So the loop is over runs, and within a run an input
 * either advances with the output or is one number. Where a run is no multiple of four, its last elements are done one at a
 * time by the same vector code, so neither runs nor shares change the bits.
 *
 * @module
 */
import type { Step } from "../../../ops/map/expression.ts";
import type { DTYPE, WasmKernels } from "./load.ts";

/** How an input is stored, and which of its elements serves output element i: floor(i / divisor) mod modulus. */
export interface MapInput {
  readonly divisor: number;
  readonly modulus: number;
  /** f32 where it is not given. */
  readonly dtype?: keyof typeof DTYPE;
}

/** What to compute, and for which sizes. */
export interface MapProgram {
  /** A straight-line program; see `straightLine`. */
  readonly steps: readonly Step[];
  /** Which steps' values are the outputs. */
  readonly results: readonly number[];
  readonly inputs: readonly MapInput[];
  /** Number of output elements. */
  readonly size: number;
}

/**
 * Computes output elements [start, end): byte addresses of all inputs (0 for one that is not read), then of all outputs, which
 * must not overlap an input unless they are the same array, read in step. Shares: elements, best multiples of 16.
 */
export type MapKernel = (start: number, end: number, ...addresses: number[]) => void;

const I32 = 0x7f, V128 = 0x7b, FUNCTION = 0x60, VOID = 0x40;
const linked = ["exp", "f16", "log", "sigmoid", "tanh"] as const;
type Linked = typeof linked[number];

/** Unsigned LEB128. */
function u32(value: number): number[] {
  const bytes = [];
  for (; value > 127; value >>>= 7) bytes.push(value & 127 | 128);
  return [...bytes, value];
}

/** `i32.const` of a value below 2³², whose immediate is signed LEB128. */
function constant(value: number): number[] {
  const bytes = [];
  let rest = value | 0;
  for (; rest < -64 || rest > 63; rest >>= 7) bytes.push(rest & 127 | 128);
  return [0x41, ...bytes, rest & 127];
}

function text(name: string): number[] {
  const bytes = new TextEncoder().encode(name);
  return [...u32(bytes.length), ...bytes];
}

function list(items: readonly number[][]): number[] {
  return [...u32(items.length), ...items.flat()];
}

function section(id: number, content: number[]): number[] {
  return [id, ...u32(content.length), ...content];
}

const get = (local: number) => [0x20, ...u32(local)];
const set = (local: number) => [0x21, ...u32(local)];
const simd = (code: number) => [0xfd, ...u32(code)];
const ADD = 0x6a, SUB = 0x6b, DIV_U = 0x6e, REM_U = 0x70, SHL = 0x74, LT_U = 0x49, GE_U = 0x4f;
const SELECT = 0x1b, BLOCK = 0x02, LOOP = 0x03, END = 0x0b, BR = 0x0c, BR_IF = 0x0d, CALL = 0x10;
/** Memory immediates: alignment 4, offset 0. */
const AT = [2, 0];
/** Loads of four elements, and of one in all lanes; the 16-bit one fills both halves of each lane. */
const LOAD = [...simd(0), ...AT], LOAD_SPLAT = [...simd(9), ...AT];
const LOAD_16 = [...simd(4), ...AT], LOAD_SPLAT_16 = [...simd(8), 1, 0], SHL_LANES = simd(171);
const STORE = [...simd(11), ...AT], STORE_LANE = [...simd(90), ...AT, 0];
const AND = simd(78), GT = simd(68), PMAX = simd(235);
const direct: Readonly<Record<string, number[]>> = {
  neg: simd(225),
  sqrt: simd(227),
  add: simd(228),
  sub: simd(229),
  mul: simd(230),
  div: simd(231),
  max: simd(233),
};

/** `v128.const` with `value` in all lanes. */
function splat(value: number): number[] {
  const lane = new Uint8Array(Float32Array.of(value).buffer);
  return [...simd(12), ...lane, ...lane, ...lane, ...lane];
}

function gcd(a: number, b: number): number {
  return b === 0 ? a : gcd(b, a % b);
}

/** Emits a module that exports `run`, a {@link MapKernel}. Equal programs give equal bytes. */
export function emitMap({ steps, results, inputs, size }: MapProgram): Uint8Array<ArrayBuffer> {
  const dense = ({ divisor, modulus }: MapInput) => divisor === 1 && modulus >= size;
  const single = ({ modulus }: MapInput) => modulus === 1;
  const advances = ({ divisor, modulus }: MapInput) => divisor === 1 && modulus > 1;
  const wide = ({ dtype = "f32" }: MapInput) => dtype === "f32";
  const read = new Set(steps.flatMap((step) => step.op === "input" ? [step.index] : []));
  // Elements between two places where some input wraps or moves on; 0 if none ever does.
  const run = inputs.reduce(
    (length, input, k) =>
      !read.has(k) || dense(input) || single(input)
        ? length
        : gcd(length, advances(input) ? input.modulus : input.divisor),
    0,
  );

  // Parameters: start (which becomes i), end, addresses. Locals: the end of the run, the byte offset, then one vector a step.
  const I = 0, STOP = 1;
  const address = (operand: number) => 2 + operand;
  const runEnd = 2 + inputs.length + results.length;
  const offset = runEnd + 1;
  const base = (input: number) => runEnd + 2 + input;
  const value = (step: number) => runEnd + 2 + inputs.length + step;
  const calls = linked.filter((name) =>
    steps.some((step) => step.op === name || step.op === "input" && inputs[step.index].dtype === name)
  );
  const call = (name: Linked) => [CALL, ...u32(calls.indexOf(name))];

  /** The value of input `k`, as f32, from the address on the stack. */
  const load = (k: number, count: 1 | 4): number[] => {
    if (wide(inputs[k])) return count === 4 ? LOAD : LOAD_SPLAT;
    const bits = count === 4 ? LOAD_16 : LOAD_SPLAT_16;
    return [...bits, ...(inputs[k].dtype === "f16" ? call("f16") : [...constant(16), ...SHL_LANES])];
  };

  /** Sets an input's base: where its element 0 would be if it advanced with i, or the address of the run's one number. */
  const place = (k: number): number[] => {
    const { divisor, modulus } = inputs[k];
    const scaled = [...constant(wide(inputs[k]) ? 2 : 1), SHL];
    if (dense(inputs[k]) || single(inputs[k])) return [...get(address(k)), ...set(base(k))];
    const index = [...get(I), ...constant(divisor), DIV_U, ...constant(modulus), REM_U, ...scaled];
    const back = advances(inputs[k]) ? [...get(I), ...scaled, SUB] : [];
    return [...get(address(k)), ...index, ADD, ...back, ...set(base(k))];
  };

  /** One number for the whole run is loaded before it, into the step's own local. */
  const before = steps.flatMap((step, i) =>
    step.op === "input" && !advances(inputs[step.index])
      ? [...get(base(step.index)), ...load(step.index, 1), ...set(value(i))]
      : []
  );

  const operand = (step: number): number[] => {
    const found = steps[step];
    return found.op === "constant" ? splat(found.value) : get(value(step));
  };

  const compute = (step: Exclude<Step, { op: "input" | "constant" }>): number[] => {
    const [x, y] = step.args;
    if (step.op === "step") return [...operand(x), ...splat(0), ...GT, ...splat(1), ...AND];
    if ((linked as readonly string[]).includes(step.op)) {
      return [...operand(x), ...call(step.op as Linked)];
    }
    if (step.op === "max" && (steps[x].op === "constant" || steps[y!].op === "constant")) {
      // pmax is one instruction where max is many; it keeps a NaN of its first operand, and a constant is none.
      const [variable, fixed] = steps[y!].op === "constant" ? [x, y!] : [y!, x];
      return [...operand(variable), ...operand(fixed), ...PMAX];
    }
    return [...operand(x), ...(y === undefined ? [] : operand(y)), ...direct[step.op]];
  };

  /** The body for four elements, or for one in all lanes. */
  const body = (count: 1 | 4): number[] => [
    ...[...get(I), ...constant(2), SHL, ...set(offset)],
    ...steps.flatMap((step, i) => {
      if (step.op === "constant") return [];
      if (step.op !== "input") return [...compute(step), ...set(value(i))];
      if (!advances(inputs[step.index])) return [];
      const scaled = wide(inputs[step.index]) ? get(offset) : [...get(I), ...constant(1), SHL];
      return [...get(base(step.index)), ...scaled, ADD, ...load(step.index, count), ...set(value(i))];
    }),
    ...results.flatMap((step, k) => {
      const to = [...get(address(inputs.length + k)), ...get(offset), ADD];
      return [...to, ...operand(step), ...(count === 4 ? STORE : STORE_LANE)];
    }),
    ...[...get(I), ...constant(count), ADD, ...set(I)],
  ];

  /** `while (left ≥ count) body`, with left = runEnd − i. */
  const loop = (count: 1 | 4): number[] => [
    ...[BLOCK, VOID, LOOP, VOID],
    ...[...get(runEnd), ...get(I), SUB, ...constant(count), LT_U, BR_IF, 1],
    ...body(count),
    ...[BR, 0, END, END],
  ];

  const nextRun = run === 0 ? [...get(STOP), ...set(runEnd)] : [
    // The run ends at the next multiple of its length, or with the share: compared as distances, which cannot overflow.
    ...[...constant(run), ...get(I), ...constant(run), REM_U, SUB, ...set(runEnd)],
    ...[
      ...get(STOP),
      ...get(I),
      SUB,
      ...get(runEnd),
      ...get(STOP),
      ...get(I),
      SUB,
      ...get(runEnd),
      LT_U,
      SELECT,
    ],
    ...[...get(I), ADD, ...set(runEnd)],
  ];

  const code = [
    ...[BLOCK, VOID, LOOP, VOID, ...get(I), ...get(STOP), GE_U, BR_IF, 1],
    ...nextRun,
    ...[...read].flatMap(place),
    ...before,
    ...loop(4),
    ...loop(1),
    ...[BR, 0, END, END, END],
  ];
  const locals = list([[...u32(2 + inputs.length), I32], [...u32(steps.length), V128]]);
  const types = [
    [FUNCTION, ...list(Array.from({ length: runEnd }, () => [I32])), 0],
    [FUNCTION, 1, V128, 1, V128],
  ];
  const imports = [
    // Shared, from 16 to 65536 pages.
    [...text("env"), ...text("memory"), 2, 3, ...u32(16), ...u32(65536)],
    ...calls.map((name) => [...text("env"), ...text(name), 0, 1]),
  ];
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, list(types)),
    ...section(2, list(imports)),
    ...section(3, list([[0]])),
    ...section(7, list([[...text("run"), 0, ...u32(calls.length)]])),
    ...section(10, list([[...u32(locals.length + code.length), ...locals, ...code]])),
  ]);
}

/**
 * Emits a module that exports `run(start, end, x, seed, out)`, dropout's kernel: whole-number arithmetic, one element at a time.
 * @param threshold an element whose hash is below it is dropped
 * @param scale what the others are multiplied by
 */
export function emitDropout(
  { salt, threshold, scale }: { salt: number; threshold: number; scale: number },
): Uint8Array<ArrayBuffer> {
  const I = 0, STOP = 1, X = 2, SEED = 3, OUT = 4, KEY = 5, WORD = 6;
  const MUL = 0x6c, XOR = 0x73, SHR_U = 0x76, LOAD_I32 = [0x28, ...AT];
  const LOAD_F32 = [0x2a, ...AT], STORE_F32 = [0x38, ...AT], MUL_F32 = 0x94;
  const number = (value: number) => [0x43, ...new Uint8Array(Float32Array.of(value).buffer)];
  /** Mixes the word on the stack, in the local WORD. */
  const shifted = (bits: number) => [
    ...[...set(WORD), ...get(WORD), ...get(WORD), ...constant(bits), SHR_U, XOR],
  ];
  const mix = [
    ...[...shifted(16), ...constant(0x7feb352d), MUL],
    ...[...shifted(15), ...constant(0x846ca68b), MUL],
    ...shifted(16),
  ];
  const at = (address: number) => [...get(address), ...get(I), ...constant(2), SHL, ADD];
  const code = [
    ...[...get(SEED), ...LOAD_I32, ...constant(salt), ADD, ...mix, ...set(KEY)],
    ...[BLOCK, VOID, LOOP, VOID, ...get(I), ...get(STOP), GE_U, BR_IF, 1],
    ...at(OUT),
    ...[...number(0), ...at(X), ...LOAD_F32, ...number(scale), MUL_F32],
    ...[...get(I), ...mix, ...get(KEY), ADD, ...mix, ...constant(threshold), LT_U, SELECT],
    ...STORE_F32,
    ...[...get(I), ...constant(1), ADD, ...set(I), BR, 0, END, END, END],
  ];
  const locals = list([[...u32(2), I32]]);
  return Uint8Array.from([
    ...[0, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, list([[FUNCTION, ...list(Array.from({ length: 5 }, () => [I32])), 0]])),
    ...section(2, list([[...text("env"), ...text("memory"), 2, 3, ...u32(16), ...u32(65536)]])),
    ...section(3, list([[0]])),
    ...section(7, list([[...text("run"), 0, 0]])),
    ...section(10, list([[...u32(locals.length + code.length), ...locals, ...code]])),
  ]);
}

/** Links an emitted module to this worker's kernels and memory. */
export function loadMap(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  kernels: WasmKernels,
): MapKernel {
  const env = {
    memory,
    exp: kernels.expLanes,
    f16: kernels.f16Lanes,
    log: kernels.logLanes,
    sigmoid: kernels.sigmoidLanes,
    tanh: kernels.tanhLanes,
  };
  return new WebAssembly.Instance(module, { env }).exports.run as MapKernel;
}
