/**
 * The cpu engine's pool of threads: programs that are loaded while others load and run, and threads that are gone.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Pool } from "../kernels/engines/cpu/pool.ts";
import { startThreadsBy, startWorker, threadBehind } from "../kernels/engines/cpu/thread.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";

/** Enough numbers for every worker to have a share. */
const SIZE = 100_000;

function timesProgram(engine: CpuEngine, x: Variable, factor: number) {
  const graph = new Graph();
  assign(graph, x, map(graph, [graph.use(x)], (x) => x.mul(factor)));
  return compile(graph, engine);
}

Deno.test("CpuEngine.load + programs side by side, while another runs, and one that is dropped meanwhile: all run", async () => {
  const engine = new CpuEngine({ workers: 3 });
  try {
    const x = new Variable("x", [SIZE]);
    engine.allocate(x, new Float32Array(SIZE).fill(1));
    const [twice, thrice] = await Promise.all([2, 3].map((by) => engine.load(timesProgram(engine, x, by))));
    const later = [5, 7].map((by) => engine.load(timesProgram(engine, x, by)));
    twice!.run();
    await Promise.resolve();
    thrice!.run();
    thrice!.dispose();
    for (const program of await Promise.all(later)) program.run();
    twice!.run();
    assert.deepEqual(new Set(await engine.read(x)), new Set([2 * 3 * 5 * 7 * 2]));
  } finally {
    engine.dispose();
  }
});

Deno.test("Pool.load + a thread that cannot start: told, and disposing does not wait for it", async () => {
  let threads = 0;
  startThreadsBy((name) => {
    if (threads++ === 0) return startWorker(name);
    const { port1 } = new MessageChannel();
    return {
      ...threadBehind(port1),
      listen: (_, failed) => setTimeout(() => (port1.close(), failed(new Error("no thread")))),
    };
  });
  try {
    const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
    const pool = new Pool(3, memory);
    const tape = { words: new Float64Array(new SharedArrayBuffer(0)), maps: [], weights: [] };
    await assert.rejects(pool.load(tape), /no thread/);
    pool.dispose();
  } finally {
    startThreadsBy(startWorker);
  }
});
