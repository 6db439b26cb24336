/**
 * What is kept for the backward pass in f16, or computed again: the same losses, gradients that are as good, half the memory, and
 * nothing that is not finite in silence; and in f32, without a bit that changes.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import type { Engine } from "../kernels/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, sizeOf, Variable } from "../kernels/graph.ts";
import { map, mapAll, narrowed, repeat } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { bytesAfter, compile } from "../kernels/plan.ts";
import { Programs } from "../training/programs.ts";
import { Trainables } from "../training/trainables.ts";
import { randomNumbers, relativeError, testOnEngines } from "./engines.ts";
import { RoundingOracle } from "./rounding_oracle.ts";
import { boneAdapter, GOLDEN_KINDS, goldenRun, smallModel, trainingGraph } from "./small_model.ts";

/** On engines that keep in f16: a processor does not, whose products are in f32. */
const HERE = { processor: false };

/**
 * Normalised error of a gradient: kept values are rounded to 11 digits, which is 2⁻¹² of each at most and 1.4e-4 of all of them,
 * and a gradient is a sum over products of several of them, which cancels in part.
 */
const TOLERANCE = 2e-3;
/**
 * Some gradients of the golden model are ill-conditioned: a head whose output is nearly zero is normalised. There it is at most this
 * share of what rounding the operands of products costs, which engines do that keep in f16.
 */
const SHARE_OF_USUAL = 0.7;

/** An engine as it would be if it kept values in this storage, or all as they are, while `body` runs. */
async function keeping<T>(engine: Engine, keeps: Engine["keeps"], body: () => Promise<T>): Promise<T> {
  const own = Object.getOwnPropertyDescriptor(engine, "keeps");
  Object.defineProperty(engine, "keeps", { value: keeps, configurable: true });
  try {
    return await body();
  } finally {
    delete (engine as { keeps?: unknown }).keeps;
    if (own) Object.defineProperty(engine, "keeps", own);
  }
}

for (const recompute of [true, false]) {
  for (const kind of GOLDEN_KINDS) {
    const what = `golden ${kind}${recompute ? ", blocks recomputed" : ""}`;
    testOnEngines(`kept in f16 + ${what}: gradients near f64's, and the same loss`, async (engine) => {
      const gradients = (engine: Engine) => goldenRun(engine, kind, recompute);
      const wanted = await gradients(new Oracle()), rounding = await gradients(new RoundingOracle());
      const plain = await keeping(engine, undefined, () => gradients(engine));
      const kept = await keeping(engine, "f16", () => gradients(engine));
      // Where products round, what a fold reads is rounded too, if nothing reads it that needs more: it may be so in one of the two.
      const folds = engine.rounds !== undefined && ["bone", "bat_row", "bat_col"].includes(kind);
      assert.ok(
        Math.abs(kept.loss / plain.loss - 1) <= (folds ? 2 ** -11 : 0),
        `${kept.loss}, ${plain.loss}`,
      );
      let changed = 0;
      for (const [name, values] of wanted.gradients) {
        const [before, error, usual] = [plain, kept, rounding].map(({ gradients }) =>
          relativeError(gradients.get(name)!, values)
        );
        const allowed = Math.max(TOLERANCE, SHARE_OF_USUAL * usual!);
        assert.ok(error! < before! + allowed, `${name}: normalised error ${error}, ${usual} from products`);
        if (error !== before) changed++;
      }
      assert.ok(changed > wanted.gradients.size / 2, `${changed} gradients are not as they were`);
    }, HERE);
  }
}

for (const kind of GOLDEN_KINDS) {
  Deno.test(`kept in f32 + golden ${kind} on a processor: no bit of a gradient changes`, async () => {
    const engine = new CpuEngine({ workers: 2 });
    try {
      const [plain, kept] = [
        await keeping(engine, undefined, () => goldenRun(engine, kind, false)),
        await keeping(engine, "f32", () => goldenRun(engine, kind, false)),
      ];
      assert.deepEqual(kept, plain);
    } finally {
      engine.dispose();
    }
  });
}

Deno.test("kept in f32 + a training step: less memory, as what is cheap is computed again", () => {
  using model = smallModel(new Oracle());
  const graph = trainingGraph(model, { adapter: true, recompute: false, T: 64 });
  const [plain, kept] = ([undefined, "f32"] as const).map((keeps) =>
    compile(graph, { keeps, operands: 32 }).workspaceBytes
  );
  assert.ok(kept! < plain!, `${kept} of ${plain}`);
});

Deno.test("kept in f16 + a training step: half of what is kept in f32 where blocks are recomputed, less where not", () => {
  using model = smallModel(new Oracle());
  // Of the two recomputed blocks five values are kept, of which one is a gradient and stays in f32.
  for (const [recompute, share] of [[true, 0.61], [false, 0.5]] as const) {
    const graph = trainingGraph(model, { adapter: true, recompute, T: 64 });
    const [plain, kept] = [undefined, "f16" as const].map((keeps) => {
      const program = compile(graph, { keeps, operands: 16 });
      return { ...program, saved: bytesAfter(program, graph.loss!) };
    });
    assert.ok(kept!.saved < share * plain!.saved, `${kept!.saved} of ${plain!.saved}`);
    assert.ok(kept!.workspaceBytes < plain!.workspaceBytes);
  }
});

for (const recompute of [true, false]) {
  const what = recompute ? ", blocks recomputed" : "";
  testOnEngines(
    `kept in f16 + documents in chunks${what}: the state between them, and so the loss, bit for bit`,
    async (engine) => {
      const B = 2, T = 6, M = 3 * B * T;
      const results = async () => {
        using model = smallModel(engine);
        const random = randomNumbers(5), token = () => Math.floor((random() + 1) * 48);
        const adapter = boneAdapter(model.config, 8, () => 0.05 * random());
        const trainables = new Trainables(adapter, model.config, engine, { layerwise: true });
        const programs = new Programs({
          ...{ model, adapter, trainables, B, T },
          ...{ carried: true, recompute, l2: 0, seed: 1 },
        });
        const tokens = () => Int32Array.from({ length: M }, token), mask = new Float32Array(M).fill(1);
        const state = [...programs.gradients.variables].find(({ name }) => name.startsWith("carried."))!;
        try {
          using loaded = await programs.load();
          loaded.accumulate({ inputs: tokens(), targets: tokens(), mask, keep: undefined, counted: M }, M, 0);
          const carried = await engine.read(state.within!.pack);
          const { loss } = await loaded.update({
            ...{ learningRate: 0, beta1: 0.9, beta2: 0.99, eps: 1e-8, weightDecay: 0 },
            ...{ biasCorrection1: 0.1, biasCorrection2: 0.01, clip: 1 },
          });
          return { loss, carried };
        } finally {
          trainables.dispose();
        }
      };
      const plain = await keeping(engine, undefined, results), kept = await keeping(engine, "f16", results);
      assert.ok(plain.loss > 1 && plain.carried.some((x) => x !== 0));
      assert.equal(kept.loss, plain.loss);
      assert.ok(kept.carried.every((x, i) => x === plain.carried[i]));
    },
    HERE,
  );
}

Deno.test("kept in f16 + no backward pass: nothing is rounded", () => {
  const graph = new Graph(), x = new Variable("x", [64, 64]);
  assign(graph, x, matmul(graph, map(graph, [graph.use(x)], (x) => x.exp()), graph.use(x)));
  const { nodes } = compile(graph, { keeps: "f16" });
  assert.ok(nodes.every(({ outputs }) => outputs.every(({ dtype }) => dtype === "f32")));
});

Deno.test("kept in f16 + a loss of a billionth: the same gradients, as those that are known before it stay in f32", async () => {
  const engine = new Oracle();
  using model = smallModel(engine);
  const gradients = async (weight: number) => {
    const program = compile(trainingGraph(model, { adapter: true, recompute: true }), { keeps: "f16" });
    const own = [...program.variables].filter(({ name }) => model.weight(name) === undefined);
    const random = randomNumbers(8);
    for (const variable of own) {
      const number = () =>
        variable.name === "weights" ? weight : variable.dtype === "i32" ? 5 : 0.05 * random();
      const content = Array.from({ length: sizeOf(variable.shape) }, number);
      engine.allocate(
        variable,
        variable.dtype === "i32" ? Int32Array.from(content) : Float64Array.from(content),
      );
    }
    using loaded = await engine.load(program);
    loaded.run();
    const read = await Promise.all(
      own.filter(({ name }) => name.startsWith("gradient")).map((v) => engine.read(v)),
    );
    own.forEach((variable) => engine.free(variable));
    return read.map((values) => values.map((x) => x / weight));
  };
  const usual = await gradients(1), small = await gradients(2 ** -30);
  assert.ok(usual.length > 10 && usual.every((values) => values.some((x) => x !== 0)));
  usual.forEach((values, i) => assert.ok(relativeError(small[i]!, values) < 1e-6, `gradient ${i}`));
});

for (const [largest, isFinite] of [[65_504, true], [70_000, false]] as const) {
  const verdict = isFinite ? "is right" : "is not finite, so that the run stops";
  testOnEngines(`kept in f16 + an activation of ${largest}: a gradient that ${verdict}`, async (engine) => {
    const graph = new Graph(), shapes = { x: [8, 16], w: [16, 16], dX: [8, 16], loss: [1] };
    const [x, w, dX, sum] = Object.entries(shapes).map(([name, shape]) => new Variable(name, shape)) as [
      Variable,
      Variable,
      Variable,
      Variable,
    ];
    const y = matmul(graph, graph.use(x), graph.use(w), { transposeB: true });
    const loss = reduceGroups(graph, map(graph, [y], (y) => y.square().mul(0.25)), [1]);
    assign(graph, dX, backward(graph, loss, [graph.use(x)])[0]!);
    assign(graph, sum, loss);
    engine.allocate(x, Float32Array.from({ length: 128 }, (_, i) => i ? 1 : largest));
    engine.allocate(w, Float32Array.from({ length: 256 }, (_, i) => i % 17 ? 0 : 1));
    [dX, sum].forEach((variable) => engine.allocate(variable));
    try {
      using loaded = await engine.load(compile(graph, { operands: engine.operands, keeps: "f16" }));
      loaded.run();
      const gradient = await engine.read(dX);
      assert.equal(gradient.every(Number.isFinite), isFinite);
      if (isFinite) assert.equal(gradient[0], largest / 2);
    } finally {
      [x, w, dX, sum].forEach((variable) => engine.free(variable));
    }
  }, HERE);
}

for (const shape of [[7, 19], [6, 12], [1, 1], [130, 64], [3, 1]]) {
  testOnEngines(
    `narrowed + [${shape}]: rounded to the nearest half, beside what is in f32`,
    async (engine) => {
      const graph = new Graph(), x = new Variable("x", shape), scale = new Variable("scale", [shape[1]!]);
      const results = ["halves", "twice"].map((name) => new Variable(name, shape));
      const [y, more] = mapAll(graph, [graph.use(x), graph.use(scale)], (x, s) => [x.mul(s), x.add(x)]);
      assign(graph, results[0]!, repeat(graph, narrowed(graph, y!), shape));
      assign(graph, results[1]!, more!);
      const random = randomNumbers(11), size = sizeOf(shape);
      const content = Float32Array.from({ length: size }, random),
        scales = Float32Array.from({ length: shape[1]! }, (_, i) => 2 ** (i % 9));
      engine.allocate(x, content);
      engine.allocate(scale, scales);
      results.forEach((variable) => engine.allocate(variable));
      try {
        const program = compile(graph, { operands: engine.operands });
        assert.equal(program.nodes.filter(({ op }) => op.name === "map").length, 2);
        using loaded = await engine.load(program);
        loaded.run();
        const [halves, twice] = await Promise.all(results.map((variable) => engine.read(variable)));
        const products = content.map((x, i) => x * scales[i % shape[1]!]!);
        assert.deepEqual(halves, Float32Array.from(Float16Array.from(products)));
        assert.deepEqual(twice, content.map((x) => 2 * x));
      } finally {
        [x, scale, ...results].forEach((variable) => engine.free(variable));
      }
    },
    HERE,
  );
}
