/**
 * What a merged model is measured against: the base model with its adapter.
 *
 * An RWKV-7 model that fits into memory is compared by its logits, on a text that base plus adapter writes itself: tokens that a model
 * never met would amplify rounding beyond any use. A larger one is compared block by block, see compare_blocks.ts. A model of another
 * kind is compared layer by layer, on noise: what each merged weight makes of it against what the adapter's own expression makes of it
 * on the base weight.
 *
 * @module
 */
import { toFloat32 } from "../formats/dtype.ts";
import { release } from "../formats/memory.ts";
import type { TensorFile } from "../formats/tensor_file.ts";
import type { Engine, Executable } from "../kernels/engine.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { matmul } from "../kernels/ops/matmul/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { Model } from "../rwkv/model.ts";
import { Session } from "../rwkv/session.ts";
import { type Adapter, tensorsAt } from "./adapter.ts";
import { eachBlock, noise } from "./compare_blocks.ts";
import { fitTo, type Place } from "./fit.ts";
import type { Site } from "./method.ts";
import { transposed } from "./transpose.ts";
import { attach, wireAdapter } from "./wiring.ts";

/** How far a merged model is from base plus adapter. */
export interface MergeCheck {
  /** What was compared: the logits of a text, the outputs of every block, or those of every adapted layer. */
  readonly compared: "logits" | "blocks" | "layers";
  /** The same in words, with how much of it: "logits of 32 tokens". */
  readonly extent: string;
  /** Largest difference of two logits, or of two outputs. */
  readonly largestDifference: number;
  /** ‖merged − base plus adapter‖ / ‖base plus adapter‖ over all of them. */
  readonly relativeError: number;
  /** What the relative error may be, from the dtype that the weights were rounded to. */
  readonly bound: number;
}

/** Relative error that rounding the weights once explains, with room: what many layers make of it, and what one does. */
const ROUNDING: Readonly<Record<string, number>> = { F64: 1e-4, F32: 1e-4, F16: 4e-3, BF16: 3e-2 };
const ROUNDING_OF_ONE: Readonly<Record<string, number>> = { F64: 1e-4, F32: 1e-4, F16: 1e-3, BF16: 8e-3 };
/** Relative error of a block that has nothing to do with rounding weights: that of computing the same in another order, with room. */
const UNEXPLAINED = 2e-3;
/** Tokens that the logits are compared on. */
const PROBE_TOKENS = 32;
/** Rows of noise that a layer is compared on. */
const PROBE_ROWS = 8;

/** Sums up differences. */
class Comparison {
  largestDifference = 0;
  #differences = 0;
  #squares = 0;

  add(found: ArrayLike<number>, wanted: ArrayLike<number>): void {
    for (let i = 0; i < wanted.length; i++) {
      const difference = Math.abs(found[i]! - wanted[i]!);
      // NaN is larger than anything.
      if (!(difference <= this.largestDifference)) this.largestDifference = difference;
      this.#differences += difference ** 2;
      this.#squares += wanted[i]! ** 2;
    }
  }

  /** ‖found − wanted‖ / ‖wanted‖ */
  get relativeError(): number {
    return this.#differences === 0 ? 0 : Math.sqrt(this.#differences / this.#squares);
  }

  result(compared: MergeCheck["compared"], extent: string, bound: number): MergeCheck {
    const { largestDifference, relativeError } = this;
    return { compared, extent, largestDifference, relativeError, bound };
  }
}

/** The bound for a merged file: that of the coarsest dtype among the layers that an adapter may sit on. */
function boundOf(merged: TensorFile, weights: Iterable<string>, rounding = ROUNDING): number {
  return Math.max(1e-4, ...[...weights].map((name) => rounding[merged.tensors.get(name)!.dtype] ?? 0));
}

/**
 * Compares the logits of a merged RWKV-7 model with those of base plus adapter. Either is loaded as a whole, one after the other.
 */
export async function compareLogits(
  base: TensorFile,
  adapter: Adapter,
  merged: TensorFile,
  engine: Engine,
): Promise<MergeCheck> {
  const probe = [0];
  const wanted: Float32Array[] = [];
  await withSession(base.path, adapter, engine, async (session) => {
    for (let i = 0; i < PROBE_TOKENS; i++) {
      const logits = await session.feed([probe[i]!]);
      wanted.push(logits);
      probe.push(logits.indexOf(Math.max(...logits)));
    }
  });
  const found = await withSession(
    merged.path,
    undefined,
    engine,
    (session) => session.feed(probe.slice(0, -1), "all"),
  );
  const comparison = new Comparison();
  wanted.forEach((logits, i) =>
    comparison.add(found.subarray(i * logits.length, (i + 1) * logits.length), logits)
  );
  const bound = boundOf(merged, ["blocks.0.att.key.weight"]);
  return comparison.result("logits", `logits of ${PROBE_TOKENS} tokens`, bound);
}

/** Compares every block of a merged RWKV-7 model with that of base plus adapter, one at a time. */
export async function compareBlocks(
  base: TensorFile,
  adapter: Adapter,
  merged: TensorFile,
  engine: Engine,
): Promise<MergeCheck> {
  const comparison = new Comparison(), words = ` for ${PROBE_TOKENS} tokens`;
  let blocks = 0, bound = boundOf(merged, ["blocks.0.att.key.weight"]);
  for await (const block of eachBlock([base, adapter], merged, { tokens: PROBE_TOKENS, engine })) {
    const { found, wanted } = block, alone = new Comparison();
    alone.add(found, wanted);
    comparison.add(found, wanted);
    if (!(alone.relativeError <= bound)) {
      const exact = await block.unrounded(), rest = new Comparison();
      if (exact) rest.add(exact, wanted);
      if (!exact || !(rest.relativeError <= UNEXPLAINED)) {
        return alone.result("blocks", `outputs of block ${blocks}${words}`, bound);
      }
      bound = alone.relativeError;
    }
    blocks++;
  }
  return comparison.result("blocks", `outputs of all ${blocks} blocks${words}`, bound);
}

async function withSession<T>(
  path: string,
  adapter: Adapter | undefined,
  engine: Engine,
  use: (session: Session) => Promise<T>,
): Promise<T> {
  using model = Model.load(path, engine);
  using attachment = adapter && attach(adapter, model);
  const session = new Session(
    model.config,
    (graph) => attachment ? wireAdapter(graph, model, attachment) : model.wire(graph),
    engine,
  );
  try {
    return await use(session);
  } finally {
    session.dispose();
  }
}

/** Compares every adapted layer of a merged model of any kind with the base's, one at a time. */
export async function compareLayers(
  base: TensorFile,
  adapter: Adapter,
  merged: TensorFile,
  engine: Engine,
): Promise<MergeCheck> {
  const comparison = new Comparison(), fit = fitTo(adapter, base);
  // Layers of one shape share a program, and one program is there at a time.
  const alike = Map.groupBy(
    fit.sites,
    ([, { site }]) => JSON.stringify([site.in, site.out, adapter.settingsAt(site.name)]),
  );
  for (const places of alike.values()) {
    const layer = await ProbedLayer.load(adapter, places[0]![1].site, engine);
    try {
      for (const [name, place] of places) {
        const before = weightAt(base, name, place), after = weightAt(merged, name, place);
        const { adapted, plain } = await layer.outputs(place.site, before, after);
        release(before, after);
        comparison.add(plain, adapted);
      }
    } finally {
      layer.dispose();
    }
  }
  const extent = `outputs of the ${fit.sites.size} adapted layers for ${PROBE_ROWS} rows of noise`;
  return comparison.result("layers", extent, boundOf(merged, fit.sites.keys(), ROUNDING_OF_ONE));
}

/** The weight of a layer, [out, in] as the adapter sees it. */
function weightAt(file: TensorFile, name: string, { turned }: Place<unknown>): Float32Array<ArrayBuffer> {
  const bytes = file.readBytes(name), { dtype, shape } = file.tensors.get(name)!;
  const data = toFloat32(bytes, dtype);
  release(bytes);
  return turned ? transposed({ shape, data }).data : data;
}

/** A program that gives a layer's outputs for noise, twice: with the adapter on one weight, and plainly with another. */
class ProbedLayer {
  private constructor(
    readonly adapter: Adapter,
    readonly engine: Engine,
    readonly executable: Executable,
    readonly variables: Readonly<Record<"base" | "merged" | "x" | "adapted" | "plain", Variable>>,
    readonly parameters: ReadonlyMap<string, Variable>,
  ) {}

  static async load(adapter: Adapter, site: Site, engine: Engine): Promise<ProbedLayer> {
    const { method } = adapter, settings = adapter.settingsAt(site.name), rows = PROBE_ROWS;
    const variables = {
      base: new Variable("base", [site.out, site.in]),
      merged: new Variable("merged", [site.out, site.in]),
      x: new Variable("x", [rows, site.in]),
      adapted: new Variable("adapted", [rows, site.out]),
      plain: new Variable("plain", [rows, site.out]),
    };
    const parameters = new Map(
      Object.entries(method.parameters(site, settings)).map((
        [name, { shape }],
      ) => [name, new Variable(name, shape)]),
    );
    const graph = new Graph();
    const x = graph.use(variables.x), weight = graph.use(variables.base);
    const adapted = method.forward({
      graph,
      site,
      settings,
      x,
      weight,
      base: (x) => matmul(graph, x, weight, { transposeB: true }),
      parameters: Object.fromEntries([...parameters].map(([name, variable]) => [name, graph.use(variable)])),
      dropout: (x) => x,
    });
    assign(graph, variables.adapted, adapted);
    assign(graph, variables.plain, matmul(graph, x, graph.use(variables.merged), { transposeB: true }));
    for (const variable of [...Object.values(variables), ...parameters.values()]) engine.allocate(variable);
    engine.write(variables.x, noise(rows * site.in));
    return new ProbedLayer(adapter, engine, await engine.load(compile(graph)), variables, parameters);
  }

  async outputs(site: Site, base: Float32Array, merged: Float32Array) {
    const { engine, variables, adapter } = this;
    engine.write(variables.base, base);
    engine.write(variables.merged, merged);
    const tensors = tensorsAt(adapter, site, () => base);
    for (const [name, variable] of this.parameters) {
      engine.write(variable, tensors[name]!.data);
    }
    this.executable.run();
    return { adapted: await engine.read(variables.adapted), plain: await engine.read(variables.plain) };
  }

  dispose(): void {
    this.executable.dispose();
    [...Object.values(this.variables), ...this.parameters.values()].forEach((variable) =>
      this.engine.free(variable)
    );
  }
}
