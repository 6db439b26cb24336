/**
 * Every shader that may make a product, on products that fill its tile and products that do not.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Engine } from "../kernels/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { Graph, type StorageType, Variable } from "../kernels/graph.ts";
import { blockMatmul, type BlockMatmulAttributes } from "../kernels/ops/block_matmul/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { contentOf, stored, uniform } from "./conformance.ts";
import { randomNumbers, relativeError, resultsOf, testOnEngines, toleranceOn } from "./engines.ts";

/** What f32 arithmetic may differ by. */
const TOLERANCE = 2e-6;

interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly dtypeA?: "f32" | "f16";
  readonly dtype?: StorageType;
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
  readonly addend?: boolean;
}

const PRODUCTS: readonly Product[] = [
  { M: 64, N: 96, K: 64, transposeB: true },
  { M: 144, N: 80, K: 72, dtype: "bf16", transposeB: true },
  { M: 48, N: 144, K: 40, dtype: "bf16" },
  { M: 48, N: 32, K: 36, dtype: "f16", addend: true },
  { M: 80, N: 64, K: 100, transposeA: true },
  { M: 144, N: 80, K: 72, dtypeA: "f16", dtype: "bf16", transposeB: true },
  { M: 48, N: 136, K: 40, dtypeA: "f16", dtype: "f16", addend: true },
  { M: 128, N: 128, K: 64, dtypeA: "f16" },
  { M: 80, N: 64, K: 104, dtypeA: "f16", transposeA: true },
  { M: 37, N: 43, K: 23, dtypeA: "f16" },
  { M: 16, N: 16, K: 1104, dtypeA: "f16", transposeA: true },
  { M: 37, N: 44, K: 60 },
  { M: 37, N: 43, K: 24, transposeB: true, addend: true },
  { M: 20, N: 24, K: 41, transposeA: true },
  { M: 3, N: 5, K: 7 },
  // Few tiles and a long K: added up in parts.
  { M: 16, N: 16, K: 1100, transposeA: true },
];

/** A program that leaves the product in `result`, with its inputs' content. */
function programOf(
  { M, N, K, dtypeA = "f32", dtype = "f32", transposeA = false, transposeB = false, addend }: Product,
) {
  const graph = new Graph(), random = randomNumbers(5), content = new Map<Variable, ArrayBufferView>();
  const input = (name: string, shape: number[], dtype: StorageType) => {
    const variable = new Variable(name, shape, dtype);
    content.set(variable, contentOf(dtype === "f32" ? uniform(shape) : stored(dtype, shape), random));
    return graph.use(variable);
  };
  const a = input("a", transposeA ? [K, M] : [M, K], dtypeA);
  const b = input("b", transposeB ? [N, K] : [K, N], dtype);
  const product = matmul(graph, a, b, {
    transposeA,
    transposeB,
    ...(addend && { addend: input("addend", [M, N], "f32") }),
  });
  const result = new Variable("result", [M, N]);
  content.set(result, new Float32Array(M * N).fill(NaN));
  assign(graph, result, product);
  return { program: compile(graph), content, result };
}

/** The one result of a program. */
const resultOf = async (
  engine: Engine,
  program: Program,
  content: Map<Variable, ArrayBufferView>,
  result: Variable,
) => (await resultsOf(engine, program, content, [result]))[0]!;

for (const product of PRODUCTS) {
  const { M, N, K, ...how } = product;
  testOnEngines(
    `alternatives of matmul + ${M}×${N}×${K} ${JSON.stringify(how)}: as the oracle`,
    async (engine) => {
      if (!(engine instanceof WebGpuEngine)) return;
      const { program, content, result } = programOf(product);
      const wanted = await resultOf(new Oracle(), program, content, result);
      const node = program.nodes.find(({ op }) => op.name === "matmul")!;
      const alternatives = node.op.alternatives!(node, engine.limits);
      assert.equal(alternatives.length > 2, engine.matrixUnits);
      for (const { name, passes } of alternatives) {
        const nodes = program.nodes.map((other) =>
          other === node ? { ...node, op: { ...node.op, webgpu: passes, alternatives: undefined! } } : other
        );
        const got = await resultOf(engine, { ...program, nodes }, content, result);
        const error = relativeError(got, wanted), allowed = toleranceOn(engine, TOLERANCE);
        assert.ok(error <= allowed, `${name}: normalised error ${error} is above ${allowed}`);
      }
    },
    { oracle: false },
  );
}

const BLOCKS: readonly BlockMatmulAttributes[] = [
  // BAT's three products by input block: forward, by its input, and by its blocks, where few tiles have a long K.
  {
    G: 3,
    M: 144,
    N: 64,
    K: 64,
    transposeA: false,
    transposeB: true,
    stacking: ["beside", "below", "beside"],
  },
  {
    G: 3,
    M: 144,
    N: 64,
    K: 64,
    transposeA: false,
    transposeB: false,
    stacking: ["beside", "below", "beside"],
  },
  {
    G: 3,
    M: 64,
    N: 64,
    K: 1664,
    transposeA: true,
    transposeB: false,
    stacking: ["beside", "beside", "below"],
  },
  // Tiles that are not filled, and widths that 16 bytes do not divide.
  { G: 2, M: 40, N: 24, K: 40, transposeA: false, transposeB: true, stacking: ["beside", "below", "beside"] },
  {
    G: 5,
    M: 20,
    N: 20,
    K: 1100,
    transposeA: true,
    transposeB: false,
    stacking: ["beside", "beside", "below"],
  },
  { G: 3, M: 33, N: 6, K: 6, transposeA: false, transposeB: false, stacking: ["below", "below", "below"] },
];
for (const attributes of BLOCKS) {
  const { G, M, N, K, ...how } = attributes;
  testOnEngines(
    `alternatives of blockMatmul + ${G} of ${M}×${N}×${K} ${JSON.stringify(how)}: as the oracle`,
    async (engine) => {
      if (!(engine instanceof WebGpuEngine)) return;
      const graph = new Graph(), random = randomNumbers(5), content = new Map<Variable, ArrayBufferView>();
      const input = (name: string, size: number) => {
        const variable = new Variable(name, [size]);
        content.set(variable, contentOf(uniform([size]), random));
        return graph.use(variable);
      };
      const product = blockMatmul(graph, input("a", G * M * K), input("b", G * K * N), attributes);
      const result = new Variable("result", product.shape);
      content.set(result, new Float32Array(product.size).fill(NaN));
      assign(graph, result, product);
      const program = compile(graph), wanted = await resultOf(new Oracle(), program, content, result);
      const node = program.nodes.find(({ op }) => op.name === "blockMatmul")!;
      const alternatives = node.op.alternatives!(node, engine.limits),
        onUnits = [N, K].every((n) => n % 4 === 0);
      assert.equal(alternatives.length > 1, engine.matrixUnits && onUnits);
      const lowerings = [...alternatives, {
        name: "default",
        passes: () => node.op.webgpu(node, engine.limits),
      }];
      for (const { name, passes } of lowerings) {
        const nodes = program.nodes.map((other) =>
          other === node ? { ...node, op: { ...node.op, webgpu: passes, alternatives: undefined! } } : other
        );
        const got = await resultOf(engine, { ...program, nodes }, content, result);
        const error = relativeError(got, wanted), allowed = toleranceOn(engine, TOLERANCE);
        assert.ok(error <= allowed, `${name}: normalised error ${error} is above ${allowed}`);
      }
    },
    { oracle: false },
  );
}
