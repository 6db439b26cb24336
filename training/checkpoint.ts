/**
 * Checkpoints: one safetensors file a checkpoint, with parameters and moments of every trained tensor, the step, and a checksum
 * of every tensor. Written to a temporary name and renamed, so that a crash at any moment leaves the previous one whole.
 * Data order and schedule are functions of the step, so the step is all the position that there is.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { type FormatError, openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { KINDS, type Trainables } from "./trainables.ts";

/** A checkpoint that cannot be used: which and why. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
}

const FOLDER = "checkpoints";
const FILE_NAME = /^step-(\d{8})\.safetensors$/;

const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

/** Writes the checkpoint of a step into a run folder and removes all but the last `keep`. @returns its path */
export async function saveCheckpoint(
  run: string,
  step: number,
  trainables: Trainables,
  keep: number,
): Promise<string> {
  const folder = join(run, FOLDER);
  Deno.mkdirSync(folder, { recursive: true });
  const contents = new Map<string, { shape: readonly number[]; bytes: Uint8Array }>();
  for (const kind of KINDS) {
    for (const [name, { shape, data }] of await trainables.read(kind)) {
      contents.set(`${kind}.${name}`, {
        shape,
        bytes: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      });
    }
  }
  const checksums = Object.fromEntries([...contents].map(([name, { bytes }]) => [name, sha256(bytes)]));
  const state = JSON.stringify({ step, checksums });
  const path = join(folder, `step-${String(step).padStart(8, "0")}.safetensors`);
  writeTensorFile(path, {
    format: "safetensors",
    tensors: [...contents].map(([name, { shape }]) => ({ name, shape, dtype: "F32" })),
    read: ({ name }) => contents.get(name)!.bytes,
    metadata: new Map([["state", state], ["sha256", sha256(new TextEncoder().encode(state))]]),
    force: true,
  });
  for (const old of listCheckpoints(run).slice(keep)) Deno.removeSync(old.path);
  return path;
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

/**
 * Puts a checkpoint's content into the trainables.
 * @returns its step
 * @throws CheckpointError if it is damaged or of another run
 */
export function loadCheckpoint(path: string, trainables: Trainables): number {
  const damaged = (what: string) =>
    new CheckpointError(
      `Cannot resume from ${path}: ${what}; delete it to resume from the checkpoint before`,
    );
  let file;
  try {
    file = openTensorFile(path);
  } catch (error) {
    throw damaged((error as FormatError).message);
  }
  using opened = file;
  const state = opened.metadata.get("state");
  if (state === undefined || sha256(new TextEncoder().encode(state)) !== opened.metadata.get("sha256")) {
    throw damaged("its description does not match its checksum");
  }
  const { step, checksums }: { step: number; checksums: Record<string, string> } = JSON.parse(state);
  for (const kind of KINDS) {
    for (const name of trainables.parameters.keys()) {
      const full = `${kind}.${name}`;
      if (!opened.tensors.has(full)) throw damaged(`tensor "${full}" is missing`);
      if (sha256(opened.readBytes(full)) !== checksums[full]) {
        throw damaged(`tensor "${full}" does not match its checksum`);
      }
    }
  }
  for (const kind of KINDS) {
    for (const name of trainables.parameters.keys()) {
      trainables.write(kind, name, opened.readFloat32(`${kind}.${name}`));
    }
  }
  return step;
}
