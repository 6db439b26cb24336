/**
 * blockMatmul: G products at once, `out_g[M, N] = op(A_g) · op(B_g)`, where op transposes or not: the product with a block-diagonal
 * matrix, of which only the blocks are stored. What BAT is made of (arXiv 2409.15371).
 *
 * The blocks of each operand lie one below the other, [G·rows, columns], or side by side, [rows, G·columns]; any shape of that
 * many elements will do. B may be packed f16 or bf16. The gradient of each operand is again a blockMatmul.
 *
 * @module
 */
import type { Graph, Node, Tensor } from "../../graph.ts";
import { type DeviceLimits, grid, type Op, type Pass, shapeError, wgslReader, widened } from "../../op.ts";
import { type Kernel, kernels, nameOf, type Product, serves, shaderOf, tileOf } from "../matmul/kernels.ts";
import { filled, partExtent } from "../matmul/op.ts";
import sumShader from "../reduce/reduce_rows.wgsl" with { type: "text" };
import shader from "./block_matmul.wgsl" with { type: "text" };

/** How the blocks of an operand lie. */
export type Stacking = "below" | "beside";

/** What to multiply. */
export interface BlockMatmulAttributes {
  /** Number of blocks. */
  readonly G: number;
  /** Rows of a block's product. */
  readonly M: number;
  /** Columns of a block's product. */
  readonly N: number;
  /** Extent that is summed over. */
  readonly K: number;
  /** Whether the blocks of A are stored [K, M]. */
  readonly transposeA: boolean;
  /** Whether the blocks of B are stored [N, K]. */
  readonly transposeB: boolean;
  /** How the blocks of A, B and the output lie. */
  readonly stacking: readonly [Stacking, Stacking, Stacking];
}

/** Distances in elements between blocks and between the rows of a block of A, B and the output. */
export function blockStrides(
  { G, M, N, K, transposeA, transposeB, stacking }: BlockMatmulAttributes,
): { block: number; row: number }[] {
  const stored = [transposeA ? [K, M] : [M, K], transposeB ? [N, K] : [K, N], [M, N]] as [number, number][];
  return stored.map(([rows, columns], i) =>
    stacking[i] === "beside" ? { block: columns, row: G * columns } : { block: rows * columns, row: columns }
  );
}

/** Products of fewer tiles than this leave most of a GPU idle, so that K is cut where it is long. */
const FEW_TILES = 256;
/** Least extent of K that is worth a workgroup of its own. */
const LEAST_PART = 512;
/** Rows and columns of a workgroup's part of the output, in plain f32. */
const TILE = 32;

function partsOf({ G, M, N, K }: BlockMatmulAttributes): number {
  const tiles = G * Math.ceil(M / (2 * TILE)) * Math.ceil(N / (2 * TILE));
  return filled(K, Math.max(1, Math.min(Math.ceil(FEW_TILES / tiles), Math.floor(K / LEAST_PART))));
}

/** The product as the kernels on matrix units are told of it. */
function productOf({ attributes, inputs, outputs }: Node<BlockMatmulAttributes>): Product {
  const { M, N, K, transposeA, transposeB } = attributes;
  const [a, b, out] = blockStrides(attributes) as [Stride, Stride, Stride];
  return {
    ...{ M, N, K, widthA: a.row, widthB: b.row, widthOut: out.row },
    layout: { dtypeA: "f32", dtype: inputs[1]!.dtype, transposeA, transposeB, mode: "write", blocks: true },
    part: outputs[1] ? partExtent(K, outputs[1].rows) : K,
    starts: { a: 0, out: 0 },
    distances: { a: a.block, b: b.block, out: out.block },
  };
}

/** The kernels on matrix units that can make a product, the largest tile first. */
function onUnits(node: Node<BlockMatmulAttributes>, limits: DeviceLimits): Kernel[] {
  const product = productOf(node);
  return kernels(limits).filter((kernel) => "blocking" in kernel && serves(kernel, product, limits));
}

/** The passes of a product: on matrix units with a kernel, else in plain f32. */
function lowered(
  node: Node<BlockMatmulAttributes>,
  limits: DeviceLimits,
  kernel: Kernel | undefined,
): Pass[] {
  const { attributes, inputs, outputs } = node, { G, M, N, K, transposeA, transposeB } = attributes;
  const [a, b, out] = blockStrides(attributes) as [Stride, Stride, Stride];
  const parts = outputs[1]?.rows ?? 1, size = outputs[0]!.size, product = productOf(node);
  const stridesA = transposeA ? [1, a.row] : [a.row, 1], stridesB = transposeB ? [1, b.row] : [b.row, 1];
  const bindings = [{ operand: 0 }, { operand: 1 }, { operand: parts > 1 ? 3 : 2 }];
  const tile = kernel ? tileOf(kernel) : { m: TILE, n: TILE };
  const common = { bindings, workgroups: [Math.ceil(N / tile.n), Math.ceil(M / tile.m), G * parts] as const };
  const pass = kernel
    ? {
      ...common,
      wgsl: shaderOf(kernel, product, limits),
      uniforms: [
        ...[M, N, K, 0, 0, ...stridesA, ...stridesB, out.row, product.part, size],
        ...[G, a.block, b.block, out.block],
      ],
    }
    : {
      ...common,
      wgsl: [
        "@group(0) @binding(0) var<uniform> p: Parameters;",
        wgslReader("a", 1, "f32"),
        wgslReader("b", 2, inputs[1]!.dtype),
        "@group(0) @binding(3) var<storage, read_write> out: array<f32>;",
        shader,
      ].join("\n"),
      uniforms: [
        ...[M, N, K, G, a.block, ...stridesA, b.block, ...stridesB, out.block, out.row, product.part, size],
      ],
    };
  if (parts === 1) return [pass];
  return [pass, {
    wgsl: sumShader,
    uniforms: [parts, size, parts, 1],
    bindings: [{ operand: 3 }, { operand: 2 }],
    workgroups: grid(Math.ceil(size / 64), limits),
  }];
}

const blockMatmulOp: Op<BlockMatmulAttributes> = {
  name: "blockMatmul",
  outputs(inputs, attributes) {
    const { G, M, N, K, stacking } = attributes;
    const [a, b] = [inputs[0]!, inputs[1]!];
    if (a.size !== G * M * K || b.size !== G * K * N) {
      throw shapeError("blockMatmul", inputs, `${G} blocks of [${M}, ${K}] and [${K}, ${N}]`);
    }
    if (a.dtype !== "f32") throw shapeError("blockMatmul", inputs, "the first operand must be f32");
    if (b.dtype === "i32") throw shapeError("blockMatmul", inputs, "integers cannot be multiplied");
    const shape = stacking[2] === "beside" ? [M, G * N] : [G * M, N];
    const parts = partsOf(attributes);
    const out = { shape, dtype: "f32" } as const;
    return parts > 1 ? [out, { shape: [parts, G * M * N], dtype: "f32" }] : [out];
  },
  gradient({ graph, attributes, inputs: [a, b], dOutputs: [d], wanted }) {
    const { transposeA, transposeB, stacking: [atA, atB, atOut], ...sizes } = attributes;
    const { M, N, K } = sizes;
    const product = (x: Tensor, y: Tensor, changed: Omit<BlockMatmulAttributes, "G">) =>
      graph.add(blockMatmulOp, [x, y], { ...sizes, ...changed })[0]!;
    const da = !wanted[0] ? undefined : transposeA
      ? product(b!, d!, {
        ...{ M: K, N: M, K: N, transposeA: transposeB, transposeB: true },
        stacking: [atB, atOut, atA],
      })
      : product(d!, b!, {
        ...{ M, N: K, K: N, transposeA: false, transposeB: !transposeB },
        stacking: [atOut, atB, atA],
      });
    const db = !wanted[1] ? undefined : transposeB
      ? product(d!, a!, {
        ...{ M: N, N: K, K: M, transposeA: true, transposeB: transposeA },
        stacking: [atOut, atA, atB],
      })
      : product(a!, d!, {
        ...{ M: K, N, K: M, transposeA: !transposeA, transposeB: false },
        stacking: [atA, atOut, atB],
      });
    return [da, db];
  },
  units: ({ attributes: { G, M } }) => G * M,
  cpu({ attributes, inputs, memory, start, end }) {
    const { M, N, K, transposeA, transposeB } = attributes;
    const [sa, sb, so] = blockStrides(attributes) as [Stride, Stride, Stride];
    const a = memory[0]!, b = widened(memory[1]!, inputs[1]!.dtype), out = memory[2]!;
    for (let unit = start; unit < end; unit++) {
      const g = Math.floor(unit / M), m = unit % M;
      for (let n = 0; n < N; n++) {
        let sum = 0;
        for (let k = 0; k < K; k++) {
          const x = a[g * sa.block + (transposeA ? k * sa.row + m : m * sa.row + k)]!;
          sum += x * b[g * sb.block + (transposeB ? n * sb.row + k : k * sb.row + n)]!;
        }
        out[g * so.block + m * so.row + n] = sum;
      }
    }
  },
  webgpu: (node, limits) => lowered(node, limits, undefined),
  alternatives: (node, limits) => {
    const { M, N } = node.attributes;
    const units = onUnits(node, limits).map((kernel) => ({
      name: nameOf(kernel),
      worthTrying: tileOf(kernel).m <= 2 * M && tileOf(kernel).n <= 2 * N,
      passes: () => lowered(node, limits, kernel),
    }));
    // In plain f32 there is one, so that nothing has to be measured.
    const plain = {
      name: "f32",
      worthTrying: units.length === 0,
      passes: () => lowered(node, limits, undefined),
    };
    return [plain, ...units];
  },
};

type Stride = ReturnType<typeof blockStrides>[number];

/**
 * G matrix products at once.
 * @param a f32, blocks [M, K], or [K, M] with `transposeA`
 * @param b f32, f16 or bf16, blocks [K, N], or [N, K] with `transposeB`
 * @param options.stacking how the blocks of a, b and the output lie
 * @returns f32 [M, G·N] for an output whose blocks lie side by side, else [G·M, N]
 * @throws RangeError if the operands do not hold G blocks of those sizes
 */
export function blockMatmul(
  graph: Graph,
  a: Tensor,
  b: Tensor,
  options:
    & Omit<BlockMatmulAttributes, "transposeA" | "transposeB">
    & Partial<Pick<BlockMatmulAttributes, "transposeA" | "transposeB">>,
): Tensor {
  return graph.add(blockMatmulOp, [a, b], { transposeA: false, transposeB: false, ...options })[0]!;
}
