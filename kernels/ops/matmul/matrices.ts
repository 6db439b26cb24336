/**
 * The product's shader on matrix units: f16 operands, f32 sums.
 *
 * A workgroup stages a slice of both operands as f16 in the order in which they lie in memory (a transposed operand is loaded by
 * columns, which costs nothing) while the next slice is on its way into registers; each of its subgroups holds a block of the
 * tile as matrices of sums. Staged rows are padded by 8 halves against bank conflicts. Numbers over f16's range become infinite,
 * so that the loss shows them.
 *
 * @module
 */
import type { StorageType } from "../../graph.ts";
import type { MatrixUnits } from "../../op.ts";
import { type Layout, PARAMETERS } from "./layout.ts";

/** How a workgroup divides its work, in rows and columns of the output and steps of K. */
export interface Blocking {
  /** The tile of a workgroup. */
  readonly M: number;
  readonly N: number;
  /** A slice along K. */
  readonly K: number;
  /** The block of a subgroup. */
  readonly blockM: number;
  readonly blockN: number;
}

/** Halves at the end of a staged row. */
const PADDING = 8;

/** Invocations of a workgroup. */
export function invocations({ M, N, blockM, blockN }: Blocking, { lanes }: MatrixUnits): number {
  return M / blockM * N / blockN * lanes;
}

/** Bytes of workgroup memory, with room to write ragged blocks from. */
export function workgroupBytes(blocking: Blocking, layout: Layout, units: MatrixUnits): number {
  const a = staged(layout.transposeA, blocking.M, blocking.K),
    b = staged(!layout.transposeB, blocking.N, blocking.K);
  const subgroups = invocations(blocking, units) / units.lanes;
  return 2 * (a.rows * a.stride + b.rows * b.stride) + 4 * subgroups * units.side ** 2;
}

/** The slice of an operand in workgroup memory: rows along K, or K along rows. */
function staged(rowsAlongK: boolean, extent: number, K: number) {
  const rows = rowsAlongK ? K : extent, width = rowsAlongK ? extent : K;
  return { rows, width, stride: width + PADDING };
}

/** How 16 bytes of an operand are read, and what they are as f16. */
const WIDE: Record<Exclude<StorageType, "i32">, { type: string; count: number; halves: string }> = {
  f32: { type: "vec4<f32>", count: 4, halves: "let low = vec4<f16>(w);" },
  bf16: {
    type: "vec4<u32>",
    count: 8,
    halves:
      "let low = vec4<f16>(bitcast<vec4<f32>>(vec4(w.x << 16u, w.x & 0xffff0000u, w.y << 16u, w.y & 0xffff0000u)));" +
      " let high = vec4<f16>(bitcast<vec4<f32>>(vec4(w.z << 16u, w.z & 0xffff0000u, w.w << 16u, w.w & 0xffff0000u)));",
  },
  f16: {
    type: "vec4<u32>",
    count: 8,
    halves: "let low = vec4(bitcast<vec2<f16>>(w.x), bitcast<vec2<f16>>(w.y));" +
      " let high = vec4(bitcast<vec2<f16>>(w.z), bitcast<vec2<f16>>(w.w));",
  },
};

/** Elements that one read of an operand takes; its rows must be multiples of that. */
export function readWidth(dtype: StorageType): number {
  return WIDE[dtype as keyof typeof WIDE].count;
}

const times = (count: number, line: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => line(i)).join("\n");

/** Declares an operand, its slice, and the functions `<x>_fetch(i, k0)` and `<x>_stage(i, w)` for the i-th read of a slice. */
function operand(
  x: "a" | "b",
  binding: number,
  dtype: StorageType,
  slice: { rows: number; width: number; stride: number },
  rowsAlongK: boolean,
): string {
  const { type, count, halves } = WIDE[dtype as keyof typeof WIDE];
  const [extent, across] = x === "a" ? ["p.M", "p.a_m"] : ["p.N", "p.b_n"];
  const along = x === "a" ? "p.a_k" : "p.b_k", start = x === "a" ? "p.a_start + " : "";
  const reads = slice.width / count;
  const row = `i / ${reads}u`, column = `i % ${reads}u * ${count}u`;
  const [k, outer] = rowsAlongK ? [row, column] : [column, row];
  return `
@group(0) @binding(${binding}) var<storage, read> ${x}: array<${type}>;
var<workgroup> ${x}_slice: array<f16, ${slice.rows * slice.stride}>;
fn ${x}_fetch(i: u32, first: u32, k0: u32, last: u32) -> ${type} {
  let outer = first + ${outer};
  let k = k0 + ${k};
  let inside = outer < ${extent} && k < last;
  return select(${type}(), ${x}[select(0u, (${start}outer * ${across} + k * ${along}) / ${count}u, inside)], inside);
}
fn ${x}_stage(i: u32, w: ${type}) {
  let at = ${row} * ${slice.stride}u + ${column};
  ${halves}
  ${times(count, (j) => `${x}_slice[at + ${j}u] = ${j < 4 ? "low" : "high"}[${j % 4}];`)}
}`;
}

/**
 * The complete shader.
 * @param whole whether M and N are multiples of the matrices' side, so that no block of the output is ragged
 */
export function matricesShader(
  layout: Layout,
  blocking: Blocking,
  units: MatrixUnits,
  whole: boolean,
): string {
  const { side, lanes } = units, { mode } = layout;
  const threads = invocations(blocking, units), across = blocking.N / blocking.blockN;
  const rows = blocking.blockM / side, columns = blocking.blockN / side;
  const a = staged(layout.transposeA, blocking.M, blocking.K),
    b = staged(!layout.transposeB, blocking.N, blocking.K);
  const readsA = a.rows * a.width / readWidth("f32") / threads;
  const readsB = b.rows * b.width / readWidth(layout.dtype) / threads;
  const fetch = (k0: string) =>
    times(readsA, (i) => `a${i} = a_fetch(lane + ${i * threads}u, m0, ${k0}, last);`) + "\n" +
    times(readsB, (i) => `b${i} = b_fetch(lane + ${i * threads}u, n0, ${k0}, last);`);
  const matrix = (kind: string, type: string) => `subgroup_matrix_${kind}<${type}, ${side}, ${side}>`;
  const loadA = (i: number, q: number) =>
    layout.transposeA
      ? `col_major>(&a_slice, ${q * side * a.stride}u + m_block + ${i * side}u, ${a.stride}u)`
      : `row_major>(&a_slice, (m_block + ${i * side}u) * ${a.stride}u + ${q * side}u, ${a.stride}u)`;
  const loadB = (j: number, q: number) =>
    layout.transposeB
      ? `col_major>(&b_slice, (n_block + ${j * side}u) * ${b.stride}u + ${q * side}u, ${b.stride}u)`
      : `row_major>(&b_slice, ${q * side * b.stride}u + n_block + ${j * side}u, ${b.stride}u)`;
  const blocks = (block: (i: number, j: number) => string) =>
    times(rows, (i) => times(columns, (j) => block(i, j)));
  const place = (i: number, j: number) =>
    `let m = m0 + m_block + ${i * side}u; let n = n0 + n_block + ${j * side}u;`;
  const sums = matrix("result", "f32");
  // Matrices cannot be added to each other, and what a product is added to comes after all of its own terms in every engine, so
  // that a product of zeros changes no bit.
  const direct = whole && mode === "write";
  const value = { write: "value", addend: "addend[at] + value", accumulate: "out[at] + value" }[mode];
  return `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
${PARAMETERS}${operand("a", 1, "f32", a, layout.transposeA)}
${operand("b", 2, layout.dtype, b, !layout.transposeB)}
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
${mode === "addend" ? "@group(0) @binding(4) var<storage, read> addend: array<f32>;" : ""}
${direct ? "" : `var<workgroup> ragged: array<f32, ${threads / lanes * side * side}>;`}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) place: u32) {
  let m0 = group.y * ${blocking.M}u;
  let n0 = group.x * ${blocking.N}u;
  let m_block = subgroup / ${across}u * ${blocking.blockM}u;
  let n_block = subgroup % ${across}u * ${blocking.blockN}u;
  let last = min(p.K, (group.z + 1u) * p.part);
  let start = p.out_start + group.z * p.out_part;
  ${blocks((i, j) => `var s${i}_${j}: ${sums};`)}
  ${times(readsA, (i) => `var a${i}: ${WIDE.f32.type};`)}
  ${times(readsB, (i) => `var b${i}: ${WIDE[layout.dtype as keyof typeof WIDE].type};`)}
  ${fetch("group.z * p.part")}
  for (var k0 = group.z * p.part; k0 < last; k0 += ${blocking.K}u) {
    ${times(readsA, (i) => `a_stage(lane + ${i * threads}u, a${i});`)}
    ${times(readsB, (i) => `b_stage(lane + ${i * threads}u, b${i});`)}
    workgroupBarrier();
    ${fetch(`k0 + ${blocking.K}u`)}
    ${
    times(blocking.K / side, (q) =>
      `{
      ${times(rows, (i) => `let left${i} = subgroupMatrixLoad<${matrix("left", "f16")}, ${loadA(i, q)};`)}
      ${
        times(columns, (j) =>
          `{ let right = subgroupMatrixLoad<${matrix("right", "f16")}, ${loadB(j, q)};\n` +
          times(rows, (i) => `s${i}_${j} = subgroupMatrixMultiplyAccumulate(left${i}, right, s${i}_${j});`) +
          " }")
      }
    }`)
  }
    workgroupBarrier();
  }
  ${
    blocks((i, j) =>
      direct
        ? `{ ${place(i, j)} if (m < p.M && n < p.N) {` +
          ` subgroupMatrixStore<row_major>(&out, start + m * p.out_m + n, s${i}_${j}, p.out_m); } }`
        : `subgroupMatrixStore<row_major>(&ragged, subgroup * ${side * side}u, s${i}_${j}, ${side}u);
  workgroupBarrier();
  { ${place(i, j)} for (var e = place; e < ${side * side}u; e += ${lanes}u) {
    let row = m + e / ${side}u; let column = n + e % ${side}u;
    if (row < p.M && column < p.N) {
      let value = ragged[subgroup * ${side * side}u + e];
      let at = start + row * p.out_m + column;
      out[at] = ${value};
    }
  } }
  workgroupBarrier();`
    )
  }
}`;
}
