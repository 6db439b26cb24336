/**
 * Where a run goes that was given no folder.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";

/** The first of runs/bone, runs/bone-2, … that does not exist. */
export function freeFolder(): string {
  for (let i = 1;; i++) {
    const path = join("runs", i === 1 ? "bone" : `bone-${i}`);
    if (!existsSync(path)) return path;
  }
}
