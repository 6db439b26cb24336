/**
 * The cpu engine's pool of threads: programs that are loaded while others load and run, and threads that are gone.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Allocator } from "../kernels/engines/cpu/allocator.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { MemoryView } from "../kernels/engines/cpu/memory_view.ts";
import { Pool } from "../kernels/engines/cpu/pool.ts";
import { startThreadsBy, startWorker, threadBehind } from "../kernels/engines/cpu/thread.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import type { Op } from "../kernels/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { stressThreads } from "./threads.ts";

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

Deno.test("CpuEngine + engines of one to seven threads, programs side by side, memory growing: as with one thread", async () => {
  const { compared, differing } = await stressThreads(({ engines }) => engines === 3, 5);
  assert.ok(compared > 0);
  assert.deepEqual(differing, []);
});

Deno.test("MemoryView + memory whose growth was not heard of: asked for, and refused where there is none", () => {
  const page = 65536, memory = { buffer: new SharedArrayBuffer(page), grow: (_: number) => 0 };
  const grown = new SharedArrayBuffer(2 * page);
  memory.grow = () => (memory.buffer = grown, 2);
  const view = new MemoryView(memory as unknown as WebAssembly.Memory);
  assert.equal(view.bytes(page).length, page);
  assert.equal(view.bytes(page + 1).buffer, grown);
  assert.throws(() => view.bytes(2 * page + 1), RangeError);
});

Deno.test("Executable.dispose + twice: what another program was given since stays its own", async () => {
  const engine = new CpuEngine({ workers: 2 });
  try {
    const x = new Variable("x", [SIZE]), before = engine.allocatedBytes;
    engine.allocate(x, new Float32Array(SIZE).fill(1));
    const first = await engine.load(timesProgram(engine, x, 2));
    first.dispose();
    const second = await engine.load(timesProgram(engine, x, 3)), held = engine.allocatedBytes;
    first.dispose();
    assert.equal(engine.allocatedBytes, held);
    assert.ok(held > before);
    assert.throws(() => first.run(), /disposed/);
    second.run();
    assert.equal((await engine.read(x))[SIZE - 1], 3);
  } finally {
    engine.dispose();
  }
});

Deno.test("CpuEngine.load + a program that cannot be lowered: refused, and nothing of it is kept", async () => {
  const engine = new CpuEngine({ workers: 1 });
  try {
    const x = new Variable("x", [SIZE]);
    engine.allocate(x);
    const program = timesProgram(engine, x, 2);
    // The first program reserves the threads' scratch, which stays.
    (await engine.load(program)).dispose();
    const held = engine.allocatedBytes;
    const [node] = program.nodes;
    const unknown = { ...node!, op: { ...node!.op, name: "unknown" } as Op };
    await assert.rejects(
      engine.load({ ...program, nodes: [...program.nodes, unknown] }),
      /cannot run unknown/,
    );
    assert.equal(engine.allocatedBytes, held);
  } finally {
    engine.dispose();
  }
});

Deno.test("Executable.run + a share that fails on the caller: workers are waited for, and the next run is right", async () => {
  const engine = new CpuEngine({ workers: 3 });
  try {
    const x = new Variable("x", [SIZE]);
    engine.allocate(x, new Float32Array(SIZE).fill(1));
    const good = await engine.load(timesProgram(engine, x, 2));
    // Values for which too little is reserved, at the end of the memory: every share runs into what is not there.
    const bad = await engine.load({ ...timesProgram(engine, x, 1), slots: [64] });
    for (let i = 0; i < 20; i++) {
      assert.throws(() => bad.run());
      good.run();
    }
    assert.deepEqual(new Set(await engine.read(x)), new Set([2 ** 20]));
  } finally {
    engine.dispose();
  }
});

Deno.test("Allocator + the last bytes of 4 GiB: not handed out, as the address behind them has no 32 bits", () => {
  const allocator = new Allocator(new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true }));
  const rest = 2 ** 32 - 64 - 64;
  assert.throws(() => allocator.allocate(rest + 64, "all"), /Out of memory for all: .* limit is 4 GiB/);
  allocator.free(allocator.allocate(1000, "some"));
  assert.equal(allocator.usedBytes, 0);
  assert.equal(allocator.allocate(rest, "the rest"), 64);
});

Deno.test("Allocator.allocateZeros + memory that was used before, in part or whole: zeros", () => {
  const memory = new WebAssembly.Memory({ initial: 16, maximum: 65536, shared: true });
  const allocator = new Allocator(memory);
  const bytes = (at: number, length: number) => new Uint8Array(memory.buffer, at, length);
  const [first, last] = [64, 128].map((length) => {
    const at = allocator.allocate(length, "some");
    bytes(at, length).fill(1);
    return at;
  }) as [number, number];
  allocator.free(first);
  assert.equal(allocator.allocateZeros(64, "whole"), first);
  allocator.free(last);
  assert.equal(allocator.allocateZeros(256, "part"), last);
  assert.deepEqual(new Set([...bytes(first, 64), ...bytes(last, 256)]), new Set([0]));
});
