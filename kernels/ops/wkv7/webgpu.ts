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
import scanShader from "./scan.wgsl" with { type: "text" };

/** How a scan is divided. */
export interface ScanLayout {
  /** Value rows of a workgroup; divides N. */
  readonly rows: number;
  /** Value rows of a thread; divides `rows`. */
  readonly rowsAThread: number;
  /** Threads that share the keys of a row; divides N / 4, or N where 4 does not divide it. */
  readonly keyThreads: number;
  /** Steps that lie in workgroup memory at a time; divides {@link CHUNK}. */
  readonly stage: number;
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
function scanBounds(N: number, { rows, rowsAThread, keyThreads, stage }: ScanLayout) {
  const lanes = N / width(N), threads = rows / rowsAThread * keyThreads;
  const loads = Math.ceil(5 * stage * lanes / threads), drives = Math.ceil(stage * rows / threads);
  return {
    bytes: 4 * ((loads * width(N) + drives) * threads + (2 + stage) * rows * keyThreads),
    loops: {
      HELD: rowsAThread * lanes / keyThreads,
      ROWS_A_THREAD: rowsAThread,
      LOADS: loads,
      DRIVES: drives,
    },
  };
}

/** The layout for heads of N channels. */
export function scanLayout(N: number): ScanLayout {
  const layout = { rows: divisor(N, 8), rowsAThread: 1, keyThreads: divisor(N / width(N), 8), stage: 8 };
  for (; layout.stage > 1; layout.stage /= 2) {
    const { bytes, loops } = scanBounds(N, layout);
    if (bytes <= WORKGROUP_BYTES && loops.LOADS <= MOST_LOADS) break;
  }
  return layout;
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

/** WGSL of a scan. */
function scanText(N: number, backward: boolean, layout: ScanLayout): string {
  const { rows, rowsAThread, keyThreads, stage } = layout;
  const { loops } = scanBounds(N, layout);
  const body = Object.entries(loops).reduce((text, [name, count]) => unrolled(text, name, count), scanShader);
  return [
    constants({
      N,
      CHUNK,
      BACKWARD: backward,
      ROWS: rows,
      ROWS_A_THREAD: rowsAThread,
      KEY_THREADS: keyThreads,
      STAGE: stage,
    }),
    lanes(N),
    parts(keyThreads, ["echoes", "results"]),
    body,
  ].join("\n");
}

/** What a scan's uniforms and workgroups follow from. */
function scan(node: Node<Wkv7Attributes>, backward: boolean, limits: DeviceLimits, layout: ScanLayout) {
  const { T, N } = node.attributes;
  const streams = node.inputs[0]!, { B, H, C, chunks } = wkv7Sizes(streams, node.attributes);
  const M = B * T, values = 3 * M * C, units = B * H * N / layout.rows;
  return {
    wgsl: scanText(N, backward, layout),
    uniforms: [T, C, M, chunks, units, backward ? 0 : values, backward ? values : 0],
    workgroups: grid(units, limits),
  };
}

/** Passes of wkv7: inputs streams and initial state; outputs y, kept states, final state, S a. */
export function forwardPasses(
  node: Node<Wkv7Attributes>,
  limits: DeviceLimits,
  layout: ScanLayout = scanLayout(node.attributes.N),
): Pass[] {
  const bindings = [0, 0, 1, 2, 3, 4, 5].map((operand) => ({ operand }));
  return [{ ...scan(node, false, limits, layout), bindings }];
}

/**
 * Passes of wkv7Gradient: inputs streams, kept states, dy, gradient of the final state, S a; outputs dStreams, gradient of the
 * initial state, gradients of the states where chunks end, gradient of S a.
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
  return [
    {
      ...scan(node, true, limits, layout),
      bindings: [0, 2, 3, 5, 7, 6, 8].map((operand) => ({ operand })),
    },
    {
      wgsl: [
        constants({ N, CHUNK, PANEL: panel }),
        lanes(N, { workgroup: rows, read: ["states", "d_states"] }),
        unrolled(chunkShader, "CHUNK", CHUNK),
      ].join("\n"),
      uniforms: [T, C, B * T, chunks, units],
      bindings: [0, 1, 7, 2, 4, 8, 5].map((operand) => ({ operand })),
      workgroups: grid(units, limits),
    },
  ];
}
