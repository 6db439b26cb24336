/**
 * Matrices the other way round: the low-rank pairs of RWKV-7 lie transposed under Hugging Face's names, and its vectors lie flat.
 *
 * @module
 */
import { isTransposed } from "../rwkv/names.ts";
import type { HostTensor } from "./adapter.ts";

/** Official names of vectors that lie as [1, 1, C]. */
const VECTOR = /\.(x_[rwkvag]|[wav]0|k_k|k_a)$/;

/** A tensor that lies under its official name, as it lies under Hugging Face's. */
export function asHuggingFace(official: string, tensor: HostTensor): HostTensor {
  if (isTransposed(official)) return transposed(tensor);
  return VECTOR.test(official) ? { ...tensor, shape: tensor.shape.filter((extent) => extent !== 1) } : tensor;
}

/** A tensor that lies under Hugging Face's name, as it lies under its official one. */
export function asOfficial(official: string, tensor: HostTensor): HostTensor {
  if (isTransposed(official)) return transposed(tensor);
  return VECTOR.test(official) && tensor.shape.length === 1
    ? { ...tensor, shape: [1, 1, ...tensor.shape] }
    : tensor;
}

/** [rows, columns] → [columns, rows]. @throws RangeError for a tensor that is no matrix */
export function transposed({ shape, data }: HostTensor): HostTensor & { data: Float32Array<ArrayBuffer> } {
  const [rows, columns, ...others] = shape;
  if (columns === undefined || others.length) {
    throw new RangeError(`Cannot transpose a tensor of shape [${shape}]`);
  }
  const turned = new Float32Array(data.length);
  for (let i = 0; i < rows!; i++) {
    for (let j = 0; j < columns; j++) turned[j * rows! + i] = data[i * columns + j]!;
  }
  return { shape: [columns, rows!], data: turned };
}
