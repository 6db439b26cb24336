/**
 * `lowerings.json`: which of several shaders a run's engine took for which op and shapes. They may round differently, and which is the
 * fastest is found out by measuring, so a run that goes on keeps to those that it began with, whatever the device's memory of its
 * measurements says by then.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { writeFileAtomic } from "../formats/atomic.ts";
import { FormatError } from "../formats/format_error.ts";
import type { JsonValue } from "../formats/json.ts";
import { readJsonFile } from "../formats/json_file.ts";
import type { Engine } from "../kernels/engine.ts";

const FILE = "lowerings.json";

/** Writes down what an engine has taken so far, where it had a choice. */
export function writeLowerings(projDir: string, { description: device, lowerings }: Engine): void {
  if (!lowerings?.size) return;
  const text = JSON.stringify({ device, lowerings: Object.fromEntries(lowerings) }, null, 2) + "\n";
  writeFileAtomic(join(projDir, FILE), text, { force: true });
}

/**
 * Has an engine keep to what a run took before; on another device it chooses anew, where bits differ anyway.
 * @param onMessage told where the file cannot be used
 */
export function keepLowerings(projDir: string, engine: Engine, onMessage: (message: string) => void): void {
  const path = join(projDir, FILE);
  if (!engine.keepTo || !existsSync(path)) return;
  let kept: Record<string, JsonValue> | undefined;
  try {
    kept = objectOf(readJsonFile(path));
  } catch (error) {
    if (!(error instanceof FormatError)) throw error;
  }
  const lowerings = objectOf(kept?.lowerings);
  if (typeof kept?.device !== "string" || !lowerings || !Object.values(lowerings).every(isText)) {
    onMessage(`${path} is not whole, so shaders are chosen anew: the run may go on with other bits`);
  } else if (kept.device === engine.description) {
    engine.keepTo(new Map(Object.entries(lowerings as Record<string, string>)));
  }
}

const isText = (value: unknown) => typeof value === "string";

function objectOf(value: JsonValue | undefined): Record<string, JsonValue> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
}
