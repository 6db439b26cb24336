/**
 * Matrices the other way round: the low-rank pairs of RWKV-7 lie transposed under Hugging Face's names.
 *
 * @module
 */
import type { HostTensor } from "./adapter.ts";

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
