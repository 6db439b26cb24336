/**
 * Every op on every engine against the float64 oracle, and every gradient against finite differences.
 *
 * @module
 */
import assert from "node:assert/strict";
import type { Engine } from "../kernels/engine.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { type Case, differentiate, run } from "./conformance.ts";
import { addTileCases, CASES } from "./conformance_cases.ts";
import { relativeError, testOnEngines, toleranceOn } from "./engines.ts";

/** What f32 arithmetic may differ by. */
const TOLERANCE = 2e-6;

/** What central differences in float64 may differ by. */
const DIFFERENCES = 1e-6;

/** Results of a case by name. */
type Results = Promise<Map<string, Float32Array>>;

const expected = new Map<Case, Results>();

/** The oracle's results of a case, computed once. */
function oracleOf(testCase: Case): Results {
  let found = expected.get(testCase);
  if (!found) expected.set(testCase, found = run(new Oracle(), testCase));
  return found;
}

/** Registers a case on every engine but the oracle; without the processor's where that has no such kernel. */
function testAgainstOracle(testCase: Case, options: { processor?: boolean } = {}): void {
  const { name, tolerance = TOLERANCE } = testCase;
  testOnEngines(`${name}: as the oracle`, async (engine: Engine) => {
    const wanted = await oracleOf(testCase), got = await run(engine, testCase);
    for (const [result, values] of wanted) {
      const error = relativeError(got.get(result)!, values);
      const allowed = toleranceOn(engine, tolerance);
      assert.ok(error <= allowed, `${result}: normalised error ${error} is above ${allowed}`);
    }
  }, { ...options, oracle: false });
}

for (const testCase of addTileCases("f16")) testAgainstOracle(testCase, { processor: false });

for (const testCase of CASES) {
  const { name, inputs, differences = true } = testCase;
  testAgainstOracle(testCase);
  if (!differences || !inputs.some(({ differentiated }) => differentiated)) continue;
  Deno.test(`${name}: gradient as finite differences`, async () => {
    for (const { input, analytic, numeric, scale } of await differentiate(testCase)) {
      const error = Math.abs(analytic - numeric);
      assert.ok(
        error <= DIFFERENCES * scale + 1e-9,
        `gradient ${input}: ${analytic} differs from ${numeric} by ${error / scale} of its terms`,
      );
    }
  });
}

testOnEngines("assign + one part of a pack to another: copied", async (engine) => {
  const { whole, parts } = Variable.pack("pack", ["a", "b"].map((name) => ({ name, shape: [3] })));
  const graph = new Graph();
  assign(graph, parts[0]!, graph.use(parts[1]!));
  engine.allocate(whole);
  engine.write(parts[1]!, Float32Array.of(1, 2, 3));
  try {
    (await engine.load(compile(graph))).run();
    assert.deepEqual([...await engine.read(parts[0]!)], [1, 2, 3]);
  } finally {
    engine.free(whole);
  }
});

/** Runs every case in two ways that must not differ by a bit. */
async function assertSameBits(
  one: (testCase: Case) => Results,
  other: (testCase: Case) => Results,
): Promise<void> {
  for (const testCase of CASES) {
    const wanted = await one(testCase), got = await other(testCase);
    for (const [result, values] of wanted) {
      const differing = values.findIndex((x, i) => !Object.is(x, got.get(result)![i]));
      assert.equal(differing, -1, `${testCase.name}: ${result} differs at ${differing}`);
    }
  }
}

Deno.test("Op.cpu + work in uneven shares: the same bits", async () => {
  const oracle = new Oracle(32);
  await assertSameBits(
    (testCase) => run(oracle, testCase),
    (testCase) => run(oracle, testCase, { shares: true }),
  );
});

Deno.test("CpuEngine + one thread and three: the same bits", async () => {
  const [one, three] = [1, 3].map((workers) => new CpuEngine({ workers })) as [CpuEngine, CpuEngine];
  try {
    await assertSameBits((testCase) => run(one, testCase), (testCase) => run(three, testCase));
  } finally {
    one.dispose();
    three.dispose();
  }
});

/** Names of the ops in a folder of `kernels/ops`, as they are written there. */
function opsIn(folder: string): string[] {
  const text = Deno.readTextFileSync(new URL(`../kernels/ops/${folder}/op.ts`, import.meta.url));
  return [...text.matchAll(/^ {2}name: "(\w+)",$|widthOp\(\s*"(\w+)"/gm)].map(([, a, b]) => (a ?? b)!);
}

Deno.test("CASES + every op of kernels/ops", () => {
  const graph = new Graph();
  for (const { inputs, build } of CASES) {
    const variables = inputs.map(({ shape, dtype }) => new Variable("", shape, dtype));
    build(graph, variables.map((variable) => graph.use(variable)), variables);
  }
  const covered = new Set(graph.nodes.map(({ op }) => op.name));
  const folders = [...Deno.readDirSync(new URL("../kernels/ops", import.meta.url))].map(({ name }) => name);
  const ops = folders.flatMap(opsIn);
  assert.ok(ops.length > folders.length, "ops were not found in the source");
  // A gradient's own op is reached by differentiating, which every case of its op does.
  const missing = ops.filter((op) => !covered.has(op) && !/Gradient$|^previousRow$/.test(op));
  assert.deepEqual(missing, []);
});
