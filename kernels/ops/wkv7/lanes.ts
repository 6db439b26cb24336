/**
 * WGSL for working on several channels at a time: the type `Lanes`, and functions that fill it from arrays of numbers. WGSL has no
 * generic functions, so one is written for each array.
 *
 * @module
 */

/** Channels of one `Lanes`. */
export type Width = 1 | 4;

/** The widest type that divides N. */
export function laneWidth(N: number): Width {
  return N % 4 === 0 ? 4 : 1;
}

const TYPES = { 1: "f32", 4: "vec4<f32>" };
const PLACES = { 1: "[i]", 4: "[i / 4u][i % 4u]" };
const PRODUCTS = { 1: "x * y", 4: "dot(x, y)" };

/** Declares Lanes, and functions `put_<name>(i, value)` for single numbers of workgroup arrays of Lanes. */
export function lanes(width: Width, workgroup: readonly string[] = []): string {
  return [
    `alias Lanes = ${TYPES[width]};`,
    `const LANES = ${width}u;`,
    `fn inner(x: Lanes, y: Lanes) -> f32 { return ${PRODUCTS[width]}; }`,
    ...workgroup.map((name) => `fn put_${name}(i: u32, value: f32) { ${name}${PLACES[width]} = value; }`),
  ].join("\n");
}
