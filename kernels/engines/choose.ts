/**
 * Chooses an engine, never silently: the reason comes with it.
 *
 * @module
 */
import { type Engine, EngineError } from "../engine.ts";
import { CpuEngine } from "./cpu/engine.ts";
import { type AdapterReport, findAdapter } from "./webgpu/device.ts";
import { WebGpuEngine } from "./webgpu/engine.ts";
import { denoProvider } from "./webgpu/provider.ts";

/** What can be asked for. */
export type EngineChoice = "auto" | "cpu" | "webgpu";

/** An engine and one sentence on what was found and taken. */
export interface ChosenEngine {
  readonly engine: Engine;
  readonly reason: string;
}

/**
 * Opens an engine. "auto" takes a hardware GPU where there is one and never a software adapter.
 * @throws EngineError if the engine asked for is not to be had
 */
export async function chooseEngine(choice: EngineChoice = "auto"): Promise<ChosenEngine> {
  if (choice === "cpu") return cpu("as asked");
  if (choice !== "auto" && choice !== "webgpu") {
    throw new EngineError(`Unknown engine "${choice}": there are auto, cpu and webgpu`);
  }
  let report: AdapterReport | undefined, reason = "no WebGPU adapter was found";
  try {
    report = await findAdapter(denoProvider);
  } catch (error) {
    reason = (error as Error).message;
  }
  if (choice === "webgpu") {
    if (!report) {
      throw new EngineError(`Cannot use WebGPU: ${reason}; install the GPU's driver or use --engine cpu`);
    }
    return gpu(report, report.software ? "as asked, though it is a processor and slow" : "as asked");
  }
  if (!report) return cpu(reason);
  if (report.software) return cpu(`the only WebGPU adapter, ${report.description}, is software`);
  try {
    return await gpu(report, "a GPU was found");
  } catch (error) {
    return cpu(`${report.description} gave no device: ${(error as Error).message}`);
  }
}

function cpu(reason: string): ChosenEngine {
  const engine = new CpuEngine();
  return { engine, reason: `Engine: cpu, ${engine.description} (${reason})` };
}

async function gpu(report: AdapterReport, reason: string): Promise<ChosenEngine> {
  const engine = await WebGpuEngine.open(report);
  return { engine, reason: `Engine: webgpu, ${engine.description} (${reason})` };
}
