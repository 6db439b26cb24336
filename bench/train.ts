/**
 * Speed and memory of training steps at real sizes, with random weights: tokens a second, milliseconds a step, planned and
 * actual memory; and with --profile where the time goes, each kind of op run alone.
 *
 *     deno task bench:train [--engine auto|webgpu|cpu] [--rows 0.1B,0.4B] [--profile]
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { newAdapter } from "../adapters/adapter.ts";
import { bone } from "../adapters/bone/bone.ts";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeTensorFile } from "../formats/tensor_file.ts";
import type { Engine } from "../kernels/engine.ts";
import { chooseEngine, type EngineChoice, type ProviderChoice } from "../kernels/engines/choose.ts";
import type { Precision } from "../kernels/engines/webgpu/engine.ts";
import type { Program } from "../kernels/plan.ts";
import { weightShapes } from "../rwkv/config.ts";
import { freshConfig } from "../rwkv/initialise.ts";
import { Model } from "../rwkv/model.ts";
import { random } from "../training/data/random.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";

/** Released sizes with World's vocabulary, and what is run of each: batch × length, recomputing blocks or not. */
const ROWS = [
  { name: "0.1B", layers: 12, channels: 768, runs: [[1, 1024, true], [8, 1024, true], [1, 8192, true]] },
  { name: "0.4B", layers: 24, channels: 1024, runs: [[1, 1024, true], [8, 1024, true]] },
  { name: "1.5B", layers: 24, channels: 2048, runs: [[1, 1024, true], [8, 1024, true], [8, 1024, false]] },
  { name: "2.9B", layers: 32, channels: 2560, runs: [[1, 1024, true], [8, 1024, true]] },
] as const;
const RANK = 64;
/** Steps that are timed, after two to warm up. */
const STEPS = 5;

/** Writes a model of random bf16 numbers, small enough that nothing overflows. */
function writeRandomModel(path: string, layers: number, channels: number): void {
  const config = freshConfig({ layers, channels, headSize: 64, vocabulary: 65536 });
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

const median = (times: number[]) => times.sort((a, b) => a - b)[times.length >> 1]!;

/** Milliseconds of one run of a program: several are submitted before the wait, as in training. */
async function time(engine: Engine, program: Program, repeats: number): Promise<number> {
  using executable = await engine.load(program);
  executable.run();
  await engine.settle();
  const started = performance.now();
  for (let i = 0; i < repeats; i++) executable.run();
  await engine.settle();
  return (performance.now() - started) / repeats;
}

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    provider: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    rows: { type: "string", default: ROWS.map(({ name }) => name).join(",") },
    profile: { type: "boolean", default: false },
  },
});
const { engine, reason } = await chooseEngine(values.engine as EngineChoice, {
  provider: values.provider as ProviderChoice,
  precision: values.precision as Precision,
});
console.log(`${reason}\nbone r ${RANK}, random weights in bf16, medians of ${STEPS} steps\n`);
console.log("model  batch×T    recompute  tokens/s   ms/step  weights GB  beyond them GB, planned / held");
const folder = await Deno.makeTempDir({ prefix: "wishbone-train-" });
try {
  for (
    const { name, layers, channels, runs } of ROWS.filter(({ name }) => values.rows.split(",").includes(name))
  ) {
    const path = join(folder, "model.safetensors");
    writeRandomModel(path, layers, channels);
    for (const [B, T, recompute] of runs) {
      using model = Model.load(path, engine);
      const weights = engine.allocatedBytes;
      const adapter = newAdapter(model, bone, {
        settings: { r: RANK },
        trainParts: [],
        noise: random(1, "adapter"),
      });
      const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
      const programs = new Programs({ model, adapter, trainables, B, T, recompute, l2: 1e-4 });
      const planned = engine.allocatedBytes - weights + programs.bytes;
      {
        using loaded = await programs.load();
        const tokens = Int32Array.from({ length: B * T }, (_, i) => (i * 7919) % 65536);
        const batch = {
          inputs: tokens,
          targets: tokens,
          mask: new Float32Array(B * T).fill(1),
          counted: B * T,
        };
        const settings = {
          ...{ learningRate: 1e-5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
          ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
        };
        const times: number[] = [];
        let loss = NaN;
        for (let i = -2; i < STEPS; i++) {
          const started = performance.now();
          loaded.accumulate(batch, B * T);
          ({ loss } = await loaded.update(settings));
          if (i >= 0) times.push(performance.now() - started);
        }
        const ms = median(times);
        const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
        console.log(
          `${name}   ${`${B}×${T}`.padEnd(10)} ${String(recompute).padEnd(9)} ` +
            `${Math.round(B * T / ms * 1000).toLocaleString("en-US").padStart(9)} ${
              ms.toFixed(0).padStart(9)
            }  ` +
            `${gigabytes(weights).padStart(10)}  ${gigabytes(planned)} / ${
              gigabytes(engine.allocatedBytes - weights)
            }` +
            (Number.isFinite(loss) ? "" : `  loss ${loss}`),
        );
        if (values.profile) await profile(programs.gradients);
      }
      trainables.dispose();
    }
    await Deno.remove(path);
  }
} finally {
  engine.dispose();
  await Deno.remove(folder, { recursive: true });
}

/** Prints the time of each kind of op, run alone in the memory of the whole program. */
async function profile(program: Program): Promise<void> {
  const rows: [string, number, number][] = [];
  for (const kind of new Set(program.nodes.map((node) => node.op.name))) {
    const nodes = program.nodes.filter((node) => node.op.name === kind);
    rows.push([kind, nodes.length, await time(engine, { ...program, nodes }, 3)]);
  }
  for (const [kind, count, ms] of rows.sort((a, b) => b[2] - a[2]).slice(0, 8)) {
    console.log(
      `         ${kind.padEnd(20)} ${String(count).padStart(5)} nodes ${ms.toFixed(1).padStart(9)} ms`,
    );
  }
}
