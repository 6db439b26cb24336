/**
 * The memory plan: which nodes need to run at all, how long every value lives, and which values share memory (`slots.ts`). The sum of
 * the slots is the exact peak, known before anything is allocated.
 *
 * @module
 */
import { ownerOf } from "./engine.ts";
import { fuse } from "./fuse.ts";
import { joinFolds } from "./folds.ts";
import { joinAlike } from "./joins.ts";
import type { DeviceLimits } from "./op.ts";
import { readHalves, writeHalves } from "./halves.ts";
import { keepLess } from "./kept.ts";
import { remakeAtWorst } from "./remade.ts";
import { reuseWeights } from "./reused.ts";
import { livesOf } from "./lives.ts";
import { type Place, placed } from "./slots.ts";
import { addInProducts } from "./sums.ts";
import { bytesOf, inputsRead, type Node, type Tensor, type Variable } from "./graph.ts";
import { isAccumulation } from "./ops/update/op.ts";
import { type View, viewOf, viewsOf } from "./views.ts";

/** A list of nodes with a place for every value: what an engine runs. */
export interface Program {
  /** What runs, in order: nothing for views. */
  readonly nodes: readonly Node[];
  /** Sizes in bytes of the memory that values share. */
  readonly slots: readonly number[];
  /** Where each value lies, but for views, and for scratch that the engine does not need. */
  readonly placement: ReadonlyMap<Tensor, Place>;
  /** Where the values lie that are rows of others or of variables. */
  readonly views: ReadonlyMap<Tensor, View>;
  /** Every variable that the program reads or updates, parts as well as packs. */
  readonly variables: ReadonlySet<Variable>;
  /** Bytes of all slots: the memory that a run needs beyond its variables. */
  readonly workspaceBytes: number;
}

/** The nodes that lead to an update of a variable, in order. */
function liveNodes(nodes: readonly Node[]): Node[] {
  const needed = new Set<Tensor>();
  return nodes.toReversed().filter((node) => {
    if (!node.op.mutates?.length && !node.outputs.some((t) => needed.has(t))) return false;
    inputsRead(node).forEach((t) => needed.add(t));
    return true;
  }).reverse();
}

/** The nodes with additions to variables as soon as what is added is known, so that it need not be kept until the end. */
function updatedEarly(nodes: readonly Node[]): Node[] {
  const after = new Map<Node, Node[]>();
  const producers = new Map(nodes.flatMap((node) => node.outputs.map((t) => [t, node] as const)));
  const others = new Set(
    nodes.filter((node) => !isAccumulation(node)).flatMap((node) => node.inputs.map(ownerOf)),
  );
  const early = nodes.filter((node) => {
    const producer = isAccumulation(node) && producers.get(node.inputs[1]!);
    if (!producer || others.has(ownerOf(node.inputs[0]!))) return false;
    after.set(producer, [...after.get(producer) ?? [], node]);
    return true;
  });
  const moved = new Set(early);
  return nodes.flatMap((node) => moved.has(node) ? [] : [node, ...after.get(node) ?? []]);
}

/** Bytes of the values that a program holds just after a tensor was computed: after the loss, what a backward pass needs. */
export function bytesAfter({ nodes, placement, views }: Program, tensor: Tensor): number {
  const at = nodes.findIndex(({ outputs }) => outputs.includes(tensor));
  const computed = new Set(nodes.slice(0, at + 1).flatMap((node) => node.outputs));
  const read = new Set(nodes.slice(at + 1).flatMap(inputsRead).map((t) => viewOf(views, t).of));
  const kept = [...computed.intersection(read)].filter((t) => placement.has(t));
  return kept.reduce((sum, t) => sum + bytesOf(t), 0);
}

/** Operands that a node may have on every engine: the storage bindings of every WebGPU device. */
export const LEAST_OPERANDS = 8;

/** The part of its memory by which a program may grow that makes fewer weights: no more is alive at once, but slots may fit worse. */
const MORE_FOR_REUSE = 1 / 128;
/** The part of its nodes that has to be saved by that: planning once more takes time too. */
const LEAST_GAIN = 1 / 100;

/**
 * Plans the nodes of a graph into a program. Nodes that update no variable, directly or through others, are left out.
 * @param options.operands of one node, at most; an engine has this
 * @param options.scratch whether scratch has a place; an engine has this
 * @param options.joinsFolds the storage of weights that are made so that there are fewer products, if they are; an engine has this
 * @param options.rounds storage to which products round what they multiply, if they do; an engine has this
 * @param options.keeps storage of what a forward pass leaves for the backward pass, with what is cheap left out; an engine has this
 * @param options.limits what one shader may be given, where there are shaders; an engine has this
 * @param options.fused false to keep elementwise nodes as they were made
 */
export function compile(
  graph: { readonly nodes: readonly Node[]; readonly loss?: Tensor | undefined },
  options: {
    readonly operands?: number | undefined;
    readonly scratch?: boolean | undefined;
    readonly joinsFolds?: "f32" | "f16" | undefined;
    readonly keeps?: "f32" | "f16" | undefined;
    readonly rounds?: "f16" | undefined;
    readonly limits?: DeviceLimits | undefined;
    readonly fused?: boolean;
  } = {},
): Program {
  const { operands = LEAST_OPERANDS, scratch = true, joinsFolds, keeps, rounds, limits, fused = true } =
    options;
  const needed = liveNodes(graph.nodes);
  const joined = joinsFolds ? liveNodes(joinFolds(needed, joinsFolds)) : needed;
  const live = updatedEarly(addInProducts(joined));
  const kept = keeps && graph.loss ? liveNodes(readHalves(keepLess(live, graph.loss, keeps))) : live;
  const smallest = keeps === "f16" && graph.loss ? remakeAtWorst(kept, graph.loss) : kept;
  const finished = (nodes: readonly Node[]): Program => {
    const fewest = fused ? fuse(nodes, operands) : nodes;
    const stored = rounds ? writeHalves(fewest) : fewest;
    return laidOut(limits ? joinAlike(stored, operands) : stored, scratch);
  };
  // Both are laid out, as how well values fill the slots is not known before.
  const plain = finished(smallest), fewer = joinsFolds ? reuseWeights(smallest) : smallest;
  if (smallest.length - fewer.length < LEAST_GAIN * smallest.length) return plain;
  const reusing = finished(fewer);
  return reusing.workspaceBytes <= (1 + MORE_FOR_REUSE) * plain.workspaceBytes ? reusing : plain;
}

/** A program of nodes in the order in which they run. */
function laidOut(ordered: readonly Node[], scratch: boolean): Program {
  const views = viewsOf(ordered);
  const nodes = ordered.filter(({ outputs }) => !outputs.some((t) => views.has(t)));
  const used = nodes.flatMap(inputsRead).map((t) => viewOf(views, t).of.variable);
  const lives = livesOf(nodes, views);
  if (!scratch) nodes.flatMap(scratchOf).forEach((t) => lives.delete(t));
  const { slots, placement } = placed(nodes, lives, views);
  return {
    nodes,
    slots,
    placement,
    views,
    variables: new Set(used.filter((variable) => variable !== undefined)),
    workspaceBytes: slots.reduce((total, bytes) => total + bytes, 0),
  };
}

/** The values that only a GPU's passes of a node read and write. */
function scratchOf({ op, outputs }: Node): Tensor[] {
  return op.scratch?.map((i) => outputs[i]!) ?? [];
}
