/**
 * A model larger than WebAssembly's 4 GiB on the processor: training steps of RWKV-7 1.5B with random weights in bf16, all but
 * the first GiB of which lie outside. Processor time, of all threads together, is what a busy machine does not change much.
 *
 *     deno task bench:large [--length 64] [--steps 3]
 *
 * @module
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { batchOf, RANK, subjects } from "./subject.ts";

const { values } = parseArgs({
  options: { length: { type: "string", default: "64" }, steps: { type: "string", default: "3" } },
});
const T = Number(values.length), steps = Number(values.steps);
const settings = {
  ...{ learningRate: 1e-5, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
  ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
};
const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(2)} GB`;
const row = {
  ...{ name: "1.5B", layers: 24, channels: 2048, B: 1, T, recompute: true },
  opponent: { tokens: NaN, gigabytes: NaN },
};
const engine = new CpuEngine();
console.log(`${engine.description}; RWKV-7 1.5B in bf16, bone r ${RANK}, 1×${T}, blocks recomputed`);
try {
  for (const { programs, weights, planned } of subjects([row], engine)) {
    using loaded = await programs.load();
    const batch = batchOf(row), times: number[] = [], processor: number[] = [];
    let resident = 0, loss = NaN;
    for (let step = -1; step < steps; step++) {
      const started = performance.now(), before = process.cpuUsage();
      loaded.accumulate(batch, T, step + 1);
      ({ loss } = await loaded.update(settings));
      const { user, system } = process.cpuUsage(before);
      if (step >= 0) {
        times.push(performance.now() - started);
        processor.push((user + system) / 1e6);
      }
      resident = Math.max(resident, Deno.memoryUsage().rss);
    }
    const median = (all: number[]) => all.sort((a, b) => a - b)[all.length >> 1]!;
    const ms = median(times);
    console.log(
      `${ms.toFixed(0)} ms a step (median of ${steps}; ${
        median(processor).toFixed(1)
      } s of processor time), ${(T / ms * 1000).toFixed(1)} tokens/s, loss ${loss.toFixed(3)}\n` +
        `weights ${gigabytes(weights)}, planned beyond them ${gigabytes(planned)}, resident ${
          gigabytes(resident)
        }`,
    );
  }
} finally {
  engine.dispose();
}
