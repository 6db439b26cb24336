/**
 * The README's table of memory: what a run of each size is planned to take on a GPU, without a GPU and without the models.
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

/** An engine that counts what it is asked for. */
class Ledger implements Engine {
  readonly name = "webgpu";
  readonly description = "nothing";
  readonly operands = 8;
  readonly scratch = true;
  readonly limits = { bindingBytes: 2 ** 31 - 4, workgroups: 65535, workgroupBytes: 32768 };
  allocatedBytes = 0;
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

const folder = Deno.makeTempDirSync({ prefix: "wishbone-memory-" });
const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
try {
  const heads = ["model", "weights", "adapter, gradients, optimizer", ...COLUMNS.map(([name]) => name)];
  console.log(`| ${heads.join(" | ")} |\n|${"---|".repeat(heads.length)}`);
  for (const [name, layers, channels] of SIZES) {
    const path = join(folder, `${name}.safetensors`);
    writeHole(path, layers, channels);
    const engine = new Ledger();
    const options = { loadModel: path, dataFile: path, boneConfig: { bone_r: Number(values.rank) } };
    const start = startingTensors(settle(options, () => "unused"));
    using model = Model.load(path, engine, { elsewhere: (name) => start.tensors.tensors.has(name) });
    const cells = COLUMNS.map(([, others]) => {
      const learner = new Learner(model, start, settle({ ...options, ...others }, () => "unused"));
      const { rows, bytes } = planMemory(learner, false);
      learner.trainables.dispose();
      const of = (...names: string[]) =>
        rows.filter(({ what }) => names.includes(what)).reduce((sum, { bytes }) => sum + bytes, 0);
      return {
        weights: of("frozen weights"),
        trained: of("adapter and what trains along", "gradients", "optimizer (two moments)"),
        bytes,
      };
    });
    const [{ weights, trained }] = cells as [typeof cells[0], ...typeof cells];
    console.log(
      `| ${[name, ...[weights, trained, ...cells.map(({ bytes }) => bytes)].map(gigabytes)].join(" | ")} |`,
    );
    Deno.removeSync(path);
  }
} finally {
  Deno.removeSync(folder, { recursive: true });
}
