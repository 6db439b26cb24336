/**
 * How a case of the conformance table is run: on an engine, with the memory of its values poisoned first; and on the oracle
 * against central finite differences.
 *
 * @module
 */
import type { Engine } from "../kernels/engine.ts";
import { Oracle } from "../kernels/engines/cpu/oracle.ts";
import { backward } from "../kernels/gradient.ts";
import { Graph, sizeOf, type StorageType, type Tensor, Variable } from "../kernels/graph.ts";
import { constant, map } from "../kernels/ops/map/op.ts";
import { sumOfSquares } from "../kernels/ops/optimizer/op.ts";
import { reduceGroups } from "../kernels/ops/reduce/op.ts";
import { assign } from "../kernels/ops/update/op.ts";
import { compile, type Program } from "../kernels/plan.ts";
import { randomNumbers } from "./engines.ts";

/** A variable that a case starts from. */
export interface CaseInput {
  readonly shape: readonly number[];
  readonly dtype: StorageType;
  /** Element `i`; `random` is uniform in [−1, 1). */
  fill(random: () => number, i: number): number;
  /** Whether the gradient with respect to it is checked. */
  readonly differentiated: boolean;
}

/** One row of the table. */
export interface Case {
  /** Symbol and condition. */
  readonly name: string;
  readonly inputs: readonly CaseInput[];
  /** The tensors to compare; none where the case updates variables. */
  build(graph: Graph, inputs: readonly Tensor[], variables: readonly Variable[]): readonly Tensor[];
  /** Inputs that are compared after the run, because the case updates them. */
  readonly updates?: readonly number[];
  /** False where the gradient is not the derivative of the outputs, so that only engines are compared. */
  readonly differences?: false;
  /** Normalised error allowed between engines; a reason stands beside each other value. */
  readonly tolerance?: number;
}

/** Uniform f32 numbers, by which the case is differentiated. */
export function uniform(shape: readonly number[], low = -1, high = 1): CaseInput {
  const fill = (random: () => number) => low + (high - low) * (random() + 1) / 2;
  return { shape, dtype: "f32", fill, differentiated: true };
}

/** The same numbers, held fixed. */
export function fixed(input: CaseInput): CaseInput {
  return { ...input, differentiated: false };
}

/** Uniform numbers stored in 16 bits, held fixed. */
export function stored(dtype: StorageType, shape: readonly number[]): CaseInput {
  return { ...fixed(uniform(shape)), dtype };
}

/** These numbers, held fixed. */
export function given(
  values: readonly number[],
  shape = [values.length, 1],
  dtype: StorageType = "f32",
): CaseInput {
  return { shape, dtype, fill: (_, i) => values[i]!, differentiated: false };
}

/** The content of an input, drawn from `random`. */
export function contentOf({ shape, dtype, fill }: CaseInput, random: () => number): ArrayBufferView {
  const numbers = Array.from({ length: sizeOf(shape) }, (_, i) => fill(random, i));
  if (dtype === "i32") return Int32Array.from(numbers);
  if (dtype === "f16") return new Uint16Array(Float16Array.from(numbers).buffer);
  const floats = Float32Array.from(numbers);
  return dtype === "f32" ? floats : Uint16Array.from(new Uint32Array(floats.buffer), (word) => word >>> 16);
}

/** What no value of a case comes near. */
const POISON = 1e30;

/** The program with every slot filled with poison before its first node. */
function poisoned(program: Program): Program {
  const graph = new Graph(), placement = new Map(program.placement);
  program.slots.forEach((bytes, slot) =>
    placement.set(constant(graph, [bytes / 4], POISON), { slot, byteOffset: 0 })
  );
  return { ...program, nodes: [...graph.nodes, ...program.nodes], placement };
}

/** The program with every op's code for the processor called in three uneven shares, the middle first. */
function shared(program: Program): Program {
  const nodes = program.nodes.map((node) => {
    const cpu: typeof node.op.cpu = (call) => {
      const units = node.op.units(node), edges = [0, Math.floor(units * 0.3), Math.ceil(units * 0.4), units];
      for (const i of [1, 0, 2]) {
        const [start, end] = [edges[i]!, edges[i + 1]!];
        if (start < end) node.op.cpu({ ...call, start, end });
      }
    };
    return { ...node, op: { ...node.op, cpu } };
  });
  return { ...program, nodes };
}

/** Variables of one run: made as they are asked for, and allocated together. */
class Variables {
  readonly #content = new Map<Variable, ArrayBufferView>();
  readonly #random = randomNumbers(7);

  input(name: string, input: CaseInput): Variable {
    const variable = new Variable(name, input.shape, input.dtype);
    this.#content.set(variable, contentOf(input, this.#random));
    return variable;
  }

  result(name: string, shape: readonly number[]): Variable {
    const variable = new Variable(name, shape);
    this.#content.set(variable, new Float32Array(sizeOf(shape)).fill(NaN));
    return variable;
  }

  allocate(engine: Engine): void {
    this.#content.forEach((content, variable) => engine.allocate(variable, content));
  }

  free(engine: Engine): void {
    this.#content.forEach((_, variable) => engine.free(variable));
  }
}

/** Σ over outputs of ⟨output, random⟩, [1]: a loss that every element of every output has a share in. */
function projection(graph: Graph, outputs: readonly Tensor[], weights: readonly Variable[]): Tensor {
  const sums = outputs.map((y, i) =>
    reduceGroups(graph, map(graph, [y, graph.use(weights[i]!)], (y, p) => y.mul(p)), [1])
  );
  return sums.reduce((a, b) => map(graph, [a, b], (a, b) => a.add(b)));
}

/**
 * Runs a case and the gradients of a random projection of its outputs.
 * @param options.poison off where a slot is larger than the engine can bind at once
 * @param options.fused off to run every node as it was made
 * @param options.shares on to divide each op's work, on an engine that runs ops in plain TypeScript
 * @returns all results by name
 */
export async function run(
  engine: Engine,
  { inputs, build, updates = [] }: Case,
  options: { poison?: boolean; shares?: boolean; fused?: boolean } = {},
): Promise<Map<string, Float32Array>> {
  const variables = new Variables(), graph = new Graph();
  const given = inputs.map((input, i) => variables.input(`input ${i}`, input));
  const tensors = given.map((variable) => graph.use(variable));
  const results = new Map<string, Variable>(updates.map((i) => [`input ${i} afterwards`, given[i]!]));
  const keep = (name: string, value: Tensor) => {
    const variable = variables.result(name, value.shape);
    assign(graph, variable, value);
    results.set(name, variable);
  };
  const outputs = build(graph, tensors, given);
  outputs.forEach((value, i) => keep(`output ${i}`, value));
  const wanted = inputs.flatMap(({ differentiated }, i) => differentiated ? [i] : []);
  if (wanted.length) {
    const weights = outputs.map(({ shape }, i) => variables.input(`weights ${i}`, fixed(uniform(shape))));
    const gradients = backward(graph, projection(graph, outputs, weights), wanted.map((i) => tensors[i]!));
    gradients.forEach((value, k) => value && keep(`gradient ${wanted[k]}`, value));
  }
  variables.allocate(engine);
  try {
    let program = compile(graph, { operands: engine.operands, fused: options.fused ?? true });
    if (options.poison !== false) program = poisoned(program);
    if (options.shares) program = shared(program);
    const executable = await engine.load(program);
    try {
      executable.run();
      const read = new Map<string, Float32Array>();
      for (const [name, variable] of results) read.set(name, await engine.read(variable));
      return read;
    } finally {
      executable.dispose();
    }
  } finally {
    variables.free(engine);
  }
}

/** Step of the central differences. */
const STEP = 1e-5;

/** Directions in which each input is moved. */
const DIRECTIONS = 3;

/** The derivative in one direction, from the gradient and from two evaluations. */
export interface Directional {
  readonly input: number;
  readonly analytic: number;
  readonly numeric: number;
  /** Size of the terms that make up the derivative: what an error is measured by. */
  readonly scale: number;
}

/**
 * Derivatives of a random projection of a case's outputs in random directions, in float64. The differences are taken inside
 * the graph, as what is read back from an engine is float32.
 */
export async function differentiate({ inputs, build }: Case): Promise<Directional[]> {
  const oracle = new Oracle(), variables = new Variables(), graph = new Graph();
  const given = inputs.map((input, i) => variables.input(`input ${i}`, input));
  const tensors = given.map((variable) => graph.use(variable));
  const outputs = build(graph, tensors, given);
  const weights = outputs.map(({ shape }, i) => variables.input(`weights ${i}`, fixed(uniform(shape))));
  const wanted = inputs.flatMap(({ differentiated }, i) => differentiated ? [i] : []);
  const gradients = backward(graph, projection(graph, outputs, weights), wanted.map((i) => tensors[i]!));

  const keep = (name: string, value: Tensor) => {
    const variable = variables.result(name, [1]);
    assign(graph, variable, value);
    return variable;
  };
  const checks = wanted.map((input, k) => {
    const x = tensors[input]!;
    const direction = variables.input(`direction ${input}`, fixed(uniform(x.shape)));
    const moved = (by: number) => {
      const there = map(graph, [x, graph.use(direction)], (x, d) => x.add(d.mul(by)));
      return projection(graph, build(graph, tensors.with(input, there), given), weights);
    };
    const numeric = map(graph, [moved(STEP), moved(-STEP)], (p, m) => p.sub(m).div(2 * STEP));
    const gradient = gradients[k] ?? constant(graph, x.shape, 0);
    const terms = map(graph, [gradient, graph.use(direction)], (g, d) => g.mul(d));
    return {
      input,
      direction,
      analytic: keep("analytic", reduceGroups(graph, terms, [1])),
      numeric: keep("numeric", numeric),
      scale: keep("scale", map(graph, [sumOfSquares(graph, terms)], (s) => s.sqrt())),
    };
  });
  variables.allocate(oracle);
  const executable = await oracle.load(compile(graph));
  const random = randomNumbers(11), found: Directional[] = [];
  const first = async (variable: Variable) => (await oracle.read(variable))[0]!;
  for (let k = 0; k < DIRECTIONS; k++) {
    for (const { direction } of checks) {
      oracle.write(direction, Float32Array.from({ length: sizeOf(direction.shape) }, random));
    }
    executable.run();
    for (const { input, analytic, numeric, scale } of checks) {
      found.push({
        input,
        analytic: await first(analytic),
        numeric: await first(numeric),
        scale: await first(scale),
      });
    }
  }
  return found;
}
