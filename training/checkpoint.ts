/**
 * Checkpoints: one safetensors file a checkpoint, with parameters and moments of every trained tensor, the step, and a checksum
 * of every tensor. Written to a temporary name and renamed, so that a crash at any moment leaves the previous one whole.
 * Data order and schedule are functions of the step, so the step is all the position that there is.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { makeFolder } from "../formats/atomic.ts";
import { FormatError, openTensorFile, type TensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { JsonCursor, type JsonValue } from "../formats/json.ts";
import { CheckpointError } from "./checkpoint_error.ts";
import { KINDS, type Trainables } from "./trainables.ts";

const FOLDER = "checkpoints";
/** One spelling a step: eight digits, or more where they are needed. */
const FILE_NAME = /^step-(\d{8}|[1-9]\d{8,})\.safetensors$/;
/** What `writeFileAtomic` calls a file that has not got its name yet. */
const LEFTOVER = /^\..+\.\d+-[0-9a-f]{8}\.tmp$/;

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/**
 * Writes the checkpoint of a step into a run folder and removes all but the last `keep`.
 *
 * @returns its path
 * @throws CheckpointError if it cannot be written; what was there before is untouched
 */
export async function saveCheckpoint(
  run: string,
  step: number,
  trainables: Trainables,
  keep: number,
): Promise<string> {
  const folder = join(run, FOLDER);
  makeFolder(folder);
  const contents = new Map<string, { shape: readonly number[]; bytes: Uint8Array }>();
  for (const kind of KINDS) {
    for (const [name, { shape, data }] of await trainables.read(kind)) {
      if (!data.every(Number.isFinite)) {
        throw new CheckpointError(
          `The checkpoint of step ${step} was not saved: tensor "${name}" holds NaN or infinity; lower --lr_init, ` +
            `the last good checkpoint is ${listCheckpoints(run)[0]?.path ?? "none"}`,
        );
      }
      contents.set(`${kind}.${name}`, {
        shape,
        bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      });
    }
  }
  const checksums = Object.fromEntries([...contents].map(([name, { bytes }]) => [name, sha256(bytes)]));
  const state = JSON.stringify({ step, checksums });
  const path = join(folder, `step-${String(step).padStart(8, "0")}.safetensors`);
  try {
    writeTensorFile(path, {
      format: "safetensors",
      tensors: [...contents].map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
      read: ({ name }) => contents.get(name)!.bytes,
      metadata: new Map([["state", state], ["sha256", sha256(new TextEncoder().encode(state))]]),
      force: true,
    });
  } catch (error) {
    throw new CheckpointError(`The checkpoint of step ${step} was not saved: ${(error as Error).message}`, {
      cause: error,
    });
  }
  for (const old of listCheckpoints(run).slice(keep)) Deno.removeSync(old.path);
  return path;
}

/** Removes what saves that were cut off have left. The run must be held: nobody else may be writing in it. */
export function removeLeftovers(run: string): void {
  const folders = [...Deno.readDirSync(run)].filter(({ isDirectory }) => isDirectory);
  for (const folder of [run, ...folders.map(({ name }) => join(run, name))]) {
    for (const { name, isFile } of Deno.readDirSync(folder)) {
      if (isFile && LEFTOVER.test(name)) Deno.removeSync(join(folder, name));
    }
  }
}

/** Checkpoints of a run, the newest (by step, never by time) first. */
export function listCheckpoints(run: string): { step: number; path: string }[] {
  const folder = join(run, FOLDER);
  try {
    return [...Deno.readDirSync(folder)].flatMap(({ name }) => {
      const match = FILE_NAME.exec(name);
      return match ? [{ step: Number(match[1]), path: join(folder, name) }] : [];
    }).sort((a, b) => b.step - a.step);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return [];
    throw error;
  }
}

/** Where a run goes on: `path` is the run folder, or one of its checkpoints. */
export function resumePoint(path: string): { run: string; checkpoint?: string } {
  return FILE_NAME.test(basename(path)) ? { run: dirname(dirname(path)), checkpoint: path } : { run: path };
}

/**
 * Puts the newest checkpoint of a run, or the one named, into the trainables. Checkpoints of later steps than one that was named
 * are put aside, as the run is about to take those steps again.
 *
 * @returns its step and path; undefined where the run has none
 * @throws CheckpointError if it is damaged or of another run; the message offers the newest before it that is whole
 */
export function loadNewest(
  { run, checkpoint }: { run: string; checkpoint?: string },
  trainables: Trainables,
): { step: number; path: string } | undefined {
  const all = listCheckpoints(run);
  const path = checkpoint ?? all[0]?.path;
  if (path === undefined) return undefined;
  const step = loadCheckpoint(path, trainables);
  for (const later of all) if (later.step > step) putAside(later.path);
  return { step, path };
}

/** Takes a checkpoint's name away; what was put aside before is left. */
function putAside(path: string): void {
  let aside = `${path}.aside`;
  for (let i = 2; existsSync(aside); i++) aside = `${path}.aside-${i}`;
  Deno.renameSync(path, aside);
}

/**
 * Puts a checkpoint's content into the trainables.
 * @returns its step
 * @throws CheckpointError if it is damaged or of another run; the trainables are as they were
 */
export function loadCheckpoint(path: string, trainables: Trainables): number {
  let opened: { file: TensorFile; step: number };
  try {
    opened = openWhole(path, trainables);
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    throw new CheckpointError(`Cannot resume from ${path}: ${error.message}; ${beforeIt(path, trainables)}`);
  }
  using file = opened.file;
  for (const kind of KINDS) {
    for (const name of trainables.parameters.keys()) {
      trainables.write(kind, name, file.readFloat32(`${kind}.${name}`));
    }
  }
  return opened.step;
}

/** What can be done where a checkpoint cannot be used. */
function beforeIt(path: string, trainables: Trainables): string {
  const { run } = resumePoint(path);
  const at = Number(FILE_NAME.exec(basename(path))?.[1] ?? Infinity);
  for (const { step, path: earlier } of listCheckpoints(run)) {
    if (step >= at) continue;
    try {
      openWhole(earlier, trainables).file.close();
    } catch (error) {
      if (error instanceof CheckpointError) continue;
      throw error;
    }
    return `to go on from step ${step}, which is whole, resume ${earlier}`;
  }
  return "there is none before it that is whole, so start a new run";
}

/** Opens a checkpoint after checking all of it. @throws CheckpointError with what is wrong, as a clause */
function openWhole(path: string, trainables: Trainables): { file: TensorFile; step: number } {
  let file: TensorFile;
  try {
    file = openTensorFile(path);
  } catch (error) {
    const reason = (error as Error).message;
    throw new CheckpointError(error instanceof FormatError ? error.reason : reason);
  }
  try {
    return { file, step: check(file, trainables) };
  } catch (error) {
    file.close();
    throw error instanceof FormatError ? new CheckpointError(error.reason) : error;
  }
}

/** What a description says. A checksum keeps it from damage, not from somebody who meant it. */
function described(text: string): { step: number; checksums: Readonly<Record<string, unknown>> } {
  const unusable = (why: string) => new CheckpointError(`its description cannot be used: ${why}`);
  const cursor = new JsonCursor(text, unusable), state = cursor.value("its text");
  cursor.end("its text");
  const { step, checksums } = isObject(state) ? state : {};
  if (typeof step !== "number" || !Number.isSafeInteger(step) || step < 0 || !isObject(checksums)) {
    throw unusable("it names no step or no checksums");
  }
  return { step, checksums };
}

function isObject(value: JsonValue | undefined): value is { [key: string]: JsonValue } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Checks a checkpoint's description and every tensor. @returns its step */
function check(file: TensorFile, trainables: Trainables): number {
  const text = file.metadata.get("state");
  if (text === undefined || sha256(new TextEncoder().encode(text)) !== file.metadata.get("sha256")) {
    throw new CheckpointError("its description does not match its checksum");
  }
  if (file.metadata.size !== 3 || file.metadata.get("format") !== "pt") {
    throw new CheckpointError("it holds texts that no checkpoint has");
  }
  const { step, checksums } = described(text);
  const named = FILE_NAME.exec(basename(file.path));
  if (named && Number(named[1]) !== step) {
    throw new CheckpointError(`it holds step ${step}, not that of its name`);
  }
  const parameters = trainables.shapes;
  for (const kind of KINDS) {
    for (const [name, shape] of parameters) {
      const full = `${kind}.${name}`, info = file.tensors.get(full);
      if (!info) throw new CheckpointError(`tensor "${full}" is missing`);
      if (info.dtype !== "F32" || `${info.shape}` !== `${shape}`) {
        throw new CheckpointError(
          `tensor "${full}" is ${info.dtype} [${info.shape}] where the run has F32 [${shape}]`,
        );
      }
      const bytes = file.readBytes(full),
        wanted = Object.hasOwn(checksums, full) ? checksums[full] : undefined;
      if (sha256(bytes) !== wanted) throw new CheckpointError(`tensor "${full}" does not match its checksum`);
      if (!new Float32Array(bytes.buffer).every(Number.isFinite)) {
        throw new CheckpointError(`tensor "${full}" holds NaN or infinity`);
      }
    }
  }
  // All that the run has is there.
  if (file.tensors.size > KINDS.length * parameters.size) {
    throw new CheckpointError("it holds tensors that the run has not");
  }
  return step;
}
