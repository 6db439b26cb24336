/**
 * Models of real sizes that take no room: files with holes, whose matrices are zeros. Norms and some rows of the embedding and the
 * head are not, so that logits are numbers that differ.
 *
 * @module
 */
import { dirname, join } from "node:path";
import { fromFloat32 } from "../formats/dtype.ts";
import { writeFully } from "../formats/random_access_file.ts";
import { writeSafetensors } from "../formats/safetensors.ts";
import { divideIntoShards, shardIndexText } from "../formats/shard_index.ts";
import type { TensorInfo } from "../formats/tensor.ts";
import { writeTorch } from "../formats/torch.ts";
import { type ModelConfig, weightShapes } from "../rwkv/config.ts";

/** Sizes of an RWKV-7 model of the World series. */
export function worldSizes(layers: number, channels: number, vocabulary = 65536): ModelConfig {
  return {
    version: 7,
    layers,
    channels,
    heads: channels / 64,
    headSize: 64,
    ffn: 4 * channels,
    vocabulary,
    ranks: { w: 96, a: 96, v: 64, g: 256 },
    firstLayerHasV: false,
  };
}

/** Rows of the embedding and the head that are not zeros: the bytes, and some. */
const FILLED_ROWS = 300;
const ZEROS = new Uint8Array(1 << 22);

/** What a weight begins with, in bf16; the rest of it is zeros. */
function beginning({ name, shape }: TensorInfo): Uint8Array {
  const width = shape.at(-1)!;
  if (/ln.*weight$|\.(k_k|r_k)$/.test(name)) {
    return fromFloat32(new Float32Array(shape.reduce((a, b) => a * b)).fill(1), "BF16");
  }
  if (!/^(emb|head)\.weight$/.test(name)) return new Uint8Array();
  const rows = Float32Array.from(
    { length: Math.min(FILLED_ROWS, shape[0]!) * width },
    (_, i) => Math.sin(1 + i * i % 977),
  );
  return fromFloat32(rows, "BF16");
}

/** A weight's bytes; where they are zeros, pieces of `ZEROS` itself. */
function* contentOf(info: TensorInfo): Generator<Uint8Array> {
  const start = beginning(info);
  yield start;
  for (let left = 2 * info.shape.reduce((a, b) => a * b, 1) - start.length; left > 0; left -= ZEROS.length) {
    yield ZEROS.subarray(0, Math.min(left, ZEROS.length));
  }
}

function infos(config: ModelConfig): TensorInfo[] {
  return [...weightShapes(config)].map(([name, shape]) => ({ name, shape, dtype: "BF16" }));
}

/** Writes a file and leaves holes where it is zeros. @returns its bytes */
function writeSparse(path: string, content: (write: (bytes: Uint8Array) => void) => void): number {
  using file = Deno.openSync(path, { write: true, createNew: true });
  let at = 0;
  content((bytes) => {
    if (bytes.buffer !== ZEROS.buffer) {
      file.seekSync(at, Deno.SeekMode.Start);
      writeFully(file, bytes);
    }
    at += bytes.length;
  });
  file.truncateSync(at);
  return at;
}

/** Writes a `.pth`. @returns its bytes */
export function writeHollowTorch(path: string, config: ModelConfig): number {
  return writeSparse(path, (write) => writeTorch(write, infos(config), contentOf));
}

/** Writes safetensors files of at most `bytes` each and their index, whose path is given. @returns bytes of all */
export function writeHollowShards(index: string, config: ModelConfig, bytes: number): number {
  const shards = divideIntoShards(infos(config), bytes, ["model", ".safetensors"]);
  Deno.writeTextFileSync(index, shardIndexText(shards));
  return shards.reduce(
    (all, { file, tensors }) =>
      all +
      writeSparse(join(dirname(index), file), (write) =>
        writeSafetensors(write, tensors, contentOf, new Map())),
    0,
  );
}
