/**
 * WGSL for working on four channels at a time where the head size allows it, and on one where it does not: the type `Lanes`, and
 * functions that fill it from arrays of numbers. WGSL has no generic functions, so one is written for each array.
 *
 * @module
 */

/**
 * Declares Lanes for head size N; functions `put_<name>(i, value)` and `at_<name>(i)` for single numbers of workgroup arrays of Lanes;
 * and `<name>_lanes(at, step)`, which reads every `step`th number, for storage arrays of numbers.
 */
export function lanes(
  N: number,
  arrays: { workgroup?: readonly string[]; read?: readonly string[] } = {},
): string {
  const wide = N % 4 === 0;
  const at = wide ? "[i / 4u][i % 4u]" : "[i]";
  const number = (name: string) =>
    `fn put_${name}(i: u32, value: f32) { ${name}${at} = value; }\n` +
    `fn at_${name}(i: u32) -> f32 { return ${name}${at}; }`;
  const read = (name: string) => {
    const every = (lane: number) => `${name}[at + ${lane}u * step]`;
    const value = wide ? `vec4(${[0, 1, 2, 3].map(every).join(", ")})` : `${name}[at]`;
    return `fn ${name}_lanes(at: u32, step: u32) -> Lanes { return ${value}; }`;
  };
  return [
    `alias Lanes = ${wide ? "vec4<f32>" : "f32"};`,
    `const LANES = ${wide ? 4 : 1}u;`,
    `fn inner(x: Lanes, y: Lanes) -> f32 { return ${wide ? "dot(x, y)" : "x * y"}; }`,
    ...(arrays.workgroup ?? []).map(number),
    ...(arrays.read ?? []).map(read),
  ].join("\n");
}
