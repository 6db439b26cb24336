/**
 * Speed and memory of training steps at real sizes, next to RWKV-PEFT's CUDA path on one H200: tokens a second, milliseconds a
 * step and of its encoding, planned and actual memory.
 *
 *     deno task bench [--engine auto|webgpu|cpu|deno|dawn] [--precision auto|fp32] [--rows 0.1B,0.4B:8x1024]
 *         [--parts 1]
 *
 * A micro-batch is computed in as many parts as its size asks for, unless they are said.
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { type Precision, WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { batchOf, RANK, rowsNamed, subjects } from "./subject.ts";

/** Series that are timed, after one to warm up; the median is taken. */
const SERIES = 3;
/** Steps of a series, and how many are in flight before the first loss is waited for. */
const STEPS = 6, IN_FLIGHT = 2;

const SETTINGS = {
  ...{ learningRate: 1e-5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
  ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
};

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    rows: { type: "string" },
    parts: { type: "string" },
  },
});
const parts = values.parts === undefined ? undefined : Number(values.parts);
const { engine, reason } = await chooseEngine(values.engine as EngineChoice, {
  precision: values.precision as Precision,
});
console.log(
  `${reason}\nbone r ${RANK}, random weights in bf16; × is against RWKV-PEFT's CUDA path on one H200\n`,
);
console.log(
  "model  batch×T  recompute  tokens/s      ×   ms/step  spread  encoding GB beyond weights, held      ×  until ready",
);
try {
  for (const { row, programs, weights, planned } of subjects(rowsNamed(values.rows), engine, parts)) {
    const { name, B, T, recompute, opponent } = row;
    const before = engine.allocatedBytes - weights;
    const opened = performance.now();
    using loaded = await programs.load();
    const ready = (performance.now() - opened) / 1000;
    const held = engine.allocatedBytes - before - weights + (planned - programs.bytes);
    const batch = batchOf(row), times: number[] = [];
    let loss = NaN, encoding = 0;
    for (let series = -1; series < SERIES; series++) {
      const started = performance.now(), pending: Promise<{ loss: number }>[] = [];
      encoding = 0;
      for (let step = 0; step < STEPS; step++) {
        const began = performance.now();
        loaded.accumulate(batch, B * T, step);
        pending.push(loaded.update(SETTINGS));
        encoding += (performance.now() - began) / STEPS;
        if (pending.length > IN_FLIGHT) await pending.shift();
      }
      for (const step of pending) ({ loss } = await step);
      if (series >= 0) times.push((performance.now() - started) / STEPS);
    }
    times.sort((a, b) => a - b);
    const ms = times[times.length >> 1]!, tokens = B * T / ms * 1000;
    const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(2);
    console.log([
      name,
      `${B}×${T}`.padStart(9),
      String(recompute).padStart(9),
      Math.round(tokens).toLocaleString("en-US").padStart(10),
      (tokens / opponent.tokens).toFixed(2).padStart(6),
      ms.toFixed(1).padStart(9),
      `±${((times.at(-1)! - times[0]!) / 2 / ms * 100).toFixed(0)} %`.padStart(7),
      `${encoding.toFixed(1)} ms`.padStart(9),
      `${gigabytes(planned)} / ${gigabytes(held)}`.padStart(24),
      (held / (opponent.gigabytes * 1e9 - weights)).toFixed(2).padStart(6),
      `${ready.toFixed(1)} s`.padStart(12),
      Number.isFinite(loss) ? "" : `  loss ${loss}`,
    ].join(" "));
  }
  if (engine instanceof WebGpuEngine && engine.choices.size) {
    const shapes = new Map<string, number>();
    for (const name of engine.choices.values()) shapes.set(name, (shapes.get(name) ?? 0) + 1);
    console.log("\nMeasured and chosen, for how many shapes of products:");
    for (const [name, count] of [...shapes].sort(([, a], [, b]) => b - a)) console.log(`  ${name}: ${count}`);
  }
} finally {
  engine.dispose();
}
// Dawn keeps the process.
Deno.exit(0);
