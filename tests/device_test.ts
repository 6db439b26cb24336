/**
 * What a person is told when a device refuses.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Graph, Variable } from "../kernels/graph.ts";
import type { Op, Pass } from "../kernels/op.ts";
import { compile } from "../kernels/plan.ts";
import { openWebGpu, withoutGpu } from "./engines.ts";

/** An op of one pass with the WGSL given. */
function opOf(name: string, wgsl: string): Op<null> {
  const pass: Pass = { wgsl, uniforms: [1], bindings: [{ operand: 0 }], workgroups: [1, 1, 1] };
  return { name, mutates: [0], outputs: () => [], units: () => 1, cpu: () => {}, webgpu: () => [pass] };
}

const REFUSED: [string, string, RegExp][] = [
  [
    "WGSL that does not parse",
    "fn main( {",
    /^Cannot go on with .*: the device refused compiling faulty: .*expected identifier/,
  ],
  [
    "bindings that the shader does not have",
    "@group(0) @binding(1) var<storage, read_write> x: array<f32>; @compute @workgroup_size(1) fn main() { x[0] = 1.0; }",
    /^Cannot go on with .*: the device refused binding faulty: /,
  ],
];
for (const [what, wgsl, message] of REFUSED) {
  Deno.test({
    name: `WebGpuEngine.load + ${what}: one sentence that names the op, and memory given back, on webgpu`,
    ignore: withoutGpu,
    async fn() {
      const engine = await openWebGpu();
      const variable = new Variable("variable", [4]), graph = new Graph();
      engine.allocate(variable);
      graph.add(opOf("faulty", wgsl), [graph.use(variable)], null);
      const held = engine.allocatedBytes;
      await assert.rejects(engine.load(compile(graph)), (error: Error) => {
        assert.equal(error.name, "EngineError");
        assert.match(error.message, message);
        return !error.message.includes("\n");
      });
      assert.equal(engine.allocatedBytes, held);
      engine.dispose();
    },
  });
}

Deno.test({
  name: "WebGpuEngine.allocate + more than the largest buffer: one sentence with both sizes, on webgpu",
  ignore: withoutGpu,
  async fn() {
    const engine = await openWebGpu();
    assert.throws(() => engine.allocate(new Variable("huge", [1 << 30])), {
      name: "EngineError",
      message:
        /^Cannot allocate huge of 4294967296 bytes on .*, whose largest buffer is \d+: use --engine cpu or a smaller model$/,
    });
    engine.dispose();
  },
});
