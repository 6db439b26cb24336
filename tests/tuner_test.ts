/**
 * Choosing shaders by measuring: the choice is right whatever a candidate does, and is the same afterwards.
 *
 * @module
 */
import assert from "node:assert/strict";
import { WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { Graph, type Node, Variable } from "../kernels/graph.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { type Alternative, type Op } from "../kernels/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { join } from "node:path";
import { train } from "../training/trainer.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";
import { adapter, randomNumbers, relativeError, withoutGpu } from "./engines.ts";

const [M, N, K] = [64, 48, 32];

/** An adapter under a name of its own, so that nothing is remembered of it, and nothing afterwards. */
async function unknownAdapter() {
  const description = `tested ${crypto.randomUUID()}`, report = { ...(await adapter())!, description };
  const forget = async () => {
    const cache = await caches.open("wishbone");
    for (const { url } of await cache.keys()) {
      if (url.includes(encodeURIComponent(description))) await cache.delete(url);
    }
  };
  return { report, [Symbol.asyncDispose]: forget };
}

/** A product whose alternatives are these as well; `result` holds it after a run. */
function productWith(more: (node: Node, own: readonly Alternative[]) => Alternative[]) {
  const graph = new Graph(), random = randomNumbers(9);
  const a = new Variable("a", [M, K]), b = new Variable("b", [K, N]), result = new Variable("result", [M, N]);
  assign(graph, result, matmul(graph, graph.use(a), graph.use(b)));
  const plain = compile(graph);
  const nodes = plain.nodes.map((node): Node => {
    if (!node.op.alternatives) return node;
    const alternatives: Op["alternatives"] = (n, limits) => {
      const own = node.op.alternatives!(n, limits);
      return [...own, ...more(node, own)];
    };
    // A name of its own, so that what is remembered of other tests and runs does not count.
    return {
      ...node,
      op: { ...node.op, alternatives },
      attributes: { ...node.attributes as object, test: Math.random() },
    };
  });
  const values = [a, b].map(({ shape }) => Float32Array.from({ length: shape[0]! * shape[1]! }, random));
  return { program: { ...plain, nodes } as Program, variables: [a, b], values, result };
}

async function runOn(
  engine: WebGpuEngine,
  { program, variables, values, result }: ReturnType<typeof productWith>,
) {
  variables.forEach((variable, i) => engine.allocate(variable, values[i]!));
  engine.allocate(result);
  try {
    using executable = await engine.load(program);
    executable.run();
    return await engine.read(result);
  } finally {
    [...variables, result].forEach((variable) => engine.free(variable));
  }
}

function product([a, b]: readonly Float32Array[]): Float64Array {
  return Float64Array.from({ length: M * N }, (_, i) => {
    let sum = 0;
    for (let k = 0; k < K; k++) sum += a![Math.floor(i / N) * K + k]! * b![k * N + i % N]!;
    return sum;
  });
}

/** A shader that is done at once and leaves something else. */
const WRONG = `
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) { out[id.x] = 1.0; }`;

Deno.test({
  name: "Tuner + candidates that are wrong, or do not compile: passed over, and the result is right",
  ignore: withoutGpu,
  async fn() {
    await using unknown = await unknownAdapter();
    const engine = await WebGpuEngine.open(unknown.report, { tuned: true });
    try {
      const subject = productWith((_, own) => [
        {
          name: "refused",
          worthTrying: true,
          passes: () => own[0]!.passes().map((p) => ({ ...p, wgsl: "no WGSL" })),
        },
        {
          name: "wrong",
          worthTrying: true,
          passes: () => [{ wgsl: WRONG, uniforms: [], bindings: [{ operand: 2 }], workgroups: [1, 1, 1] }],
        },
      ]);
      const before = engine.allocatedBytes, got = await runOn(engine, subject);
      assert.ok(relativeError(got, product(subject.values)) < 2e-6);
      assert.equal(engine.allocatedBytes, before);
      const chosen = [...engine.choices.values()];
      assert.equal(chosen.length, 1);
      assert.match(chosen[0]!, /^f32 /);
    } finally {
      engine.dispose();
    }
  },
});

Deno.test({
  name: "Tuner + a shape that was measured before: another engine takes the same without measuring",
  ignore: withoutGpu,
  async fn() {
    await using unknown = await unknownAdapter();
    const subject = productWith(() => []);
    const first = await WebGpuEngine.open(unknown.report, { tuned: true });
    await runOn(first, subject);
    const found = [...first.choices];
    first.dispose();
    let measured = 0;
    const nodes = subject.program.nodes.map((node): Node =>
      node.op.alternatives
        ? {
          ...node,
          op: {
            ...node.op,
            alternatives: (n, limits) =>
              node.op.alternatives!(n, limits).map((other) => ({
                ...other,
                passes: () => (measured++, other.passes()),
              })),
          },
        }
        : node
    );
    const again = { ...(await adapter())!, description: unknown.report.description };
    const second = await WebGpuEngine.open(again, { tuned: true });
    try {
      const got = await runOn(second, { ...subject, program: { ...subject.program, nodes } });
      assert.ok(relativeError(got, product(subject.values)) < 2e-6);
      assert.equal(found.length, 1);
      assert.deepEqual([...second.choices], found);
      assert.ok(measured <= 1, "every candidate was made ready again");
    } finally {
      second.dispose();
    }
  },
});

Deno.test({
  name: "Tuner + software: the op's own choice",
  ignore: withoutGpu,
  async fn() {
    const report = (await adapter())!;
    const engine = await WebGpuEngine.open({ ...report, software: true });
    try {
      await runOn(engine, productWith(() => []));
      assert.equal(engine.choices.size, 0);
    } finally {
      engine.dispose();
    }
  },
});

Deno.test({
  name:
    "keepTo + what another engine was given: the same without measuring, though nothing is remembered of the device",
  ignore: withoutGpu,
  async fn() {
    const subject = productWith((_, own) => [{ ...own[1]!, name: "another" }]);
    const first = await WebGpuEngine.open({ ...(await adapter())!, software: true });
    await runOn(first, subject);
    // The op's own choice is written down as well: a later measurement must not change it.
    assert.deepEqual([...first.lowerings.values()], ["default"]);
    const [key] = [...first.lowerings.keys()];
    first.dispose();
    for (const name of ["default", "another", "one that there is no more"]) {
      await using unknown = await unknownAdapter();
      const engine = await WebGpuEngine.open(unknown.report, { tuned: true });
      try {
        engine.keepTo(new Map([[key!, name]]));
        const got = await runOn(engine, subject);
        assert.ok(relativeError(got, product(subject.values)) < 2e-6);
        assert.equal(engine.choices.size, 0, "something was measured");
        assert.deepEqual([...engine.lowerings], [[key, name === "another" ? name : "default"]]);
      } finally {
        engine.dispose();
      }
    }
  },
});

Deno.test({
  name:
    "train + webgpu: a run goes on with the shaders that it began with, to the same bits, on this device only",
  ignore: withoutGpu,
  async fn() {
    const options = {
      loadModel: writeTinyModel(newPath("model.safetensors")),
      dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
      engine: "deno",
      ctxLen: 16,
      microBsz: 2,
      boneConfig: { bone_r: 3 },
      heldOut: 0,
      samplePrompt: "",
    } as const;
    const [whole, run] = [newPath("whole"), newPath("run")];
    await train({ ...options, projDir: whole, maxSteps: 3 });
    await train({ ...options, projDir: run, maxSteps: 2 });
    const path = join(run, "lowerings.json");
    const { device, lowerings } = JSON.parse(Deno.readTextFileSync(path));
    assert.match(device, /Deno's WebGPU/);
    assert.ok(Object.values(lowerings).length > 3);
    assert.ok(Object.values(lowerings).every((name) => name === "default"));
    // As if an other one had been measured as the fastest; it is not there any more, and is told from the op's own choice.
    const key = Object.keys(lowerings)[0]!;
    Deno.writeTextFileSync(
      path,
      JSON.stringify({ device, lowerings: { ...lowerings, [key]: "gone", "no op": "x" } }),
    );
    await train({ resume: run, maxSteps: 3 });
    assert.deepEqual(JSON.parse(Deno.readTextFileSync(path)).lowerings, { ...lowerings, "no op": "x" });
    assert.deepEqual(
      Deno.readFileSync(join(run, "adapter.pth")),
      Deno.readFileSync(join(whole, "adapter.pth")),
    );

    for (const content of ["{", `{"device":"${device}","lowerings":{"a":1}}`]) {
      Deno.writeTextFileSync(path, content);
      const told: string[] = [];
      await train({ resume: run, maxSteps: 3 }, { onMessage: (text) => told.push(text) });
      assert.ok(told.some((text) => text.includes("lowerings.json is not whole")), content);
    }
    Deno.writeTextFileSync(path, JSON.stringify({ device: "another", lowerings: { "no op": "x" } }));
    await train({ resume: run, maxSteps: 3 });
    assert.deepEqual(JSON.parse(Deno.readTextFileSync(path)), { device, lowerings });
  },
});
