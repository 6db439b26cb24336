/**
 * What engine can be asked for.
 *
 * @module
 */

/** What can be asked for: "webgpu" is Dawn where it reaches matrix units and Deno's own WebGPU elsewhere; either by its name. */
export const ENGINES = ["auto", "webgpu", "cpu", "deno", "dawn"] as const satisfies readonly EngineChoice[];

/** One of them. */
export type EngineChoice = "auto" | "webgpu" | "cpu" | "deno" | "dawn";
