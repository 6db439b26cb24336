/**
 * Which shaders can make a product, and which of them is taken where nothing has been measured.
 *
 * @module
 */
import { type DeviceLimits, type MatrixUnits, unrolled } from "../../op.ts";
import { fours } from "./fours.ts";
import type { Layout } from "./layout.ts";
import { type Blocking, matricesShader, readWidth, sharesReads, workgroupBytes } from "./matrices.ts";
import shader from "./matmul.wgsl" with { type: "text" };

/** A shader with its sizes: in plain f32 with a square tile, or on matrix units. */
export type Kernel = { readonly tile: number } | { readonly blocking: Blocking };

/** One dispatch of a product. */
export interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly layout: Layout;
  /** Elements of a row as it is stored. */
  readonly widthA: number;
  readonly widthB: number;
  readonly widthOut: number;
  /** Extent of K that one workgroup adds up. */
  readonly part: number;
  /** Elements before the first that is read or written. */
  readonly starts: { readonly a: number; readonly out: number };
  /** Elements between the products of a kind, where there are several. */
  readonly distances?: { readonly a: number; readonly b: number; readonly out: number };
}

/** The larger tile reads less, the smaller makes more workgroups. */
const LARGE = { tile: 128 }, SMALL = { tile: 64 };

/** Workgroups that keep the largest GPUs busy. */
const MANY_TILES = 128;

/**
 * Blockings for matrices of 16 × 16, the largest tile first and of equal ones the fastest (by a fifth to a third on an H200); for smaller
 * matrices everything shrinks alike. Two slices in workgroup memory, for one barrier a slice, took a third more time there.
 */
const BLOCKINGS: readonly Blocking[] = [
  { M: 256, N: 128, K: 32, blockM: 64, blockN: 64 },
  { M: 128, N: 128, K: 32, blockM: 64, blockN: 64 },
  { M: 128, N: 128, K: 64, blockM: 64, blockN: 32 },
  { M: 128, N: 64, K: 32, blockM: 64, blockN: 32 },
  { M: 64, N: 64, K: 64, blockM: 32, blockN: 16 },
  { M: 32, N: 64, K: 64, blockM: 16, blockN: 32 },
];

function scaled(blocking: Blocking, { side }: MatrixUnits): Blocking {
  const to = (extent: number) => extent * side / 16;
  const { M, N, K, blockM, blockN } = blocking;
  return { M: to(M), N: to(N), K: to(K), blockM: to(blockM), blockN: to(blockN) };
}

/** All kernels of a device, the most trusted first. */
export function kernels({ matrixUnits }: DeviceLimits): Kernel[] {
  const blockings = matrixUnits
    ? BLOCKINGS.map((blocking) => ({ blocking: scaled(blocking, matrixUnits) }))
    : [];
  return [SMALL, LARGE, ...blockings];
}

/** Names a kernel in the tuner's memory. */
export function nameOf(kernel: Kernel): string {
  if ("tile" in kernel) return `f32 ${kernel.tile}`;
  const { M, N, K, blockM, blockN } = kernel.blocking;
  return `f16 ${M}x${N}x${K} of ${blockM}x${blockN}`;
}

/** Rows and columns of the output that one workgroup makes. */
export function tileOf(kernel: Kernel): { m: number; n: number } {
  return "tile" in kernel
    ? { m: kernel.tile, n: kernel.tile }
    : { m: kernel.blocking.M, n: kernel.blocking.N };
}

/** Whether a kernel can make the product on this device. */
export function serves(kernel: Kernel, product: Product, limits: DeviceLimits): boolean {
  if ("tile" in kernel) return true;
  const { matrixUnits, workgroupBytes: bytes } = limits;
  const { layout, widthA, widthB, starts, distances = { a: 0, b: 0 } } = product;
  if (!matrixUnits || workgroupBytes(kernel.blocking, layout, matrixUnits) > bytes) return false;
  return sharesReads(kernel.blocking, layout, matrixUnits) &&
    [widthA, starts.a, distances.a].every((n) => n % readWidth(layout.dtypeA) === 0) &&
    [widthB, distances.b].every((n) => n % readWidth(layout.dtype) === 0);
}

/** Whether the output divides into matrices that are stored at multiples of 16 bytes. */
function isWhole({ M, N, widthOut, starts, distances }: Product, { side }: MatrixUnits): boolean {
  return M % side === 0 && N % side === 0 &&
    [widthOut, starts.out, distances?.out ?? 0].every((extent) => extent % 4 === 0);
}

/**
 * Whether a kernel may be the fastest: on matrix units only those that use them, so that a choice changes no more than speed, and
 * of them those whose tiles are neither mostly outside of the product nor so large that few workgroups are left.
 */
export function worthTrying(
  kernel: Kernel,
  product: { M: number; N: number },
  { matrixUnits }: DeviceLimits,
): boolean {
  if ("tile" in kernel) return !matrixUnits;
  const { M, N } = product, { m, n } = tileOf(kernel);
  return m <= 2 * M && n <= 2 * N && !(Math.ceil(M / m) * Math.ceil(N / n) < 32 && m * n > 64 * 64);
}

/** The kernel for a product of which nothing has been measured. */
export function preferred(product: Product, limits: DeviceLimits): Kernel {
  const { M, N } = product;
  const many = (kernel: Kernel) => {
    const { m, n } = tileOf(kernel);
    return Math.ceil(M / m) * Math.ceil(N / n) >= MANY_TILES;
  };
  const onUnits = kernels(limits).filter((kernel) =>
    "blocking" in kernel && kernel.blocking.M <= 8 * (limits.matrixUnits?.side ?? 0) &&
    serves(kernel, product, limits)
  );
  if (onUnits.length) return onUnits.find(many) ?? onUnits.at(-2)!;
  return many(LARGE) ? LARGE : SMALL;
}

/** The complete shader of a kernel for a product. */
export function shaderOf(kernel: Kernel, product: Product, limits: DeviceLimits): string {
  const { layout, M, N, K, widthA, widthB, widthOut, starts } = product;
  if ("blocking" in kernel) {
    const { blocking } = kernel, units = limits.matrixUnits!, { part } = product;
    const fills = M % blocking.M === 0 && N % blocking.N === 0 && K % blocking.K === 0 &&
      part % blocking.K === 0;
    const widths = fills ? { a: widthA, b: widthB } : undefined;
    return matricesShader(layout, blocking, units, isWhole(product, units), widths);
  }
  const aligned = [widthA, widthB, widthOut, N, K, M * (layout.transposeA ? 1 : 4), starts.a, starts.out]
    .every((extent) => extent % 4 === 0);
  const loops = unrolled(unrolled(shader, "LOADS", 256 / kernel.tile), "16u", 16);
  return `const TILE = ${kernel.tile}u;\n${fours(layout, aligned)}\n${loops}`;
}
