/**
 * What PEFT and this project call the same things: methods, settings, tensors.
 *
 * @module
 */
import type { AdapterMethod, Settings } from "../method.ts";
import { adapterMethod } from "../registry.ts";
import type { PeftConfig } from "./config.ts";

/** A configuration of PEFT's in this project's words. */
export interface Dialect {
  /** The method. */
  readonly method: AdapterMethod;
  /** Names of the tensors at a site, by what PEFT calls them. */
  readonly names: ReadonlyMap<string, string>;
  /** Names of the tensors that every site must have. */
  readonly tensors: readonly string[];
  /** Extents of each tensor at a site of rank r, undefined where any will do. */
  shapes(r: number): readonly (readonly [string, readonly (number | undefined)[]])[];
  /** Settings at a site. */
  settings(r: number, alpha: number | undefined): Settings;
}

/** The words for a configuration. */
export function dialectOf(config: PeftConfig): Dialect {
  if (config.type === "LORA") {
    const { rslora, dora, dropout } = config;
    const tensors = ["lora_A", "lora_B", ...(dora ? ["lora_magnitude_vector"] : [])];
    return {
      method: adapterMethod(dora ? "dora" : "lora"),
      names: new Map(tensors.map((name) => [name, name])),
      tensors,
      shapes: (r) => [
        ["lora_A", [r, undefined]],
        ["lora_B", [undefined, r]],
        ...(dora ? [["lora_magnitude_vector", [undefined]] as const] : []),
      ],
      settings: (r, alpha) => ({ r, alpha, rslora, ...(dropout ? { dropout } : {}) }),
    };
  }
  const { mode, miniR, dropout } = config;
  const common = {
    names: new Map(["bone_block", "miss_block"].map((name) => [name, "bone"])),
    tensors: ["bone"],
  };
  switch (mode) {
    case "standard":
      return {
        ...common,
        method: adapterMethod("bone"),
        shapes: (r) => [["bone", [r, undefined]]],
        settings: (r) => ({ r, ...(dropout ? { dropout } : {}) }),
      };
    case "mini":
      return {
        ...common,
        method: adapterMethod("bone"),
        shapes: (r) => [["bone", [r, miniR]]],
        settings: (r) => ({ r, mini_r: miniR, ...(dropout ? { dropout } : {}) }),
      };
    case "bat":
      return {
        ...common,
        method: adapterMethod("bat"),
        shapes: (r) => [["bone", [undefined, r, r]]],
        settings: (r) => ({ r, axis: "out" }),
      };
  }
}
