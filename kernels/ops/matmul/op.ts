/**
 * matmul: `out[M, N] = op(A) · op(B) (+ addend)`, where op transposes or not. Sums are f32 (f64 in the oracle).
 *
 * With weights stored `[out, in]`: x·Wᵀ is `transposeB`; dX = dY·W is plain; dW = dYᵀ·X is `transposeA`.
 * B may be packed f16 or bf16, and A f16, which are widened in registers. The gradient of each operand is again a matmul.
 * A B over the device's binding limit is taken in ranges of its rows.
 *
 * @module
 */
import { bytesOf, type Graph, type Node, type Tensor } from "../../graph.ts";
import {
  type DeviceLimits,
  grid,
  type NumberArray,
  type Op,
  type Pass,
  shapeError,
  widened,
} from "../../op.ts";
import sumShader from "../reduce/reduce_rows.wgsl" with { type: "text" };
import {
  type Kernel,
  kernels,
  nameOf,
  preferred,
  type Product,
  serves,
  shaderOf,
  tileOf,
  worthTrying,
} from "./kernels.ts";
import type { Layout } from "./layout.ts";

/** Which operands are stored transposed: A as [K, M], B as [N, K]. */
export interface MatmulAttributes {
  readonly transposeA: boolean;
  readonly transposeB: boolean;
}

/** Sizes of the product. */
export function extents(
  inputs: readonly Tensor[],
  { transposeA, transposeB }: MatmulAttributes,
): { M: number; N: number; K: number } {
  const [a, b] = [inputs[0]!, inputs[1]!];
  return {
    M: transposeA ? a.width : a.rows,
    K: transposeA ? a.rows : a.width,
    N: transposeB ? b.rows : b.width,
  };
}

/** A product of fewer tiles of 64 × 64 than this leaves most of a GPU idle. */
const FEW_TILES = 64;
/** Least extent of K that is worth a workgroup of its own. */
const LEAST_PART = 512;

/**
 * Into how many parts K is cut: a weight's gradient has few tiles and a K of all rows. The parts are added in a fixed order.
 * Products over the smallest binding limit or with an addend are not cut.
 */
function partsOf({ M, N, K }: { M: number; N: number; K: number }, operands: number): number {
  const tiles = Math.ceil(M / 64) * Math.ceil(N / 64);
  if (operands > 2 || tiles >= FEW_TILES) return 1;
  return filled(K, Math.max(1, Math.min(Math.ceil(2 * FEW_TILES / tiles), Math.floor(K / LEAST_PART))));
}

/** Parts of K that begin within it, for at most so many. */
export function filled(K: number, parts: number): number {
  return parts > 1 ? Math.ceil(K / partExtent(K, parts)) : 1;
}

/** Extent of a part of K: a multiple of the shaders' slices. */
export function partExtent(K: number, parts: number): number {
  return Math.ceil(K / parts / 64) * 64;
}

/** Byte ranges of a tensor's rows, each within the binding limit and starting where a binding may start. */
export function rowRanges(
  rows: number,
  rowBytes: number,
  limits: DeviceLimits,
): { first: number; count: number; byteOffset: number; byteLength: number }[] {
  let step = Math.max(1, Math.floor(limits.bindingBytes / rowBytes));
  if (step < rows) {
    let aligned = 1;
    while (aligned * rowBytes % 256) aligned *= 2;
    step = Math.floor(step / aligned) * aligned;
    if (step === 0) {
      throw new RangeError(`Cannot bind rows of ${rowBytes} bytes within ${limits.bindingBytes}`);
    }
  }
  const ranges = [];
  for (let first = 0; first < rows; first += step) {
    const count = Math.min(step, rows - first);
    const byteLength = Math.ceil(count * rowBytes / 4) * 4;
    ranges.push({ first, count, byteOffset: first * rowBytes, byteLength });
  }
  return ranges;
}

/** The op; use {@link matmul}. */
export const matmulOp: Op<MatmulAttributes> = {
  name: "matmul",
  outputs(inputs, attributes) {
    const [a, b, addend] = inputs;
    const { M, N, K } = extents(inputs, attributes);
    const inner = attributes.transposeB ? b!.width : b!.rows;
    if (K !== inner) throw shapeError("matmul", inputs, `inner sizes ${K} and ${inner} must be equal`);
    if (addend && addend.size !== M * N) {
      throw shapeError("matmul", inputs, `the addend must be [${M}, ${N}]`);
    }
    if (a!.dtype !== "f32" && a!.dtype !== "f16") {
      throw shapeError("matmul", inputs, "the first operand must be f32 or f16");
    }
    if (b!.dtype === "i32") throw shapeError("matmul", inputs, "integers cannot be multiplied");
    const parts = partsOf({ M, N, K }, inputs.length);
    const out = { shape: [M, N], dtype: "f32" } as const;
    return parts > 1 ? [out, { shape: [parts, M * N], dtype: "f32" }] : [out];
  },
  gradient({ graph, attributes: { transposeA, transposeB }, inputs: [a, b], dOutputs: [d], wanted }) {
    const da = !wanted[0]
      ? undefined
      : transposeA
      ? matmul(graph, asMatrix(b!), d!, { transposeA: transposeB, transposeB: true })
      : matmul(graph, d!, b!, { transposeB: !transposeB });
    const db = !wanted[1]
      ? undefined
      : transposeB
      ? matmul(graph, d!, a!, { transposeA: true, transposeB: transposeA })
      : matmul(graph, a!, d!, { transposeA: !transposeA });
    return [da, db, wanted[2] ? d : undefined];
  },
  readsHalves({ inputs: [a, b] }) {
    const onUnits = a!.width % 8 === 0 && b!.width % 8 === 0;
    return onUnits ? [0, 1] : [];
  },
  units: ({ outputs }) => outputs[0]!.rows,
  cpu({ attributes, inputs, memory, start, end }) {
    const { M, N, K } = extents(inputs, attributes);
    const { transposeA, transposeB } = attributes;
    const a = widened(memory[0]!, inputs[0]!.dtype),
      b = widened(memory[1]!, inputs[1]!.dtype),
      out = memory[inputs.length]!;
    const addend: NumberArray | undefined = inputs[2] && memory[2];
    const row = new Float64Array(N);
    for (let m = start; m < end; m++) {
      for (let n = 0; n < N; n++) row[n] = addend ? addend[m * N + n]! : 0;
      for (let k = 0; k < K; k++) {
        const x = transposeA ? a[k * M + m]! : a[m * K + k]!;
        if (transposeB) { for (let n = 0; n < N; n++) row[n]! += x * b[n * K + k]!; }
        else for (let n = 0; n < N; n++) row[n]! += x * b[k * N + n]!;
      }
      out.set(row, m * N);
    }
  },
  webgpu: (node, limits) => lowered(node, limits, preferred),
  alternatives: (node, limits) => {
    const { M, N } = extents(node.inputs, node.attributes);
    return kernels(limits).map((kernel) => ({
      name: nameOf(kernel),
      worthTrying: worthTrying(kernel, { M, N }, limits),
      passes: () => lowered(node, limits, () => kernel),
    }));
  },
};

/** Whether a node is a product to which something can be added in the same pass. */
export function takesAddend(node: Node): boolean {
  return node.op === matmulOp && node.inputs.length === 2 && node.outputs.length === 1;
}

/** The passes of a product, each by the kernel that `choose` takes of those that can do it. */
function lowered(
  { attributes, inputs, outputs }: Node<MatmulAttributes>,
  limits: DeviceLimits,
  choose: (product: Product, limits: DeviceLimits) => Kernel,
): Pass[] {
  const { M, N, K } = extents(inputs, attributes);
  const { transposeA, transposeB } = attributes;
  const [a, b, addend] = inputs;
  const out = inputs.length;
  const pass = (
    sizes: { M: number; N: number; K: number },
    starts: { a: number; out: number },
    ranges: { b?: object; out?: object },
    mode: Layout["mode"],
    parts = 1,
  ): Pass => {
    const layout = { dtypeA: a!.dtype, dtype: b!.dtype, transposeA, transposeB, mode };
    const part = parts > 1 ? partExtent(K, parts) : sizes.K;
    const product = { ...sizes, layout, part, widthA: a!.width, widthB: b!.width, widthOut: N, starts };
    const wanted = choose(product, limits);
    const kernel = serves(wanted, product, limits) ? wanted : preferred(product, limits);
    const { m, n } = tileOf(kernel);
    return {
      wgsl: shaderOf(kernel, product, limits),
      uniforms: [
        ...[sizes.M, sizes.N, sizes.K, starts.a, starts.out],
        ...(transposeA ? [1, M] : [K, 1]),
        ...(transposeB ? [1, K] : [N, 1]),
        ...[N, part, M * N],
      ],
      bindings: [
        { operand: 0 },
        { operand: 1, ...ranges.b },
        { operand: parts > 1 ? out + 1 : out, ...ranges.out },
        ...(mode === "addend" ? [{ operand: 2, ...ranges.out }] : []),
      ],
      workgroups: [Math.ceil(sizes.N / n), Math.ceil(sizes.M / m), parts],
    };
  };
  const first = addend ? "addend" : "write";
  if (bytesOf(b!) > limits.bindingBytes) {
    const rowBytes = b!.width * (b!.dtype === "f32" ? 4 : 2);
    const whole = (r: { byteOffset: number; byteLength: number }) => ({
      b: { byteOffset: r.byteOffset, byteLength: r.byteLength },
    });
    return rowRanges(b!.rows, rowBytes, limits).map((r, i) =>
      transposeB ? pass({ M, N: r.count, K }, { a: 0, out: r.first }, whole(r), first) : pass(
        { M, N, K: r.count },
        { a: r.first * (transposeA ? M : 1), out: 0 },
        whole(r),
        i ? "accumulate" : first,
      )
    );
  }
  if (bytesOf(outputs[0]!) > limits.bindingBytes) {
    return rowRanges(M, N * 4, limits).map(({ first: m, count, byteOffset, byteLength }) =>
      pass(
        { M: count, N, K },
        { a: m * (transposeA ? 1 : K), out: 0 },
        { out: { byteOffset, byteLength } },
        first,
      )
    );
  }
  const parts = outputs[1]?.rows ?? 1;
  const product = pass({ M, N, K }, { a: 0, out: 0 }, {}, first, parts);
  if (parts === 1) return [product];
  return [product, {
    wgsl: sumShader,
    uniforms: [parts, M * N, parts, 1],
    bindings: [{ operand: out + 1 }, { operand: out }],
    workgroups: grid(Math.ceil(M * N / 64), limits),
  }];
}

function asMatrix(t: Tensor): Tensor {
  if (t.dtype !== "f32") {
    throw new RangeError("Cannot differentiate a transposed product by its first operand in 16 bits");
  }
  return t;
}

/**
 * Matrix product. A: f32 or f16 [M, K] (or [K, M] with `transposeA`); B: f32, f16 or bf16 [K, N] (or [N, K] with `transposeB`);
 * leading dimensions count as rows.
 * @param options.addend [M, N], added to the product
 * @returns f32 [M, N]
 */
export function matmul(
  graph: Graph,
  a: Tensor,
  b: Tensor,
  options: { transposeA?: boolean; transposeB?: boolean; addend?: Tensor } = {},
): Tensor {
  const { transposeA = false, transposeB = false, addend } = options;
  return graph.add(matmulOp, addend ? [a, b, addend] : [a, b], { transposeA, transposeB })[0]!;
}
