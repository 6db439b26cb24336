/**
 * Time and memory of a training step with each method, at equal numbers of trained parameters: BAT by input block next to Bone, BAT
 * by output block next to the 1.57 times MiSS's time and 1.24 times its peak memory that it takes in Hugging Face PEFT (method_comparison of
 * July 2026, Llama 3.2 3B). Random weights in bf16. Writes method_cost.json and method_cost.md line by line, and a plot a row.
 *
 *     deno task bench:method_cost [--engine auto|cpu|webgpu|deno|dawn] [--precision auto|fp32] [--out FOLDER]
 *         [--rows 0.1B:8x1024,1.5B:8x1024] [--methods bone,bat_in] [--threads N]
 *
 * Rows are those of `deno task bench`; `small` is the size of the bundled model. With `--threads 1` on the processor, the time of a
 * step is the processor's time for it, which other programs do not lengthen by much.
 *
 * @module
 */
import { join } from "node:path";
import { cpuUsage } from "node:process";
import { parseArgs } from "node:util";
import { Adapter, baseWeight } from "../adapters/adapter.ts";
import type { Settings } from "../adapters/method.ts";
import { adapterMethod } from "../adapters/registry.ts";
import { EngineError } from "../kernels/engine.ts";
import { sizeOf } from "../kernels/graph.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { type Precision, WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { weightShapes } from "../rwkv/config.ts";
import { Model } from "../rwkv/model.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";
import { plotSvg } from "./plot.ts";
import { batchOf, type Row, rowsNamed, writeRandomModel } from "./subject.ts";

/** By name; undefined where every weight trains. */
const METHODS: Record<string, [string, Settings] | undefined> = {
  bone: ["bone", { r: 64 }],
  mini: ["bone", { r: 64, mini_r: 64 }],
  rows: ["bone", { r: 64, shards: "rows" }],
  bat_in: ["bat", { r: 64, axis: "in" }],
  bat_out: ["bat", { r: 64, axis: "out" }],
  lora: ["lora", { r: 32, alpha: 64 }],
  dora: ["dora", { r: 32, alpha: 64 }],
  pissa: ["pissa", { r: 32 }],
  state: ["state", {}],
  full: undefined,
};
const SMALL: Row = {
  ...{ name: "small", layers: 6, channels: 192, B: 8, T: 256, recompute: false },
  opponent: { tokens: NaN, gigabytes: NaN },
};
/** Series that are timed after one to warm up; the fastest is taken, as others' work only ever slows one down. */
const SERIES = 3;
/** Loads of a program after which a tuner has measured everything, if not before. */
const LOADS = 4;
const SETTINGS = {
  ...{ learningRate: 1e-5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
  ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
};

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    rows: { type: "string", default: "small" },
    threads: { type: "string" },
    methods: { type: "string", default: Object.keys(METHODS).join(",") },
    out: { type: "string" },
  },
});
const rows = values.rows.split(",").flatMap((name) => name === "small" ? [SMALL] : rowsNamed(name));
const unknown = values.methods.split(",").find((name) => !(name in METHODS));
if (unknown !== undefined) {
  throw new Error(`No method is called ${unknown}: there are ${Object.keys(METHODS).join(", ")}`);
}
const alone = values.threads === undefined ? undefined : new CpuEngine({ workers: Number(values.threads) });
const { engine, reason } = alone
  ? { engine: alone, reason: `Engine: cpu, ${alone.description}, the processor's time` }
  : await chooseEngine(values.engine as EngineChoice, { precision: values.precision as Precision });
/** Steps of a series: a GPU is not waited for after each. */
const STEPS = engine instanceof WebGpuEngine ? 5 : 1;
/** Milliseconds: of the clock, or with threads given those that the processor worked. */
const now = () => alone ? (({ user, system }) => (user + system) / 1000)(cpuUsage()) : performance.now();

/** What a method costs. */
interface Cost {
  readonly row: string;
  readonly method: string;
  readonly trained: number;
  /** Milliseconds of a step. */
  readonly ms: number;
  /** Bytes beyond the weights. */
  readonly beyond: number;
  /** Bytes of all. */
  readonly peak: number;
}

/** An adapter of zeros, as what it holds changes no time, or all weights of the model. */
function startOf(name: string, model: Model): Pick<Adapter, "tensors"> {
  const chosen = METHODS[name];
  if (!chosen) {
    const names = [...weightShapes(model.config).keys()];
    return { tensors: new Map(names.map((name) => [name, baseWeight(name, model.config, model.file)])) };
  }
  const known = adapterMethod(chosen[0]);
  const empty = new Adapter(known, known.configure(chosen[1]), new Map());
  const tensors = [...empty.parametersOn(model.config)].map(([name, { shape }]) =>
    [name, { shape, data: new Float32Array(sizeOf(shape)) }] as const
  );
  return empty.withTensors(new Map(tensors));
}

/** Takes steps with a method. */
async function measure(path: string, row: Row, name: string): Promise<Cost> {
  const { B, T, recompute } = row;
  using held = new DisposableStack();
  const before = engine.allocatedBytes;
  const model = held.use(Model.load(path, engine)), weights = engine.allocatedBytes - before;
  const tensors = startOf(name, model), adapter = tensors instanceof Adapter ? tensors : undefined;
  const trainables = new Trainables(tensors, model.config, engine, { layerwise: true });
  held.defer(() => trainables.dispose());
  const programs = new Programs({ model, adapter, trainables, B, T, recompute, l2: 1e-4, seed: 1 });
  for (let load = 0, known = -1; load < LOADS && engine instanceof WebGpuEngine; load++) {
    using _ = await programs.load();
    if (engine.choices.size === known) break;
    known = engine.choices.size;
  }
  const loaded = held.use(await programs.load()), beyond = engine.allocatedBytes - before - weights;
  const { inputs, ...others } = batchOf(row), tokens = inputs.map((token) => token % model.config.vocabulary);
  const batch = { ...others, inputs: tokens, targets: tokens }, times: number[] = [];
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
  const trained = [...trainables.parameters.values()].reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  return { row: rowName(row), method: name, trained, ms: Math.min(...times), beyond, peak: weights + beyond };
}

const rowName = ({ name, B, T, recompute }: Row) =>
  `${name} ${B}×${T}${recompute ? ", blocks recomputed" : ""}`;

const costs: Cost[] = [], failures: string[] = [], lines: string[] = [];
/** Prints a line of the table, and writes everything so far. */
function tell(...cells: string[]): void {
  lines.push(`| ${cells.join(" | ")} |`);
  console.log(lines.at(-1));
  if (values.out === undefined) return;
  Deno.mkdirSync(values.out, { recursive: true });
  const write = (name: string, text: string) => Deno.writeTextFileSync(join(values.out!, name), text);
  write("method_cost.md", `${[reason, "", ...lines, "", ...failures].join("\n")}\n`);
  write("method_cost.json", `${JSON.stringify({ engine: reason, costs })}\n`);
  for (const [i, row] of rows.entries()) {
    const of = costs.filter((cost) => cost.row === rowName(row)), [first] = of;
    if (of.length < 2) continue;
    const points = of.map(({ method, ms, peak }) => ({
      name: method,
      points: [[ms / first!.ms, peak / first!.peak] as const],
    }));
    const axis = (label: string) => ({ label: `${label}, × ${first!.method}'s` });
    const [x, y] = [axis("time of a step"), axis("memory")];
    write(
      `method_cost_${i + 1}.svg`,
      plotSvg({ title: `Cost of a step: ${rowName(row)}`, x, y, lines: points }),
    );
  }
}

console.log(`${reason}\n`);
tell(
  "model",
  "method",
  "trained",
  "ms a step",
  "× first",
  "GB beyond weights",
  "× first",
  "GB in all",
  "× first",
);
tell(...Array<string>(9).fill("---"));
const folder = await Deno.makeTempDir({ prefix: "wishbone-cost-" });
let written = "";
try {
  for (const row of rows) {
    const path = join(folder, `${row.name}.safetensors`);
    if (written !== path) {
      if (written) await Deno.remove(written);
      writeRandomModel(path, row.layers, row.channels, row === SMALL ? 256 : 65536);
      written = path;
    }
    let first: Cost | undefined;
    for (const name of values.methods.split(",")) {
      let cost: Cost;
      try {
        cost = await measure(path, row, name);
      } catch (error) {
        // That one takes more than the device has is a result.
        if (!(error instanceof EngineError)) throw error;
        failures.push(`${rowName(row)}, ${name}: ${error.message}`);
        console.error(failures.at(-1));
        continue;
      }
      costs.push(cost);
      first ??= cost;
      const over = (key: "ms" | "beyond" | "peak") => (cost[key] / first![key]).toFixed(2);
      const gigabytes = (bytes: number) => (bytes / 1e9).toFixed(3);
      const { trained, ms, beyond, peak } = cost;
      tell(
        ...[rowName(row), name, trained.toLocaleString("en-US"), ms.toFixed(1), over("ms")],
        ...[gigabytes(beyond), over("beyond"), gigabytes(peak), over("peak")],
      );
    }
  }
} finally {
  engine.dispose();
  await Deno.remove(folder, { recursive: true });
}
// Dawn keeps the process.
Deno.exit(0);
