/**
 * The files of a data set: one file, a folder of them, or a binidx pair, and how each is read.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join, relative } from "node:path";

/** How a file is read. */
export type FileType = "utf-8" | "jsonl" | "json" | "csv" | "parquet" | "binidx";

/** What `--data_type` may say: a {@link FileType}, `auto` to go by extensions, or RWKV-PEFT's `sft`, which is the same here. */
export type DataType = FileType | "auto" | "sft";

/** One file of a data set. */
export interface DataFile {
  /** Where it is; for binidx without its extension. */
  readonly path: string;
  readonly type: FileType;
}

/** What a data set consists of. */
export interface DataFiles {
  /** In the order in which they are read. */
  readonly files: readonly DataFile[];
  /** Files of a folder that no reader is for. */
  readonly passedOver: readonly string[];
}

const EXTENSIONS: readonly (readonly [RegExp, FileType])[] = [
  [/\.(jsonl|ndjson)$/i, "jsonl"],
  [/\.json$/i, "json"],
  [/\.(csv|tsv)$/i, "csv"],
  [/\.parquet$/i, "parquet"],
  [/\.(idx|bin)$/i, "binidx"],
  [/\.txt$/i, "utf-8"],
];

/**
 * Finds the files of a data set, those of a folder in the order of their names.
 * @throws Error in one sentence where there are none
 */
export function dataFiles(path: string, dataType: DataType = "auto"): DataFiles {
  const given = dataType === "auto" || dataType === "sft" ? undefined : dataType;
  const kind = statOf(path);
  if (kind && !kind.isFile && !kind.isDirectory) {
    throw new Error(`Cannot read the data file ${path}: it is not a regular file`);
  }
  if (!kind?.isDirectory) {
    const prefix = path.replace(/\.(idx|bin)$/i, "");
    const isPair = existsSync(`${prefix}.idx`) && existsSync(`${prefix}.bin`);
    const isNamed = /\.idx$/i.test(path) || isPair && (!kind || /\.bin$/i.test(path));
    if (given === "binidx" || (!given && isNamed)) {
      if (!isPair) {
        throw new Error(
          `Cannot read the data file ${path}: there is no pair ${prefix}.idx and ${prefix}.bin`,
        );
      }
      return { files: [{ path: prefix, type: "binidx" }], passedOver: [] };
    }
    if (!kind) throw new Error(`Cannot read the data file ${path}: there is no such file`);
    return { files: [{ path, type: given ?? typeOf(path) }], passedOver: [] };
  }
  const files: DataFile[] = [], passedOver: string[] = [];
  for (const name of namesIn(path)) {
    const type = EXTENSIONS.find(([extension]) => extension.test(name))?.[1];
    const full = join(path, name);
    // A pipe would be waited for, and a link to nowhere cannot be read.
    if (type && !statOf(full)?.isFile) passedOver.push(full);
    else if (type === "binidx") {
      const prefix = full.replace(/\.(idx|bin)$/i, "");
      if (!existsSync(`${prefix}.idx`) || !existsSync(`${prefix}.bin`)) passedOver.push(full);
      else if (/\.idx$/i.test(full) && (!given || given === type)) files.push({ path: prefix, type });
    } else if (type && (!given || given === type)) files.push({ path: full, type });
    else passedOver.push(full);
  }
  if (files.length === 0) {
    throw new Error(
      `Cannot read the data folder ${path}: none of its ${passedOver.length} files is ` +
        (given ? `of the type ${given}` : ".jsonl, .json, .txt, .csv, .parquet or a binidx pair"),
    );
  }
  return { files, passedOver };
}

/** How a single file is read, by its extension: plain text unless that says otherwise. */
function typeOf(path: string): FileType {
  const type = EXTENSIONS.find(([extension]) => extension.test(path))?.[1];
  return type === undefined || type === "binidx" ? "utf-8" : type;
}

/** Names of all files below a folder, hidden ones left out, sorted. */
function namesIn(folder: string): string[] {
  const found: string[] = [];
  const walk = (at: string) => {
    for (const { name, isDirectory } of Deno.readDirSync(at)) {
      if (name.startsWith(".")) continue;
      if (isDirectory) walk(join(at, name));
      else found.push(relative(folder, join(at, name)));
    }
  };
  walk(folder);
  return found.sort();
}

function statOf(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.statSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotADirectory) return undefined;
    throw error;
  }
}

/** The paths on disk that a file of a data set consists of. */
export function pathsOf({ path, type }: DataFile): string[] {
  return type === "binidx" ? [`${path}.idx`, `${path}.bin`] : [path];
}

/** What the system says of a data set's files, which is another text once one was written to or exchanged; "" where it is none. */
export function dataStamp(path: string, dataType: DataType = "auto"): string {
  try {
    return dataFiles(path, dataType).files.flatMap(pathsOf).map((each) => {
      const { size, mtime, ino } = Deno.statSync(each);
      return `${each} ${size} ${mtime?.getTime()} ${ino}`;
    }).join("\n");
  } catch {
    // Whoever reads it says what is wrong.
    return "";
  }
}

/** SHA-256 of the content of a data set, in hexadecimal; of a folder, of its files' names as well. */
export function dataDigest(path: string, dataType: DataType = "auto"): string {
  const { files } = dataFiles(path, dataType);
  const paths = files.flatMap(pathsOf);
  const hash = createHash("sha256"), block = new Uint8Array(1 << 20);
  for (const each of paths) {
    if (paths.length > 1) hash.update(`${relative(path, each)}\n`);
    using file = Deno.openSync(each);
    for (let count = file.readSync(block); count !== null; count = file.readSync(block)) {
      hash.update(block.subarray(0, count));
    }
  }
  return hash.digest("hex");
}
