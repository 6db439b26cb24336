/**
 * What a confined command may read: the paths that a person named, what is looked for beside them, and this program itself. A file
 * that names others (an index, a description, a configuration) can so be made to reach nothing else.
 *
 * Permissions go by names. A link in a folder that was named, such as those that the Hub's cache consists of, is followed.
 *
 * @module
 */
import { basename, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { PEFT_FILES } from "../adapters/peft/files.ts";
import { hubPath, isHubName } from "../formats/hub.ts";
import { INDEX_ENDING } from "../formats/shard_index.ts";
import { WORLD_FILES } from "../rwkv/tokenizer/choose.ts";

/** What of this program is loaded while a command runs, or is its bundled example. */
const OWN = [
  "adapters",
  "examples",
  "formats",
  "kernels",
  "rwkv",
  "scripts",
  "training",
  "mod.ts",
  "deno.json",
]
  .map((name) => fileURLToPath(new URL(`../${name}`, import.meta.url)));

/** Paths for Deno's permission to read, absolute, from those that a person named; texts that are empty or missing name none. */
export function readable(named: readonly (string | undefined)[]): string[] {
  const paths = named.filter((path) => path !== undefined && path !== "").flatMap((path) =>
    around(isHubName(path!) ? hubPath(path!) : path!)
  );
  return [...new Set([...OWN, ...paths.flatMap((path) => [resolve(path), realPath(path)])])];
}

/** A path with what readers look for because of it. */
function around(path: string): string[] {
  const folder = dirname(path), name = basename(path);
  // Its other files are all in its folder.
  if (name.endsWith(INDEX_ENDING) || PEFT_FILES.includes(name)) return [folder];
  const prefix = path.replace(/\.(idx|bin)$/i, "");
  return [
    path,
    ...["idx", "bin"].map((ending) => `${prefix}.${ending}`),
    ...[...WORLD_FILES, "init_pissa.pth"].map((beside) => join(folder, beside)),
  ];
}

/** Where a path really leads, as far as it exists. */
export function realPath(path: string): string {
  const absolute = resolve(path);
  try {
    return Deno.realPathSync(absolute);
  } catch (error) {
    const isAbsent = error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory;
    if (!isAbsent) throw error;
    const parent = dirname(absolute);
    return parent === absolute ? absolute : join(realPath(parent), basename(absolute));
  }
}
