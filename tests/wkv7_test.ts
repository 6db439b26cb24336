/**
 * The recurrence on a GPU, divided in every way that may be chosen, against the oracle.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import type { Engine } from "../kernels/engine.ts";
import type { Node } from "../kernels/graph.ts";
import type { DeviceLimits } from "../kernels/op.ts";
import { wkv7, type Wkv7Attributes } from "../kernels/ops/wkv7/op.ts";
import {
  backwardPasses,
  forwardPasses,
  type ScanLayout,
  scanLayout,
  solvedSize,
  workgroupBytesOf,
} from "../kernels/ops/wkv7/webgpu.ts";
import type { Program } from "../kernels/plan.ts";
import { type Case, run, uniform } from "./conformance.ts";
import { openWebGpu, relativeError, withoutGpu } from "./engines.ts";

const [B, T, H, N] = [1, 37, 1, 32];
const stream = (low: number, high: number) => uniform([B * T, H * N], low, high);

const CASE: Case = {
  name: "wkv7",
  inputs: [
    stream(-1, 1),
    stream(0.55, 1),
    stream(-1, 1),
    stream(-1, 1),
    stream(-1 / N, 1 / N),
    stream(-1, 1),
    uniform([B, H * N * N]),
  ],
  build: (g, [r, w, k, v, a, b, initial]) => {
    const streams = { r: r!, w: w!, k: k!, v: v!, a: a!, b: b! };
    const { y, state } = wkv7(g, streams, { T, N, state: initial! });
    return [y, state];
  },
};

/** The engine, with the recurrence divided so. */
function dividing(engine: Engine, scan: ScanLayout): Engine {
  const divided = (node: Node): Node => {
    const { op } = node, wkv = node as Node<Wkv7Attributes>;
    const webgpu = (_: Node, limits: DeviceLimits) => {
      if (op.name === "wkv7") return forwardPasses(wkv, limits, scan);
      if (op.name === "wkv7Gradient") return backwardPasses(wkv, limits, scan);
      return op.webgpu(node, limits);
    };
    return { ...node, op: { ...op, webgpu } };
  };
  const load = (program: Program) => engine.load({ ...program, nodes: program.nodes.map(divided) });
  return new Proxy(engine, {
    get(target, name) {
      if (name === "load") return load;
      const value = Reflect.get(target, name);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const SCANS: ScanLayout[] = [
  { rows: 4, rowsAThread: 1, keyThreads: 8, block: 16 },
  { rows: 16, rowsAThread: 2, keyThreads: 8, block: 8 },
  { rows: 4, rowsAThread: 2, keyThreads: 2, block: 2 },
  { rows: 8, rowsAThread: 2, keyThreads: 1, block: 4 },
];

for (const scan of SCANS) {
  Deno.test({
    name: `wkv7 + a scan divided by ${Object.values(scan).join(", ")}: as the oracle`,
    ignore: withoutGpu,
    async fn() {
      const engine = await openWebGpu();
      try {
        const wanted = await run(new Oracle(), CASE);
        const got = await run(dividing(engine, scan), CASE);
        for (const [result, values] of wanted) {
          const error = relativeError(got.get(result)!, values);
          assert.ok(error <= 2e-6, `${result}: normalised error ${error}`);
        }
      } finally {
        engine.dispose();
      }
    },
  });
}

Deno.test("scanLayout + any head size: divides it, within the memory and the scratch that there is", () => {
  for (
    const [workgroupBytes, heads, T] of [[16384, 1, 5], [16384, 1, 8192], [32768, 12, 1024], [
      49152,
      1000,
      1024,
    ]] as const
  ) {
    for (const N of [1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 256]) {
      const limits = { workgroupBytes, bindingBytes: 2 ** 27, workgroups: 65535 };
      const { rows, rowsAThread, keyThreads, block } = scanLayout(N, heads, T, limits);
      const lanes = N % 4 === 0 ? N / 4 : N;
      assert.ok(N % rows === 0 && rows % rowsAThread === 0 && lanes % keyThreads === 0, `N ${N}`);
      assert.ok(16 % block === 0, `N ${N}: blocks of ${block}`);
      assert.ok(workgroupBytesOf(N, scanLayout(N, heads, T, limits)) <= workgroupBytes, `N ${N}`);
      assert.ok(16 / block * ((3 * block + 1) * N + block * block) <= solvedSize(N), `N ${N}`);
    }
  }
});
