/**
 * Where the time of a training step on the cpu engine goes: the bundled example's step on one worker and on all, its matrix
 * products alone, each kind of op alone, and the same step through WebGPU where an adapter is there.
 *
 *     deno task bench:step [--webgpu]
 *
 * Every row is the median of repeated runs in this process; ratios are of rows of one run.
 *
 * @module
 */
import { join } from "node:path";
import { newAdapter } from "../adapters/adapter.ts";
import { bone } from "../adapters/bone/bone.ts";
import type { Engine } from "../kernels/engine.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import type { Program } from "../kernels/plan.ts";
import { extents, type MatmulAttributes } from "../kernels/ops/matmul/op.ts";
import { Model } from "../rwkv/model.ts";
import { random } from "../training/data/random.ts";
import { writeFreshModel } from "../training/pretrain.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";

/** The bundled model's sizes and the bundled run's batch. */
const SIZES = { layers: 6, channels: 192, headSize: 64, vocabulary: 256 };
const B = 8, T = 256, R = 64;

const median = (times: number[]) => times.sort((a, b) => a - b)[times.length >> 1]!;

/** Median milliseconds of `runs` runs of a program, after one to warm up. */
async function time(engine: Engine, program: Program, runs: number): Promise<number> {
  using executable = await engine.load(program);
  executable.run();
  await engine.settle();
  const times: number[] = [];
  for (let i = 0; i < runs; i++) {
    const started = performance.now();
    executable.run();
    await engine.settle();
    times.push(performance.now() - started);
  }
  return median(times);
}

/** The program's nodes of one kind alone, in the same memory. */
function only(program: Program, keep: (op: string) => boolean): Program {
  return { ...program, nodes: program.nodes.filter((node) => keep(node.op.name)) };
}

/** Multiplications and additions of a program's products, in 10⁹. */
function gigaflops(program: Program): number {
  return program.nodes.filter((node) => node.op.name === "matmul").reduce((sum, node) => {
    const { M, N, K } = extents(node.inputs, node.attributes as MatmulAttributes);
    return sum + 2e-9 * M * N * K;
  }, 0);
}

/** Opens the example on an engine, and hands over its gradient program. */
async function withStep<T>(engine: Engine, path: string, use: (program: Program) => Promise<T>): Promise<T> {
  const model = Model.load(path, engine);
  const adapter = newAdapter(model, bone, {
    settings: { r: R },
    trainParts: ["ln"],
    noise: random(1, "adapter"),
  });
  const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
  const programs = new Programs({ model, adapter, trainables, B, T, recompute: false, l2: 1e-4, seed: 1 });
  using _loaded = await programs.load();
  try {
    return await use(programs.gradients);
  } finally {
    engine.dispose();
  }
}

const row = (what: string, ms: number, more = "") =>
  console.log(`${what.padEnd(40)}${ms.toFixed(1).padStart(9)} ms  ${more}`);
const rate = (ms: number) => `${Math.round(B * T / ms * 1000)} tokens/s`;

const folder = await Deno.makeTempDir({ prefix: "wishbone-step-" });
try {
  const path = join(folder, "model.safetensors");
  writeFreshModel(path, SIZES, 1);
  const cores = navigator.hardwareConcurrency;
  console.log(
    `L ${SIZES.layers}, C ${SIZES.channels}, V ${SIZES.vocabulary}, B ${B}, T ${T}, bone r ${R}; ${cores} cores\n`,
  );

  const single = new CpuEngine({ workers: 1 });
  const alone = await withStep(single, path, (program) => time(single, program, 7));
  row("gradients of a step, 1 worker", alone, rate(alone));
  const engine = new CpuEngine();
  const all = await withStep(engine, path, async (program) => {
    const all = await time(engine, program, 7);
    row(
      `gradients of a step, ${cores} workers`,
      all,
      `${rate(all)}, ${(alone / all).toFixed(2)} times 1 worker`,
    );
    const products = await time(engine, only(program, (op) => op === "matmul"), 7);
    const flops = gigaflops(program);
    row(
      "  its products alone",
      products,
      `${(flops / products * 1000).toFixed(1)} GFLOP/s, ${(100 * products / all).toFixed(0)} % of the step`,
    );
    const kinds = [...new Set(program.nodes.map((node) => node.op.name))].filter((op) => op !== "matmul");
    const rows: [string, number][] = [];
    for (const kind of kinds) rows.push([kind, await time(engine, only(program, (op) => op === kind), 5)]);
    for (const [kind, ms] of rows.sort((a, b) => b[1] - a[1])) {
      const count = program.nodes.filter((node) => node.op.name === kind).length;
      row(`  ${kind} (${count})`, ms, `${(100 * ms / all).toFixed(0)} %`);
    }
    return all;
  });
  if (Deno.args.includes("--webgpu")) {
    const { engine, reason } = await chooseEngine("webgpu");
    console.log(`\n${reason}`);
    const gpu = await withStep(engine, path, (program) => time(engine, program, 1));
    row(
      "the same through WebGPU",
      gpu,
      `${rate(gpu)}, ${(gpu / all).toFixed(1)} times the cpu engine's time`,
    );
  }
} finally {
  await Deno.remove(folder, { recursive: true });
}
