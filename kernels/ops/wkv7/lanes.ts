/**
 * WGSL for working on several channels at a time: the type `Lanes`, and functions that fill it from arrays of numbers. WGSL has no
 * generic functions, so one is written for each array.
 *
 * @module
 */

/** Channels of one `Lanes`. */
export type Width = 1 | 4 | 8;

/** The widest type that divides N, of at most `most` channels. */
export function laneWidth(N: number, most: Width = 4): Width {
  return ([8, 4, 1] as const).find((width) => width <= most && N % width === 0)!;
}

const TYPES = { 1: "f32", 4: "vec4<f32>", 8: "mat2x4<f32>" };
const PLACES = { 1: "[i]", 4: "[i / 4u][i % 4u]", 8: "[i / 8u][i / 4u % 2u][i % 4u]" };
const PRODUCTS = { 1: "x * y", 4: "dot(x, y)", 8: "dot(x[0], y[0]) + dot(x[1], y[1])" };

/**
 * Declares Lanes; functions `put_<name>(i, value)` and `at_<name>(i)` for single numbers of workgroup arrays of Lanes; and
 * `<name>_lanes(at, step)`, which reads every `step`th number, for storage arrays of numbers.
 */
export function lanes(
  width: Width,
  arrays: { workgroup?: readonly string[]; read?: readonly string[] } = {},
): string {
  const number = (name: string) =>
    `fn put_${name}(i: u32, value: f32) { ${name}${PLACES[width]} = value; }\n` +
    `fn at_${name}(i: u32) -> f32 { return ${name}${PLACES[width]}; }`;
  const read = (name: string) => {
    const numbers = Array.from({ length: width }, (_, lane) => `${name}[at + ${lane}u * step]`);
    return `fn ${name}_lanes(at: u32, step: u32) -> Lanes { return Lanes(${numbers.join(", ")}); }`;
  };
  return [
    `alias Lanes = ${TYPES[width]};`,
    `const LANES = ${width}u;`,
    `fn inner(x: Lanes, y: Lanes) -> f32 { return ${PRODUCTS[width]}; }`,
    ...(arrays.workgroup ?? []).map(number),
    ...(arrays.read ?? []).map(read),
  ].join("\n");
}
