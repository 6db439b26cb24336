/**
 * The recurrence on a GPU. Two scans walk through time, one for the state and one for its gradient; each divides the rows of the
 * state, which do not mix, over workgroups. What is left of the gradient is done for all chunks at once.
 *
 * How a scan is divided does not change its result beyond rounding: see {@link ScanLayout}.
 *
 * @module
 */
import type { Node } from "../../graph.ts";
import { type DeviceLimits, grid, type Pass, unrolled } from "../../op.ts";
import { lanes } from "./lanes.ts";
import { CHUNK, type Wkv7Attributes, wkv7Sizes } from "./op.ts";
import chunkShader from "./chunk_gradient.wgsl" with { type: "text" };
import blocksShader from "./scan_blocks.wgsl" with { type: "text" };
import solveShader from "./solve.wgsl" with { type: "text" };
import scanShader from "./scan.wgsl" with { type: "text" };

/** How a scan is divided. */
export interface ScanLayout {
  /** Value rows of a workgroup; divides N. */
  readonly rows: number;
  /** Value rows of a thread; divides `rows`. */
  readonly rowsAThread: number;
  /** Threads that share the keys of a row; divides N / 4, or N where 4 does not divide it. */
  readonly keyThreads: number;
  /** Steps that are taken at a time; 4 divides it, and it divides {@link CHUNK}. */
  readonly block: number;
  /** Whether the blocks are solved beforehand, so that threads wait for each other once a block, not once a step. */
  readonly solved: boolean;
}

/** Workgroup memory that every device has. */
const WORKGROUP_BYTES = 16384;

/** Most loads of a stage that a thread makes: they are written out, and each keeps a register. */
const MOST_LOADS = 16;

/** The largest divisor of n that is at most `most`. */
function divisor(n: number, most: number): number {
  while (n % most) most--;
  return most;
}

/** Channels that are worked on at a time. */
const width = (N: number) => N % 4 === 0 ? 4 : 1;

/** What the loops of a scan are bounded by, and its bytes of workgroup memory. */
function scanBounds(N: number, { rows, rowsAThread, keyThreads, block, solved }: ScanLayout) {
  const lanes = N / width(N), threads = rows / rowsAThread * keyThreads;
  const each = (count: number) => Math.ceil(count / threads);
  const held = { HELD: rowsAThread * lanes / keyThreads, ROWS_A_THREAD: rowsAThread };
  const drives = each(block * rows), sums = rows * keyThreads;
  if (!solved) {
    const loads = each(5 * block * lanes);
    return {
      bytes: 4 * ((loads * width(N) + drives) * threads + (2 + block) * sums),
      loops: { ...held, LOADS: loads, DRIVES: drives },
    };
  }
  const streamed = each(4 * block * lanes), weights = each(block * (lanes + block / width(N)));
  return {
    bytes: 4 * (((streamed + weights) * width(N) + drives) * threads + block * (rows + sums)),
    loops: { ...held, STREAMED: streamed, WEIGHTS: weights, DRIVES: drives },
  };
}

/** The layout for heads of N channels. */
export function scanLayout(N: number): ScanLayout {
  const layout = { rows: divisor(N, 8), rowsAThread: 1, keyThreads: divisor(N / width(N), 8), solved: true };
  for (const block of [8, 4]) {
    const { bytes, loops } = scanBounds(N, { ...layout, block });
    if (bytes <= WORKGROUP_BYTES && Math.max(...Object.values(loops)) <= MOST_LOADS) {
      return { ...layout, block };
    }
  }
  return { ...layout, block: 4 };
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

/** Which streams play which role in a scan, and which steps come first. */
const ROLES = `
/// The stream that plays a role: read, decay, add, probe, back.
fn stream(role: u32) -> u32 {
  if (BACKWARD) { return select(8u - role, 2u - role, role < 3u); }
  return select(role + 1u, role, role < 3u);
}
/// Where in time the u-th of a block's steps lies, for those below count; else that of the last.
fn step_at(u: u32, count: u32) -> u32 {
  let last = min(u, count - 1u);
  return select(last, count - 1u - last, BACKWARD);
}
/// The block that is worked on in a round.
fn block_at(round: u32, blocks: u32) -> u32 { return select(round, blocks - 1u - round, BACKWARD); }
`;

/** WGSL of a scan. */
function scanText(N: number, backward: boolean, layout: ScanLayout): string {
  const { rows, rowsAThread, keyThreads, block, solved } = layout;
  const { loops } = scanBounds(N, layout);
  const body = Object.entries(loops).reduce(
    (text, [name, count]) => unrolled(text, name, count),
    solved ? blocksShader : scanShader,
  );
  const shape = {
    N,
    CHUNK,
    BACKWARD: backward,
    ROWS: rows,
    ROWS_A_THREAD: rowsAThread,
    KEY_THREADS: keyThreads,
    [solved ? "BLOCK" : "STAGE"]: block,
  };
  if (!solved) return [constants(shape), lanes(N), parts(keyThreads, ["echoes", "results"]), body].join("\n");
  return [
    constants(shape),
    ROLES,
    lanes(N, { workgroup: ["drives"] }),
    parts(keyThreads, ["partial"]),
    body,
  ].join("\n");
}

/** Operands of a scan. */
interface ScanOperands {
  readonly drive: number;
  readonly initial: number;
  readonly result: number;
  readonly kept: number;
  readonly final: number;
  readonly echo: number;
  readonly solved: number;
}

/** A scan, and before it what solves its blocks. */
function scan(
  node: Node<Wkv7Attributes>,
  backward: boolean,
  limits: DeviceLimits,
  layout: ScanLayout,
  { drive, initial, result, kept, final, echo, solved }: ScanOperands,
): Pass[] {
  const { T, N } = node.attributes;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const M = B * T, values = 3 * M * C, units = B * H * N / layout.rows;
  const blocks = Math.ceil(T / layout.block), solvers = B * H * blocks;
  const operands = (...list: number[]) => list.map((operand) => ({ operand }));
  const solve: Pass = {
    wgsl: [
      constants({ N, BLOCK: layout.block, BACKWARD: backward }),
      ROLES,
      lanes(N, { workgroup: ["decay", "add", "probe", "back"] }),
      solveShader,
    ].join("\n"),
    uniforms: [T, C, M, blocks, solvers],
    bindings: operands(0, solved),
    workgroups: grid(solvers, limits),
  };
  const walk: Pass = {
    wgsl: scanText(N, backward, layout),
    uniforms: [T, C, M, chunks, units, backward ? 0 : values, backward ? values : 0],
    bindings: operands(0, ...(layout.solved ? [solved] : []), drive, initial, result, kept, final, echo),
    workgroups: grid(units, limits),
  };
  return layout.solved ? [solve, walk] : [walk];
}

/** Passes of wkv7: inputs streams and initial state; outputs y, kept states, final state, S a, solved blocks. */
export function forwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = scanLayout(node.attributes.N),
): Pass[] {
  const operands = { drive: 0, initial: 1, result: 2, kept: 3, final: 4, echo: 5, solved: 6 };
  return scan(node, false, limits, layout, operands);
}

/**
 * Passes of wkv7Gradient: inputs streams, kept states, dy, gradient of the final state, S a; outputs dStreams, gradient of the
 * initial state, gradients of the states where chunks end, gradient of S a, solved blocks. The last pass is over chunks.
 */
export function backwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = scanLayout(node.attributes.N),
): Pass[] {
  const { T, N } = node.attributes;
  const { B, H, C, chunks } = wkv7Sizes(node.inputs[0]!, node.attributes);
  const panel = divisor(N / width(N), 8) * width(N), units = B * H * chunks;
  const rows = ["v", "g", "sa", "dsa"];
  const operands = { drive: 2, initial: 3, result: 5, kept: 7, final: 6, echo: 8, solved: 9 };
  return [...scan(node, true, limits, layout, operands), {
    wgsl: [
      constants({ N, CHUNK, PANEL: panel }),
      lanes(N, { workgroup: rows, read: ["states", "d_states"] }),
      unrolled(chunkShader, "CHUNK", CHUNK),
    ].join("\n"),
    uniforms: [T, C, B * T, chunks, units],
    bindings: [0, 1, 7, 2, 4, 8, 5].map((operand) => ({ operand })),
    workgroups: grid(units, limits),
  }];
}
