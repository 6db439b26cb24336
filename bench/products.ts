/**
 * The rate of every shader that a GPU has for the products of a large layer, and of the one that the tuner takes.
 *
 *     deno task bench:products [--engine webgpu|deno|dawn] [--precision auto|fp32] [--shapes 4096x4096x4096,8192x2048x2048]
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { type Precision, WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "webgpu" },
    precision: { type: "string", default: "auto" },
    // M×N×K: the ceiling, and the layers of a model of 1.5 billion parameters with 8 × 1024 and 1 × 1024 tokens.
    shapes: {
      type: "string",
      default: "4096x4096x4096,8192x2048x2048,8192x8192x2048,8192x2048x8192,1024x2048x2048,1024x8192x2048",
    },
  },
});
const { engine, reason } = await chooseEngine(values.engine as EngineChoice, {
  precision: values.precision as Precision,
});
if (!(engine instanceof WebGpuEngine)) {
  throw new Error("Only a GPU has several: the cpu engine has bench:matmul");
}
console.log(`${reason}\nTFLOP/s; B is f16, as a weight with its adapter is on matrix units\n`);

/** Products that are timed in a row; the median counts, as the first may begin while the device is still at other work. */
const RUNS = 5;

/** Where nothing is told, the tuner chooses. */
const CHOSEN = "what the tuner takes";

for (const shape of values.shapes.split(",")) {
  const [M, N, K] = shape.split("x").map(Number) as [number, number, number];
  for (const transposeB of [true, false]) {
    const a = new Variable("a", [M, K]), out = new Variable("out", [M, N]);
    const b = new Variable("b", transposeB ? [N, K] : [K, N], "f16");
    const graph = new Graph();
    for (let run = 0; run < RUNS; run++) {
      assign(graph, out, matmul(graph, graph.use(a), graph.use(b), { transposeB }));
    }
    const program = compile(graph), products = program.nodes.filter(({ op }) => op.name === "matmul");
    engine.allocate(a, Float32Array.from({ length: M * K }, () => Math.random() - 0.5));
    // Halves from 0.25 to 0.5, of either sign.
    const half = () => 0x3400 + Math.floor(Math.random() * 0x400) + (Math.random() < 0.5 ? 0x8000 : 0);
    engine.allocate(b, Uint16Array.from({ length: N * K }, half));
    engine.allocate(out);
    try {
      const names = products[0]!.op.alternatives!(products[0]!, engine.limits)
        .filter(({ worthTrying }) => worthTrying).map(({ name }) => name);
      const rates = new Map<string, number>();
      for (const name of [CHOSEN, ...names]) {
        // What was given a lowering last is this product, under the first name.
        if (name !== CHOSEN) engine.keepTo(new Map([[[...engine.lowerings.keys()].at(-1)!, name]]));
        const times = await engine.profile(program);
        const sorted = products.map((node) => times.get(node)!).sort((one, other) => one - other);
        rates.set(name, 2 * M * N * K / sorted[RUNS >> 1]! / 1e9);
      }
      console.log(`${shape} ${transposeB ? "x·Wᵀ" : "dy·W"}`);
      for (const [name, rate] of [...rates].sort(([, a], [, b]) => b - a)) {
        console.log(`  ${rate.toFixed(1).padStart(7)}  ${name}`);
      }
    } finally {
      [a, b, out].forEach((variable) => engine.free(variable));
    }
  }
}
engine.dispose();
// Dawn keeps the process.
Deno.exit(0);
