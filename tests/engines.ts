/**
 * The engines that tests run on, and how their numbers are compared.
 *
 * A test that is registered with {@link testOnEngines} runs once on each engine that is here. Without a WebGPU adapter its
 * tests are reported as ignored, or fail where the environment says `WISHBONE_REQUIRE_GPU=1`. With `WISHBONE_TEST_DAWN=1` and
 * `--allow-ffi --allow-sys` they run through Dawn too.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { type AdapterReport, findAdapter } from "../kernels/engines/webgpu/device.ts";
import { dawnProvider } from "../kernels/engines/webgpu/dawn.ts";
import { denoProvider } from "../kernels/engines/webgpu/deno.ts";
import { WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import type { Variable } from "../kernels/graph.ts";
import type { Program } from "../kernels/plan.ts";

/** An adapter; undefined where there is none. Each gives one device, as WebGPU has it. */
export function adapter(): Promise<AdapterReport | undefined> {
  return findAdapter(denoProvider).catch(() => undefined);
}

/** Whether tests that need WebGPU are to be ignored. */
export const withoutGpu = Deno.env.get("WISHBONE_REQUIRE_GPU") !== "1" && !await adapter();

/** Opens WebGPU. @throws where no adapter is found */
export async function openWebGpu(changed: (report: AdapterReport) => AdapterReport = (report) => report) {
  const report = await adapter();
  if (!report) throw new Error("WISHBONE_REQUIRE_GPU is 1 and no WebGPU adapter was found");
  return await WebGpuEngine.open(changed(report));
}

/** Dawn is a package of its own and finds no adapter in older software drivers, so it is tested where that is asked for. */
const withoutDawn = Deno.env.get("WISHBONE_TEST_DAWN") !== "1";

/** Opens Dawn, with its matrix units or without. @throws where there is no adapter, or none whose units multiply if they are wanted */
async function openDawn(precision: "auto" | "fp32"): Promise<WebGpuEngine> {
  const report = await findAdapter(dawnProvider);
  if (!report) throw new Error("WISHBONE_TEST_DAWN is 1 and Dawn found no adapter");
  if (precision === "auto" && !report.matrixUnits) {
    throw new Error(`${report.description} has no matrix units`);
  }
  const engine = await WebGpuEngine.open(report, { precision });
  if (engine.matrixUnitsFault) throw new Error(engine.matrixUnitsFault);
  return engine;
}

/** What products may differ by whose operands are rounded to f16, 11 bits: each by 2⁻¹², and where they cancel by more. */
const HALVES = 3e-3;

/** The tolerance for an engine: the one given, or that of f16 products. */
export function toleranceOn(engine: Engine, tolerance: number): number {
  return engine instanceof WebGpuEngine && engine.matrixUnits ? Math.max(tolerance, HALVES) : tolerance;
}

/** The one place where an engine is added. */
const OPENERS: readonly { name: string; ignore?: boolean; open(): Engine | Promise<Engine> }[] = [
  { name: "the oracle", open: () => new Oracle() },
  { name: "one thread", open: () => new CpuEngine({ workers: 1 }) },
  { name: "two threads", open: () => new CpuEngine({ workers: 2 }) },
  { name: "webgpu", ignore: withoutGpu, open: () => openWebGpu() },
  ...(withoutDawn ? [] : [
    { name: "Dawn", open: () => openDawn("fp32") },
    { name: "Dawn and matrix units", open: () => openDawn("auto") },
  ]),
];

/** The engines, opened once for all tests of a file: what they compiled is used again. */
const opened = new Map<string, Promise<Engine>>();

function engine(name: string, open: () => Engine | Promise<Engine>): Promise<Engine> {
  let found = opened.get(name);
  if (!found) opened.set(name, found = Promise.resolve(open()));
  return found;
}

/**
 * Registers `<name>, on <engine>` for each engine; without the oracle where that is what engines are compared with, without the
 * processor's engine for what that has no use for, without matrix units for what only holds where operands are f32.
 */
export function testOnEngines(
  name: string,
  body: (engine: Engine) => void | Promise<void>,
  options: { ignore?: boolean; oracle?: boolean; processor?: boolean; matrixUnits?: boolean } = {},
): void {
  for (const { name: on, ignore, open } of OPENERS) {
    if (options.oracle === false && on === "the oracle") continue;
    if (options.processor === false && /threads?$/.test(on)) continue;
    if (options.matrixUnits === false && /matrix units$/.test(on)) continue;
    Deno.test({
      name: `${name}, on ${on}`,
      ignore: (options.ignore || ignore) ?? false,
      // An engine is opened in the first test that needs it and closed after the last.
      sanitizeResources: false,
      sanitizeOps: false,
      fn: async () => await body(await engine(on, open)),
    });
  }
}

Deno.test.afterAll(async () => {
  for (const engine of opened.values()) (await engine.catch(() => undefined))?.dispose();
});

/** What a program leaves in `results`, of variables with this content that are there while it runs. */
export async function resultsOf(
  engine: Engine,
  program: Program,
  content: ReadonlyMap<Variable, ArrayBufferView>,
  results: readonly Variable[],
): Promise<Float32Array[]> {
  content.forEach((bytes, variable) => engine.allocate(variable, bytes));
  try {
    using executable = await engine.load(program);
    executable.run();
    const found: Float32Array[] = [];
    for (const result of results) found.push(await engine.read(result));
    return found;
  } finally {
    content.forEach((_, variable) => engine.free(variable));
  }
}

/** Normalised error ‖a − b‖ / ‖b‖; ‖a‖ where b is zero. NaN where anything is. */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) throw new RangeError(`Cannot compare ${a.length} numbers with ${b.length}`);
  let error = 0, norm = 0;
  for (let i = 0; i < b.length; i++) {
    error += (a[i]! - b[i]!) ** 2;
    norm += b[i]! ** 2;
  }
  return Math.sqrt(error / (norm || 1));
}

/** Uniform numbers in [−1, 1), the same for one seed. */
export function randomNumbers(seed: number): () => number {
  let state = Math.imul(seed, 2654435761) >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}
