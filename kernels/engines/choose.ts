/**
 * Chooses an engine, never silently: the reason comes with it.
 *
 * @module
 */
import { type Engine, EngineError } from "../engine.ts";
import { type EngineChoice, ENGINES } from "./choice.ts";
import { CpuEngine } from "./cpu/engine.ts";
import { type AdapterReport, findAdapter } from "./webgpu/device.ts";
import { dawnProvider } from "./webgpu/dawn.ts";
import { denoProvider } from "./webgpu/deno.ts";
import { type Precision, WebGpuEngine } from "./webgpu/engine.ts";

/** How a GPU is used. */
export interface GpuOptions {
  /** Default "auto": the fastest products with f32 sums; "fp32" keeps their operands in f32 too. */
  readonly precision?: Precision | undefined;
}

/** How an engine is opened. */
export interface EngineOptions extends GpuOptions {
  /** Threads of the processor. Default: all cores. */
  readonly threads?: number | undefined;
}

/** An engine and one sentence on what was found and taken. */
export interface ChosenEngine {
  readonly engine: Engine;
  readonly reason: string;
}

/** What was found beforehand, by what was asked for. */
const prepared = new Map<string, Promise<Found | undefined>>();
const requestOf = (choice: EngineChoice, precision: Precision) => `${choice} ${precision}`;

/**
 * Finds the GPU that the next engine of this choice will take, and loads what it needs, so that the right to load native code can be
 * given up before anything else is read.
 */
export async function prepareEngine(
  choice: EngineChoice = "auto",
  { precision = "auto" }: GpuOptions = {},
): Promise<void> {
  if (choice === "cpu" || !ENGINES.includes(choice)) return;
  const found = findGpu(choice, precision);
  prepared.set(requestOf(choice, precision), found);
  // Why there is none is said by whoever opens the engine.
  await found.catch(() => {});
}

/** Takes what was found beforehand, once, as an adapter gives one device only; or looks for it now. */
function takeGpu(choice: EngineChoice, precision: Precision): Promise<Found | undefined> {
  const request = requestOf(choice, precision), found = prepared.get(request);
  prepared.delete(request);
  return found ?? findGpu(choice, precision);
}

/**
 * Opens an engine. "auto" takes a hardware GPU where there is one and never a software adapter.
 * @throws EngineError if the engine asked for is not to be had
 */
export async function chooseEngine(
  choice: EngineChoice = "auto",
  { precision = "auto", threads }: EngineOptions = {},
): Promise<ChosenEngine> {
  const cpu = (reason: string) => processor(reason, threads);
  if (choice === "cpu") return cpu("as asked");
  if (!ENGINES.includes(choice)) {
    throw new EngineError(`Unknown engine "${choice}": there are ${ENGINES.join(", ")}`);
  }
  let found: Found | undefined, reason = "no WebGPU adapter was found";
  try {
    found = await takeGpu(choice, precision);
  } catch (error) {
    reason = (error as Error).message;
  }
  if (choice !== "auto") {
    if (!found) {
      throw new EngineError(`Cannot use WebGPU: ${reason}; install the GPU's driver or use --engine cpu`);
    }
    const { software } = found.report;
    return gpu(found, precision, software ? "as asked, though it is a processor and slow" : "as asked");
  }
  if (!found) return cpu(reason);
  if (found.report.software) return cpu(`the only WebGPU adapter, ${found.report.description}, is software`);
  try {
    return await gpu(found, precision, "a GPU was found");
  } catch (error) {
    return cpu(`${found.report.description} gave no device: ${(error as Error).message}`);
  }
}

/** An adapter, and why it is not another provider's. */
interface Found {
  readonly report: AdapterReport;
  readonly note?: string;
}

/** Finds an adapter. Dawn is only loaded where it is asked for or where there is hardware that may gain from it. */
async function findGpu(choice: EngineChoice, precision: Precision): Promise<Found | undefined> {
  if (choice === "dawn") {
    const report = await findAdapter(dawnProvider);
    return report && { report };
  }
  const report = await findAdapter(denoProvider);
  if (!report || report.software || choice === "deno" || precision === "fp32") return report && { report };
  try {
    const other = await findAdapter(dawnProvider);
    if (other?.matrixUnits && !other.software) return { report: other };
    return { report, note: "Dawn reaches no matrix units here" };
  } catch (error) {
    return { report, note: (error as Error).message };
  }
}

function processor(reason: string, threads: number | undefined): ChosenEngine {
  const engine = new CpuEngine(threads === undefined ? {} : { workers: threads });
  return { engine, reason: `Engine: cpu, ${engine.description} (${reason})` };
}

async function gpu({ report, note }: Found, precision: Precision, reason: string): Promise<ChosenEngine> {
  const engine = await WebGpuEngine.open(report, { precision });
  const fault = engine.matrixUnitsFault;
  const products = engine.matrixUnits
    ? "products on matrix units, f16 with f32 sums"
    : `products in f32${fault ? `, as its matrix units failed: ${fault}` : ""}`;
  return {
    engine,
    reason: `Engine: webgpu, ${engine.description}, ${products} (${note ? `${reason}; ${note}` : reason})`,
  };
}
