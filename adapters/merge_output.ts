/**
 * Where a merged model goes: a file or a folder, in which format, and never over what it is made from.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { openTensorFile, type TensorFile, type TensorFormat } from "../formats/tensor_file.ts";
import { AdapterError } from "./adapter.ts";

/** How names of files end that hold tensors, by their format. */
const FORMATS: Readonly<Record<string, TensorFormat>> = {
  pth: "pth",
  pt: "pth",
  bin: "pth",
  safetensors: "safetensors",
  // What Ai00 calls safetensors.
  st: "safetensors",
};
/** How names end of formats that are not written. */
const OTHERS = /\.(gguf|ggml|onnx|h5|npz|msgpack|json)$/i;

const ending = (path: string) => /\.(\w+)$/.exec(path)?.[1]?.toLowerCase() ?? "";
const isDirectory = (path: string) => existsSync(path) && Deno.statSync(path).isDirectory;

/** The format of an output: after its extension, else the other's. */
export function formatOf(output: string, other: TensorFormat): TensorFormat {
  return FORMATS[ending(output)] ?? other;
}

/** The folder that an output means; undefined where it is a file. @throws AdapterError for several files in one */
export function folderOf(
  output: string,
  base: TensorFile,
  shardBytes: number | undefined,
): string | undefined {
  if (ending(output) in FORMATS && !isDirectory(output)) {
    if (shardBytes === undefined) return undefined;
    throw new AdapterError(`A model in several files goes to a folder: name one instead of ${output}`);
  }
  const isFolder = base.shards.length > 0 || shardBytes !== undefined || /[/\\]$/.test(output) ||
    isDirectory(output);
  return isFolder ? output.replace(/[/\\]+$/, "") : undefined;
}

/**
 * Checks an output before anything is computed.
 * @param base path of the base model
 * @param adapter path of the adapter, where it comes from a file
 * @throws AdapterError if it is there already, unless `force` is set, or is part of what it is made from
 */
export function requireOutput(
  output: string,
  { base, adapter, force }: { base: string; adapter?: string | undefined; force: boolean },
): void {
  if (OTHERS.test(output)) {
    throw new AdapterError(
      `The output ${output} cannot be written in that format: end its name in .pth or .safetensors`,
    );
  }
  if (!existsSync(dirname(output))) {
    throw new AdapterError(
      `The folder of the output ${output} does not exist: create it, or choose another with --output`,
    );
  }
  if (!isDirectory(dirname(output))) {
    throw new AdapterError(
      `The folder of the output ${output} is a file: choose another with --output`,
    );
  }
  if (!existsSync(output)) return;
  const isFolder = isDirectory(output), real = Deno.realPathSync;
  // The files of a folder are looked at when they are written.
  if (!force && !isFolder) {
    throw new AdapterError(
      `The output ${output} exists: choose another with --output, or replace it with --force`,
    );
  }
  const replaced = [...filesOf(base), ...adapter === undefined ? [] : partsOf(adapter)].find((input) =>
    existsSync(input) &&
    (real(input) === real(output) || isFolder && input !== adapter && real(dirname(input)) === real(output))
  );
  if (replaced === undefined) return;
  throw new AdapterError(
    `The output ${output} would replace ${replaced}, which it is made from: choose another with --output`,
  );
}

/** The files of an adapter: itself, or those of a PEFT directory. */
function partsOf(path: string): string[] {
  return isDirectory(path) ? [...Deno.readDirSync(path)].map(({ name }) => join(path, name)) : [path];
}

/** The files of a model. */
function filesOf(path: string): string[] {
  using file = openTensorFile(path);
  return [file.path, ...file.shards.map((shard) => join(dirname(file.path), shard.file))];
}
