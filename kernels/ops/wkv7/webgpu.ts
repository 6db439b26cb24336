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
import { lanes, laneWidth, type Width } from "./lanes.ts";
import { CHUNK, type Wkv7Attributes, wkv7Sizes } from "./op.ts";
import chunkShader from "./chunk_gradient.wgsl" with { type: "text" };
import outputShader from "./output.wgsl" with { type: "text" };
import scanShader from "./scan.wgsl" with { type: "text" };
import solveShader from "./solve.wgsl" with { type: "text" };

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

/** What the loops of a scan are bounded by. */
function scanLoops(N: number, { rows, rowsAThread, keyThreads, block }: ScanLayout) {
  const threads = rows / rowsAThread * keyThreads, each = (count: number) => Math.ceil(count / threads);
  return {
    HELD: rowsAThread * N / laneWidth(N) / keyThreads,
    ROWS_A_THREAD: rowsAThread,
    LOADS: each(recordSize(N, block) / laneWidth(N)),
    DRIVES: each(block * rows),
  };
}

/** Bytes of workgroup memory that solving blocks and scanning them need. */
export function workgroupBytesOf(N: number, layout: ScanLayout): number {
  const { rows, rowsAThread, keyThreads, block } = layout, { LOADS, DRIVES } = scanLoops(N, layout);
  const threads = rows / rowsAThread * keyThreads;
  const scan = (LOADS * laneWidth(N) + DRIVES * 2) * threads + block * rows * keyThreads;
  return 4 * Math.max(scan, 4 * block * N + 2 * block * block);
}

/** The layout for heads of N channels. */
export function scanLayout(N: number, { workgroupBytes }: DeviceLimits): ScanLayout {
  const layout = { rows: divisor(N, 8), rowsAThread: 1, keyThreads: divisor(N / laneWidth(N), 16) };
  const fits = (block: number) =>
    workgroupBytesOf(N, { ...layout, block }) <= workgroupBytes &&
    scanLoops(N, { ...layout, block }).LOADS <= MOST_LOADS;
  return { ...layout, block: [16, 8, 4].find(fits) ?? 2 };
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

/** Which streams play which role in a scan. */
const ROLES = `
/// The stream that plays a role: read, decay, add, probe, back.
fn stream(role: u32) -> u32 {
  if (BACKWARD) { return select(8u - role, 2u - role, role < 3u); }
  return select(role + 1u, role, role < 3u);
}
`;

/** Operands of the passes in one direction. */
interface Direction {
  readonly backward: boolean;
  readonly drive: number;
  readonly initial: number;
  readonly result: number;
  readonly kept: number;
  readonly final: number;
  readonly echo: number;
  readonly solved: number;
}

const FORWARD: Direction = {
  backward: false,
  drive: 0,
  initial: 1,
  result: 2,
  kept: 3,
  final: 4,
  echo: 5,
  solved: 6,
};
const BACKWARD: Direction = {
  backward: true,
  drive: 2,
  initial: 3,
  result: 5,
  kept: 7,
  final: 6,
  echo: 8,
  solved: 9,
};

const operands = (...list: number[]) => list.map((operand) => ({ operand }));

/** The three passes in one direction: blocks, scan, output. */
function passes(node: Node<Wkv7Attributes>, to: Direction, limits: DeviceLimits, layout: ScanLayout): Pass[] {
  const { T, N } = node.attributes, { rows, rowsAThread, keyThreads, block } = layout;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const M = B * T, values = 3 * M * C, blocks = Math.ceil(T / block);
  const drive = to.backward ? 0 : values, result = to.backward ? values : 0;
  const solvers = B * H * blocks, scanners = B * H * N / rows, readers = B * H * chunks;
  const shape = { N, CHUNK, BLOCK: block, BACKWARD: to.backward };
  return [
    {
      wgsl: [
        constants(shape),
        ROLES,
        lanes(laneWidth(N), { workgroup: ["decay", "add", "probe", "back"] }),
        solveShader,
      ].join("\n"),
      uniforms: [T, C, M, blocks, solvers],
      bindings: operands(0, to.solved),
      workgroups: grid(solvers, limits),
    },
    {
      wgsl: [
        constants({ ...shape, ROWS: rows, ROWS_A_THREAD: rowsAThread, KEY_THREADS: keyThreads }),
        lanes(laneWidth(N), { workgroup: ["record"] }),
        parts(keyThreads, ["partial"]),
        Object.entries(scanLoops(N, layout)).reduce(
          (text, [name, count]) => unrolled(text, name, count),
          scanShader,
        ),
      ].join("\n"),
      uniforms: [T, C, blocks, chunks, scanners, drive],
      bindings: operands(to.solved, to.drive, to.initial, to.kept, to.final, to.echo),
      workgroups: grid(scanners, limits),
    },
    {
      wgsl: [
        constants({
          N,
          CHUNK,
          STEPS: Math.max(1, divisor(CHUNK, Math.floor(512 / N))),
          BACKWARD: to.backward,
        }),
        ROLES,
        lanes(laneWidth(N)),
        unrolled(outputShader, "L", N / laneWidth(N)),
      ].join("\n"),
      uniforms: [T, C, M, chunks, readers, drive, result],
      bindings: operands(0, to.drive, to.kept, to.echo, to.result),
      workgroups: grid(readers, limits),
    },
  ];
}

/** Passes of wkv7: inputs streams and initial state; outputs y, kept states, final state, S a, solved blocks. */
export function forwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = scanLayout(node.attributes.N, limits),
): Pass[] {
  return passes(node, FORWARD, limits, layout);
}

/** How the gradient of a chunk is computed. */
export interface ChunkLayout {
  /** Rows that a thread works on at a time, where N allows it. */
  readonly rows: Width;
  /** Steps whose states a thread keeps in registers; divides {@link CHUNK}. */
  readonly span: number;
}

/** WGSL of the gradient of a chunk. */
function chunkText(N: number, C: number, whole: boolean, { rows, span }: ChunkLayout): string {
  const width = laneWidth(N, rows);
  const constant = { N, C, CHUNK, SPAN: span, PANEL: divisor(N / width, 32 / width) * width, WHOLE: whole };
  const text = chunkShader.replace(
    /\/\/<span([^]*)\/\/span>/,
    (_, body: string) =>
      Array.from({ length: CHUNK / span }, (_, i) => {
        const first = CHUNK - (i + 1) * span;
        return unrolled(body, "FIRST", first).replaceAll("FIRST", `${first}u`);
      }).join("\n"),
  );
  return [
    constants(constant),
    lanes(width, { workgroup: ["v", "g", "sa", "dsa"], read: ["states", "d_states"] }),
    unrolled(unrolled(text, "SPAN", span), "CHUNK", CHUNK),
  ].join("\n");
}

/**
 * Passes of wkv7Gradient: inputs streams, kept states, dy, gradient of the final state, S a; outputs dStreams, gradient of the
 * initial state, gradients of the states where chunks end, gradient of S a, solved blocks. The last pass is over chunks.
 */
export function backwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = scanLayout(node.attributes.N, limits),
  chunkLayout: ChunkLayout = { rows: 4, span: 16 },
): Pass[] {
  const { T, N } = node.attributes;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const units = B * H * chunks;
  return [...passes(node, BACKWARD, limits, layout), {
    wgsl: chunkText(N, C, T % CHUNK === 0, chunkLayout),
    uniforms: [T, B * T, chunks, units],
    bindings: operands(0, 1, 7, 2, 4, 8, 5),
    workgroups: grid(units, limits),
  }];
}
