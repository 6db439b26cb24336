/**
 * tokenShift: `outᵢ[t] = x[t] + (x[t − 1] − x[t]) · mixᵢ`, up to three mixes in one pass. RWKV's token shift.
 *
 * x [B·T, C]; each mix [C]; `carried` [B, C] is what precedes the first step, zero where it is not given.
 * dX[t] = Σᵢ dOutᵢ[t] · (1 − mixᵢ) + dOutᵢ[t + 1] · mixᵢ; dMixᵢ = Σ dOutᵢ · (x[t − 1] − x[t]).
 *
 * @module
 */
import type { Graph, Tensor } from "../../graph.ts";
import {
  elementGrid,
  forEachElement,
  type Op,
  requireF32,
  shapeError,
  stride,
  wgslHalves,
  writable,
} from "../../op.ts";
import { constant, map, mapAll } from "../map/op.ts";
import { reduceRows } from "../reduce/op.ts";

interface ShiftAttributes {
  readonly T: number;
  /** Number of mixes, at most {@link MIXES_A_PASS}. */
  readonly mixes: number;
}

/** With x, three mixes, three outputs and the carried row, a pass binds eight buffers, which every device has. */
const MIXES_A_PASS = 3;

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

/** inputs: x, mixes…, carried?; outputs may be in f16 where C is a multiple of four. */
const tokenShiftOp: Op<ShiftAttributes> = {
  name: "tokenShift",
  outputs(inputs, { T, mixes }) {
    requireF32("tokenShift", inputs);
    const x = inputs[0]!, C = x.width, carried = inputs[mixes + 1];
    if (x.rows % T) throw shapeError("tokenShift", inputs, `rows must be a multiple of T = ${T}`);
    if (inputs.slice(1, mixes + 1).some((mix) => mix.size !== C)) {
      throw shapeError("tokenShift", inputs, `each mix must have ${C} elements`);
    }
    if (carried && carried.size !== x.size / T) {
      throw shapeError("tokenShift", inputs, "carried must be [B, C]");
    }
    return range(mixes).map(() => ({ shape: x.shape, dtype: "f32" }));
  },
  gradient({ graph, attributes: { T, mixes }, inputs, dOutputs, wanted }) {
    const x = inputs[0]!, carried = inputs[mixes + 1];
    const present = range(mixes).filter((i) => dOutputs[i]);
    const gradients: (Tensor | undefined)[] = inputs.map(() => undefined);
    if (wanted[0]) {
      const operands = [...present.map((i) => dOutputs[i]!), ...present.map((i) => inputs[i + 1]!)];
      gradients[0] = graph.add(tokenShiftGradientOp, operands, { T, mixes: present.length })[0];
    }
    if (wanted[mixes + 1]) throw new RangeError("Cannot differentiate tokenShift by its carried row");
    if (present.some((i) => wanted[i + 1])) {
      const ones = range(mixes).filter((i) => wanted[i + 1] && dOutputs[i]);
      const shifted = graph.add(previousRowOp, carried ? [x, carried] : [x], { T })[0]!;
      for (const i of ones) {
        const product = map(graph, [x, shifted, dOutputs[i]!], (x, before, d) => before.sub(x).mul(d));
        gradients[i + 1] = reduceRows(graph, product, inputs[i + 1]!.shape);
      }
    }
    return gradients;
  },
  writesHalves: ({ inputs: [x], outputs }) => x!.width % 4 === 0 ? [...outputs.keys()] : [],
  joined(one, other) {
    const { T, mixes } = one.attributes, more = other.attributes.mixes;
    const [x, carried] = [0, mixes + 1].map((i) => one.inputs[i]);
    const isAlike = x === other.inputs[0] && carried === other.inputs[more + 1] && T === other.attributes.T;
    if (!isAlike) return undefined;
    const given = [...one.inputs.slice(1, mixes + 1), ...other.inputs.slice(1, more + 1)];
    return {
      ...one,
      attributes: { T, mixes: mixes + more },
      inputs: [x!, ...given, ...(carried ? [carried] : [])],
      outputs: [...one.outputs, ...other.outputs],
    };
  },
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes: { T, mixes }, inputs, memory, start, end }) {
    const C = inputs[0]!.width, x = memory[0]!;
    const carried = inputs[mixes + 1] && memory[mixes + 1];
    for (let i = 0; i < mixes; i++) {
      const mix = memory[i + 1]!, out = writable(memory[inputs.length + i]!);
      for (let row = start; row < end; row++) {
        const at = row * C;
        for (let c = 0; c < C; c++) {
          const before = row % T ? x[at + c - C]! : carried ? carried[row / T * C + c]! : 0;
          out[at + c] = x[at + c]! + (before - x[at + c]!) * mix[c]!;
        }
      }
    }
  },
  webgpu({ attributes: { T, mixes }, inputs, outputs }, limits) {
    const x = inputs[0]!, carried = inputs.length > mixes + 1;
    const halves = outputs.map(({ dtype }) => dtype === "f16");
    const { count, type } = stride(x.width);
    const buffer = (binding: number, access: string, name: string, type = "F") =>
      `@group(0) @binding(${binding}) var<storage, ${access}> ${name}: array<${type}>;`;
    const wgsl = [
      `alias F = ${type};`,
      "struct Parameters { size: u32, C: u32, T: u32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      buffer(1, "read", "x"),
      ...range(mixes).map((i) => buffer(i + 2, "read", `mix${i}`)),
      carried ? buffer(mixes + 2, "read", "carried") : "",
      ...range(mixes).map((i) =>
        buffer(inputs.length + 1 + i, "read_write", `out${i}`, halves[i] ? "vec2<u32>" : "F")
      ),
      forEachElement(
        [
          "let row = i / p.C;",
          `var before = ${carried ? "carried[(row / p.T) * p.C + i % p.C]" : "F()"};`,
          "if (row % p.T != 0u) { before = x[i - p.C]; }",
          "let change = before - x[i];",
          ...range(mixes).map((k) => {
            const mixed = `x[i] + change * mix${k}[i % p.C]`;
            return halves[k]
              ? `{ let y = ${mixed}; out${k}[i] = ${wgslHalves("y")}; }`
              : `out${k}[i] = ${mixed};`;
          }),
        ],
      ),
    ].join("\n");
    const bindings = range(inputs.length + mixes).map((operand) => ({ operand }));
    return [{
      wgsl,
      uniforms: [x.size / count, x.width / count, T],
      bindings,
      workgroups: elementGrid(x.size / count, limits),
    }];
  },
};

/** inputs: dOut…, mixes… → dX */
const tokenShiftGradientOp: Op<ShiftAttributes> = {
  name: "tokenShiftGradient",
  outputs: ([d]) => [{ shape: d!.shape, dtype: "f32" }],
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes: { T, mixes }, inputs, memory, start, end }) {
    const C = inputs[0]!.width, dx = memory.at(-1)!;
    dx.fill(0, start * C, end * C);
    for (let i = 0; i < mixes; i++) {
      const d = memory[i]!, mix = memory[mixes + i]!;
      for (let row = start; row < end; row++) {
        const at = row * C, last = row % T === T - 1;
        for (let c = 0; c < C; c++) {
          dx[at + c]! += d[at + c]! * (1 - mix[c]!) + (last ? 0 : d[at + C + c]! * mix[c]!);
        }
      }
    }
  },
  webgpu({ attributes: { T, mixes }, inputs }, limits) {
    const x = inputs[0]!;
    const { count, type } = stride(x.width);
    const wgsl = [
      `alias F = ${type};`,
      "struct Parameters { size: u32, C: u32, T: u32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      ...range(mixes).map((i) => `@group(0) @binding(${i + 1}) var<storage, read> d${i}: array<F>;`),
      ...range(mixes).map((i) =>
        `@group(0) @binding(${mixes + i + 1}) var<storage, read> mix${i}: array<F>;`
      ),
      `@group(0) @binding(${2 * mixes + 1}) var<storage, read_write> dx: array<F>;`,
      forEachElement([
        "let c = i % p.C;",
        "var sum = F();",
        ...range(mixes).map((k) => `sum += d${k}[i] * (1.0 - mix${k}[c]);`),
        "if ((i / p.C) % p.T != p.T - 1u) {",
        ...range(mixes).map((k) => `  sum += d${k}[i + p.C] * mix${k}[c];`),
        "}",
        "dx[i] = sum;",
      ]),
    ].join("\n");
    const bindings = range(2 * mixes + 1).map((operand) => ({ operand }));
    return [{
      wgsl,
      uniforms: [x.size / count, x.width / count, T],
      bindings,
      workgroups: elementGrid(x.size / count, limits),
    }];
  },
};

/** `out[t] = x[t − 1]`, with the carried row or zero before the first. inputs: x, carried? */
const previousRowOp: Op<{ readonly T: number }> = {
  name: "previousRow",
  outputs: ([x]) => [{ shape: x!.shape, dtype: "f32" }],
  gradient({ graph, attributes: { T }, inputs: [x], dOutputs: [d], wanted }) {
    if (wanted[1]) throw new RangeError("Cannot differentiate previousRow by its carried row");
    // The step before is all of the mix: dX[t] = dOut[t + 1].
    const whole = constant(graph, [x!.width], 1);
    return [graph.add(tokenShiftGradientOp, [d!, whole], { T, mixes: 1 })[0], undefined];
  },
  units: ({ inputs }) => inputs[0]!.rows,
  cpu({ attributes: { T }, inputs, memory, start, end }) {
    const C = inputs[0]!.width, x = memory[0]!, out = memory.at(-1)!, carried = inputs[1] && memory[1];
    for (let row = start; row < end; row++) {
      for (let c = 0; c < C; c++) {
        out[row * C + c] = row % T ? x[(row - 1) * C + c]! : carried ? carried[row / T * C + c]! : 0;
      }
    }
  },
  webgpu({ attributes: { T }, inputs }, limits) {
    const x = inputs[0]!, carried = inputs.length > 1;
    const { count, type } = stride(x.width);
    const wgsl = [
      `alias F = ${type};`,
      "struct Parameters { size: u32, C: u32, T: u32 }",
      "@group(0) @binding(0) var<uniform> p: Parameters;",
      "@group(0) @binding(1) var<storage, read> x: array<F>;",
      carried ? "@group(0) @binding(2) var<storage, read> carried: array<F>;" : "",
      `@group(0) @binding(${inputs.length + 1}) var<storage, read_write> out: array<F>;`,
      forEachElement([
        "let row = i / p.C;",
        `var before = ${carried ? "carried[(row / p.T) * p.C + i % p.C]" : "F()"};`,
        "if (row % p.T != 0u) { before = x[i - p.C]; }",
        "out[i] = before;",
      ]),
    ].join("\n");
    const bindings = range(inputs.length + 1).map((operand) => ({ operand }));
    return [{
      wgsl,
      uniforms: [x.size / count, x.width / count, T],
      bindings,
      workgroups: elementGrid(x.size / count, limits),
    }];
  },
};

/**
 * Mixes every step with the one before it.
 * @param x [B·T, C]
 * @param mixes any number of [C]
 * @param options.carried [B, C], the row before the first
 * @param options.keep [B·T, 1], 0 where a step must not see the one before it, as at the start of a packed document; else 1
 * @returns one [B·T, C] for each mix
 */
export function tokenShift(
  graph: Graph,
  x: Tensor,
  mixes: readonly Tensor[],
  options: { T: number; carried?: Tensor | undefined; keep?: Tensor | undefined },
): Tensor[] {
  const { T, carried, keep } = options;
  const previous = keep && graph.add(previousRowOp, carried ? [x, carried] : [x], { T })[0]!;
  const before = previous && map(graph, [previous, keep], (row, keep) => row.mul(keep));
  const results: Tensor[] = [];
  for (let i = 0; i < mixes.length; i += MIXES_A_PASS) {
    const now = mixes.slice(i, i + MIXES_A_PASS);
    if (before) {
      results.push(
        ...mapAll(
          graph,
          [x, before, ...now],
          (x, before, ...mixes) => mixes.map((mix) => x.add(before.sub(x).mul(mix))),
        ),
      );
      continue;
    }
    const inputs = [x, ...now, ...(carried ? [carried] : [])];
    results.push(...graph.add(tokenShiftOp, inputs, { T, mixes: now.length }));
  }
  return results;
}
