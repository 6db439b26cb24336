/**
 * Time and memory of a training step with each method, at equal numbers of trained parameters: BAT by input block next to Bone, BAT
 * by output block next to the 1.57 times MiSS's time and 1.24 times its peak memory that it takes in Hugging Face PEFT (method_comparison of
 * July 2026, Llama 3.2 3B). Random weights in bf16.
 *
 *     deno task bench:method_cost [--engine auto|cpu|webgpu] [--rows 0.1B:8x1024,1.5B:8x1024] [--methods bone,bat_in]
 *
 * Rows are those of `deno task bench`; `small` is the size of the bundled model. With `--threads 1` on the processor, the time of a
 * step is the processor's time for it, which other programs do not lengthen by much.
 *
 * @module
 */
import { join } from "node:path";
import { cpuUsage } from "node:process";
import { parseArgs } from "node:util";
import { Adapter } from "../adapters/adapter.ts";
import type { Settings } from "../adapters/method.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { sizeOf } from "../kernels/graph.ts";
import { chooseEngine, type EngineChoice } from "../kernels/engines/choose.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Model } from "../rwkv/model.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";
import { batchOf, type Row, rowsNamed, writeRandomModel } from "./subject.ts";

const METHODS: Record<string, [string, Settings]> = {
  bone: ["bone", { r: 64 }],
  bat_in: ["bat", { r: 64, axis: "in" }],
  bat_out: ["bat", { r: 64, axis: "out" }],
  lora: ["lora", { r: 32, alpha: 64 }],
  dora: ["dora", { r: 32, alpha: 64 }],
  pissa: ["pissa", { r: 32 }],
  state: ["state", {}],
};
const SMALL: Row = {
  ...{ name: "small", layers: 6, channels: 192, B: 8, T: 256, recompute: false },
  opponent: { tokens: NaN, gigabytes: NaN },
};
/** Series that are timed after one to warm up; the fastest is taken, as others' work only ever slows one down. */
const SERIES = 3, STEPS = 1;
const SETTINGS = {
  ...{ learningRate: 1e-5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
  ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
};

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    rows: { type: "string", default: "small" },
    threads: { type: "string" },
    methods: { type: "string", default: Object.keys(METHODS).join(",") },
  },
});
const rows = values.rows.split(",").flatMap((name) => name === "small" ? [SMALL] : rowsNamed(name));
const alone = values.threads === undefined ? undefined : new CpuEngine({ workers: Number(values.threads) });
const { engine, reason } = alone
  ? { engine: alone, reason: `Engine: cpu, ${alone.description}, the processor's time` }
  : await chooseEngine(values.engine as EngineChoice);
console.log(`${reason}\n`);
/** Milliseconds: of the clock, or with threads given those that the processor worked. */
const now = () => alone ? (({ user, system }) => (user + system) / 1000)(cpuUsage()) : performance.now();
console.log(
  "model  batch×T  recompute  method    trained       ms/step  × Bone   GB beyond weights  × Bone   peak GB  × Bone",
);

/** An adapter of zeros: what it holds changes no time. */
function zeros(method: string, settings: Settings, model: Model): Adapter {
  const known = adapterMethod(method);
  const empty = new Adapter(known, known.configure(settings), new Map());
  const tensors = [...empty.parametersOn(model.config)].map(([name, { shape }]) =>
    [name, { shape, data: new Float32Array(sizeOf(shape)) }] as const
  );
  return empty.withTensors(new Map(tensors));
}

const folder = await Deno.makeTempDir({ prefix: "wishbone-cost-" });
try {
  for (const row of rows) {
    const vocabulary = row === SMALL ? 256 : 65536;
    const path = join(folder, `${row.name}.safetensors`);
    writeRandomModel(path, row.layers, row.channels, vocabulary);
    const { B, T, recompute } = row;
    let first: { ms: number; beyond: number; peak: number } | undefined;
    for (const name of values.methods.split(",")) {
      const before = engine.allocatedBytes;
      using model = Model.load(path, engine);
      const weights = engine.allocatedBytes - before;
      const adapter = zeros(...METHODS[name]!, model);
      const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
      const programs = new Programs({ model, adapter, trainables, B, T, recompute, l2: 1e-4, seed: 1 });
      const times: number[] = [];
      let beyond = 0;
      {
        using loaded = await programs.load();
        beyond = engine.allocatedBytes - before - weights;
        const { inputs, ...others } = batchOf(row), tokens = inputs.map((token) => token % vocabulary);
        const batch = { ...others, inputs: tokens, targets: tokens };
        for (let series = -1; series < SERIES; series++) {
          const started = now();
          let report: Promise<unknown> | undefined;
          for (let step = 0; step < STEPS; step++) {
            loaded.accumulate(batch, B * T, step);
            report = loaded.update(SETTINGS);
          }
          await report;
          if (series >= 0) times.push((now() - started) / STEPS);
        }
      }
      const trained = [...trainables.parameters.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
      trainables.dispose();
      const cost = { ms: Math.min(...times), beyond, peak: weights + beyond };
      first ??= cost;
      const times_ = (key: keyof typeof cost) => (cost[key] / first![key]).toFixed(2);
      console.log([
        row.name.padEnd(6),
        `${B}×${T}`.padStart(7),
        String(recompute).padStart(9),
        ` ${name.padEnd(8)}`,
        trained.toLocaleString("en-US").padStart(11),
        cost.ms.toFixed(1).padStart(11),
        times_("ms").padStart(7),
        (beyond / 1e9).toFixed(3).padStart(17),
        times_("beyond").padStart(9),
        (cost.peak / 1e9).toFixed(3).padStart(9),
        times_("peak").padStart(7),
      ].join(" "));
    }
    await Deno.remove(path);
  }
} finally {
  engine.dispose();
  await Deno.remove(folder, { recursive: true });
}
// Dawn keeps the process.
Deno.exit(0);
