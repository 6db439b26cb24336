/**
 * Where a training step's time goes on a GPU: time, bandwidth and FLOP rate of each kind of op, timed on the device itself, as a
 * share of what the device reaches when it only copies or only multiplies.
 *
 *     deno task profile [--engine webgpu|deno|dawn] [--precision auto|fp32] [--rows 0.1B:1x1024] [--detail]
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { type Precision, WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { bytesOf, Graph, inputsRead, type Node, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { extents, matmul, type MatmulAttributes } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { batchOf, rowsNamed, subjects } from "./subject.ts";

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "webgpu" },
    precision: { type: "string", default: "auto" },
    rows: { type: "string", default: "0.1B:1x1024" },
    detail: { type: "boolean", default: false },
  },
});
const { engine, reason } = await chooseEngine(values.engine as EngineChoice, {
  precision: values.precision as Precision,
});
if (!(engine instanceof WebGpuEngine)) {
  throw new Error("Only a GPU is profiled: the cpu engine has bench:step");
}
console.log(reason);

/** Bytes that a node must read and write at least. */
const traffic = (node: Node) =>
  [...inputsRead(node), ...node.outputs].reduce((sum, t) => sum + bytesOf(t), 0);

/** Multiplications and additions of a product; 0 for other ops. */
function flops(node: Node): number {
  if (node.op.name !== "matmul") return 0;
  const { M, N, K } = extents(node.inputs, node.attributes as MatmulAttributes);
  return 2 * M * N * K;
}

/** The fastest of some runs of one node that reads and writes variables of a size. */
async function ceiling(
  size: number,
  build: (graph: Graph, a: Variable, b: Variable) => void,
): Promise<Node & { ms: number }> {
  const [a, b] = ["a", "b"].map((name) => new Variable(name, [size, size])) as [Variable, Variable];
  const graph = new Graph();
  build(graph, a, b);
  const content = Float32Array.from({ length: size * size }, (_, i) => Math.sin(i));
  [a, b].forEach((variable) => (engine as WebGpuEngine).allocate(variable, content));
  try {
    const program = compile(graph);
    let best = Infinity, node = program.nodes[0]!;
    for (let i = 0; i < 5; i++) {
      for (const [timed, ms] of await (engine as WebGpuEngine).profile(program)) {
        if (timed.op.name !== "update" && ms < best) [best, node] = [ms, timed];
      }
    }
    return { ...node, ms: best };
  } finally {
    [a, b].forEach((variable) => engine.free(variable));
  }
}

const SIDE = 4096;
const copied = await ceiling(SIDE, (g, a, b) => assign(g, b, map(g, [g.use(a)], (x) => x.add(1))));
const product = await ceiling(
  SIDE,
  (g, a, b) => assign(g, b, matmul(g, g.use(a), g.use(b), { transposeB: true })),
);
const bandwidth = traffic(copied) / copied.ms / 1e6, rate = flops(product) / product.ms / 1e9;
console.log(
  `Ceilings: ${bandwidth.toFixed(0)} GB/s (a map over ${SIDE}²), ${
    rate.toFixed(1)
  } TFLOP/s (a product of ${SIDE}³)`,
);

for (const { row, programs } of subjects(rowsNamed(values.rows), engine)) {
  const loaded = await programs.load();
  // Values as a run has them: how fast some ops are depends on what they read.
  loaded.accumulate(batchOf(row), row.B * row.T, 0);
  const times = await engine.profile(programs.gradients);
  loaded[Symbol.dispose]();
  const kinds = new Map<string, { count: number; ms: number; bytes: number; flops: number }>();
  let total = 0;
  for (const [node, ms] of times) {
    const shapes = values.detail
      ? " " +
        [
          ...inputsRead(node).map((t) => t.shape.join("×")),
          "→",
          ...node.outputs.map((t) => t.shape.join("×")),
        ].join(" ")
      : "";
    const kind = `${node.op.name}${shapes}`, sum = kinds.get(kind) ?? { count: 0, ms: 0, bytes: 0, flops: 0 };
    kinds.set(kind, {
      count: sum.count + 1,
      ms: sum.ms + ms,
      bytes: sum.bytes + traffic(node),
      flops: sum.flops + flops(node),
    });
    total += ms;
  }
  console.log(
    `\n${row.name} ${row.B}×${row.T}: ${
      total.toFixed(1)
    } ms on the device, without the gaps between dispatches${
      programs.parts > 1 ? `, for one of ${programs.parts} parts` : ""
    }`,
  );
  console.log("        ms  share  nodes      GB/s  of it    TFLOP/s  of it   op");
  for (
    const [kind, { count, ms, bytes, flops }] of [...kinds].sort(([, a], [, b]) => b.ms - a.ms).slice(0, 40)
  ) {
    const percent = (x: number) => `${(100 * x).toFixed(0)} %`.padStart(6);
    const speed = bytes / ms / 1e6, work = flops / ms / 1e9;
    console.log(
      `${ms.toFixed(2).padStart(10)} ${percent(ms / total)} ${String(count).padStart(6)} ` +
        `${speed.toFixed(0).padStart(9)} ${percent(speed / bandwidth)} ` +
        (flops ? `${work.toFixed(1).padStart(10)} ${percent(work / rate)}` : " ".repeat(17)) + `   ${kind}`,
    );
  }
}
Deno.exit(0);
