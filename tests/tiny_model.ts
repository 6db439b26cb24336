/**
 * Models of a few thousand weights, and texts of a few hundred bytes, for tests that train: runs of some tens of milliseconds.
 *
 * A fresh model's blocks give exactly zero, so that most of its gradients are zero too. These have every weight perturbed.
 *
 * @module
 */
import { type DType, fromFloat32 } from "../formats/dtype.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import type { FreshModel } from "../rwkv/initialise.ts";
import { writeFreshModel } from "../training/pretrain.ts";
import { randomNumbers } from "./engines.ts";
import { temporaryPath } from "./small_model.ts";

/** The sizes where a test says nothing else: the vocabulary is plain ASCII. */
const SIZES: FreshModel = { layers: 1, channels: 16, headSize: 8, vocabulary: 128 };

/** What a tiny model can be told. */
export interface TinyOptions extends Partial<FreshModel> {
  /** Element type of every tensor. */
  dtype?: DType;
  /** Fixes the weights. */
  seed?: number;
  /** Changes weights before they are rounded: in place, or by returning others. */
  change?: (name: string, data: Float32Array) => Float32Array | void;
}

let made = 0;

/** A path in the tests' folder that no other call has given, ending in `name`. */
export function newPath(name: string): string {
  return temporaryPath(`${made++}-${name}`);
}

/** Writes a tiny model, in the format of the path's extension. @returns the path */
export function writeTinyModel(path: string, options: TinyOptions = {}): string {
  const { dtype = "F32", seed = 1, change, ...sizes } = options;
  const fresh = newPath("fresh.safetensors");
  writeFreshModel(fresh, { ...SIZES, ...sizes }, seed);
  using file = openTensorFile(fresh);
  const noise = randomNumbers(seed);
  const contents = new Map(
    [...file.tensors.keys()].map((name) => {
      const data = file.readFloat32(name).map((x) => x + 0.2 * noise());
      return [name, change?.(name, data) ?? data];
    }),
  );
  writeTensorFile(path, {
    format: path.endsWith(".pth") ? "pth" : "safetensors",
    tensors: [...file.tensors.values()].map((info) => ({ ...info, dtype })),
    read: ({ name }) => fromFloat32(contents.get(name)!, dtype),
  });
  return path;
}

/** Writes texts as the documents of a jsonl file. @returns the path */
export function writeDocuments(path: string, texts: readonly string[]): string {
  Deno.writeTextFileSync(path, texts.map((text) => JSON.stringify({ text }) + "\n").join(""));
  return path;
}

/** Texts of lengths from 3 to `longest` letters and blanks that differ from each other. */
export function randomTexts(count: number, longest: number, seed = 1): string[] {
  const number = randomNumbers(seed);
  const integer = (limit: number) => Math.floor((number() + 1) / 2 * limit);
  return Array.from({ length: count }, () => {
    const length = 3 + integer(longest - 2);
    return Array.from({ length }, () => "abcdefgh ijkl."[integer(14)]).join("");
  });
}
