/**
 * Values that only products read are written in the f16 to which matrix units round them: nothing changes but where folds add them up.
 *
 * @module
 */
import assert from "node:assert/strict";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, type Tensor, Variable } from "../kernels/graph.ts";
import { linearCrossEntropy } from "../kernels/ops/cross_entropy/op.ts";
import { fold } from "../kernels/ops/fold/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { tokenShift } from "../kernels/ops/token_shift/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { contentOf, uniform } from "./conformance.ts";
import { randomNumbers, relativeError, resultsOf, testOnEngines, toleranceOn } from "./engines.ts";
import { RoundingOracle } from "./rounding_oracle.ts";
import { GOLDEN_KINDS, goldenRun } from "./small_model.ts";

/** The rounding oracle as an engine that says how it rounds. */
class HalvesOracle extends RoundingOracle {
  readonly rounds = "f16";
  halves = 0;

  override load(program: Program): ReturnType<RoundingOracle["load"]> {
    this.halves += halvesOf(program).length;
    return super.load(program);
  }
}

/** What nodes write in f16. */
const halvesOf = ({ nodes }: Program): Tensor[] =>
  nodes.flatMap(({ outputs }) => outputs.filter(({ dtype }) => dtype === "f16"));

for (const recompute of [true, false]) {
  for (const kind of GOLDEN_KINDS) {
    Deno.test(`written in f16 + golden ${kind}${recompute ? ", blocks recomputed" : ""}: as where products round it`, async () => {
      const engine = new HalvesOracle();
      const [wanted, got] = [
        await goldenRun(new RoundingOracle(), kind, recompute),
        await goldenRun(engine, kind, recompute),
      ];
      assert.ok(engine.halves > 10, `${engine.halves} values are in f16`);
      // Folds add up what is rounded, where they added up what was not.
      const folds = ["bone", "bat_row", "bat_col"].includes(kind);
      if (!folds) assert.equal(got.loss, wanted.loss);
      for (const [name, values] of wanted.gradients) {
        const error = relativeError(got.gradients.get(name)!, values);
        assert.ok(error <= (folds ? 2e-3 : 0), `${name}: normalised error ${error}`);
      }
    });
  }
}

const M = 10, C = 24;

/**
 * Mixes, of which one is only multiplied, one is folded as well, and one is also added up; a map that is only multiplied; and the
 * gradient of logits, which is that too.
 */
function program(rounds: "f16" | undefined) {
  const graph = new Graph(), random = randomNumbers(3), content = new Map<Variable, ArrayBufferView>();
  const input = (name: string, shape: number[]) => {
    const variable = new Variable(name, shape);
    content.set(variable, contentOf(uniform(shape), random));
    return graph.use(variable);
  };
  const results: Variable[] = [];
  const give = (t: Tensor) => {
    const result = new Variable(`result ${results.length}`, t.shape);
    results.push(result);
    content.set(result, new Float32Array(t.size));
    assign(graph, result, t);
  };
  const x = input("x", [M, C]), w = input("w", [16, C]);
  const mixes = [0, 1, 2].map((i) => input(`mix ${i}`, [C]));
  const [one, two, three] = tokenShift(graph, x, mixes, { T: 5 });
  for (const t of [one!, two!, three!]) give(matmul(graph, t, w, { transposeB: true }));
  give(fold(graph, two!, 8));
  give(map(graph, [three!, x], (a, b) => a.add(b)));
  give(matmul(graph, map(graph, [x], (x) => x.mul(x)), w, { transposeB: true }));
  const targets = new Variable("targets", [M, 1], "i32"), weights = input("weights", [M, 1]);
  content.set(targets, Int32Array.from({ length: M }, (_, m) => m));
  const loss = linearCrossEntropy(graph, x, w, graph.use(targets), weights);
  give(loss);
  give(backward(graph, loss, [x])[0]!);
  return { program: compile(graph, { rounds, operands: 16 }), content, results };
}

testOnEngines("written in f16 + mixes and a map: by engines as by the oracle", async (engine) => {
  const { program: halved, content, results } = program("f16");
  assert.equal(halvesOf(halved).length, 4);
  const [wanted, got] = [
    await resultsOf(new Oracle(), halved, content, results),
    await resultsOf(engine, halved, content, results),
  ];
  wanted.forEach((values, i) => {
    // WGSL leaves open to which of its two neighbours in f16 a value is rounded: they are up to 2⁻¹⁰ of it apart.
    const error = relativeError(got[i]!, values), allowed = toleranceOn(engine, 1e-3);
    assert.ok(error <= allowed, `result ${i}: normalised error ${error}`);
  });
}, { processor: false, oracle: false });

Deno.test("written in f16 + engines whose products do not round: nothing is", () => {
  assert.equal(halvesOf(program(undefined).program).length, 0);
});
