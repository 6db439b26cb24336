/**
 * The recurrence on a GPU, in three passes each way through time. What blocks of steps do to any state is worked out for all blocks at
 * once; a scan goes from block to block, with the rows of the state, which do not mix, divided over workgroups; what the steps read
 * from the state is then worked out for all chunks at once, and so is what is left of the gradient.
 *
 * How a scan is divided does not change its result beyond rounding: see {@link ScanLayout}.
 *
 * @module
 */
import type { Node } from "../../graph.ts";
import { type DeviceLimits, grid, type Pass, unrolled } from "../../op.ts";
import { chunkGradientShader, chunkWorkgroups } from "./chunk_gradient.ts";
import { lanes, laneWidth, type Width } from "./lanes.ts";
import { CHUNK, type Wkv7Attributes, wkv7Sizes } from "./op.ts";
import { solveLayout, solveShader, solveWorkgroupBytes } from "./solve.ts";
import outputShader from "./output.wgsl" with { type: "text" };
import scanShader from "./scan.wgsl" with { type: "text" };

/** How a scan is divided. */
export interface ScanLayout {
  /** Value rows of a workgroup; divides N. */
  readonly rows: number;
  /** Value rows of a thread; divides `rows`. */
  readonly rowsAThread: number;
  /** Threads that share the keys of a row; divides N / 4, or N where 4 does not divide it. */
  readonly keyThreads: number;
  /** Steps that are taken at a time; even, and it divides {@link CHUNK}. */
  readonly block: number;
}

/** Most loads of a block that a thread makes: they are written out, and each keeps a register. */
const MOST_LOADS = 24;

/** The largest divisor of n that is at most `most`. */
function divisor(n: number, most: number): number {
  while (n % most) most--;
  return most;
}

/** Numbers that are worked out for a block: W, what its steps add and send back, their decay, and K'. */
const recordSize = (N: number, block: number) => (3 * block + 1) * N + block * block;

/** Numbers that are worked out for the blocks of a chunk, however long those are. */
export function solvedSize(N: number): number {
  return Math.max(...[2, 4, 8, 16].map((block) => CHUNK / block * recordSize(N, block)));
}

/** Channels, or steps, that a scan works on at a time. */
const scanWidth = (N: number, block: number): Width => block % 4 === 0 ? laneWidth(N) : 1;

/** What the loops of a scan are bounded by. */
function scanLoops(N: number, { rows, rowsAThread, keyThreads, block }: ScanLayout) {
  const width = scanWidth(N, block);
  const threads = rows / rowsAThread * keyThreads, each = (count: number) => Math.ceil(count / threads);
  return {
    HELD: rowsAThread * N / width / keyThreads,
    ROWS_A_THREAD: rowsAThread,
    LOADS: each(recordSize(N, block) / width),
    DRIVES: each(block * rows),
  };
}

/** Bytes of workgroup memory that solving blocks and scanning them need. */
export function workgroupBytesOf(N: number, layout: ScanLayout): number {
  const { rows, rowsAThread, keyThreads, block } = layout, { LOADS, DRIVES } = scanLoops(N, layout);
  const threads = rows / rowsAThread * keyThreads;
  const scan = (LOADS * scanWidth(N, block) + DRIVES) * threads + block * rows * (1 + keyThreads);
  return Math.max(4 * scan, solveWorkgroupBytes(N, block));
}

/** Workgroups below which a scan leaves a large GPU idle, so that smaller ones pay. */
const MANY_WORKGROUPS = 384;
/** Workgroups of 8 rows up to which each has a core of a large GPU to itself, so that a long scan is only waited for. */
const FEW_WORKGROUPS = 128;
/** Steps from which on that is worth shaders which take longer to compile. */
const LONG = 512;

/** The layout for so many heads, in all sequences, of N channels, and T steps. */
export function scanLayout(
  N: number,
  heads: number,
  T: number,
  { workgroupBytes }: DeviceLimits,
): ScanLayout {
  const tall = divisor(N, 16), many = heads * N / tall >= MANY_WORKGROUPS && tall % 2 === 0;
  const few = T >= LONG && heads * N / 8 <= FEW_WORKGROUPS;
  const layout = {
    rows: many ? tall : divisor(N, few ? 4 : 8),
    rowsAThread: many ? 2 : 1,
    keyThreads: divisor(N / laneWidth(N), few ? 16 : 8),
  };
  const fits = (block: number) =>
    workgroupBytesOf(N, { ...layout, block }) <= workgroupBytes &&
    scanLoops(N, { ...layout, block }).LOADS <= MOST_LOADS;
  return { ...layout, block: (few ? [16, 8, 4] : [8, 4]).find(fits) ?? 2 };
}

/** Threads of a workgroup that every device allows. */
const MOST_THREADS = 256;
/** Bytes of workgroup memory that the steps of an output are worked on in. */
const OUTPUT_BYTES = 10_240;

/** How a chunk's output is divided. */
interface OutputLayout {
  /** Rows of a thread. */
  readonly rowsAThread: number;
  /** Threads that share the keys of a row. */
  readonly keyThreads: number;
  /** Steps between meetings of the threads. */
  readonly steps: number;
}

function outputLayout(N: number): OutputLayout {
  const rowsAThread = divisor(N, 2), lanes = N / laneWidth(N);
  const most = Math.floor(MOST_THREADS * rowsAThread / N);
  const keyThreads = divisor(lanes, Math.max(1, Math.min(Math.ceil(lanes / 8), most)));
  const steps = Math.floor(OUTPUT_BYTES / (4 * N * (6 + keyThreads)));
  return { rowsAThread, keyThreads, steps: divisor(CHUNK, Math.max(1, steps)) };
}

/** What the loops of an output are bounded by. */
function outputLoops(N: number, { rowsAThread, keyThreads, steps }: OutputLayout) {
  const lanes = N / laneWidth(N), threads = N / rowsAThread * keyThreads;
  const each = (count: number) => Math.ceil(count / threads);
  return {
    ROWS_A_THREAD: rowsAThread,
    HELD: rowsAThread * lanes / keyThreads,
    LOADS: each(steps * lanes),
    SIGNALS: each(steps * N),
  };
}

/** WGSL of `weighed`. */
function weighed(width: Width): string {
  const terms = width === 1
    ? "x * record[i]"
    : Array.from({ length: width }, (_, at) => `x[${at}] * record[i + ${at}u * step]`).join(" + ");
  return `fn weighed(x: Lanes, i: u32, step: u32) -> Lanes { return ${terms}; }`;
}

/** Sums over the keys' threads, four partial sums at a time where there are as many. */
function parts(keyThreads: number, arrays: readonly string[]): string {
  const wide = keyThreads % 4 === 0, count = wide ? keyThreads / 4 : keyThreads;
  const sum = (name: string) => {
    const terms = Array.from({ length: count }, (_, i) => `${name}[at + ${i}u]`).join(" + ");
    return `fn sum_${name}(at: u32) -> f32 { ${
      wide ? `let x = ${terms}; return (x.x + x.y) + (x.z + x.w);` : `return ${terms};`
    } }`;
  };
  const put = (name: string) =>
    `fn put_${name}(i: u32, value: f32) { ${name}${wide ? "[i / 4u][i % 4u]" : "[i]"} = value; }`;
  return [
    `alias Parts = ${wide ? "vec4<f32>" : "f32"};`,
    `const PARTS = ${wide ? 4 : 1}u;`,
    ...arrays.map(sum),
    ...arrays.map(put),
  ].join("\n");
}

function constants(values: Readonly<Record<string, number | boolean>>): string {
  return Object.entries(values).map(([name, value]) =>
    `const ${name} = ${typeof value === "number" ? `${value}u` : value};`
  ).join("\n");
}

/** Operands by the role that they play in the passes of one direction. */
interface Direction {
  readonly backward: boolean;
  readonly read: number;
  readonly decay: number;
  readonly add: number;
  readonly probe: number;
  readonly back: number;
  readonly drive: number;
  readonly initial: number | undefined;
  readonly result: number;
  readonly kept: number;
  readonly final: number;
  readonly echo: number;
  readonly solved: number;
}

// deno-fmt-ignore
function forwardRoles({ inputs: { length: n } }: Node<Wkv7Attributes>): Direction {
  return {
    backward: false, read: 0, decay: 1, add: 2, probe: 4, back: 5, drive: 3, initial: n > 6 ? 6 : undefined,
    result: n, kept: n + 1, final: n + 2, echo: n + 3, solved: n + 4,
  };
}

// deno-fmt-ignore
function backwardRoles({ inputs: { length: n } }: Node<Wkv7Attributes>): Direction & { readonly columns: number } {
  return {
    backward: true, read: 2, decay: 1, add: 0, probe: 5, back: 4, drive: 7, initial: n > 9 ? 9 : undefined,
    result: n, columns: n + 1, final: n + 2, kept: n + 3, echo: n + 4, solved: n + 5,
  };
}

/** Operands that the gradient of chunks reads besides. */
const V = 3, STATES = 6, SA = 8;

const operands = (...list: number[]) => list.map((operand) => ({ operand }));

/** The text without what stands between marks of this name. */
const without = (mark: string, text: string) =>
  text.replaceAll(new RegExp(`//<${mark}\n[^]*?//${mark}>\n`, "g"), "");

/** The three passes in one direction: blocks, scan, output. */
function passes(
  node: Node<Wkv7Attributes>,
  to: Direction & { readonly columns?: number },
  limits: DeviceLimits,
  layout: ScanLayout,
): Pass[] {
  const { T, N } = node.attributes, { rows, rowsAThread, keyThreads, block } = layout, { backward } = to;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const blocks = Math.ceil(T / block);
  const solvers = B * H * blocks, scanners = B * H * N / rows, readers = B * H * chunks;
  const shape = { N, CHUNK, BLOCK: block, BACKWARD: backward };
  const width = laneWidth(N), output = outputLayout(N);
  return [
    {
      wgsl: solveShader(N, block, backward),
      uniforms: [T, C, B * T, blocks, solvers],
      bindings: operands(
        ...[to.decay, to.add, to.probe, to.back, to.solved],
        ...(to.columns === undefined ? [] : [to.read, to.columns]),
      ),
      workgroups: grid(Math.ceil(solvers / solveLayout(N).blocks), limits),
    },
    {
      wgsl: [
        constants({ ...shape, ROWS: rows, ROWS_A_THREAD: rowsAThread, KEY_THREADS: keyThreads }),
        lanes(scanWidth(N, block), ["drives", "echoes"]),
        weighed(scanWidth(N, block)),
        parts(keyThreads, ["partial"]),
        Object.entries(scanLoops(N, layout)).reduce(
          (text, [name, count]) => unrolled(text, name, count),
          to.initial === undefined ? without("initial", scanShader) : scanShader,
        ),
      ].join("\n"),
      uniforms: [T, C, blocks, chunks, scanners],
      bindings: operands(
        ...[to.solved, to.drive, to.kept, to.final, to.echo],
        ...(to.initial === undefined ? [] : [to.initial]),
      ),
      workgroups: grid(scanners, limits),
    },
    {
      wgsl: [
        constants({
          ...{ N, CHUNK, BACKWARD: backward, STEPS: output.steps },
          ...{ ROWS_A_THREAD: output.rowsAThread, KEY_THREADS: output.keyThreads },
        }),
        lanes(width),
        parts(output.keyThreads, ["partial"]),
        Object.entries(outputLoops(N, output)).reduce(
          (text, [name, count]) => unrolled(text, name, count),
          outputShader,
        ),
      ].join("\n"),
      uniforms: [T, C, chunks, readers],
      bindings: operands(to.read, to.decay, to.add, to.back, to.drive, to.kept, to.echo, to.result),
      workgroups: grid(readers, limits),
    },
  ];
}

function usualLayout(node: Node<Wkv7Attributes>, limits: DeviceLimits): ScanLayout {
  const { B, H } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const { T, N } = node.attributes;
  return scanLayout(N, B * H, T, limits);
}

/** Passes of wkv7, with its operands. */
export function forwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = usualLayout(node, limits),
): Pass[] {
  return passes(node, forwardRoles(node), limits, layout);
}

/** Passes of wkv7Gradient, with its operands: three as in the other direction, and one over chunks. */
export function backwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = usualLayout(node, limits),
): Pass[] {
  const { T, N } = node.attributes;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const units = B * H * chunks * chunkWorkgroups(N);
  const roles = backwardRoles(node);
  return [...passes(node, roles, limits, layout), {
    wgsl: chunkGradientShader(N, C, CHUNK, T % CHUNK === 0),
    uniforms: [T, B * T, chunks, units],
    bindings: operands(roles.columns, V, STATES, roles.kept, roles.drive, SA, roles.echo),
    workgroups: grid(units, limits),
  }];
}
