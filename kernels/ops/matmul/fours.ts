/**
 * How the product's shader reads and writes four neighbours at once: as one load where rows are multiples of four, else one by
 * one with a check each.
 *
 * @module
 */
import { wgslFours, wgslReader } from "../../op.ts";
import { type Layout, parameters } from "./layout.ts";

/**
 * Declarations of bindings 0 to 4, a_four, b_four and out_four.
 * @param whole whether rows of A, B and the output, and where they start, are multiples of four elements
 */
export function fours(layout: Layout, whole: boolean): string {
  return [
    parameters(),
    whole ? aligned(layout) : unaligned(layout),
    `const A_ALONG_K = ${!layout.transposeA};`,
    `const B_ALONG_K = ${layout.transposeB};`,
  ]
    .join("\n");
}

function aligned({ dtypeA, dtype, mode }: Layout): string {
  return `
${wgslFours("stored_a", 1, dtypeA)}
${wgslFours("stored_b", 2, dtype)}
@group(0) @binding(3) var<storage, read_write> out: array<vec4<f32>>;
${mode === "addend" ? "@group(0) @binding(4) var<storage, read> addend: array<vec4<f32>>;" : ""}
fn a_four(m: u32, k: u32) -> vec4<f32> {
  if (m >= p.M || k >= p.K) { return vec4(0.0); }
  return stored_a_four((p.a_start + m * p.a_m + k * p.a_k) / 4u);
}
fn b_four(k: u32, n: u32) -> vec4<f32> {
  if (n >= p.N || k >= p.K) { return vec4(0.0); }
  return stored_b_four((k * p.b_k + n * p.b_n) / 4u);
}
fn out_four(z: u32, m: u32, n: u32, value: vec4<f32>) {
  if (m >= p.M || n >= p.N) { return; }
  let at = (p.out_start + z + m * p.out_m + n) / 4u;
  out[at] = ${{ write: "value", addend: "addend[at] + value", accumulate: "out[at] + value" }[mode]};
}`;
}

function unaligned({ dtypeA, dtype, transposeA, transposeB, mode }: Layout): string {
  const along = (k: boolean, call: (step: string) => string) =>
    [0, 1, 2, 3].map((i) => call(k ? `m, k + ${i}u` : `m + ${i}u, k`)).join(", ");
  const ofB = (call: (step: string) => string) =>
    [0, 1, 2, 3].map((i) => call(transposeB ? `k + ${i}u, n` : `k, n + ${i}u`)).join(", ");
  return `
${wgslReader("a", 1, dtypeA)}
${wgslReader("b", 2, dtype)}
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
${mode === "addend" ? "@group(0) @binding(4) var<storage, read> addend: array<f32>;" : ""}
fn a_value(m: u32, k: u32) -> f32 {
  if (m >= p.M || k >= p.K) { return 0.0; }
  return a_at(p.a_start + m * p.a_m + k * p.a_k);
}
fn b_value(k: u32, n: u32) -> f32 {
  if (n >= p.N || k >= p.K) { return 0.0; }
  return b_at(k * p.b_k + n * p.b_n);
}
fn a_four(m: u32, k: u32) -> vec4<f32> {
  return vec4(${along(!transposeA, (at) => `a_value(${at})`)});
}
fn b_four(k: u32, n: u32) -> vec4<f32> {
  return vec4(${ofB((at) => `b_value(${at})`)});
}
fn out_value(z: u32, m: u32, n: u32, value: f32) {
  if (m >= p.M || n >= p.N) { return; }
  let at = p.out_start + z + m * p.out_m + n;
  out[at] = ${{ write: "value", addend: "addend[at] + value", accumulate: "out[at] + value" }[mode]};
}
fn out_four(z: u32, m: u32, n: u32, value: vec4<f32>) {
  out_value(z, m, n, value.x);
  out_value(z, m, n + 1u, value.y);
  out_value(z, m, n + 2u, value.z);
  out_value(z, m, n + 3u, value.w);
}`;
}
