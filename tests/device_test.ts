/**
 * What a person is told when a device refuses.
 *
 * @module
 */
import assert from "node:assert/strict";
import { EngineError } from "../kernels/engine.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import type { Op, Pass } from "../kernels/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { WebGpuEngine } from "../kernels/engines/webgpu/engine.ts";
import { listCheckpoints } from "../training/checkpoint.ts";
import { train } from "../training/trainer.ts";
import { openWebGpu, withoutGpu } from "./engines.ts";
import { loseDevice } from "./soak.ts";
import { watchGpu } from "./watched_gpu.ts";
import { fakeAdapter, fakeReport, type Faults } from "./fake_gpu.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

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

const TRY = "try --grad_cp 1, a smaller --micro_bsz or --ctx_len, or --engine cpu";
const WGSL = "@compute @workgroup_size(1) fn main() {}";

/** Loads and runs a program of two ops on a device that fails, and reads what it wrote. @returns the error */
async function failure(faults: Faults): Promise<{ error: Error; held: number }> {
  const engine = await WebGpuEngine.open(fakeReport(faults), { patience: 40 });
  const variable = new Variable("variable", [4]), graph = new Graph();
  engine.allocate(variable);
  for (const name of ["first", "second"]) graph.add(opOf(name, WGSL), [graph.use(variable)], null);
  const before = engine.allocatedBytes;
  try {
    const program = await engine.load(compile(graph));
    program.run();
    await engine.read(variable);
  } catch (error) {
    return { error: error as Error, held: engine.allocatedBytes - before };
  } finally {
    engine.dispose();
  }
  throw new Error("The device did not fail");
}

const RUNNING = "first to second (dispatches 1 to 2 of 2)";
const FAILURES: [string, Faults, string][] = [
  [
    "memory that runs out while a program runs",
    { exhaustedAtSubmission: 1 },
    `Cannot go on with Fake GPU: out of GPU memory while running ${RUNNING}; ${TRY}`,
  ],
  [
    "a device that is lost",
    { lostAt: 1 },
    `Cannot go on with Fake GPU: the device was lost (Parent device is lost and more) while running ${RUNNING}; ${TRY}`,
  ],
  [
    "a queue that hangs",
    { hangsAt: 1 },
    `Cannot go on with Fake GPU: nothing was heard for 0 s while reading variable, after running ${RUNNING}: the device's queue hangs; ${TRY}`,
  ],
];
for (const [what, faults, message] of FAILURES) {
  Deno.test(`WebGpuEngine.read + ${what}: one sentence with the ops and what to try`, async () => {
    const { error } = await failure(faults);
    assert.equal(error.name, "EngineError");
    assert.equal(error.message, message);
  });
}

Deno.test("WebGpuEngine.load + memory that runs out: named by what it was for, and nothing held", async () => {
  const engine = await WebGpuEngine.open(fakeReport({ exhaustedAt: /weights of a layer/ }));
  engine.allocate(new Variable("weights of a layer", [4]));
  await assert.rejects(engine.settle(), {
    name: "EngineError",
    message:
      `Cannot go on with Fake GPU: out of GPU memory while allocating 16 bytes for weights of a layer; ${TRY}`,
  });
  engine.dispose();
});

Deno.test("WebGpuEngine.open + an adapter that gives no device: one sentence", async () => {
  await assert.rejects(WebGpuEngine.open(fakeReport({ refused: true })), {
    name: "EngineError",
    message:
      "Cannot use Fake GPU: it gives no device (Not enough memory left. Long explanation.); use --engine cpu",
  });
});

Deno.test({
  name: "WebGpuEngine.open + matrix units that fail: not used, the reason is kept, and products are in f32",
  ignore: withoutGpu,
  async fn() {
    // A device is told to have units of a size that no device has.
    const engine = await openWebGpu((report) => ({ ...report, matrixUnits: { side: 4, lanes: 4 } }));
    try {
      assert.equal(engine.matrixUnits, false);
      assert.match(engine.matrixUnitsFault!, /refused compiling matmul/);
      const graph = new Graph(), a = new Variable("a", [2, 3]), out = new Variable("out", [2, 2]);
      assign(graph, out, matmul(graph, graph.use(a), graph.use(a), { transposeB: true }));
      engine.allocate(a, new Float32Array([1, 2, 3, 1 / 3, 0, 0]));
      engine.allocate(out);
      using program = await engine.load(compile(graph));
      program.run();
      const third = Math.fround(1 / 3);
      assert.deepEqual([...await engine.read(out)].slice(0, 2), [14, third]);
    } finally {
      engine.dispose();
    }
  },
});

/** Trains on a device that fails. @returns what a person is told, and the step that is offered to go on from */
async function trainFailing(faults: Faults, options: Parameters<typeof train>[0]) {
  const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
  let message = "nothing failed", offered: number | undefined;
  try {
    Object.defineProperty(navigator, "gpu", {
      value: { requestAdapter: () => Promise.resolve(fakeAdapter(faults)) },
      configurable: true,
    });
    await train({ ...options, engine: "webgpu" }, { onFailure: ({ step }) => offered = step });
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    message = error.message;
  } finally {
    if (own) Object.defineProperty(navigator, "gpu", own);
    else delete (navigator as { gpu?: GPU }).gpu;
  }
  return { message, offered };
}

Deno.test("train + a device that fails at one moment or another: one sentence with what to try, the newest step, and a run that goes on elsewhere", async () => {
  const options = {
    loadModel: writeTinyModel(newPath("model.safetensors")),
    dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
    ctxLen: 16,
    microBsz: 2,
    boneConfig: { bone_r: 3 },
    saveSteps: 1,
    heldOut: 0,
    samplePrompt: "",
    maxSteps: 12,
    epochCount: 9,
  };
  const moments: [Faults, RegExp][] = [
    ...[1, 30, 60].map((
      lostAt,
    ): [Faults, RegExp] => [{ lostAt }, /: the device was lost \(.*\) while running /]),
    ...[1, 40].map((exhaustedAtSubmission): [Faults, RegExp] => [
      { exhaustedAtSubmission },
      /: out of GPU memory while (running|reading) /,
    ]),
    ...[1, 50, 150, 400].flatMap((n): [Faults, RegExp][] => [
      [{ throwsAt: n }, /: (the device refused compiling .*: |.* failed: TypeError: )no more; /],
      [
        { invalidAt: n },
        /: the device refused (allocating|compiling|binding|running|reading) .*: not valid; /,
      ],
    ]),
  ];
  let resumed = 0;
  for (const [faults, says] of moments) {
    const projDir = newPath("failing"), what = JSON.stringify(faults);
    const { message, offered } = await trainFailing(faults, { ...options, projDir });
    assert.match(
      message,
      /^Cannot go on with Fake GPU[^\n]*; (try --grad_cp 1, .*|use )--engine cpu$/,
      `${what}: ${message}`,
    );
    assert.match(message, says, `${what}: ${message}`);
    const newest = listCheckpoints(projDir)[0]?.step;
    assert.equal(offered, newest, what);
    if (newest === undefined) continue;
    assert.ok(newest < 12, what);
    assert.equal((await train({ resume: projDir, engine: "cpu" })).steps, 12);
    resumed++;
  }
  assert.ok(resumed >= 3, `only ${resumed} failed after a step`);
});

Deno.test({
  name:
    "train + a device that is destroyed half-way through: one sentence, and the same bits once it went on, on webgpu",
  ignore: withoutGpu,
  async fn() {
    using watched = watchGpu(navigator.gpu);
    const { message, savedStep, same } = await loseDevice(
      {
        loadModel: writeTinyModel(newPath("model.safetensors")),
        dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
        projDir: newPath("destroyed"),
        engine: "deno",
        ctxLen: 16,
        microBsz: 2,
        boneConfig: { bone_r: 3 },
        heldOut: 0,
        samplePrompt: "",
      },
      4,
      watched,
    );
    assert.match(
      message,
      /^Cannot go on with .*: the device was lost \(.*\) while running .*; try --grad_cp 1, .*--engine cpu$/,
    );
    assert.equal(savedStep, 1);
    assert.ok(same);
    assert.equal(watched.bytes, 0);
  },
});
