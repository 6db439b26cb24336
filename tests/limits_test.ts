/**
 * Devices with small limits: tensors over the largest binding, more workgroups than fit one dimension, eight buffers a pass.
 *
 * The device is a real one that reports smaller limits than it has; the engine refuses to bind more than is reported.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Engine } from "../kernels/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import type { AdapterReport } from "../kernels/engines/webgpu/device.ts";
import { Graph, sizeOf, type Tensor, Variable } from "../kernels/graph.ts";
import { embedding } from "../kernels/ops/embedding/op.ts";
import { fold } from "../kernels/ops/fold/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { norm } from "../kernels/ops/norm/op.ts";
import { adamW, sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { reduceGroups, reduceRows } from "../kernels/ops/reduce/op.ts";
import { sliceRows } from "../kernels/ops/rows/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { accumulate } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { type Case, fixed, given, run, stored, uniform } from "./conformance.ts";
import { openWebGpu, relativeError, withoutGpu } from "./engines.ts";
import { smallModel, trainingGraph } from "./small_model.ts";

/** The adapter, whose devices report these limits instead of their own. */
function limited(report: AdapterReport, limits: Partial<GPUSupportedLimits>): AdapterReport {
  const requestDevice = async (descriptor?: GPUDeviceDescriptor) => {
    const device = await report.adapter.requestDevice(descriptor);
    const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
    const { maxComputeWorkgroupsPerDimension, maxStorageBuffersPerShaderStage } = device.limits;
    const own = {
      maxBufferSize,
      maxStorageBufferBindingSize,
      maxComputeWorkgroupsPerDimension,
      maxStorageBuffersPerShaderStage,
    };
    return Object.defineProperty(device, "limits", { value: { ...own, ...limits } });
  };
  const { limits: own, features } = report.adapter;
  return { ...report, adapter: { limits: own, features, requestDevice } as unknown as GPUAdapter };
}

let small: Promise<Engine> | undefined;

/** Binds 16 KiB at most, and dispatches five workgroups in one dimension. */
function smallDevice(): Promise<Engine> {
  const limits = { maxStorageBufferBindingSize: 16384, maxComputeWorkgroupsPerDimension: 5 };
  return small ??= openWebGpu((report) => limited(report, limits));
}

Deno.test.afterAll(async () => (await small?.catch(() => undefined))?.dispose());

/** Sizes of a tensor in the table below that is bound in three ranges: 300 rows of 66 (bf16) or 132 bytes. */
const LONG = 300, ODD = 33;

function splitProduct(
  transposeA: boolean,
  transposeB: boolean,
  dtype: "f32" | "bf16",
  addend: boolean,
): Case {
  const [M, N, K] = transposeB ? [13, LONG, ODD] : [13, ODD, LONG];
  const b = transposeB ? [N, K] : [K, N];
  return {
    name:
      `matmul + ${transposeA ? "Aᵀ" : "A"}·${transposeB ? "Bᵀ" : "B"}, ${dtype} B over the binding limit` +
      (addend ? ", an addend" : ""),
    inputs: [
      fixed(uniform(transposeA ? [K, M] : [M, K])),
      dtype === "f32" ? fixed(uniform(b)) : stored(dtype, b),
      ...(addend ? [fixed(uniform([M, N]))] : []),
    ],
    build: (
      g,
      [a, b, addend],
    ) => [matmul(g, a!, b!, { transposeA, transposeB, ...(addend ? { addend } : {}) })],
  };
}

function splitOutput(transposeA: boolean, transposeB: boolean): Case {
  const M = 150, N = 36, K = 5;
  return {
    name: `matmul + ${transposeA ? "Aᵀ" : "A"}·${
      transposeB ? "Bᵀ" : "B"
    } and an addend, output over the binding limit`,
    inputs: [
      fixed(uniform(transposeA ? [K, M] : [M, K])),
      fixed(uniform(transposeB ? [N, K] : [K, N])),
      fixed(uniform([M, N])),
    ],
    build: (g, [a, b, addend]) => [matmul(g, a!, b!, { transposeA, transposeB, addend: addend! })],
  };
}

/** Rows of both ends, both sides of each border between ranges, and ids outside the table. */
const IDS = given([299, 0, 127, 128, 63, 64, 255, 256, -1, 300, 128], [11, 1], "i32");

const wide = fixed(uniform([9001]));

const OVER_THE_BINDING: Case[] = [
  ...[false, true].flatMap((transposeA) =>
    [false, true].flatMap((transposeB) => [
      splitProduct(transposeA, transposeB, "f32", false),
      splitProduct(transposeA, transposeB, "bf16", true),
      splitOutput(transposeA, transposeB),
    ])
  ),
  ...[stored("bf16", [LONG, ODD]), stored("f16", [LONG, ODD]), uniform([LONG, ODD])].map((table): Case => ({
    name: `embedding + ${table.dtype} table over the binding limit, and its gradient`,
    inputs: [table, IDS],
    build: (g, [table, ids]) => [embedding(g, table!, ids!)],
  })),
  ...[4096, 4097, 9001].map((size): Case => ({
    name: `sumOfSquares + ${size} elements over the binding limit`,
    inputs: [fixed(uniform([size]))],
    build: (g, [x]) => [sumOfSquares(g, x!)],
  })),
  {
    name: "accumulate + a variable over the binding limit",
    inputs: [wide, wide],
    updates: [0],
    build: (g, [, value], [variable]) => (accumulate(g, variable!, value!), []),
  },
  {
    name: "adamW + variables over the binding limit",
    inputs: [
      wide,
      wide,
      wide,
      fixed(uniform([9001], 1e-4, 1e-2)),
      given([1e-2, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 1, 1], [9]),
    ],
    updates: [0, 1, 2, 3],
    build: (graph, [, gradient], [p, g, m, v, settings]) => {
      adamW(
        graph,
        { p: p!, g: g!, m: m!, v: v!, rate: 1, decay: 1 },
        sumOfSquares(graph, gradient!),
        settings!,
      );
      return [];
    },
  },
];

const SEVERAL_WORKGROUP_ROWS: Case[] = [
  {
    name: "map",
    inputs: [uniform([23, 60]), uniform([60])],
    build: (g, x) => [map(g, x, (x, v) => x.mul(v))],
  },
  {
    name: "reduceRows",
    inputs: [uniform([10, 400])],
    build: (g, [x]) => [reduceRows(g, x!, [400])],
  },
  {
    name: "reduceGroups",
    inputs: [uniform([12, 70])],
    build: (g, [x]) => [reduceGroups(g, x!, [12, 1])],
  },
  {
    name: "norm",
    inputs: [uniform([23, 130]), uniform([130]), uniform([130])],
    build: (g, [x, weight, bias]) => [norm(g, x!, weight!, bias!, { groups: 2, eps: 1e-5 })],
  },
  {
    name: "tokenShift",
    inputs: [uniform([20, 70]), uniform([70]), uniform([70])],
    build: (g, [x, ...mixes]) => tokenShift(g, x!, mixes, { T: 10 }),
  },
  {
    name: "sliceRows, fold and tile",
    inputs: [uniform([61, 60])],
    build: (g, [x]) => [fold(g, sliceRows(g, x!, 1, 60), 3)],
  },
];

for (const testCase of [...OVER_THE_BINDING, ...SEVERAL_WORKGROUP_ROWS]) {
  const several = SEVERAL_WORKGROUP_ROWS.includes(testCase);
  Deno.test({
    name: several ? `${testCase.name} + more workgroups than one dimension has` : testCase.name,
    ignore: withoutGpu,
    sanitizeResources: false,
    sanitizeOps: false,
    async fn() {
      const wanted = await run(new Oracle(), testCase);
      const got = await run(await smallDevice(), testCase, { poison: several });
      for (const [result, values] of wanted) {
        const error = relativeError(got.get(result)!, values);
        assert.ok(error <= 2e-6, `${result}: normalised error ${error}`);
      }
    },
  });
}

Deno.test({
  name:
    "WebGpuEngine.load + a tensor over the binding limit that its op does not split: error, and memory given back",
  ignore: withoutGpu,
  sanitizeResources: false,
  sanitizeOps: false,
  async fn() {
    const engine = await smallDevice();
    const graph = new Graph(), x = new Variable("x", [5000]);
    accumulate(graph, x, map(graph, [graph.use(x)], (x) => x.exp()));
    engine.allocate(x);
    const before = engine.allocatedBytes;
    try {
      await assert.rejects(engine.load(compile(graph)), /^EngineError: Cannot bind .*20000 bytes.*16384/);
      assert.equal(engine.allocatedBytes, before);
    } finally {
      engine.free(x);
    }
  },
});

Deno.test("Op.webgpu + 65536 × 1100 elements: no dimension over 65535 workgroups, none left out", () => {
  const limits = { bindingBytes: 2 ** 31, workgroups: 65535, workgroupBytes: 16384 };
  const graph = new Graph();
  const x = graph.use(new Variable("x", [65536, 1100])), vector = graph.use(new Variable("v", [1100]));
  const elementwise: Tensor[] = [
    map(graph, [x, vector], (x, v) => x.mul(v)),
    ...tokenShift(graph, x, [vector], { T: 256 }),
    fold(graph, x, 99),
    sliceRows(graph, x, 1, 65535),
    embedding(graph, x, graph.use(new Variable("ids", [65536, 1], "i32"))),
  ];
  for (const out of elementwise) {
    const node = graph.nodes.find(({ outputs }) => outputs.includes(out))!;
    const passes = node.op.webgpu(node, limits);
    for (const { workgroups } of passes) assert.ok(workgroups.every((n) => n <= 65535), node.op.name);
    const threads = passes.reduce((sum, { wgsl, workgroups: [x, y, z] }) => {
      const size = /@workgroup_size\((\d+)\)/.exec(wgsl) ?? /const THREADS = (\d+)u;/.exec(wgsl);
      return sum + x * y * z * Number(size![1]);
    }, 0);
    // A thread makes four elements where rows are multiples of four.
    assert.ok(4 * threads >= sizeOf(out.shape), node.op.name);
  }
});

Deno.test("Op.webgpu + every pass of a training step: at most eight storage bindings", () => {
  // More than eight are a favour of the device: WebGPU promises eight.
  using model = smallModel(new Oracle());
  for (const adapter of [false, true]) {
    const graph = trainingGraph(model, { adapter });
    const most = compile(graph).nodes.flatMap((node) =>
      node.op.webgpu(node, { bindingBytes: 2 ** 27, workgroups: 65535, workgroupBytes: 16384 }).map((
        { bindings },
      ) => ({
        op: node.op.name,
        bindings: bindings.length,
      }))
    );
    assert.deepEqual(most.filter(({ bindings }) => bindings > 8), []);
  }
});
