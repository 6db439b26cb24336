/**
 * Milliseconds, GB/s and GFLOP/s of RWKV-7's recurrence and its gradient, for several ways of dividing the work on a GPU; results
 * are compared with the cpu engine's.
 *
 *     deno task bench:wkv7 [--engine webgpu|cpu] [--sizes 1x1024,1x8192,8x1024] [--heads 12] [--head-size 64] [--layers 12]
 *         [--layouts 8/1/16/16,8/1/8/8]
 *
 * A layout is rows / rows a thread / key threads / block (`ScanLayout`); without any, three are measured. Each time is of `--layers` calls in a row, as in a step of a model, submitted together.
 *
 * @module
 */
import { parseArgs } from "node:util";
import type { Engine } from "../kernels/engine.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import { chooseEngine } from "../kernels/engines/choose.ts";
import { CpuEngine } from "../kernels/engines/cpu/engine.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, type Node, sizeOf, Variable } from "../kernels/graph.ts";
import type { Pass } from "../kernels/op.ts";
import { map } from "../kernels/ops/map/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { CHUNK, wkv7, type Wkv7Attributes, type Wkv7Streams } from "../kernels/ops/wkv7/op.ts";
import { backwardPasses, forwardPasses, type ScanLayout, scanLayout } from "../kernels/ops/wkv7/webgpu.ts";
import { compile, type Program } from "../kernels/plan.ts";

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "webgpu" },
    sizes: { type: "string", default: "1x1024,1x8192,8x1024" },
    heads: { type: "string", default: "12" },
    "head-size": { type: "string", default: "64" },
    layers: { type: "string", default: "12" },
    layouts: { type: "string", default: "" },
  },
});
const H = Number(values.heads), N = Number(values["head-size"]), layers = Number(values.layers);
const C = H * N;
/** Steps that are compared with the cpu engine. */
const COMPARED = 100;
/** Steps after which a measurement is long enough. */
const LONG = 16384;
/** Times that each measurement is made; the least counts. */
const REPEATS = 3;

interface Recurrence {
  readonly program: Program;
  readonly variables: ReadonlyMap<Variable, Float32Array | undefined>;
  readonly results: readonly Variable[];
}

/** Σ y + Σ state, and its gradient, of random streams. */
function recurrence(B: number, T: number): Recurrence {
  const graph = new Graph(), variables = new Map<Variable, Float32Array | undefined>();
  let seed = 1;
  const random = () => (seed = Math.imul(seed, 1664525) + 1013904223 | 0) / 2 ** 31;
  const input = (name: string, shape: number[], low: number, high: number) => {
    const variable = new Variable(name, shape);
    const content = Float32Array.from(
      { length: sizeOf(shape) },
      () => low + (high - low) * (random() + 1) / 2,
    );
    variables.set(variable, content);
    return graph.use(variable);
  };
  const stream = (name: string, low: number, high: number) => input(name, [B * T, C], low, high);
  const streams: Wkv7Streams = {
    r: stream("r", -1, 1),
    w: stream("w", 0.55, 1),
    k: stream("k", -1, 1),
    v: stream("v", -1, 1),
    a: stream("a", -1 / N, 1 / N),
    b: stream("b", -1, 1),
  };
  const initial = input("state", [B, H * N * N], -1, 1);
  const { y, state } = wkv7(graph, streams, { T, N, state: initial });
  const sums = [y, state].map((x) => reduceGroups(graph, map(graph, [x], (x) => x.mul(0.5)), [1]));
  const loss = map(graph, sums, (a, b) => a!.add(b!));
  const wanted = [...Object.values(streams), initial];
  const results = [y, state, ...backward(graph, loss, wanted)].map((tensor, i) => {
    const variable = new Variable(`result ${i}`, tensor!.shape);
    variables.set(variable, undefined);
    assign(graph, variable, tensor!);
    return variable;
  });
  return { program: compile(graph), variables, results };
}

/** The program with the recurrence's passes replaced. */
function lowered(program: Program, layout: ScanLayout): Program {
  const passes = { wkv7: forwardPasses, wkv7Gradient: backwardPasses } as const;
  const nodes = program.nodes.map((node) => {
    const lower = passes[node.op.name as keyof typeof passes];
    if (!lower) return node;
    return {
      ...node,
      op: {
        ...node.op,
        webgpu: (n: Node, limits: Parameters<typeof lower>[1]) =>
          lower(n as Node<Wkv7Attributes>, limits, layout),
      },
    };
  });
  return { ...program, nodes };
}

/** Runs the program with all its variables there. */
async function withVariables<T>(
  engine: Engine,
  { variables }: Recurrence,
  use: () => Promise<T>,
): Promise<T> {
  variables.forEach((content, variable) => engine.allocate(variable, content));
  try {
    return await use();
  } finally {
    variables.forEach((_, variable) => engine.free(variable));
  }
}

/** All results, one after the other. */
async function resultsOf(engine: Engine, made: Recurrence, program = made.program): Promise<Float32Array[]> {
  return await withVariables(engine, made, async () => {
    using executable = await engine.load(program);
    executable.run();
    const found: Float32Array[] = [];
    for (const result of made.results) found.push(await engine.read(result));
    return found;
  });
}

/** The largest ‖a − b‖ / ‖b‖ of the results. */
function worst(results: readonly Float32Array[], wanted: readonly Float32Array[]): number {
  return Math.max(...results.map((result, i) => {
    let error = 0, norm = 0;
    result.forEach((x, at) => {
      error += (x - wanted[i]![at]!) ** 2;
      norm += wanted[i]![at]! ** 2;
    });
    return Math.sqrt(error / norm);
  }));
}

/** Milliseconds that `layers` more runs of one op take; `keep` says which of its passes run. */
async function time(
  engine: Engine,
  program: Program,
  name: string,
  keep: (pass: Pass, index: number) => boolean = () => true,
): Promise<number> {
  const node = program.nodes.find(({ op }) => op.name === name)!;
  const repeated: Node = {
    ...node,
    op: { ...node.op, webgpu: (n, limits) => node.op.webgpu(n, limits).filter(keep) },
  };
  const once = async (count: number) => {
    const nodes = Array.from({ length: count }, () => repeated);
    using executable = await engine.load({ ...program, nodes });
    const times: number[] = [];
    for (let i = 0; i <= REPEATS; i++) {
      const started = performance.now();
      executable.run();
      await engine.settle();
      times.push(performance.now() - started);
    }
    return Math.min(...times.slice(1));
  };
  // As many more as take some time, for a device is asked only every millisecond whether it is done.
  const more = layers * Math.min(Math.max(Math.round(LONG / node.outputs[0]!.rows), 1), 16);
  const few = await once(layers), many = await once(layers + more);
  return (many - few) * layers / more;
}

const { engine, reason } = await chooseEngine(values.engine as EngineChoice);
console.log(`${reason}\nH ${H}, N ${N}; milliseconds of ${layers} layers\n`);
const parse = (text: string): ScanLayout => {
  const [rows, rowsAThread, keyThreads, block] = text.split("/").map(Number) as [
    number,
    number,
    number,
    number,
  ];
  return { rows, rowsAThread, keyThreads, block };
};
const limits = { workgroupBytes: 32768, bindingBytes: 2 ** 27, workgroups: 65535 };
const layouts = engine.name === "cpu"
  ? []
  : values.layouts
  ? values.layouts.split(",").map(parse)
  : [1, 32, 1000].map((heads) => scanLayout(N, heads, 8192, limits));
const line = (...cells: (string | number)[]) =>
  console.log(
    cells.map((cell, i) => (typeof cell === "number" ? cell.toFixed(2) : cell).padStart(i ? 13 : 12)).join(
      "",
    ),
  );

const small = recurrence(1, COMPARED);
using cpu = { engine: new CpuEngine(), [Symbol.dispose]: () => cpu.engine.dispose() };
const wanted = await resultsOf(cpu.engine, small);
for (const layout of layouts) {
  const error = worst(await resultsOf(engine, small, lowered(small.program, layout)), wanted);
  console.log(
    `${Object.values(layout).join("/")}: differs from the cpu engine by ${
      error.toExponential(1)
    } over ${COMPARED} steps`,
  );
}
for (const size of values.sizes.split(",")) {
  const [B, T] = size.split("x").map(Number) as [number, number];
  const made = recurrence(B, T);
  // Numbers of a [B·T, C] stream, in units of which the traffic is counted, and products of a state with a vector.
  const stream = B * T * C * 4 * layers / 1e9, state = B * T * C * N * layers / 1e9;
  const rates = (ms: number, streams: number, flops: number) =>
    `${Math.round(stream * streams / ms * 1e3)} GB/s ${Math.round(state * flops / ms * 1e3)} GF/s`.padStart(
      26,
    );
  console.log(`\n${size}: values of a run ${(made.program.workspaceBytes / 1e6).toFixed(0)} MB`);
  await withVariables(engine, made, async () => {
    if (!layouts.length) {
      line("", "forward", await time(engine, made.program, "wkv7"));
      line("", "gradient", await time(engine, made.program, "wkv7Gradient"));
    } else {line(
        "layout",
        "forward",
        "",
        "",
        "blocks",
        "scan",
        "output",
        "gradient",
        "",
        "",
        "scan",
        "chunks",
        "sum",
      );}
    for (const layout of layouts) {
      const program = lowered(made.program, layout), kept = N / CHUNK;
      const forward = await time(engine, program, "wkv7"),
        gradient = await time(engine, program, "wkv7Gradient");
      const pass = (name: string, wanted: number) => time(engine, program, name, (_, i) => i === wanted);
      line(
        Object.values(layout).join("/"),
        forward,
        rates(forward, 8 + kept, 9),
        await pass("wkv7", 0),
        await pass("wkv7", 1),
        await pass("wkv7", 2),
        gradient,
        rates(gradient, 22 + 3 * kept, 29),
        await pass("wkv7Gradient", 1),
        // What is left of the whole: alone it would read its own results, with decays that take the slow way.
        gradient - await time(engine, program, "wkv7Gradient", (_, i) => i < 3),
        forward + gradient,
      );
    }
  });
}
engine.dispose();
