/**
 * Which models a server has: a base, the adapters that were named, and those of the runs that began with the same base.
 *
 * @module
 */
import { existsSync } from "node:fs";
import type { AdapterFile } from "./inference/library.ts";
import { nameOf } from "./inference/library.ts";
import type { RunFolder, RunList } from "./runs/run_list.ts";
import { settingsOf } from "./runs/summary.ts";

/** Files that hold a run's adapter, with what is added to the run's name. */
const ADAPTERS = [["adapter.pth", ""], ["adapter.safetensors", ""], ["best/adapter.pth", "-best"]] as const;

/** The base model that the latest run with an adapter began with, if it is still there; else undefined. */
export function latestBase(runs: RunList): string | undefined {
  let latest: { base: string; at: number } | undefined;
  for (const run of runs.list()) {
    const base = baseOf(runs, run), at = adaptersOf(runs, run)[0]?.at;
    if (base !== undefined && at !== undefined && existsSync(base) && at >= (latest?.at ?? 0)) {
      latest = { base, at };
    }
  }
  return latest?.base;
}

/** The adapters that go with a base: the files that were named, then those of runs. */
export function adaptersFor(base: string, named: readonly string[], runs: RunList): AdapterFile[] {
  const real = Deno.realPathSync(base);
  const ofRuns = runs.list().flatMap((run) => {
    const own = baseOf(runs, run);
    const isSame = own !== undefined && existsSync(own) && Deno.realPathSync(own) === real;
    return isSame ? adaptersOf(runs, run) : [];
  });
  return [...named.map((path) => ({ name: nameOf(path), path })), ...ofRuns];
}

function baseOf(runs: RunList, run: RunFolder): string | undefined {
  const { loadModel } = settingsOf(runs.text(run, "config.json"));
  return typeof loadModel === "string" ? loadModel : undefined;
}

function adaptersOf(runs: RunList, run: RunFolder): (AdapterFile & { at: number })[] {
  return ADAPTERS.flatMap(([file, suffix]) => {
    const path = runs.file(run, file);
    if (path === undefined) return [];
    return [{ name: run.id + suffix, path, at: Deno.statSync(path).mtime?.getTime() ?? 0 }];
  });
}
