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
  const staged = slices(blocking, layout).reduce((sum, { rows, stride }) => sum + rows * stride, 0);
  const subgroups = invocations(blocking, units) / units.lanes;
  return 2 * staged + 4 * subgroups * units.side ** 2;
}

/** Whether the invocations share the reads of both slices evenly: each reads so many rows, at one place of them. */
export function sharesReads(blocking: Blocking, layout: Layout, units: MatrixUnits): boolean {
  const threads = invocations(blocking, units);
  return slices(blocking, layout).every(({ rows, width, dtype }) => {
    const readers = width / readWidth(dtype);
    return threads % readers === 0 && rows % (threads / readers) === 0;
  });
}

/** An operand's slice in workgroup memory. */
interface Slice {
  readonly rows: number;
  readonly width: number;
  /** Elements from one row to the next. */
  readonly stride: number;
  readonly dtype: StorageType;
  /** Whether its rows follow K, or else its columns do. */
  readonly rowsAlongK: boolean;
}

/** Both slices, as they lie in memory. */
function slices({ M, N, K }: Blocking, { transposeA, transposeB, dtypeA, dtype }: Layout): [Slice, Slice] {
  const slice = (rowsAlongK: boolean, extent: number, dtype: StorageType): Slice => {
    const width = rowsAlongK ? extent : K;
    return { rows: rowsAlongK ? K : extent, width, stride: width + PADDING, dtype, rowsAlongK };
  };
  return [slice(transposeA, M, dtypeA), slice(!transposeB, N, dtype)];
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

/** The row of a slice that a thread begins with. */
function rowOf({ width, dtype }: Slice, threads: number): string {
  const readers = width / readWidth(dtype), row = `lane / ${readers}u`;
  // Neighbours store into two rows of 64 bytes at once, which lie in different banks where they are four rows apart.
  return 2 * width === 64 && threads / readers % 8 === 0
    ? `((${row}) & ~7u) | (((${row}) >> 1u) & 3u) | (((${row}) & 1u) << 2u)`
    : row;
}

/** The statements that bring an operand's slices into registers, and from there into workgroup memory. */
interface Moves {
  readonly declarations: string;
  /** Where a thread reads and stores first, and how far apart it goes on; both are kept, since registers are scarce. */
  readonly places: string;
  /** Reads the slice at k0. */
  fetch(k0: string): string;
  readonly stage: string;
}

/**
 * @param rowWidth elements of a row in memory, where slices never reach beyond the operand, so that nothing need be checked
 * @param blocks whether it is one of several of a kind
 */
function moves(
  x: "a" | "b",
  slice: Slice,
  { threads, rowWidth, blocks }: { threads: number; rowWidth: number | undefined; blocks: boolean },
): Moves {
  const { rows, width, stride, dtype, rowsAlongK } = slice, { type, count, halves } = wide(dtype);
  const [first, extent, across, along] = x === "a"
    ? ["m0", "p.M", "p.a_m", "p.a_k"]
    : ["n0", "p.N", "p.b_n", "p.b_k"];
  const known = rowWidth !== undefined;
  const [byRow, byColumn] = known ? [`${rowWidth}u`, "1u"] : rowsAlongK ? [along, across] : [across, along];
  const [byFirst, byK] = rowsAlongK ? [byColumn, byRow] : [byRow, byColumn];
  const readers = width / count, rowsAtOnce = threads / readers;
  const origin = (x === "a" ? "p.a_start + " : "") + (blocks ? `block * p.${x}_block + ` : "");
  const reads = (line: (i: number) => string) => times(rows / rowsAtOnce, line);
  const read = (i: number) => {
    const at = `here + ${i}u * ${x}_between`, row = `${x}_row + ${i * rowsAtOnce}u`;
    if (known) return `${x}${i} = ${x}[${at}];`;
    const [outer, k] = rowsAlongK ? [`${x}_column`, row] : [row, `${x}_column`];
    return `{ let inside = ${first} + ${outer} < ${extent} && k0 + ${k} < last;
  ${x}${i} = select(${type}(), ${x}[select(0u, ${at}, inside)], inside); }`;
  };
  const fours = ["low", "high"].slice(0, count / 4);
  return {
    declarations: `
@group(0) @binding(${x === "a" ? 1 : 2}) var<storage, read> ${x}: array<${type}>;
var<workgroup> ${x}_slice: array<vec4<f16>, ${rows * stride / 4}>;`,
    places: `
  let ${x}_row = ${rowOf(slice, threads)};
  let ${x}_column = lane % ${readers}u * ${count}u;
  let ${x}_start = (${origin}${first} * ${byFirst} + ${x}_row * ${byRow} + ${x}_column * ${byColumn}) / ${count}u;
  let ${x}_between = ${rowsAtOnce}u * ${byRow} / ${count}u;
  let ${x}_to = (${x}_row * ${stride}u + ${x}_column) / 4u;
  ${reads((i) => `var ${x}${i}: ${type};`)}`,
    fetch: (k0) => `{ let k0 = ${k0}; let here = ${x}_start + k0 * ${byK} / ${count}u;\n${reads(read)} }`,
    stage: reads((i) =>
      `{ let w = ${x}${i}; let at = ${x}_to + ${i * rowsAtOnce * stride / 4}u; ${halves}
  ${fours.map((four, j) => `${x}_slice[at + ${j}u] = ${four};`).join(" ")} }`
    ),
  };
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
  const [a, b] = slices(blocking, layout);
  const [moveA, moveB] = [
    moves("a", a, { threads, rowWidth: widths?.a, blocks }),
    moves("b", b, { threads, rowWidth: widths?.b, blocks }),
  ];
  const fetch = (k0: string) => moveA.fetch(k0) + "\n" + moveB.fetch(k0);
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
${moveA.declarations}${moveB.declarations}
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
  ${moveA.places}${moveB.places}
  ${fetch(`${part} * p.part`)}
  for (var k0 = ${part} * p.part; k0 < last; k0 += ${blocking.K}u) {
    ${moveA.stage}
    ${moveB.stage}
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
