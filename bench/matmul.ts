/**
 * GFLOP/s of the WebAssembly matrix product on one worker and on all cores, beside OpenBLAS on as many threads where the system
 * has it.
 *
 *     deno run -A bench/matmul.ts [--workers 2] [--repeats 9]
 *
 * Medians; what is compared is run in turn, so that it meets the same machine. The first calls, which run before the engine has
 * optimised the code, are left out.
 *
 * @module
 */
import { parseArgs } from "node:util";
import { DTYPE, LAYOUT, loadKernels } from "../kernels/engines/cpu/wasm/load.ts";

interface Case {
  layout: keyof typeof LAYOUT;
  dtype: keyof typeof DTYPE;
  M: number;
  N: number;
  K: number;
}

/** What a worker is told: the shared memory, its number, and where its scratch lies. */
interface Start {
  memory: WebAssembly.Memory;
  index: number;
  count: number;
  scratch: number;
}

const PAGE = 65536;
/** Where the control words, A, B and C lie. */
const CONTROL = 64, A = 16 << 20, B = 128 << 20, C = 256 << 20, MEMORY_BYTES = 400 << 20;
/** Control words: the number of the call, how many workers have finished it, and the call's own numbers. */
const CALL = 0, DONE = 1, SHAPE = 2;

// M×N×K of the products that training and generation are made of: squares, a 0.1B model's layers, low ranks, few rows.
const cases: Case[] = [
  { layout: "NT", dtype: "f32", M: 1024, N: 1024, K: 1024 },
  { layout: "NN", dtype: "f32", M: 1024, N: 1024, K: 1024 },
  { layout: "TN", dtype: "f32", M: 1024, N: 1024, K: 1024 },
  { layout: "NT", dtype: "bf16", M: 1024, N: 1024, K: 1024 },
  { layout: "NT", dtype: "f16", M: 1024, N: 1024, K: 1024 },
  { layout: "NT", dtype: "bf16", M: 512, N: 3072, K: 768 },
  { layout: "NN", dtype: "bf16", M: 512, N: 768, K: 3072 },
  { layout: "NN", dtype: "f32", M: 512, N: 64, K: 768 },
  { layout: "NN", dtype: "f32", M: 512, N: 768, K: 64 },
  { layout: "TN", dtype: "f32", M: 64, N: 768, K: 512 },
  { layout: "NT", dtype: "f32", M: 1, N: 3072, K: 768 },
  { layout: "NT", dtype: "bf16", M: 1, N: 65536, K: 768 },
  { layout: "NT", dtype: "bf16", M: 8, N: 3072, K: 768 },
  { layout: "NT", dtype: "bf16", M: 32, N: 3072, K: 768 },
];

/** [start, end) of part `index` of `count`, in multiples of `unit`. */
function share(n: number, index: number, count: number, unit: number): [number, number] {
  const cut = (i: number) => Math.min(n, Math.round(n * i / count / unit) * unit);
  return [cut(index), index + 1 === count ? n : cut(index + 1)];
}

/** Waits for calls and does this worker's share of each; a call with no rows is the last. */
function serve({ memory, index, count, scratch }: Start): void {
  const { kernels } = loadKernels(memory);
  const control = new Int32Array(memory.buffer, CONTROL, 16);
  for (let call = 0;;) {
    Atomics.wait(control, CALL, call);
    call = Atomics.load(control, CALL);
    const [layout, dtype, M, N, K] = control.subarray(SHAPE);
    if (M === 0) return close();
    const byRows = M > 64 && M >= N;
    const [m0, m1] = byRows ? share(M, index, count, 4) : [0, M];
    const [n0, n1] = byRows ? [0, N] : share(N, index, count, 8);
    const lda = layout & 1 ? M : K, ldb = layout & 2 ? K : N;
    kernels.matmul(layout, dtype, A, lda, B, ldb, C, N, M, K, 0, 0, m0, m1, n0, n1, scratch);
    if (Atomics.add(control, DONE, 1) + 1 === count) Atomics.notify(control, DONE);
  }
}

if (import.meta.main && "WorkerGlobalScope" in globalThis) {
  addEventListener("message", (event) => serve((event as MessageEvent<Start>).data), { once: true });
} else if (import.meta.main) {
  const { values } = parseArgs({
    args: Deno.args,
    options: {
      workers: { type: "string", default: String(navigator.hardwareConcurrency) },
      repeats: { type: "string", default: "9" },
    },
  });
  bench(Number(values.workers), Number(values.repeats));
}

/** The middle of `repeats` timings of each run, in milliseconds, taken in turn after three rounds that are not counted. */
function medians(repeats: number, runs: readonly (() => void)[]): number[] {
  const times: number[][] = runs.map(() => []);
  for (let round = -3; round < repeats; round++) {
    runs.forEach((run, i) => {
      const start = performance.now();
      run();
      if (round >= 0) times[i].push(performance.now() - start);
    });
  }
  return times.map((all) => all.sort((x, y) => x - y)[repeats >> 1]);
}

/** OpenBLAS, or undefined where it is not installed. */
function openblas() {
  try {
    const { symbols } = Deno.dlopen("libopenblas.so.0", {
      openblas_set_num_threads: { parameters: ["i32"], result: "void" },
      cblas_sgemm: {
        // deno-fmt-ignore
        parameters: ["i32", "i32", "i32", "i32", "i32", "i32", "f32", "buffer", "i32", "buffer", "i32", "f32", "buffer", "i32"],
        result: "void",
      },
    });
    return symbols;
  } catch {
    return undefined;
  }
}

/** Prints one row per case. */
function bench(workers: number, repeats: number): void {
  const memory = new WebAssembly.Memory({ initial: MEMORY_BYTES / PAGE, maximum: PAGE, shared: true });
  const control = new Int32Array(memory.buffer, CONTROL, 16);
  const { variant, kernels } = loadKernels(memory);
  const scratchBytes = kernels.matmulScratchBytes();
  const floats = new Float32Array(memory.buffer);
  for (let i = A / 4; i < C / 4; i++) floats[i] = Math.random() - 0.5;

  for (let index = 0; index < workers; index++) {
    const worker = new Worker(import.meta.url, { type: "module" });
    const start: Start = { memory, index, count: workers, scratch: PAGE + (index + 1) * scratchBytes };
    worker.postMessage(start);
  }
  const parallel = ({ layout, dtype, M, N, K }: Case) => {
    control.set([LAYOUT[layout], DTYPE[dtype], M, N, K], SHAPE);
    Atomics.store(control, DONE, 0);
    Atomics.add(control, CALL, 1);
    Atomics.notify(control, CALL);
    for (let done; (done = Atomics.load(control, DONE)) < workers;) Atomics.wait(control, DONE, done);
  };
  const alone = ({ layout, dtype, M, N, K }: Case) => {
    const [i, d] = [LAYOUT[layout], DTYPE[dtype]];
    kernels.matmul(i, d, A, i & 1 ? M : K, B, i & 2 ? K : N, C, N, M, K, 0, 0, 0, M, 0, N, PAGE);
  };
  const blas = openblas();
  const reference = ({ layout, M, N, K }: Case, threads: number) => {
    blas!.openblas_set_num_threads(threads);
    const i = LAYOUT[layout], lda = i & 1 ? M : K, ldb = i & 2 ? K : N;
    const [a, b, c] = [[A, M * K], [B, N * K], [C, M * N]].map(([at, n]) =>
      floats.subarray(at / 4, at / 4 + n)
    );
    // 101: row-major; 111 and 112: as stored and transposed.
    blas!.cblas_sgemm(101, 111 + (i & 1), 111 + (i >> 1), M, N, K, 1, a, lda, b, ldb, 0, c, N);
  };

  console.log(`variant ${variant}, GFLOP/s (median of ${repeats})`);
  const cells = (...x: string[]) =>
    console.log(x.map((cell, i) => cell.padStart(i === 0 ? 26 : 13)).join(""));
  const compared = blas ? ["OpenBLAS ×1", `OpenBLAS ×${workers}`, "ratio ×1", `ratio ×${workers}`] : [];
  cells("", "1 worker", `${workers} workers`, ...compared);
  for (const c of cases) {
    if (c.dtype !== "f32") {
      // Random f32 bits are not sensible halves: near 1 in f16, near 0.0078 in bf16.
      const halves = new Uint16Array(memory.buffer, B, c.N * c.K);
      for (let i = 0; i < halves.length; i++) halves[i] = 0x3c00 + (i * 7919 & 0x7f);
    } else for (let i = 0; i < c.N * c.K; i++) floats[B / 4 + i] = Math.random() - 0.5;
    const result = floats.subarray(C / 4, C / 4 + c.M * c.N);
    alone(c);
    const expected = result.slice();
    result.fill(NaN);
    parallel(c);
    if (!expected.every((x, i) => x === result[i])) {
      throw new Error("the number of workers changes the result");
    }
    const runs = [() => alone(c), () => parallel(c)];
    if (blas && c.dtype === "f32") runs.push(() => reference(c, 1), () => reference(c, workers));
    const ms = medians(repeats, runs);
    const rates = ms.map((time) => (2e-6 * c.M * c.N * c.K / time).toFixed(1));
    const ratios = ms.slice(2).map((time, i) => (time / ms[i]).toFixed(2));
    cells(`${c.layout} ${c.dtype} ${c.M}×${c.N}×${c.K}`, ...rates, ...ratios);
  }
  control.fill(0, SHAPE);
  Atomics.add(control, CALL, 1);
  Atomics.notify(control, CALL);
}
