/**
 * Fewer passes over memory: elementwise nodes that can be computed together become one, so that what lies between them stays
 * in registers, what several of them read is read once, and a step has fewer dispatches.
 *
 * A map that only copies a value gives way to that value, and a constant goes into the expressions that read it. Then a map
 * moves to one that reads what it computes, or reads what it reads: down to it where nobody needs it earlier, or up where
 * everything is known already. Nothing is computed twice, every number is computed as before, and a move that would
 * raise the most memory that is alive at any time is not made. Additions to parts of one pack are gathered alike.
 *
 * @module
 */
import { home } from "./engine.ts";
import { bytesOf, inputsRead, type Node, type Tensor, type Variable } from "./graph.ts";
import { Expression } from "./ops/map/expression.ts";
import { broadcast, type MapAttributes, mapOp } from "./ops/map/op.ts";
import { areApart, gathered, isAccumulation } from "./ops/update/op.ts";
import { viewOf, viewsOf } from "./views.ts";

type MapNode = Node<MapAttributes>;

function isMap(node: Node | undefined): node is MapNode {
  return node?.op === mapOp;
}

const sameShape = (a: Tensor, b: Tensor) => a.shape.join() === b.shape.join();

/**
 * The same computation in fewer nodes.
 * @param nodes in the order in which they run, none without use
 * @param operands of one node, at most
 */
export function fuse(nodes: readonly Node[], operands: number): Node[] {
  const fusion = new Fusion(simplified(nodes), operands);
  fusion.run();
  return fusion.nodes.filter((node) => node !== undefined);
}

/** The nodes without copies, with constants in the expressions that read them, and without what is not needed any more. */
function simplified(nodes: readonly Node[]): Node[] {
  const standIn = new Map<Tensor, Tensor>(), constants = new Map<Tensor, Expression>();
  const simpler = nodes.map((node): Node => {
    const inputs = node.inputs.map((t) => standIn.get(t) ?? t);
    if (!isMap(node)) return { ...node, inputs };
    const compacted = compact(node, inputs, constants);
    compacted.attributes.results.forEach(({ form }, k) => {
      const out = node.outputs[k]!;
      if (form.kind === "constant") constants.set(out, Expression.constant(form.value));
      if (form.kind !== "input") return;
      const from = compacted.inputs[form.index]!;
      if (!from.variable && sameShape(from, out) && from.dtype === out.dtype) standIn.set(out, from);
    });
    return compacted as Node;
  });
  const needed = new Set<Tensor>();
  return simpler.toReversed().flatMap((node) => {
    const outputs = node.outputs.map((t) => needed.has(t));
    if (!node.op.mutates?.length && !outputs.includes(true)) return [];
    const kept = outputs.includes(false) ? only(node, (t) => needed.has(t)) : node;
    inputsRead(kept).forEach((t) => needed.add(t));
    return [kept];
  }).reverse();
}

/** A map that reads `inputs` where it read its own, each once and none that it does not need. */
function compact(
  node: MapNode,
  inputs: readonly Tensor[],
  constants: ReadonlyMap<Tensor, Expression>,
): MapNode {
  const places: (Expression | undefined)[] = [], read = new Map<Tensor, Expression>();
  for (const i of mapOp.reads!(node)) {
    const t = inputs[i]!;
    if (!constants.has(t) && !read.has(t)) read.set(t, Expression.input(read.size));
    places[i] = constants.get(t) ?? read.get(t);
  }
  const results = Expression.substitute(node.attributes.results, places);
  return { ...node, inputs: [...read.keys()], attributes: { ...node.attributes, results } };
}

/** A node with some of its outputs only, where it is a map. */
export function only(node: Node, keep: (t: Tensor) => boolean): Node {
  if (!isMap(node)) return node;
  const results = node.attributes.results.filter((_, k) => keep(node.outputs[k]!));
  const outputs = node.outputs.filter(keep);
  const fewer = { ...node, outputs, attributes: { ...node.attributes, results } };
  return compact(fewer, fewer.inputs, new Map()) as Node;
}

/** Whether inputs repeat over one shape as they do over another of its size. */
function fits({ inputs, attributes: { shape } }: MapNode, other: readonly number[]): boolean {
  return inputs.every((t) => {
    const one = broadcast(t.shape, shape), two = broadcast(t.shape, other);
    return one?.divisor === two?.divisor && one?.modulus === two?.modulus;
  });
}

/** Two maps as one, `second` after `first`, with the outputs of which `needed` says so. */
function merged(first: MapNode, second: MapNode, needed: (t: Tensor) => boolean): MapNode | undefined {
  const shape = [second, first].map(({ attributes }) => attributes.shape)
    .find((shape) => fits(first, shape) && fits(second, shape));
  if (!shape || first.outputs[0]!.size !== second.outputs[0]!.size) return undefined;
  // What is rounded to be kept is read as it was rounded.
  if (second.inputs.some((t) => t.dtype !== "f32" && first.outputs.includes(t))) return undefined;
  const known = new Map<Tensor, Expression>();
  const inputs: Tensor[] = [];
  const results = [first, second].flatMap((node) => {
    const places = node.inputs.map((t) => {
      if (!known.has(t)) known.set(t, Expression.input(inputs.push(t) - 1));
      return known.get(t);
    });
    const results = Expression.substitute(node.attributes.results, places);
    node.outputs.forEach((t, k) => known.set(t, results[k]!));
    return results;
  });
  const all = [...first.outputs, ...second.outputs];
  return {
    ...second,
    inputs,
    outputs: all.filter(needed),
    attributes: { shape, results: results.filter((_, k) => needed(all[k]!)) },
  };
}

/** What a move is decided by, kept up to date while nodes move. */
class Fusion {
  readonly nodes: (Node | undefined)[];
  readonly #operands: number;
  readonly #madeAt = new Map<Tensor, number>();
  readonly #readAt = new Map<Tensor, Set<number>>();
  /** Where each variable, or the pack that it is a part of, is read or updated. */
  readonly #usedAt = new Map<Variable, Set<number>>();
  /** The value that has the memory of each view. */
  readonly #holder: (t: Tensor) => Tensor;
  /** The views of each value that has some. */
  readonly #viewsOf: Map<Tensor, Tensor[]>;
  /** Bytes of the values that are alive while each node runs. */
  readonly #alive: number[];
  readonly #most: number;

  constructor(nodes: readonly Node[], operands: number) {
    this.nodes = [...nodes];
    this.#operands = operands;
    nodes.forEach((node, at) => this.#enter(node, at));
    const views = viewsOf(nodes);
    this.#holder = (t) => viewOf(views, t).of;
    this.#viewsOf = Map.groupBy(views.keys(), this.#holder);
    this.#alive = new Array(nodes.length).fill(0);
    for (const t of this.#madeAt.keys()) {
      if (!views.has(t)) this.#count(t, 1, 0, nodes.length - 1, this.#alive);
    }
    this.#most = this.#alive.reduce((a, b) => Math.max(a, b), 0);
  }

  run(): void {
    for (let at = 0; at < this.nodes.length; at++) {
      for (let where: number | undefined = at; where !== undefined;) where = this.#mergeOnce(where);
    }
  }

  /** Merges the node at `at` with one before it. @returns where the two are now, if any */
  #mergeOnce(at: number): number | undefined {
    const node = this.nodes[at];
    if (!node) return undefined;
    for (const before of this.#candidates(node, at)) {
      const first = this.nodes[before]!;
      for (const to of [at, before]) {
        const one = this.#join(first, node);
        if (one && this.#mayMove(before, at, to, one)) {
          this.#replace(before, at, to, one);
          return to;
        }
      }
    }
    return undefined;
  }

  /** Nodes before `at` that share something with the node there, nearest first. */
  #candidates(node: Node, at: number): number[] {
    const found = new Set<number>();
    if (isMap(node)) {
      const size = node.outputs[0]!.size;
      for (const t of node.inputs) {
        if (t.variable || t.size !== size) continue;
        for (const i of [this.#madeAt.get(t)!, ...this.#readAt.get(t)!]) {
          if (i < at && isMap(this.nodes[i])) found.add(i);
        }
      }
    } else if (isAccumulation(node)) {
      for (const i of this.#usedAt.get(ownerOf(node.inputs[0]!))!) if (i < at) found.add(i);
    }
    return [...found].sort((a, b) => b - a);
  }

  /** Two nodes as one, if there is such a node. */
  #join(first: Node, second: Node): Node | undefined {
    let one: Node | undefined;
    if (isMap(first) && isMap(second)) {
      const at = this.#madeAt.get(second.outputs[0]!)!;
      const isNeeded = (t: Tensor) => this.#readAt.get(t)!.size > (this.#readAt.get(t)!.has(at) ? 1 : 0);
      one = merged(first, second, isNeeded) as Node | undefined;
    } else one = gathered(first, second);
    return one && one.inputs.length + one.outputs.length <= this.#operands ? one : undefined;
  }

  /** Whether the nodes at `before` and `at` may run as `one` at `to`, which is one of the two. */
  #mayMove(before: number, at: number, to: number, one: Node): boolean {
    const [first, second] = [this.nodes[before]!, this.nodes[at]!];
    const moving = to === at ? first : second;
    for (const t of moving.inputs) {
      if (t.variable) {
        const used = this.#usedAt.get(ownerOf(t))!;
        const isPassed = (i: number) => before < i && i < at && !mayPass(moving, this.nodes[i]!, ownerOf(t));
        if (used.values().some(isPassed)) return false;
      } else if (to === before && !first.outputs.includes(t) && this.#madeAt.get(t)! >= before) return false;
    }
    if (to === at) {
      for (const t of first.outputs) {
        for (const reader of this.#readAt.get(t)!) if (reader < at) return false;
      }
    }
    return this.#fitsInMemory(before, at, to, one);
  }

  /** Whether no more memory is alive anywhere than at the worst place before. */
  #fitsInMemory(before: number, at: number, to: number, one: Node): boolean {
    const change = new Array<number>(at - before + 1).fill(0);
    const [first, second] = [this.nodes[before]!, this.nodes[at]!];
    const read = new Set(inputsRead(one).map(this.#holder));
    for (const t of this.#valuesOf(first, second)) {
      this.#count(t, -1, before, at, change);
      const made = this.#madeAt.get(t)!;
      const isOwn = made === before || made === at;
      if (isOwn && !one.outputs.includes(t)) continue;
      let last = isOwn ? to : made;
      for (const reader of this.#readersOf(t)) {
        if (reader !== before && reader !== at) last = Math.max(last, reader);
      }
      if (read.has(t)) last = Math.max(last, to);
      add(change, isOwn ? to : made, last, bytesOf(t), before, at);
    }
    return change.every((bytes, i) => bytes <= 0 || this.#alive[before + i]! + bytes <= this.#most);
  }

  /** Adds `sign` times a value's bytes to the places from `low` to `high` where it is alive. */
  #count(t: Tensor, sign: number, low: number, high: number, alive: number[]): void {
    const made = this.#madeAt.get(t)!;
    const last = this.#readersOf(t).reduce((a, b) => Math.max(a, b), made);
    add(alive, made, last, sign * bytesOf(t), low, high);
  }

  /** The values that two nodes read or make, or read views of. */
  #valuesOf(...nodes: readonly Node[]): Set<Tensor> {
    const all = nodes.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]).map(this.#holder);
    return new Set(all.filter((t) => !t.variable));
  }

  /** Where a value is read, itself or by its views. */
  #readersOf(t: Tensor): number[] {
    return [t, ...this.#viewsOf.get(t) ?? []].flatMap((t) => [...this.#readAt.get(t)!]);
  }

  #replace(before: number, at: number, to: number, one: Node): void {
    const [first, second] = [this.nodes[before]!, this.nodes[at]!];
    const values = this.#valuesOf(first, second);
    for (const t of values) this.#count(t, -1, 0, this.nodes.length - 1, this.#alive);
    this.#leave(first, before);
    this.#leave(second, at);
    this.nodes[before] = this.nodes[at] = undefined;
    this.nodes[to] = one;
    this.#enter(one, to);
    for (const t of values) {
      if (this.#madeAt.has(t)) this.#count(t, 1, 0, this.nodes.length - 1, this.#alive);
    }
  }

  #enter(node: Node, at: number): void {
    for (const t of inputsRead(node)) if (!t.variable) this.#readAt.get(t)!.add(at);
    for (const t of node.outputs) {
      this.#madeAt.set(t, at);
      if (!this.#readAt.has(t)) this.#readAt.set(t, new Set());
    }
    for (const t of node.inputs) {
      if (!t.variable) continue;
      if (!this.#usedAt.has(ownerOf(t))) this.#usedAt.set(ownerOf(t), new Set());
      this.#usedAt.get(ownerOf(t))!.add(at);
    }
  }

  #leave(node: Node, at: number): void {
    for (const t of inputsRead(node)) if (!t.variable) this.#readAt.get(t)!.delete(at);
    for (const t of node.outputs) this.#madeAt.delete(t);
    for (const t of node.inputs) if (t.variable) this.#usedAt.get(ownerOf(t))!.delete(at);
  }
}

/** The variable that holds a tensor's memory. */
function ownerOf({ variable }: Tensor): Variable {
  return home(variable!).owner;
}

/** Whether two nodes that use the memory of `owner` may run in either order. */
function mayPass(a: Node, b: Node, owner: Variable): boolean {
  const updates = ({ op, inputs }: Node) => op.mutates?.some((i) => ownerOf(inputs[i]!) === owner) ?? false;
  return !updates(a) && !updates(b) || areApart(a, b);
}

/** Adds to the places from `first` to `last` that lie between `low` and `high`; place `low` is the array's first. */
function add(places: number[], first: number, last: number, bytes: number, low: number, high: number): void {
  for (let i = Math.max(first, low); i <= Math.min(last, high); i++) places[i - low]! += bytes;
}
