/**
 * map: `out[i] = f(x₀[i], x₁[i], …)` for any scalar expression f; one pass however long the expression is.
 *
 * Inputs broadcast: a vector `[C]` repeats for every row, a matrix `[M, G]` with fewer columns than the output's C gives
 * each entry to C / G neighbours (so `[M, H]` is one number per head), and `[1]` is a scalar. Gradients come from
 * {@link Expression.derivative}; a broadcast input's gradient is summed back over what it was repeated for.
 *
 * @module
 */
import { type Graph, sizeOf, type Tensor } from "../../graph.ts";
import {
  type CpuCall,
  elementGrid,
  forEachElement,
  type Op,
  type Pass,
  shapeError,
  stride,
  wgslFours,
  wgslHalves,
  wgslReader,
  widened,
} from "../../op.ts";
import { reduceGroups, reduceRows } from "../reduce/op.ts";
import { emit, Expression, JAVASCRIPT, straightLine, WGSL } from "./expression.ts";

/** What to compute, and the shape to compute it for. */
export interface MapAttributes {
  readonly shape: readonly number[];
  readonly results: readonly Expression[];
  /** Storage of what is made; f32 where it is not given. Nodes that were put together may have outputs of either kind. */
  readonly dtype?: "f16";
}

/** Storage bindings that every WebGPU device has; results beyond it are computed in further nodes. */
const BINDINGS = 8;

/** Index of an input's element for output element i: floor(i / divisor) mod modulus. */
interface Broadcast {
  readonly divisor: number;
  readonly modulus: number;
}

/** How an input of this shape repeats over the output's; undefined if it does not fit. */
export function broadcast(input: readonly number[], output: readonly number[]): Broadcast | undefined {
  const size = sizeOf(input), total = sizeOf(output);
  if (size === total) return { divisor: 1, modulus: total };
  if (size === 1) return { divisor: total, modulus: 1 };
  if (input.length === 1) return size === output.at(-1) ? { divisor: 1, modulus: size } : undefined;
  const rows = size / input.at(-1)!;
  const sameRows = rows === total / output.at(-1)! && output.at(-1)! % input.at(-1)! === 0;
  return sameRows ? { divisor: total / size, modulus: size } : undefined;
}

const compiled = new WeakMap<MapAttributes, (...args: unknown[]) => void>();

/** What was found by {@link inputsOf}: plans ask for it over and over. */
const mentioned = new WeakMap<readonly Expression[], readonly number[]>();

/** Indexes of the inputs that the expressions mention. */
function inputsOf({ results }: MapAttributes): readonly number[] {
  let found = mentioned.get(results);
  if (!found) {
    const indexes = straightLine(results).steps.flatMap((step) => step.op === "input" ? [step.index] : []);
    mentioned.set(results, found = indexes.sort((a, b) => a - b));
  }
  return found;
}

/** The expression as a JavaScript loop over memory. */
function loop({ inputs, attributes }: CpuCall<MapAttributes>): (...args: unknown[]) => void {
  let run = compiled.get(attributes);
  if (!run) {
    const index = inputs.map((t) => {
      const { divisor, modulus } = broadcast(t.shape, attributes.shape)!;
      const total = sizeOf(attributes.shape);
      if (divisor === 1) return modulus === total ? "i" : `i % ${modulus}`;
      return modulus === 1 ? "0" : `(i / ${divisor} | 0)`;
    });
    const { statements, results } = emit(attributes.results, JAVASCRIPT, (k) => `m${k}[${index[k]}]`);
    const names = [...inputs, ...results].map((_, k) => `m${k}`);
    run = new Function(
      ...names,
      "start",
      "end",
      `for (let i = start; i < end; i++) { ${statements.join(" ")} ` +
        results.map((r, k) => `m${inputs.length + k}[i] = ${r};`).join(" ") + " }",
    ) as (...args: unknown[]) => void;
    compiled.set(attributes, run);
  }
  return run;
}

/** The op; use {@link map}. */
export const mapOp: Op<MapAttributes> = {
  name: "map",
  outputs(inputs, { shape, results, dtype }) {
    const misfit = inputs.find((t) => !broadcast(t.shape, shape));
    if (inputs.some(({ dtype }) => dtype === "i32")) {
      throw shapeError("map", inputs, "integers have no place in it");
    }
    if (misfit) throw shapeError("map", inputs, `[${misfit.shape}] does not broadcast to [${shape}]`);
    return results.map(() => ({ shape, dtype: dtype ?? "f32" }));
  },
  gradient({ graph, attributes: { shape, results }, inputs, dOutputs, wanted }) {
    const present = dOutputs.flatMap((t, k) => t ? [k] : []);
    const operands = [...inputs, ...present.map((k) => dOutputs[k]!)];
    const gradients = new Map<number, Expression>();
    inputs.forEach((_, i) => {
      if (!wanted[i]) return;
      const total = present.map((k, position) =>
        results[k]!.derivative(i).mul(Expression.input(inputs.length + position))
      ).reduce((a, b) => a.add(b));
      gradients.set(i, total);
    });
    const full = mapMany(graph, operands, [...gradients.values()], shape);
    const byInput = new Map([...gradients.keys()].map((i, position) => [i, full[position]!]));
    return inputs.map((t, i) => {
      const gradient = byInput.get(i);
      return gradient && sumBack(graph, gradient, t);
    });
  },
  reads: ({ attributes }) => inputsOf(attributes),
  writesHalves: ({ outputs }) => [...outputs.keys()],
  units: ({ outputs }) => outputs[0]!.size,
  cpu(call) {
    const { inputs, start, end } = call;
    const memory = call.memory.map((m, k) =>
      k < inputs.length
        ? widened(m, inputs[k]!.dtype)
        : m instanceof Uint16Array
        ? new Float64Array(m.length)
        : m
    );
    loop(call)(...memory, start, end);
    call.memory.forEach((m, k) => {
      if (k < inputs.length || m === memory[k]) return;
      (m as Uint16Array).set(
        new Uint16Array(Float16Array.from(memory[k]!.subarray(start, end)).buffer),
        start,
      );
    });
  },
  webgpu({ attributes, inputs, outputs }, limits): Pass[] {
    const used = inputsOf(attributes), size = outputs[0]!.size;
    if (size === 0) return [];
    const places = used.map((k) => broadcast(inputs[k]!.shape, attributes.shape)!);
    const { count, type } = stride(
      size,
      ...places.map(({ divisor, modulus }) => divisor > 1 ? divisor : modulus),
    );
    const reads = new Map(used.map((k, position) => {
      const { divisor, modulus } = places[position]!;
      if (divisor > 1) return [k, `F(x${k}_at(${modulus === 1 ? "0u" : `i * ${count}u / ${divisor}u`}))`];
      return [
        k,
        `x${k}_${count === 4 ? "four" : "at"}(${modulus === size ? "i" : `i % ${modulus / count}u`})`,
      ];
    }));
    const { statements, results } = emit(attributes.results, WGSL, (k) => reads.get(k)!);
    const halves = outputs.map(({ dtype }) => dtype === "f16"), paired = count === 1 && halves.includes(true);
    const wgsl = [
      `alias F = ${type};`,
      "struct Parameters { size: u32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      ...used.map((k, position) => {
        const fours = count === 4 && places[position]!.divisor === 1;
        return (fours ? wgslFours : wgslReader)(`x${k}`, position + 1, inputs[k]!.dtype);
      }),
      ...outputs.map((_, k) =>
        `@group(0) @binding(${used.length + k + 1}) var<storage, read_write> out${k}: array<${
          halves[k] ? count === 4 ? "vec2<u32>" : "u32" : "F"
        }>;`
      ),
      ...(paired ? inPairs(statements, results, halves, size) : [forEachElement([
        ...statements,
        ...results.map((r, k) => `out${k}[i] = ${halves[k] ? wgslHalves(r) : r};`),
      ])]),
    ].join("\n");
    const operands = [...used, ...outputs.map((_, k) => inputs.length + k)];
    const bindings = operands.map((operand) => ({ operand }));
    const elements = paired ? Math.ceil(size / 2) : size / count;
    return [{ wgsl, uniforms: [elements], bindings, workgroups: elementGrid(elements, limits) }];
  },
};

/** WGSL of threads that compute two neighbours each, which share a word where they are halves. */
function inPairs(
  statements: readonly string[],
  results: readonly string[],
  halves: readonly boolean[],
  size: number,
): string[] {
  return [
    `struct Results { ${results.map((_, k) => `r${k}: f32`).join(", ")} }`,
    `fn results_at(i: u32) -> Results { ${statements.join(" ")} return Results(${results.join(", ")}); }`,
    forEachElement([
      "let at = 2u * i;",
      `let low = results_at(at); let high = results_at(min(at + 1u, ${size - 1}u));`,
      ...halves.map((half, k) =>
        half
          ? `out${k}[i] = pack2x16float(vec2(low.r${k}, high.r${k}));`
          : `out${k}[at] = low.r${k}; if (at + 1u < ${size}u) { out${k}[at + 1u] = high.r${k}; }`
      ),
    ]),
  ];
}

/** Sums a gradient over what the input was repeated for. */
function sumBack(graph: Graph, gradient: Tensor, input: Tensor): Tensor {
  if (gradient.size === input.size) return gradient;
  const { divisor, modulus } = broadcast(input.shape, gradient.shape)!;
  if (modulus === 1 || divisor > 1) return reduceGroups(graph, gradient, input.shape);
  return reduceRows(graph, gradient, input.shape);
}

/** Several expressions over the same inputs, split into as many nodes as the bindings ask for. */
function mapMany(
  graph: Graph,
  inputs: readonly Tensor[],
  results: readonly Expression[],
  shape: readonly number[],
): Tensor[] {
  if (results.length === 0) return [];
  const room = Math.max(1, BINDINGS - inputs.length);
  const outputs = graph.add(mapOp, inputs, { shape, results: results.slice(0, room) });
  return [...outputs, ...mapMany(graph, inputs, results.slice(room), shape)];
}

function largest(inputs: readonly Tensor[]): readonly number[] {
  return (inputs.find((t) => t.size === 0) ?? inputs.reduce((a, b) => b.size > a.size ? b : a)).shape;
}

/**
 * Applies `f` to every element of the inputs.
 * @param f given one {@link Expression} for each input
 * @returns a tensor of the shape of the largest input
 */
export function map(
  graph: Graph,
  inputs: readonly Tensor[],
  f: (...x: Expression[]) => Expression,
): Tensor {
  const result = f(...inputs.map((_, i) => Expression.input(i)));
  return mapMany(graph, inputs, [result], largest(inputs))[0]!;
}

/** Like {@link map}, with several results computed together. */
export function mapAll(
  graph: Graph,
  inputs: readonly Tensor[],
  f: (...x: Expression[]) => Expression[],
): Tensor[] {
  return mapMany(graph, inputs, f(...inputs.map((_, i) => Expression.input(i))), largest(inputs));
}

/** A value in f16: what is over its range becomes infinite. */
export function narrowed(graph: Graph, x: Tensor): Tensor {
  return graph.add(mapOp, [x], { shape: x.shape, results: [Expression.input(0)], dtype: "f16" })[0]!;
}

/** A tensor filled with one value. */
export function constant(graph: Graph, shape: readonly number[], value: number): Tensor {
  return graph.add(mapOp, [], { shape, results: [Expression.constant(value)] })[0]!;
}

/** Broadcasts a tensor to a shape. */
export function repeat(graph: Graph, x: Tensor, shape: readonly number[]): Tensor {
  return graph.add(mapOp, [x], { shape, results: [Expression.input(0)] })[0]!;
}
