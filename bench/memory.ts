/**
 * The README's tables of memory: what a run of each size is planned to take on a GPU without matrix units and on one with them, and
 * what steps take beyond the weights as a share of what RWKV-PEFT's CUDA path takes; without a GPU and without the models.
 *
 *     deno task bench:memory [--rank 64]
 *
 * Files with the names and shapes of the released models, and holes for content, stand for them; nothing is allocated.
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Engine } from "../kernels/engine.ts";
import { bytesOf, type Variable } from "../kernels/graph.ts";
import { weightShapes } from "../rwkv/config.ts";
import { freshConfig } from "../rwkv/initialise.ts";
import { Model } from "../rwkv/model.ts";
import { Learner } from "../training/learner.ts";
import { planMemory } from "../training/memory.ts";
import { settle, type TrainOptions } from "../training/options.ts";
import { startingTensors } from "../training/start.ts";
import { plannedRow, type Row, ROWS } from "./subject.ts";

const { values } = parseArgs({ options: { rank: { type: "string", default: "64" } } });

const SIZES = [
  ["0.1B", 12, 768],
  ["0.4B", 24, 1024],
  ["1.5B", 24, 2048],
  ["2.9B", 32, 2560],
] as const;
const COLUMNS: [string, TrainOptions][] = [
  ["1 × 1024", { microBsz: 1 }],
  ["1 × 1024, `--grad_cp 0`", { microBsz: 1, gradCp: false }],
  ["4 × 1024", { microBsz: 4 }],
  ["8 × 1024", { microBsz: 8 }],
  ["1 × 4096", { microBsz: 1, ctxLen: 4096 }],
  ["`infctx`, chunks of 512", { microBsz: 1, ctxLen: 32_768, trainType: "infctx", chunkCtx: 512 }],
];

/** What a GPU tells of itself that plans depend on. */
type Traits = Pick<Engine, "operands" | "joinsFolds" | "keeps" | "rounds" | "limits">;
const LIMITS = { bindingBytes: 2 ** 31 - 4, workgroups: 65535, workgroupBytes: 32768 };
const PLAIN: Traits = { operands: 8, limits: LIMITS };
/** One NVIDIA H200 through Dawn. */
const MATRIX_UNITS: Traits = {
  operands: 16,
  joinsFolds: "f16",
  keeps: "f16",
  rounds: "f16",
  limits: { ...LIMITS, matrixUnits: { side: 16, lanes: 32 } },
};

/** An engine that counts what it is asked for. */
class Ledger implements Engine {
  readonly name = "webgpu";
  readonly description = "nothing";
  readonly scratch = true;
  readonly operands: number;
  readonly joinsFolds: "f32" | "f16" | undefined;
  readonly keeps: "f32" | "f16" | undefined;
  readonly rounds: "f16" | undefined;
  readonly limits;
  allocatedBytes = 0;
  constructor({ operands, joinsFolds, keeps, rounds, limits }: Traits) {
    this.operands = operands;
    this.joinsFolds = joinsFolds;
    this.keeps = keeps;
    this.rounds = rounds;
    this.limits = limits!;
  }
  room() {
    return Infinity;
  }
  allocate(variable: Variable) {
    this.allocatedBytes += bytesOf(variable);
  }
  free(variable: Variable) {
    this.allocatedBytes -= bytesOf(variable);
  }
  write() {}
  read(): never {
    throw new Error("There is nothing to read");
  }
  load(): never {
    throw new Error("There is nothing to run");
  }
  settle() {
    return Promise.resolve();
  }
  dispose() {}
}

/** A safetensors file in bf16 whose content is a hole. */
function writeHole(path: string, layers: number, channels: number): void {
  const shapes = weightShapes(freshConfig({ layers, channels, headSize: 64, vocabulary: 65536 }));
  let at = 0;
  const header = Object.fromEntries(
    [...shapes].map(([name, shape]) => {
      const start = at;
      at += 2 * shape.reduce((a, b) => a * b, 1);
      return [name, { dtype: "BF16", shape, data_offsets: [start, at] }];
    }),
  );
  const text = JSON.stringify(header);
  const bytes = new TextEncoder().encode(text.padEnd(Math.ceil(text.length / 8) * 8));
  using file = Deno.openSync(path, { write: true, create: true });
  const length = new Uint8Array(8);
  new DataView(length.buffer).setBigUint64(0, BigInt(bytes.length), true);
  file.writeSync(length);
  file.writeSync(bytes);
  file.truncateSync(8 + bytes.length + at);
}

const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);

/** The cells of a model's row: weights, what trains, and all of a run with each column's options. */
function cellsOf(path: string, traits: Traits): number[] {
  const engine = new Ledger(traits);
  const options = { loadModel: path, dataFile: path, boneConfig: { bone_r: Number(values.rank) } };
  const start = startingTensors(settle(options, () => "unused"));
  using model = Model.load(path, engine, { elsewhere: (name) => start.tensors.tensors.has(name) });
  const plans = COLUMNS.map(([, others]) => {
    const learner = new Learner(model, start, settle({ ...options, ...others }, () => "unused"));
    const plan = planMemory(learner, false);
    learner.trainables.dispose();
    return plan;
  });
  const of = (...names: string[]) =>
    plans[0]!.rows.filter(({ what }) => names.includes(what)).reduce((sum, { bytes }) => sum + bytes, 0);
  return [
    of("frozen weights"),
    of("adapter and what trains along", "gradients", "optimizer (two moments)"),
    ...plans.map(({ bytes }) => bytes),
  ];
}

/** What is allowed of the CUDA path's memory beyond the weights. */
const allowed = ({ B, T }: Row) => B * T > 1024 ? 0.6 : 1;

/** The rows that are compared with the CUDA path. */
function compared(path: string, rows: readonly Row[]): string[] {
  const engine = new Ledger(MATRIX_UNITS);
  using model = Model.load(path, engine);
  const weights = engine.allocatedBytes;
  return rows.map((row) => {
    const { programs, trainables } = plannedRow(row, model);
    const beyond = engine.allocatedBytes - weights + programs.bytes,
      cuda = row.opponent.gigabytes * 1e9 - weights;
    trainables.dispose();
    const kept = row.recompute ? "" : ", no recomputation", share = beyond / cuda, limit = allowed(row);
    const cells = [`${row.B} × ${row.T}${kept}`, ...[cuda, beyond].map(gigabytes), share.toFixed(2), limit];
    return `| ${row.name} | ${cells.join(" | ")} | ${share <= limit ? "" : "over"} |`;
  });
}

const table = (heads: readonly string[]) =>
  console.log(`\n| ${heads.join(" | ")} |\n|${"---|".repeat(heads.length)}`);
const folder = Deno.makeTempDirSync({ prefix: "wishbone-memory-" });
try {
  const paths = new Map(SIZES.map(([name, layers, channels]) => {
    const path = join(folder, `${name}.safetensors`);
    writeHole(path, layers, channels);
    return [name, path];
  }));
  for (const [what, traits] of [["without", PLAIN], ["with", MATRIX_UNITS]] as const) {
    console.log(`\n${what} matrix units:`);
    table(["model", "weights", "adapter, gradients, optimizer", ...COLUMNS.map(([name]) => name)]);
    for (const [name, path] of paths) {
      console.log(`| ${name} | ${cellsOf(path, traits).map(gigabytes).join(" | ")} |`);
    }
  }
  console.log("\nbeyond the weights, with matrix units, and RWKV-PEFT's CUDA path on one H200 (measured):");
  table(["model", "batch × T", "CUDA, GB", "planned, GB", "×", "wanted at most", ""]);
  for (const [name, path] of paths) {
    compared(path, ROWS.filter((row) => row.name === name)).forEach((line) => console.log(line));
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
