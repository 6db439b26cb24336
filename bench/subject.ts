/**
 * What the benches at real sizes run: RWKV-7 as it is released, with random weights and a Bone adapter of rank 64, as in the
 * measurements that they are compared with.
 *
 * @module
 */
import { join } from "node:path";
import { newAdapter } from "../adapters/adapter.ts";
import { bone } from "../adapters/bone/bone.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { weightShapes } from "../rwkv/config.ts";
import { freshConfig } from "../rwkv/initialise.ts";
import { Model } from "../rwkv/model.ts";
import { random } from "../training/data/random.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";

/** Rank of the adapter. */
export const RANK = 64;

/** One measurement: sizes, batch × length, whether blocks are recomputed; tokens/s and GB of RWKV-PEFT on one H200. */
export interface Row {
  readonly name: string;
  readonly layers: number;
  readonly channels: number;
  readonly B: number;
  readonly T: number;
  readonly recompute: boolean;
  readonly opponent: { readonly tokens: number; readonly gigabytes: number };
}

const SIZES = {
  "0.1B": { layers: 12, channels: 768 },
  "0.4B": { layers: 24, channels: 1024 },
  "1.5B": { layers: 24, channels: 2048 },
  "2.9B": { layers: 32, channels: 2560 },
} as const;

function row(
  name: keyof typeof SIZES,
  B: number,
  T: number,
  tokens: number,
  gigabytes: number,
  recompute = true,
): Row {
  return { name, ...SIZES[name], B, T, recompute, opponent: { tokens, gigabytes } };
}

/** RWKV-PEFT's CUDA path on the same card: torch 2.11, bf16, MiSS r 64, fused AdamW, gradient checkpointing, V 65536. */
export const ROWS: readonly Row[] = [
  row("0.1B", 1, 1024, 8_880, 1.19),
  row("0.1B", 8, 1024, 65_541, 6.04),
  row("0.1B", 1, 8192, 20_094, 6.05),
  row("0.4B", 1, 1024, 3_743, 1.78),
  row("0.4B", 8, 1024, 33_426, 6.88),
  row("1.5B", 1, 1024, 4_572, 4.08),
  row("1.5B", 8, 1024, 21_293, 9.57),
  row("1.5B", 8, 1024, 29_690, 34.8, false),
  row("2.9B", 1, 1024, 3_515, 7.17),
  row("2.9B", 8, 1024, 12_656, 13.15),
];

/** The rows of these names: "0.1B" for all of a size, "0.1B:1x1024" for one. */
export function rowsNamed(names: string | undefined): Row[] {
  if (!names) return [...ROWS];
  const wanted = names.split(",");
  const chosen = ROWS.filter(({ name, B, T }) =>
    wanted.includes(name) || wanted.includes(`${name}:${B}x${T}`)
  );
  if (!chosen.length) throw new Error(`No row is called ${names}: there are 0.1B, 0.4B:8x1024 and the like`);
  return chosen;
}

/** Writes a model of random bf16 numbers, small enough that nothing overflows. */
export function writeRandomModel(path: string, layers: number, channels: number, vocabulary = 65536): void {
  const config = freshConfig({ layers, channels, headSize: 64, vocabulary });
  const draw = random(1, "weights");
  // One stretch of noise serves all tensors: drawing each anew would take longer than the bench.
  const noise = fromFloat32(Float32Array.from({ length: 1 << 18 }, () => 0.02 * draw.normal()), "BF16");
  const ones = fromFloat32(new Float32Array(config.ffn).fill(1), "BF16");
  writeTensorFile(path, {
    format: "safetensors",
    tensors: [...weightShapes(config)].map(([name, shape]) => ({ name, shape, dtype: "BF16" })),
    read({ name, shape }) {
      const bytes = new Uint8Array(shape.reduce((a, b) => a * b, 1) * 2);
      const source = /ln\w*\.weight$/.test(name) ? ones : noise;
      for (let at = 0; at < bytes.length; at += source.length) {
        bytes.set(source.subarray(0, Math.min(source.length, bytes.length - at)), at);
      }
      return bytes;
    },
  });
}

/** A row made ready. */
export interface Subject extends Disposable {
  readonly row: Row;
  readonly programs: Programs;
  /** Bytes of the weights on the engine. */
  readonly weights: number;
  /** Bytes beyond the weights that a step was planned to take. */
  readonly planned: number;
}

/** The programs of a row, planned, and what they train. @param parts of a micro-batch, where they are not its size's */
export function plannedRow(
  { B, T, recompute }: Row,
  model: Model,
  parts?: number,
): { programs: Programs; trainables: Trainables } {
  const noise = random(1, "adapter");
  const adapter = newAdapter(model, bone, { settings: { r: RANK }, trainParts: [], noise });
  const trainables = new Trainables(adapter, model.config, model.engine, { layerwise: true });
  const programs = new Programs({
    ...{ model, adapter, trainables, B, T, recompute, l2: 1e-4, seed: 1 },
    ...(parts === undefined ? {} : { parts }),
  });
  return { programs, trainables };
}

/** Makes the rows ready one after another, each until the next is asked for. */
export function* subjects(rows: readonly Row[], engine: Engine, parts?: number): Generator<Subject> {
  const folder = Deno.makeTempDirSync({ prefix: "wishbone-bench-" });
  let written: string | undefined;
  try {
    for (const row of rows) {
      const path = join(folder, `${row.name}.safetensors`);
      if (written !== path) {
        if (written) Deno.removeSync(written);
        writeRandomModel(path, row.layers, row.channels);
        written = path;
      }
      const before = engine.allocatedBytes, model = Model.load(path, engine);
      const weights = engine.allocatedBytes - before;
      const { programs, trainables } = plannedRow(row, model, parts);
      const planned = engine.allocatedBytes - before - weights + programs.bytes;
      const dispose = () => (trainables.dispose(), model.dispose());
      try {
        yield { row, programs, weights, planned, [Symbol.dispose]: dispose };
      } finally {
        dispose();
      }
    }
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

/** A batch for a row: any tokens do. */
export function batchOf({ B, T }: Row) {
  const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % 65536);
  return { inputs: tokens, targets: tokens, mask: new Float32Array(B * T).fill(1), counted: B * T };
}
