/**
 * What commands find out about run folders.
 *
 * @module
 */
import { existsSync, statSync } from "node:fs";
import { dirname, extname, join, relative } from "node:path";
import { FormatError } from "../formats/format_error.ts";
import type { JsonValue } from "../formats/json.ts";
import { readJsonFile } from "../formats/json_file.ts";

/** Where runs go that were given no folder, from where the person stands. */
const RUNS = "runs";

/** Whether a run lies where {@link newestRun} looks. */
export function isInRuns(run: string): boolean {
  return relative(Deno.cwd(), dirname(run)) === RUNS;
}

/** The run in `runs` whose adapter was written last; undefined where there is none. */
export function newestRun(): string | undefined {
  const runs = [...entries(RUNS)].flatMap(({ name }) => {
    const run = join(RUNS, name), written = modified(adapterOf(run));
    return written === undefined ? [] : [{ run, written }];
  });
  return runs.sort((a, b) => b.written - a.written)[0]?.run;
}

/** The adapter that a run leaves. */
export function adapterOf(run: string): string {
  return join(run, "adapter.pth");
}

/**
 * Where a run's merged model goes by default: beside the adapter, in the base's format; a folder for a base in several files.
 * @param unmerge where a model goes that the adapter was taken out of
 */
export function mergedPath(run: string, base: string, unmerge = false): string {
  const isFolder = base.endsWith(".index.json") || existsSync(base) && statSync(base).isDirectory();
  const name = unmerge ? "unmerged" : "merged";
  return join(run, isFolder ? name : `${name}${extname(base) || ".safetensors"}`);
}

/** The base model of a run, as its settings name it; undefined where the folder is no run. */
export function baseOf(run: string): string | undefined {
  try {
    const config = readJsonFile(join(run, "config.json")) as
      | { settings?: { loadModel?: JsonValue } | null }
      | null;
    const loadModel = config?.settings?.loadModel;
    return typeof loadModel === "string" ? loadModel : undefined;
  } catch (error) {
    if (
      error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory ||
      error instanceof FormatError
    ) {
      return undefined;
    }
    throw error;
  }
}

function entries(folder: string): Iterable<Deno.DirEntry> {
  try {
    return [...Deno.readDirSync(folder)];
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return [];
    throw error;
  }
}

function modified(path: string): number | undefined {
  try {
    const { isFile, mtime } = Deno.statSync(path);
    return isFile ? mtime?.getTime() ?? 0 : undefined;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}
