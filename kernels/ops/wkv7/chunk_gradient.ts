/**
 * WGSL of the gradients along the key axis: one workgroup a chunk of a head (and 64 key columns of it), so that all chunks go at once.
 *
 * The scans have left the state where the chunk begins, its gradient where the chunk ends, and both S a and its gradient of every step:
 *
 *     S_t = S_{t-1} w_t + (S a)_t b_t + v_t k_t;   dS_t = dS_{t+1} w_{t+1} + (dS b)_{t+1} a_{t+1} + dy_t r_t
 *     dr_t = ⟨S_t, dy_t⟩;  da_t = ⟨S_{t-1}, (dS b)_t⟩;  dk_t = ⟨dS_t, v_t⟩;  db_t = ⟨dS_t, (S a)_t⟩;  dw_t = ⟨dS_t, S_{t-1}⟩
 *
 * with sums over rows. Rows of a state are thus only met in products with the chunk's own vectors, so the state is multiplied with those
 * first, P = [dy; dS b] S and Q = [v; S a] dS, and they with each other, M. From there a column goes through the steps with what is
 * left of P, and back with what is left of Q, as it would go with the rows of the state. Both are kept so that what the next step gives
 * comes first.
 *
 * A thread has a pair of columns of one kind: of the products with dy and v, which lead to dr and dk, or of those with dS b and S a,
 * which lead to da and db. What it reads from workgroup memory thus serves it twice.
 *
 * dw follows from the others, since ⟨dS_t, S_t⟩ may be written out in two ways:
 *
 *     w_t dw_t + k_t dk_t + b_t db_t = ⟨dS_t, S_t⟩ = w_{t+1} dw_{t+1} + a_{t+1} da_{t+1} + r_t dr_t
 *
 * Where a decay is too small to be divided by, as where a document begins, dw is summed over the rows.
 *
 * @module
 */
import { times } from "./text.ts";

/** Pairs of columns of a workgroup, which has a thread for each and each kind. */
const PAIRS = 32;
/** Rows of the state whose vectors are in workgroup memory at a time. */
const PANEL = 16;
/** Rows that are asked for before they are used. */
const AHEAD = 8;
/** The smallest decay that is divided by; RWKV-7's are over 0.54, but for the 0 where a document begins. */
const LEAST_DECAY = 0.25;

/** Columns of a thread: one where N is odd. */
const columnsAThread = (N: number) => N % 2 === 0 ? 2 : 1;

/** Workgroups of a chunk of a head. */
export function chunkWorkgroups(N: number): number {
  return Math.ceil(N / (PAIRS * columnsAThread(N)));
}

/** The complete shader; `whole` says whether the last chunk has all its steps. */
export function chunkGradientShader(N: number, C: number, CHUNK: number, whole: boolean): string {
  const quads = CHUNK / 4, ragged = N % PANEL !== 0, two = columnsAThread(N) === 2;
  const width = columnsAThread(N), COLUMNS = PAIRS * width;
  // Vectors of four numbers in workgroup memory. A row of a panel is padded against bank conflicts.
  const stride = 2 * quads + 1, panel = PANEL * stride, M = CHUNK * CHUNK;
  const size = Math.max(2 * panel, 2 * M + COLUMNS), reads = PANEL * CHUNK / (2 * PAIRS);
  const row = (i: string) => ragged ? `min(${i}, N - 1u)` : i;
  const at = (t: string) => whole ? `${t} * (C / WIDTH)` : `min(${t}, last) * (C / WIDTH)`;
  const decay = (t: string) =>
    whole ? `columns[w + ${at(t)}]` : `select(Columns(1.0), columns[w + ${at(t)}], ${t} <= last)`;
  /** The numbers of M that a step meets: two rows of CHUNK of the thread's kind, from the step on. */
  const rows = (base: number) =>
    times(
      2,
      (pass) =>
        times(
          quads,
          (q) =>
            `let m${pass}_${q} = shared_[${base + 2 * pass * quads + q}u + kind * ${quads}u + t * ${
              4 * quads
            }u];`,
          " ",
        ),
    );
  const m = (pass: number, i: number) => `m${pass}_${i >> 2}[${i & 3}]`;
  const each = (line: (part: string, offset: string) => string) =>
    two ? ["x", "y"].map((part, i) => line(`.${part}`, ` + ${i}u`)).join(" ") : line("", "");
  return `
alias Columns = ${two ? "vec2<f32>" : "f32"};
const WIDTH = ${width}u;                   // columns of a thread
const N = ${N}u;
const C = ${C}u;
const CHUNK = ${CHUNK}u;
const PAIRS = ${PAIRS}u;
const COLUMNS = ${COLUMNS}u;
const PANEL = ${PANEL}u;
struct Parameters { T: u32, M: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> columns: array<Columns>; // (5, B, T, H, N): r, w, k, a, b, then their gradients
@group(0) @binding(2) var<storage, read> v_stream: array<f32>;          // (B, T, H, N)
@group(0) @binding(3) var<storage, read> states: array<Columns>;        // (B, H, chunks, N, N)
@group(0) @binding(4) var<storage, read> d_states: array<Columns>;      // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(6) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(7) var<storage, read> kept_dsa: array<f32>;          // (B, T, H, N)
// First panels of [dy; dS b] and [v; S a], the latter's steps in reverse, by rows of the state; then M as the steps forward meet it,
// (CHUNK, 2, 2, CHUNK), which dw makes use of later, M as the steps back meet it, and what one kind has for the other.
var<workgroup> shared_: array<vec4<f32>, ${size}>;
const M_FORWARD = 0u;
const M_BACK = ${4 * M}u;
const OTHER = ${8 * M}u;

fn put(i: u32, value: f32) { shared_[i / 4u][i % 4u] = value; }
fn number(i: u32) -> f32 { return shared_[i / 4u][i % 4u]; }
fn put_columns(i: u32, x: Columns) { ${each((part, offset) => `put(i${offset}, x${part});`)} }
fn columns_at(i: u32) -> Columns { return ${two ? "Columns(number(i), number(i + 1u))" : "number(i)"}; }

/// dw of step t: its gradient of the state against the state before it, both worked out row by row.
fn summed(unit: u32, begin: u32, rows_begin: u32, column: u32, t: u32, last: u32) -> Columns {
  let stride = p.M * (C / WIDTH);
  let r = begin + column;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;
  var sum = Columns();
  for (var i = 0u; i < N; i++) {
    let own = rows_begin + i;
    var S = states[(unit * N + i) * (N / WIDTH) + column];
    for (var s = 0u; s < t; s++) {
      let at = s * (C / WIDTH);
      S = S * columns[w + at] + kept_sa[own + s * C] * columns[b + at] + v_stream[own + s * C] * columns[k + at];
    }
    var dS = d_states[(unit * N + i) * (N / WIDTH) + column];
    for (var s = last; s > t; s--) {
      let at = s * (C / WIDTH);
      dS = (dS + dy[own + s * C] * columns[r + at]) * columns[w + at] + kept_dsa[own + s * C] * columns[a + at];
    }
    sum += (dS + dy[own + t * C] * columns[r + t * (C / WIDTH)]) * S;
  }
  return sum;
}

@compute @workgroup_size(${2 * PAIRS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  if (index >= p.units) { return; }
  let unit = index / ${chunkWorkgroups(N)}u;
  const H = C / N;
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let last = min(CHUNK, p.T - first) - 1u;
  let rows_begin = ((head / H) * p.T + first) * C + (head % H) * N;
  let begin = rows_begin / WIDTH;
  // Of the products with dy and v, or of those with dS b and S a.
  let kind = lane / PAIRS;
  let pair = lane % PAIRS;
  // Threads beyond the last column work on it and write nothing.
  let place = index % ${chunkWorkgroups(N)}u * PAIRS + pair;
  let column = min(place, N / WIDTH - 1u);
  let stride = p.M * (C / WIDTH);
  let r = begin + column;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;

  ${times(CHUNK, (i) => `var x${i} = Columns(); var z${i} = Columns();`)}
  ${times(4, (i) => `var m${i} = vec4<f32>(0.0);`)}
  var both = Columns();
  let row_four = lane / 8u;
  let column_four = lane % 8u;
  ${
    times(AHEAD, (i) =>
      ["S", "dS"].map((name) =>
        `var ${name}${i} = ${name === "S" ? "" : "d_"}states[(unit * N + ${
          row(`${i}u`)
        }) * (N / WIDTH) + column];`
      ).join(" "))
  }
  for (var panel = 0u; panel < N; panel += PANEL) {
    // Neighbours read neighbours, and write to different banks; everything is asked for before anything is waited for.
    ${
    times(reads, (j) =>
      `let i${j} = (lane + ${j * 2 * PAIRS}u) / (8u * CHUNK) * 8u + lane % 8u;
    let s${j} = (lane + ${j * 2 * PAIRS}u) / 8u % CHUNK;
    let from${j} = rows_begin + min(s${j}, last) * C + ${row(`panel + i${j}`)};
    let there${j} = s${j} <= last${ragged ? ` && panel + i${j} < N` : ""};
    let dy${j} = dy[from${j}];
    let dsa${j} = kept_dsa[from${j}];
    let v${j} = v_stream[from${j}];
    let sa${j} = kept_sa[from${j}];`)
  }
    workgroupBarrier();
    ${
    times(reads, (j) =>
      `put(i${j} * ${4 * stride}u + s${j}, select(0.0, dy${j}, there${j}));
    put(i${j} * ${4 * stride}u + CHUNK + s${j}, select(0.0, dsa${j}, there${j}));
    put(i${j} * ${4 * stride}u + ${4 * panel}u + CHUNK - 1u - s${j}, select(0.0, v${j}, there${j}));
    put(i${j} * ${4 * stride}u + ${4 * panel}u + 2u * CHUNK - 1u - s${j}, select(0.0, sa${j}, there${j}));`)
  }
    workgroupBarrier();
    for (var i = 0u; i < PANEL; i++) {
      let S = S0;
      let dS = dS0;
      ${times(AHEAD - 1, (j) => `S${j} = S${j + 1}; dS${j} = dS${j + 1};`, " ")}
      let next = (unit * N + min(panel + i + ${AHEAD}u, N - 1u)) * (N / WIDTH) + column;
      S${AHEAD - 1} = states[next];
      dS${AHEAD - 1} = d_states[next];
      both += ${ragged ? "select(Columns(), S * dS, panel + i < N)" : "S * dS"};
      let at = i * ${stride}u;
      let own = at + kind * ${quads}u;
      ${
    times(quads, (q) =>
      `{ let x = shared_[own + ${q}u]; let z = shared_[own + ${panel + q}u]; ${
        times(4, (j) =>
          `x${4 * q + j} += x[${j}] * S; z${4 * q + j} += z[${j}] * dS;`, " ")
      } }`)
  }
      ${2 * quads === 8 ? "" : `if (max(row_four, column_four) < ${2 * quads}u)`} {
        let x = shared_[at + row_four];
        let z = shared_[at + ${panel}u + column_four];
        ${times(4, (j) => `m${j} += x[${j}] * z;`, " ")}
      }
    }
  }
  workgroupBarrier();
  for (var j = 0u; j < 4u; j++) {
    let four = select(select(m2, m3, j == 3u), select(m0, m1, j == 1u), j < 2u);
    let l = row_four * 4u + j;
    let s = l % CHUNK;
    for (var i = 0u; i < 4u; i++) {
      let t = CHUNK - 1u - (column_four * 4u + i) % CHUNK;
      let kinds = vec2(l, column_four * 4u + i) / CHUNK;
      if (t <= s && max(kinds.x, kinds.y) < 2u) {
        put(M_FORWARD + ((t * 2u + kinds.y) * 2u + kinds.x) * CHUNK + s - t, four[i]);
        put(M_BACK + ((s * 2u + kinds.x) * 2u + kinds.y) * CHUNK + s - t, four[i]);
      }
    }
  }
  // The state where the chunk ends against its gradient there: each kind has a share, and the first goes on with the sum.
  let added = select(k, b, kind == 1u);
  both = select(both, Columns(), kind == 1u);
  ${
    times(CHUNK, (t) =>
      `both = both * ${decay(`${t}u`)} + columns[added + ${at(`${t}u`)}] * z${CHUNK - 1 - t};`)
  }
  if (kind == 1u) { put_columns(OTHER + pair * WIDTH, both); }
  workgroupBarrier();
  if (kind == 0u) { both += columns_at(OTHER + pair * WIDTH); }
  // Forward, for dr or da of each step, the last of which is met first on the way back. What the next step needs is asked for before.
  ${times(CHUNK, (i) => `var d${i} = Columns();`, " ")}
  var least = Columns(1.0);
  var w_next = ${decay("0u")};
  var k_next = columns[k];
  var b_next = columns[b];
  for (var t = 0u; t < CHUNK; t++) {
    let w_t = w_next;
    let k_t = k_next;
    let b_t = b_next;
    let next = min(t + 1u, CHUNK - 1u);
    w_next = ${decay("next")};
    k_next = columns[k + ${at("next")}];
    b_next = columns[b + ${at("next")}];
    least = min(least, w_t);
    ${rows(0)}
    ${times(CHUNK - 1, (i) => `d${CHUNK - 1 - i} = d${CHUNK - 2 - i};`, " ")}
    d0 = select(x0 * w_t + ${m(0, 0)} * k_t + ${m(1, 0)} * b_t, x0, kind == 1u);
    ${times(CHUNK - 1, (i) => `x${i} = x${i + 1} * w_t + ${m(0, i + 1)} * k_t + ${m(1, i + 1)} * b_t;`)}
  }
  workgroupBarrier();
  if (kind == 0u && any(least < Columns(${LEAST_DECAY}))) {
    for (var t = 0u; t <= last; t++) {
      if (any(columns[w + t * (C / WIDTH)] < Columns(${LEAST_DECAY}))) {
        put_columns(t * COLUMNS + pair * WIDTH, summed(unit, begin, rows_begin, column, t, last));
      }
    }
  }
  var r_next = columns[r + ${at(`${CHUNK - 1}u`)}];
  var a_next = columns[a + ${at(`${CHUNK - 1}u`)}];
  for (var back = 0u; back < CHUNK; back++) {
    let t = CHUNK - 1u - back;
    let at = ${at("t")};
    let r_t = r_next;
    let w_t = w_next;
    let k_t = k_next;
    let a_t = a_next;
    let b_t = b_next;
    let next = max(t, 1u) - 1u;
    r_next = columns[r + ${at("next")}];
    w_next = ${decay("next")};
    k_next = columns[k + ${at("next")}];
    a_next = columns[a + ${at("next")}];
    b_next = columns[b + ${at("next")}];
    let rw = r_t * w_t;
    ${rows(M)}
    let forward_ = d0;                       // dr, or da
    let backward_ = z0 + ${m(0, 0)} * r_t;   // dk, or db
    ${times(CHUNK - 1, (i) => `d${i} = d${i + 1};`, " ")}
    ${times(CHUNK - 1, (i) => `z${i} = z${i + 1} * w_t + (${m(0, i + 1)} * rw + ${m(1, i + 1)} * a_t);`)}
    // The second kind tells the first what it needs for dw, in one of two places, as it may be a step ahead.
    let other = OTHER + back % 2u * (2u * COLUMNS) + pair * WIDTH;
    if (kind == 1u) {
      put_columns(other, b_t * backward_);
      put_columns(other + COLUMNS, a_t * forward_);
    }
    workgroupBarrier();
    storageBarrier();
    let writes = t <= last && place < N / WIDTH;
    if (kind == 0u) {
      var w_dw = both + r_t * forward_ - k_t * backward_ - columns_at(other);
      var dw = w_dw / w_t;
      let small = w_t < Columns(${LEAST_DECAY});
      if (any(small)) {
        dw = select(dw, columns_at(t * COLUMNS + pair * WIDTH), small);
        w_dw = select(w_dw, w_t * dw, small);
      }
      both = w_dw + columns_at(other + COLUMNS);
      if (writes) {
        columns[r + at] = forward_;
        columns[w + at] = dw;
        columns[k + at] = backward_;
      }
    } else if (writes) {
      columns[a + at] = forward_;
      columns[b + at] = backward_;
    }
  }
}`;
}
