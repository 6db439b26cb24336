/**
 * Weights for training from scratch, as the official trainer draws them (RWKV-LM, RWKV-v7/train_temp).
 *
 * Every block's output is exactly zero at first, so the model begins as a function of one token.
 *
 * @module
 */
import { type ModelConfig, weightShapes } from "./config.ts";

/** Random numbers that initialisation draws. */
export interface Noise {
  /** In [0, 1). */
  uniform(): number;
  /** Standard normal. */
  normal(): number;
}

/** Sizes that a fresh model is asked for. */
export interface FreshModel {
  readonly layers: number;
  readonly channels: number;
  readonly headSize: number;
  readonly vocabulary: number;
}

/** The sizes of a fresh model: ranks by the official rule, F = 4 C. @throws RangeError if the sizes do not fit */
export function freshConfig({ layers, channels: C, headSize, vocabulary }: FreshModel): ModelConfig {
  for (const [name, value] of Object.entries({ layers, channels: C, headSize, vocabulary })) {
    if (!Number.isSafeInteger(value) || value < 1) {
      throw new RangeError(`${name} must be a whole number of at least 1: it is ${value}`);
    }
  }
  if (C % headSize) {
    throw new RangeError(`${C} channels cannot be cut into heads of ${headSize}: choose a multiple`);
  }
  const rank = (scale: number) => Math.max(32, Math.round(scale * Math.sqrt(C) / 32) * 32);
  return {
    version: 7,
    layers,
    channels: C,
    heads: C / headSize,
    headSize,
    ffn: 4 * C,
    vocabulary,
    ranks: { w: rank(2.5), a: rank(2.5), v: rank(1.7), g: rank(5) },
    firstLayerHasV: false,
  };
}

/** Gives the first content of each weight by name, f32 in the shape of files. */
export function initialWeights(config: ModelConfig, noise: Noise): (name: string) => Float32Array {
  const shapes = weightShapes(config);
  return (name) => {
    const shape = shapes.get(name)!;
    const layer = Number(/^blocks\.(\d+)\./.exec(name)?.[1] ?? 0);
    return initialWeight(name.replace(/^blocks\.\d+\./, ""), shape, layer, config, noise);
  };
}

function initialWeight(
  leaf: string,
  shape: readonly number[],
  layer: number,
  config: ModelConfig,
  noise: Noise,
) {
  const { layers: L, channels: C, headSize: N, vocabulary: V } = config;
  const size = shape.reduce((a, b) => a * b, 1);
  const fill = (value: number) => new Float32Array(size).fill(value);
  const byChannel = (f: (n: number) => number) => Float32Array.from({ length: size }, (_, n) => f(n));
  const q = L > 1 ? layer / (L - 1) : 0, p = 1 - layer / L;
  const linear = (n: number) => C > 1 ? n / (C - 1) - 0.5 : 0;
  const zigzag = (n: number) => {
    const z = N > 1 ? (n % N - (N - 1) / 2) / ((N - 1) / 2) : 0;
    return z * Math.abs(z);
  };
  const mix = (power: number) => byChannel((n) => 1 - (n / C) ** power);
  const orthogonal = (gain: number) => orthogonalMatrix(shape[0]!, shape[1]!, gain, noise);
  switch (leaf) {
    case "att.x_r":
    case "att.x_g":
      return mix(0.2 * p);
    case "att.x_w":
    case "att.x_a":
      return mix(0.9 * p);
    case "att.x_k":
    case "att.x_v":
      return mix(0.7 * p);
    case "ffn.x_k":
      return mix(p ** 4);
    case "att.w0":
      return byChannel((n) => -6 + 6 * (C > 1 ? n / (C - 1) : 0) ** (1 + q ** 0.3) + 0.5 + 2.5 * zigzag(n));
    case "att.a0":
      return byChannel((n) => -0.19 + 0.3 * zigzag(n) + 0.4 * linear(n));
    case "att.v0":
      return byChannel((n) => 0.73 - 0.4 * linear(n));
    case "att.k_k":
      return byChannel((n) => 0.71 - 0.1 * linear(n));
    case "att.k_a":
      return fill(1.02);
    case "att.r_k":
      return fill(-0.04);
    case "att.w2":
    case "att.a2":
    case "att.v2":
    case "att.g2":
      return orthogonal(0.1 * (shape[0]! > shape[1]! ? Math.sqrt(shape[0]! / shape[1]!) : 1));
    case "att.receptance.weight":
    case "att.value.weight":
    case "ffn.key.weight":
      return orthogonal(1);
    case "att.key.weight":
      return orthogonal(0.1);
    case "att.ln_x.weight":
      return fill(((1 + layer) / L) ** 0.7);
    case "emb.weight":
      return byChannel(() => (2 * noise.uniform() - 1) * 1e-4);
    case "head.weight":
      return orthogonal(V > C ? 0.5 * Math.sqrt(V / C) : 0.5);
  }
  return /ln\w*\.weight$/.test(leaf) ? fill(1) : fill(0);
}

/** A matrix with orthonormal rows or columns, whichever are fewer, times `gain`: normal noise, then Gram-Schmidt twice. */
function orthogonalMatrix(rows: number, columns: number, gain: number, noise: Noise): Float32Array {
  const count = Math.min(rows, columns), length = Math.max(rows, columns);
  const vectors: Float64Array[] = [];
  for (let i = 0; i < count; i++) {
    const vector = Float64Array.from({ length }, () => noise.normal());
    for (let pass = 0; pass < 2; pass++) {
      for (const other of vectors) {
        let dot = 0;
        for (let j = 0; j < length; j++) dot += vector[j]! * other[j]!;
        for (let j = 0; j < length; j++) vector[j]! -= dot * other[j]!;
      }
      let norm = 0;
      for (let j = 0; j < length; j++) norm += vector[j]! ** 2;
      norm = Math.sqrt(norm);
      for (let j = 0; j < length; j++) vector[j]! /= norm;
    }
    vectors.push(vector);
  }
  const matrix = new Float32Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < columns; c++) {
      matrix[r * columns + c] = gain * (rows <= columns ? vectors[r]![c]! : vectors[c]![r]!);
    }
  }
  return matrix;
}
