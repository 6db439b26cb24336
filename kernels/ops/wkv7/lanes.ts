/**
 * WGSL for working on four channels at a time where the head size allows it, and on one where it does not: the type `Lanes`, and
 * reads and writes of it in arrays of numbers. WGSL has no generic functions, so one is written for each array.
 *
 * @module
 */

/** Declares Lanes for head size N, functions `put_x(i, value)` for workgroup arrays, and reads and stores for storage arrays. */
export function lanes(
  N: number,
  arrays: {
    workgroup: readonly string[];
    read?: readonly string[];
    write?: readonly string[];
    columns?: readonly string[];
  },
): string {
  const wide = N % 4 === 0;
  const put = (name: string) =>
    wide
      ? `fn put_${name}(i: u32, value: f32) { ${name}[i / 4u][i % 4u] = value; }`
      : `fn put_${name}(i: u32, value: f32) { ${name}[i] = value; }`;
  const read = (name: string) => {
    const at = (lane: number) => `${name}[at + ${lane}u * step]`;
    const value = wide ? `vec4(${[0, 1, 2, 3].map(at).join(", ")})` : `${name}[at]`;
    return `fn ${name}_lanes(at: u32, step: u32) -> Lanes { return ${value}; }`;
  };
  const store = (name: string) => {
    const lines = wide
      ? [0, 1, 2, 3].map((lane) => `${name}[at + ${lane}u] = value[${lane}];`)
      : [`${name}[at] = value;`];
    return `fn store_${name}(at: u32, value: Lanes) { ${lines.join(" ")} }`;
  };
  const storeColumn = (name: string) => {
    const lines = wide
      ? [0, 1, 2, 3].map((lane) => `${name}[at + ${lane}u * N] = value[${lane}];`)
      : [`${name}[at] = value;`];
    return `fn store_column(at: u32, value: Lanes) { ${lines.join(" ")} }`;
  };
  return [
    `alias Lanes = ${wide ? "vec4<f32>" : "f32"};`,
    `const LANES = ${wide ? 4 : 1}u;`,
    `fn inner(x: Lanes, y: Lanes) -> f32 { return ${wide ? "dot(x, y)" : "x * y"}; }`,
    ...arrays.workgroup.map(put),
    ...(arrays.read ?? []).map(read),
    ...(arrays.write ?? []).map(store),
    ...(arrays.columns ?? []).map(storeColumn),
  ].join("\n");
}
