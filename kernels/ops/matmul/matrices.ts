/**
 * The product's shader on matrix units: f16 operands, f32 sums.
 *
 * A workgroup stages a slice of both operands as f16, four numbers at a store, in the order in which they lie in memory (a transposed
 * operand is loaded by columns, which costs nothing) while the next slice is on its way into registers; each of its subgroups holds a block of the
 * tile as matrices of sums. Staged rows are padded by 8 halves against bank conflicts. Numbers over f16's range become infinite,
 * so that the loss shows them.
 *
 * @module
 */
import type { StorageType } from "../../graph.ts";
import type { MatrixUnits } from "../../op.ts";
import { type Layout, parameters } from "./layout.ts";

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

/** Whether the invocations share the reads of both slices evenly. */
export function sharesReads(blocking: Blocking, { dtypeA, dtype }: Layout, units: MatrixUnits): boolean {
  const { M, N, K } = blocking, threads = invocations(blocking, units);
  return M * K % (readWidth(dtypeA) * threads) === 0 && N * K % (readWidth(dtype) * threads) === 0;
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

const wide = (dtype: StorageType) => WIDE[dtype as keyof typeof WIDE];

/** Elements that one read of an operand takes; its rows must be multiples of that. */
export function readWidth(dtype: StorageType): number {
  return wide(dtype).count;
}

const times = (count: number, line: (i: number) => string) =>
  Array.from({ length: count }, (_, i) => line(i)).join("\n");

/** An operand as the shader reads it. */
interface Operand {
  readonly dtype: StorageType;
  readonly slice: { readonly rows: number; readonly width: number; readonly stride: number };
  readonly rowsAlongK: boolean;
  /** Elements of a row in memory, where slices never reach beyond the operand, so that nothing need be checked. */
  readonly width: number | undefined;
  readonly blocks: boolean;
}

/**
 * Declares an operand, its slice, and functions for the i-th read of a slice: `<x>_start(i, first)`, where it is in the first
 * slice (of a block, where there are several); `<x>_fetch(i, first, start, k0, last)` reads it in the slice at k0; `<x>_stage(i, w)` puts it into workgroup memory.
 */
function operand(
  x: "a" | "b",
  binding: number,
  { dtype, slice, rowsAlongK, width, blocks }: Operand,
): string {
  const { type, count, halves } = wide(dtype);
  const [extent, across] = x === "a" ? ["p.M", "p.a_m"] : ["p.N", "p.b_n"];
  const along = x === "a" ? "p.a_k" : "p.b_k";
  const start = (x === "a" ? "p.a_start + " : "") + (blocks ? `block * p.${x}_block + ` : "");
  const reads = slice.width / count;
  const row = `i / ${reads}u`, column = `i % ${reads}u * ${count}u`;
  const [k, outer] = rowsAlongK ? [row, column] : [column, row];
  const fours = ["low", "high"].slice(0, count / 4);
  const known = (index: "outer" | "k") =>
    width === undefined ? undefined : (index === "k") === rowsAlongK ? `${width}u` : "1u";
  return `
@group(0) @binding(${binding}) var<storage, read> ${x}: array<${type}>;
var<workgroup> ${x}_slice: array<vec4<f16>, ${slice.rows * slice.stride / 4}>;
fn ${x}_start(i: u32, first: u32${blocks ? ", block: u32" : ""}) -> u32 {
  return (${start}(first + ${outer}) * ${known("outer") ?? across} + (${k}) * ${
    known("k") ?? along
  }) / ${count}u;
}
fn ${x}_fetch(i: u32, first: u32, start: u32, k0: u32, last: u32) -> ${type} {
  ${
    width === undefined
      ? `let inside = first + ${outer} < ${extent} && k0 + ${k} < last;
  return select(${type}(), ${x}[select(0u, start + k0 * ${along} / ${count}u, inside)], inside);`
      : `return ${x}[start + k0 * ${known("k")} / ${count}u];`
  }
}
fn ${x}_stage(i: u32, w: ${type}) {
  let at = (${row} * ${slice.stride}u + ${column}) / 4u;
  ${halves}
  ${fours.map((four, j) => `${x}_slice[at + ${j}u] = ${four};`).join(" ")}
}`;
}

/**
 * The complete shader.
 * @param whole whether M and N are multiples of the matrices' side, so that no block of the output is ragged
 * @param widths elements of a row of A and of B, where M, N and K (and its parts) are multiples of the blocking's
 */
export function matricesShader(
  layout: Layout,
  blocking: Blocking,
  units: MatrixUnits,
  whole: boolean,
  widths?: { readonly a: number; readonly b: number },
): string {
  const { side, lanes } = units, { mode, blocks = false } = layout;
  const part = blocks ? "(group.z / p.blocks)" : "group.z";
  const threads = invocations(blocking, units), across = blocking.N / blocking.blockN;
  const rows = blocking.blockM / side, columns = blocking.blockN / side;
  const a = staged(layout.transposeA, blocking.M, blocking.K),
    b = staged(!layout.transposeB, blocking.N, blocking.K);
  const readsA = a.rows * a.width / readWidth(layout.dtypeA) / threads;
  const readsB = b.rows * b.width / readWidth(layout.dtype) / threads;
  const each = (line: (x: "a" | "b", first: string, i: number) => string) =>
    times(readsA, (i) => line("a", "m0", i)) + "\n" + times(readsB, (i) => line("b", "n0", i));
  const fetch = (k0: string) =>
    each((x, first, i) =>
      `${x}${i} = ${x}_fetch(lane + ${i * threads}u, ${first}, ${x}_start${i}, ${k0}, last);`
    );
  const matrix = (kind: string, type: string) => `subgroup_matrix_${kind}<${type}, ${side}, ${side}>`;
  // Offsets and strides count the vectors of a slice.
  const load = (x: "a" | "b", byColumns: boolean, stride: number, offset: string) =>
    `${byColumns ? "col" : "row"}_major>(&${x}_slice, (${offset}) / 4u, ${stride / 4}u)`;
  const loadA = (i: number, q: number) =>
    load(
      "a",
      layout.transposeA,
      a.stride,
      layout.transposeA
        ? `${q * side * a.stride}u + m_block + ${i * side}u`
        : `(m_block + ${i * side}u) * ${a.stride}u + ${q * side}u`,
    );
  const loadB = (j: number, q: number) =>
    load(
      "b",
      layout.transposeB,
      b.stride,
      layout.transposeB
        ? `(n_block + ${j * side}u) * ${b.stride}u + ${q * side}u`
        : `${q * side * b.stride}u + n_block + ${j * side}u`,
    );
  const everywhere = (block: (i: number, j: number) => string) =>
    times(rows, (i) => times(columns, (j) => block(i, j)));
  const place = (i: number, j: number) =>
    `let m = m0 + m_block + ${i * side}u; let n = n0 + n_block + ${j * side}u;`;
  const sums = matrix("result", "f32");
  const value = { write: "value", addend: "addend[at] + value", accumulate: "out[at] + value" }[mode];
  return `enable f16;
enable subgroups;
enable chromium_experimental_subgroup_matrix;
diagnostic(off, chromium.subgroup_matrix_uniformity);
${parameters(blocks)}
${
    operand("a", 1, {
      dtype: layout.dtypeA,
      slice: a,
      rowsAlongK: layout.transposeA,
      width: widths?.a,
      blocks,
    })
  }
${
    operand("b", 2, {
      dtype: layout.dtype,
      slice: b,
      rowsAlongK: !layout.transposeB,
      width: widths?.b,
      blocks,
    })
  }
@group(0) @binding(3) var<storage, read_write> out: array<f32>;
${mode === "addend" ? "@group(0) @binding(4) var<storage, read> addend: array<f32>;" : ""}
${whole ? "" : `var<workgroup> ragged: array<f32, ${threads / lanes * side * side}>;`}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) place: u32) {
  let m0 = group.y * ${blocking.M}u;
  let n0 = group.x * ${blocking.N}u;
  let m_block = subgroup / ${across}u * ${blocking.blockM}u;
  let n_block = subgroup % ${across}u * ${blocking.blockN}u;
  ${blocks ? "let block = group.z % p.blocks;" : ""}
  let last = min(p.K, (${part} + 1u) * p.part);
  let start = p.out_start + ${part} * p.out_part${blocks ? " + block * p.out_block" : ""};
  ${everywhere((i, j) => `var s${i}_${j}: ${sums};`)}
  ${
    // Matrices cannot be added to each other, so the sums of whole blocks begin with what the product is added to.
    whole && mode !== "write"
      ? everywhere((i, j) =>
        `{ ${place(i, j)} if (m < p.M && n < p.N) {` +
        ` s${i}_${j} = subgroupMatrixLoad<${sums}, row_major>(&${
          mode === "addend" ? "addend" : "out"
        }, start + m * p.out_m + n, p.out_m); } }`
      )
      : ""}
  ${times(readsA, (i) => `var a${i}: ${wide(layout.dtypeA).type};`)}
  ${times(readsB, (i) => `var b${i}: ${wide(layout.dtype).type};`)}
  ${
    each((x, first, i) =>
      `let ${x}_start${i} = ${x}_start(lane + ${i * threads}u, ${first}${blocks ? ", block" : ""});`
    )
  }
  ${fetch(`${part} * p.part`)}
  for (var k0 = ${part} * p.part; k0 < last; k0 += ${blocking.K}u) {
    ${times(readsA, (i) => `a_stage(lane + ${i * threads}u, a${i});`)}
    ${times(readsB, (i) => `b_stage(lane + ${i * threads}u, b${i});`)}
    workgroupBarrier();
    if (k0 + ${blocking.K}u < last) {
      ${fetch(`k0 + ${blocking.K}u`)}
    }
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
    everywhere((i, j) =>
      whole
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
