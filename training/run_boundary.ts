/**
 * What keeps a run inside its folder: no link in it may lead out, since files are written, replaced and removed below it, and a
 * run folder may come from somebody else.
 *
 * @module
 */
import { join, relative, sep } from "node:path";
import { OptionError } from "./options.ts";

/** Entries that a folder is searched for at most: a run folder has some dozens. */
const MAX_ENTRIES = 100_000;

/**
 * Checks every link in a folder; the folder's own path may be a link, as the person named it.
 *
 * @throws OptionError that names the first link that leads out of the folder, or nowhere, or what would be waited for, as a pipe
 */
export function requireInside(folder: string): void {
  const root = Deno.realPathSync(folder);
  const pending = [folder];
  for (let seen = 0; pending.length;) {
    const parent = pending.pop()!;
    for (const { name, isSymlink, isDirectory, isFile } of Deno.readDirSync(parent)) {
      const path = join(parent, name);
      if (++seen > MAX_ENTRIES) {
        throw new OptionError(
          `The run folder ${folder} holds over ${MAX_ENTRIES} files, so it is none: name another`,
        );
      }
      // A folder behind a link is reached by its own name as well, so that following links is never needed.
      if (isSymlink && !isBelow(root, targetOf(path))) {
        throw new OptionError(
          `Cannot write to the run folder ${folder}: ${path} is a link that leads out of it, remove the link`,
        );
      }
      if (!isFile && !isDirectory && !isSymlink) {
        throw new OptionError(
          `Cannot write to the run folder ${folder}: ${path} is neither a file nor a folder, remove it`,
        );
      }
      if (isDirectory) pending.push(path);
    }
  }
}

function targetOf(link: string): string | undefined {
  try {
    return Deno.realPathSync(link);
  } catch {
    return undefined;
  }
}

function isBelow(root: string, path: string | undefined): boolean {
  if (path === undefined) return false;
  const way = relative(root, path);
  return way !== ".." && !way.startsWith(".." + sep) && way !== path;
}
