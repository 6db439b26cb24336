/**
 * Comparing a merged RWKV-7 model with base plus adapter block by block, however large it is: one block of either is on the engine at
 * a time. Both get the rows that base plus adapter has computed so far, for the same tokens, so that what rounding changes in one block
 * is not amplified by the next, and what is compared is what each block adds.
 *
 * A block may make more of rounding than most do, where it nearly cancels what it adds. Then it is computed a third time, with merged
 * weights that were not rounded, which tells how much of the difference is rounding.
 *
 * @module
 */
import type { TensorFile } from "../formats/tensor_file.ts";
import { byteWidth, toFloat32 } from "../formats/dtype.ts";
import { release, releasing } from "../formats/memory.ts";
import type { Engine } from "../kernels/engine.ts";
import { Graph, Variable } from "../kernels/graph.ts";
import { map } from "../kernels/ops/map/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile } from "../kernels/plan.ts";
import { linearSites, type ModelConfig, weightShapes } from "../rwkv/config.ts";
import { placeWeight, readModelConfig, wireWeights } from "../rwkv/model.ts";
import { blockV7 } from "../rwkv/v7.ts";
import { type Adapter, type HostTensor, tensorsAt } from "./adapter.ts";
import { isInitialState } from "./fit.ts";
import { mergedWeight } from "./merge.ts";
import { adapterShape, wireAdapter } from "./wiring.ts";

/** A tensor by its name in files. */
type NamedTensor = readonly [name: string, tensor: HostTensor];

/** What a block makes of its input: what it adds, and its own v. */
interface BlockOutput {
  readonly added: Float32Array;
  readonly v: Float32Array;
}

/** What a block adds to the rows of base plus adapter, computed in several ways. */
export interface ComparedBlock {
  /** By the merged model's file. */
  readonly found: Float32Array;
  /** By base plus adapter. */
  readonly wanted: Float32Array;
  /** By the merged model before its weights were rounded; undefined if the file does not hold these, rounded. */
  unrounded(): Promise<Float32Array | undefined>;
}

/** Goes through the blocks of two models. */
export async function* eachBlock(
  [base, adapter]: readonly [TensorFile, Adapter],
  merged: TensorFile,
  { tokens, engine }: { tokens: number; engine: Engine },
): AsyncGenerator<ComparedBlock> {
  const config = readModelConfig(base);
  const x = startingRows(base, config, tokens);
  let vFirst: Float32Array | undefined;
  for (let layer = 0; layer < config.layers; layer++) {
    const input = { layer, x, vFirst, T: tokens };
    const theirs = tensorsInBlock(adapter, base, config, layer);
    const wanted = await runBlock(base, adapter, theirs, input, engine);
    const found = await runBlock(merged, undefined, [], input, engine);
    yield {
      found: found.added,
      wanted: wanted.added,
      unrounded: async () => {
        const exact = unroundedInBlock(adapter, theirs, [base, merged], config, layer);
        try {
          return (await runBlock(merged, undefined, exact, input, engine)).added;
        } catch (error) {
          if (error instanceof NotRounded) return undefined;
          throw error;
        }
      },
    };
    vFirst ??= wanted.v;
    wanted.added.forEach((added, i) => x[i]! += added);
  }
}

/**
 * Rows of the embedding, spread over the vocabulary, each brought to the size that the first norm gives it: [T, C]. Rows of zeros, as
 * words that a model never met may have, would show nothing, and are noise instead.
 */
function startingRows(file: TensorFile, { channels: C, vocabulary }: ModelConfig, T: number): Float32Array {
  const { dtype } = file.tensors.get("emb.weight")!, rowBytes = C * byteWidth(dtype);
  const wanted = Array.from({ length: T }, (_, t) => Math.floor((t + 0.5) * vocabulary / T));
  const x = noise(T * C), perPiece = Math.max(1, Math.floor((1 << 24) / rowBytes));
  let first = 0;
  for (const piece of file.readPieces("emb.weight", perPiece * rowBytes)) {
    wanted.forEach((row, t) => {
      if (row < first || row >= first + perPiece) return;
      const at = (row - first) * rowBytes, values = toFloat32(piece.slice(at, at + rowBytes), dtype);
      const length = Math.hypot(...values) / Math.sqrt(C);
      if (length > 0) values.forEach((value, i) => x[t * C + i] = value / length);
    });
    first += perPiece;
    release(piece);
  }
  return x;
}

/** The same numbers every time, between -1 and 1, without a pattern that shards could meet. */
export function noise(count: number): Float32Array {
  let state = 1;
  return Float32Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  });
}

async function runBlock(
  file: TensorFile,
  adapter: Adapter | undefined,
  instead: Iterable<NamedTensor>,
  { layer, x, vFirst, T }: { layer: number; x: Float32Array; vFirst: Float32Array | undefined; T: number },
  engine: Engine,
): Promise<BlockOutput> {
  using held = new DisposableStack();
  const hold = (variable: Variable) => (held.defer(() => engine.free(variable)), variable);
  const place = (name: string, shape: readonly number[], content?: Float32Array) => {
    const variable = new Variable(name, shape);
    engine.allocate(variable, content);
    return hold(variable);
  };
  const config = readModelConfig(file), inBlock = (name: string) => name.startsWith(`blocks.${layer}.`);
  const brought = new Map<string, Variable>();
  for (const [name, { shape, data }] of instead) {
    brought.set(name, place(name, adapterShape(name, shape, config), data));
  }
  const weights = new Map<string, Variable>();
  for (const name of weightShapes(config).keys()) {
    if (!inBlock(name) || brought.has(name)) continue;
    const bytes = file.readBytes(name);
    weights.set(name, hold(placeWeight(file.tensors.get(name)!, bytes, engine)));
    release(bytes);
  }
  const shape = [T, config.channels];
  const input = place("x", shape, x), first = vFirst && place("first v", shape, vFirst);
  const added = place("added", shape), v = place("v", shape);
  const graph = new Graph();
  const model = {
    config,
    wire: (graph: Graph, overlay: ReadonlyMap<string, Variable> = new Map()) =>
      wireWeights(graph, config, new Map([...weights, ...overlay])),
  };
  const wiring = adapter
    ? wireAdapter(graph, model, { adapter, variables: brought })
    : model.wire(graph, brought);
  const before = graph.use(input);
  const result = blockV7(wiring, layer, before, { T, vFirst: first && graph.use(first) });
  assign(graph, added, map(graph, [result.x, before], (after, before) => after.sub(before)));
  assign(graph, v, result.v);
  using program = await engine.load(compile(graph, engine));
  program.run();
  return { added: await engine.read(added), v: await engine.read(v) };
}

/** What an adapter has in a block: its tensors at the layers, and weights that it brings. */
function tensorsInBlock(
  adapter: Adapter,
  base: TensorFile,
  config: ModelConfig,
  layer: number,
): NamedTensor[] {
  const own = [...adapter.tensors].filter(([name]) => name.startsWith(`blocks.${layer}.`));
  const atSites = sitesOf(config, layer).flatMap((site) =>
    Object.entries(tensorsAt(adapter, site, () => base.readFloat32(`${site.name}.weight`)))
      .map(([name, tensor]) => [`${site.name}.${name}`, tensor] as const)
  );
  return [...new Map([...own, ...atSites])];
}

/** A merged file's weights are not those that merging gives. */
class NotRounded extends Error {}

/**
 * The weights of a block that merging changes, as they are before they are rounded; each is gone when the next is asked for.
 * @throws NotRounded if the merged file does not hold one of them, rounded
 */
function* unroundedInBlock(
  adapter: Adapter,
  theirs: readonly NamedTensor[],
  [base, merged]: readonly [TensorFile, TensorFile],
  config: ModelConfig,
  layer: number,
): Generator<NamedTensor> {
  const check = (name: string, exact: Float32Array) => {
    if (!merged.tensors.has(name) || !isRounded(merged, name, exact)) throw new NotRounded(name);
  };
  const brought = new Map(theirs.filter(([name]) => weightShapes(config).has(name) || isInitialState(name)));
  for (const site of sitesOf(config, layer)) {
    if (!Object.keys(adapter.parametersAt(site)).length) continue;
    const name = `${site.name}.weight`, own = brought.get(name)?.data, weight = own ?? base.readFloat32(name);
    const data = mergedWeight(adapter, site, weight) as Float32Array<ArrayBuffer>;
    if (!own && weight !== data) release(weight as Float32Array<ArrayBuffer>);
    brought.delete(name);
    check(name, data);
    yield [name, { shape: [site.out, site.in], data }];
    if (data !== own) release(data);
  }
  for (const [name, tensor] of brought) {
    check(name, tensor.data);
    yield [name, tensor];
  }
}

/** Relative error that rounding to 8 bits twice can come to. */
const TWICE_ROUNDED = 2 ** -6;

function isRounded(file: TensorFile, name: string, exact: Float32Array): boolean {
  const { dtype } = file.tensors.get(name)!;
  let difference = 0, square = 0, at = 0;
  for (const piece of releasing(file.readPieces(name))) {
    const found = toFloat32(piece, dtype);
    for (const x of found) {
      const wanted = exact[at++]!;
      difference += (x - wanted) ** 2;
      square += wanted ** 2;
    }
    release(found);
  }
  return difference <= TWICE_ROUNDED ** 2 * square;
}

const sitesOf = (config: ModelConfig, layer: number) =>
  linearSites(config).filter((site) => site.layer === layer);
