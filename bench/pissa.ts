/**
 * How long PiSSA's decompositions take before training begins: one layer of each shape of a model of 1.5 billion parameters, on an
 * engine and in plain code, and all of its 144 layers on the engine.
 *
 *     deno task bench:pissa [--engine auto|cpu|webgpu|deno|dawn] [--ranks 8,32,64] [--plain]
 *
 * @module
 */
import { parseArgs } from "node:util";
import { EngineProducts } from "../adapters/pissa/products.ts";
import { leadingSingularValues } from "../adapters/pissa/svd.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { random } from "../training/data/random.ts";

/** [rows, columns] and how many layers of a block have them. */
const SHAPES = [[2048, 2048, 4], [8192, 2048, 1], [2048, 8192, 1]] as const;
const BLOCKS = 24, ITERATIONS = 4;

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    ranks: { type: "string", default: "8,32,64" },
    plain: { type: "boolean", default: false },
  },
});
const { engine, reason } = await chooseEngine(values.engine as EngineChoice);
console.log(`${reason}; ${ITERATIONS} iterations\n`);
const noise = random(1, "weights");
const weights = SHAPES.map(([rows, columns]) =>
  Float32Array.from({ length: rows * columns }, () => 0.02 * noise.normal())
);
/** Seconds that something takes. */
async function seconds(work: () => unknown): Promise<number> {
  const started = performance.now();
  await work();
  return (performance.now() - started) / 1000;
}

console.log(
  `rank  ${SHAPES.map(([rows, columns]) => `${rows}×${columns}`.padStart(12)).join("")}   all layers, s`,
);
for (const r of values.ranks.split(",").map(Number)) {
  using products = new EngineProducts(engine);
  const sizes = SHAPES.map(([rows, columns]) => ({ rows, columns, r, iterations: ITERATIONS }));
  const one = (i: number) => products.decompose(weights[i]!, sizes[i]!, noise);
  // The first makes the programs ready.
  const cold = await seconds(async () => {
    for (const i of SHAPES.keys()) await one(i);
  });
  const times = [];
  for (const i of SHAPES.keys()) times.push(await seconds(() => one(i)));
  const all = await seconds(async () => {
    for (let block = 1; block < BLOCKS; block++) {
      for (const [i, [, , layers]] of SHAPES.entries()) for (let l = 0; l < layers; l++) await one(i);
    }
  });
  const whole = all * BLOCKS / (BLOCKS - 1);
  const row = (name: string, times: number[], whole: number) =>
    console.log(
      `${name.padEnd(6)}${times.map((t) => t.toFixed(2).padStart(12)).join("")}${
        whole.toFixed(1).padStart(14)
      }`,
    );
  row(String(r), times, whole);
  console.log(`      ${cold.toFixed(1)} s for the first of each shape`);
  if (!values.plain) continue;
  const plain = [];
  for (const i of SHAPES.keys()) {
    plain.push(await seconds(() => leadingSingularValues(weights[i]!, sizes[i]!, noise)));
  }
  row("plain", plain, BLOCKS * plain.reduce((sum, t, i) => sum + t * SHAPES[i]![2], 0));
}
engine.dispose();
// Dawn keeps the process.
Deno.exit(0);
