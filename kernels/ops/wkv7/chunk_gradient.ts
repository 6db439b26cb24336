/**
 * WGSL of the gradients along the key axis: one workgroup a chunk of a head (and 64 key columns of it), so that all chunks go at once;
 * one thread a column.
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
 * dw follows from the others, since ⟨dS_t, S_t⟩ may be written out in two ways:
 *
 *     w_t dw_t + k_t dk_t + b_t db_t = ⟨dS_t, S_t⟩ = w_{t+1} dw_{t+1} + a_{t+1} da_{t+1} + r_t dr_t
 *
 * Where a decay is too small to be divided by, as where a document begins, dw is summed over the rows.
 *
 * @module
 */
import { times } from "./text.ts";

/** Columns, and threads, of a workgroup. */
const COLUMNS = 64;
/** Rows of the state whose vectors are in workgroup memory at a time. */
const PANEL = 32;
/** Rows that are asked for before they are used. */
const AHEAD = 4;
/** The smallest decay that is divided by; RWKV-7's are over 0.54, but for the 0 where a document begins. */
const LEAST_DECAY = 0.25;

/** Workgroups of a chunk of a head. */
export function chunkWorkgroups(N: number): number {
  return Math.ceil(N / COLUMNS);
}

/** The complete shader; `whole` says whether the last chunk has all its steps. */
export function chunkGradientShader(N: number, C: number, CHUNK: number, whole: boolean): string {
  const quads = CHUNK / 4, ragged = N % PANEL !== 0;
  // Vectors of four numbers in workgroup memory. A row of a panel is padded against bank conflicts.
  const stride = 2 * quads + 1, panel = PANEL * stride, M = CHUNK * CHUNK, kept = CHUNK * COLUMNS / 4;
  const size = Math.max(2 * panel, 2 * M + 2 * kept);
  const row = (i: string) => ragged ? `min(${i}, N - 1u)` : i;
  const at = (t: string) => whole ? `${t} * C` : `min(${t}, last) * C`;
  const decay = (t: string) =>
    whole ? `columns[w + ${at(t)}]` : `select(1.0, columns[w + ${at(t)}], ${t} <= last)`;
  /** The numbers of M that a step meets: four rows of CHUNK, from the step on. */
  const rows = (base: number) =>
    times(
      4,
      (kind) =>
        times(quads, (q) =>
          `let m${kind}_${q} = shared_[${base + kind * quads + q}u + t * ${4 * quads}u];`, " "),
    );
  const m = (kind: number, i: number) => `m${kind}_${i >> 2}[${i & 3}]`;
  return `
const N = ${N}u;
const C = ${C}u;
const CHUNK = ${CHUNK}u;
const COLUMNS = ${COLUMNS}u;
const PANEL = ${PANEL}u;
struct Parameters { T: u32, M: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> columns: array<f32>;     // (5, B, T, H, N): r, w, k, a, b, then their gradients
@group(0) @binding(2) var<storage, read> v_stream: array<f32>;          // (B, T, H, N)
@group(0) @binding(3) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(4) var<storage, read> d_states: array<f32>;          // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(6) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(7) var<storage, read> kept_dsa: array<f32>;          // (B, T, H, N)
// First panels of [dy; dS b] and [v; S a], the latter's steps in reverse, by rows of the state; then M as the steps forward meet it,
// (CHUNK, 2, 2, CHUNK), which dw makes use of later, M as the steps back meet it, and dr and da.
var<workgroup> shared_: array<vec4<f32>, ${size}>;
const M_FORWARD = 0u;
const M_BACK = ${4 * M}u;
const DR = ${8 * M}u;
const DA = ${8 * M + 4 * kept}u;

fn put(i: u32, value: f32) { shared_[i / 4u][i % 4u] = value; }
fn number(i: u32) -> f32 { return shared_[i / 4u][i % 4u]; }

/// dw of step t: its gradient of the state against the state before it, both worked out row by row.
fn summed(unit: u32, begin: u32, column: u32, stride: u32, t: u32, last: u32) -> f32 {
  let r = begin + column;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;
  var sum = 0.0;
  for (var i = 0u; i < N; i++) {
    var S = states[(unit * N + i) * N + column];
    for (var s = 0u; s < t; s++) {
      let at = s * C;
      S = S * columns[w + at] + kept_sa[begin + i + at] * columns[b + at] + v_stream[begin + i + at] * columns[k + at];
    }
    var dS = d_states[(unit * N + i) * N + column];
    for (var s = last; s > t; s--) {
      let at = s * C;
      dS = (dS + dy[begin + i + at] * columns[r + at]) * columns[w + at] + kept_dsa[begin + i + at] * columns[a + at];
    }
    sum += (dS + dy[begin + i + t * C] * columns[r + t * C]) * S;
  }
  return sum;
}

@compute @workgroup_size(COLUMNS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  if (index >= p.units) { return; }
  let unit = index / ${chunkWorkgroups(N)}u;
  const H = C / N;
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let last = min(CHUNK, p.T - first) - 1u;
  let begin = ((head / H) * p.T + first) * C + (head % H) * N;
  // Threads beyond the last column work on it and write nothing.
  let place = index % ${chunkWorkgroups(N)}u * COLUMNS + lane;
  let column = min(place, N - 1u);
  let stride = p.M * C;
  let r = begin + column;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;

  ${times(2 * CHUNK, (i) => `var x${i} = 0.0; var z${i} = 0.0;`)}
  ${times(4, (i) => `var m${i} = vec4<f32>(0.0);`)}
  var both = 0.0;
  let left = lane / 8u;
  let right = lane % 8u;
  ${
    times(AHEAD, (i) =>
      `var S${i} = states[(unit * N + ${row(`${i}u`)}) * N + column]; var dS${i} = d_states[(unit * N + ${
        row(`${i}u`)
      }) * N + column];`)
  }
  for (var panel = 0u; panel < N; panel += PANEL) {
    workgroupBarrier();
    for (var e = lane; e < PANEL * CHUNK; e += COLUMNS) {
      // Neighbours read neighbours, and write to different banks.
      let i = e / (8u * CHUNK) * 8u + e % 8u;
      let s = e / 8u % CHUNK;
      let from_ = begin + min(s, last) * C + ${row("panel + i")};
      let there = s <= last${ragged ? " && panel + i < N" : ""};
      let to = i * ${4 * stride}u;
      put(to + s, select(0.0, dy[from_], there));
      put(to + CHUNK + s, select(0.0, kept_dsa[from_], there));
      put(to + ${4 * panel}u + CHUNK - 1u - s, select(0.0, v_stream[from_], there));
      put(to + ${4 * panel}u + 2u * CHUNK - 1u - s, select(0.0, kept_sa[from_], there));
    }
    workgroupBarrier();
    for (var i = 0u; i < PANEL; i++) {
      let S = S0;
      let dS = dS0;
      ${times(AHEAD - 1, (j) => `S${j} = S${j + 1}; dS${j} = dS${j + 1};`, " ")}
      let next = (unit * N + min(panel + i + ${AHEAD}u, N - 1u)) * N + column;
      S${AHEAD - 1} = states[next];
      dS${AHEAD - 1} = d_states[next];
      both += ${ragged ? "select(0.0, S * dS, panel + i < N)" : "S * dS"};
      let at = i * ${stride}u;
      ${
    times(2 * quads, (q) =>
      `{ let x = shared_[at + ${q}u]; let z = shared_[at + ${panel + q}u]; ${
        times(4, (j) =>
          `x${4 * q + j} += x[${j}] * S; z${4 * q + j} += z[${j}] * dS;`, " ")
      } }`)
  }
      ${2 * quads === 8 ? "" : `if (max(left, right) < ${2 * quads}u)`} {
        let x = shared_[at + left];
        let z = shared_[at + ${panel}u + right];
        ${times(4, (j) => `m${j} += x[${j}] * z;`, " ")}
      }
    }
  }
  workgroupBarrier();
  for (var j = 0u; j < 4u; j++) {
    let four = select(select(m2, m3, j == 3u), select(m0, m1, j == 1u), j < 2u);
    let l = left * 4u + j;
    let s = l % CHUNK;
    for (var i = 0u; i < 4u; i++) {
      let t = CHUNK - 1u - (right * 4u + i) % CHUNK;
      let kinds = vec2(l, right * 4u + i) / CHUNK;
      if (t <= s && max(kinds.x, kinds.y) < 2u) {
        put(M_FORWARD + ((t * 2u + kinds.y) * 2u + kinds.x) * CHUNK + s - t, four[i]);
        put(M_BACK + ((s * 2u + kinds.x) * 2u + kinds.y) * CHUNK + s - t, four[i]);
      }
    }
  }
  workgroupBarrier();
  // The state where the chunk ends against its gradient there.
  ${
    times(CHUNK, (t) =>
      `both = both * ${decay(`${t}u`)} + columns[b + ${at(`${t}u`)}] * z${2 * CHUNK - 1 - t} + columns[k + ${
        at(`${t}u`)
      }] * z${CHUNK - 1 - t};`)
  }
  var least = 1.0;
  for (var t = 0u; t < CHUNK; t++) {
    let w_t = ${decay("t")};
    let k_t = columns[k + ${at("t")}];
    let b_t = columns[b + ${at("t")}];
    least = min(least, w_t);
    ${rows(0)}
    put(DA + t * COLUMNS + lane, x${CHUNK});
    put(DR + t * COLUMNS + lane, x0 * w_t + ${m(0, 0)} * k_t + ${m(2, 0)} * b_t);
    ${
    times(CHUNK - 1, (i) =>
      `x${i} = x${i + 1} * w_t + ${m(0, i + 1)} * k_t + ${m(2, i + 1)} * b_t;
    x${CHUNK + i} = x${CHUNK + i + 1} * w_t + ${m(1, i + 1)} * k_t + ${m(3, i + 1)} * b_t;`)
  }
  }
  workgroupBarrier();
  if (least < ${LEAST_DECAY}) {
    for (var t = 0u; t <= last; t++) {
      if (columns[w + t * C] < ${LEAST_DECAY}) {
        put(t * COLUMNS + lane, summed(unit, begin, column, stride, t, last));
      }
    }
  }
  for (var back = 0u; back < CHUNK; back++) {
    let t = CHUNK - 1u - back;
    let at = ${at("t")};
    let r_t = columns[r + at];
    let w_t = ${decay("t")};
    let k_t = columns[k + at];
    let a_t = columns[a + at];
    let b_t = columns[b + at];
    let rw = r_t * w_t;
    ${rows(M)}
    let dr = number(DR + t * COLUMNS + lane);
    let da = number(DA + t * COLUMNS + lane);
    let dk = z0 + ${m(0, 0)} * r_t;
    let db = z${CHUNK} + ${m(1, 0)} * r_t;
    ${
    times(CHUNK - 1, (i) =>
      `z${i} = z${i + 1} * w_t + (${m(0, i + 1)} * rw + ${m(2, i + 1)} * a_t);
    z${CHUNK + i} = z${CHUNK + i + 1} * w_t + (${m(1, i + 1)} * rw + ${m(3, i + 1)} * a_t);`)
  }
    var w_dw = both + r_t * dr - k_t * dk - b_t * db;
    var dw = w_dw / w_t;
    if (w_t < ${LEAST_DECAY}) {
      dw = number(t * COLUMNS + lane);
      w_dw = w_t * dw;
    }
    both = w_dw + a_t * da;
    if (t <= last && place < N) {
      columns[r + at] = dr;
      columns[w + at] = dw;
      columns[k + at] = dk;
      columns[a + at] = da;
      columns[b + at] = db;
    }
  }
}`;
}
