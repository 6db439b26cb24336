// Gradients along the key axis, all chunks at once; one thread a key column. The scans
// have left the state where the chunk begins, its gradient where the chunk ends, and both S a and its gradient of every step; with
// these, columns do not mix and rows only meet in sums:
//
//     S_t = S_{t-1} w_t + (S a)_t b_t + v_t k_t;   dS ← dS + dy_t r_t;   dS ← dS w_t + (dS b)_t a_t
//     dr_t = ⟨S_t, dy_t⟩;  dw_t = ⟨dS, S_{t-1}⟩;  dk_t = ⟨dS, v_t⟩;  db_t = ⟨dS, (S a)_t⟩;  da_t = ⟨S_{t-1}, (dS b)_t⟩
//
// A workgroup has one span of a chunk's steps: more would need more registers than leave room for others. A thread takes LANES rows at a
// time: the state forward to where the span begins, its gradient back to where it ends, then through the span with the states kept in
// registers, and back.
//
// Declared before this text: N, C, CHUNK, SPAN, PANEL, WHOLE (whether the last chunk has all its steps); Lanes with LANES, inner(),
// put_ and _lanes functions. Loops over j are written out before compiling.
struct Parameters { T: u32, M: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> columns: array<f32>;           // (5, B, T, H, N): r, w, k, a, b
@group(0) @binding(2) var<storage, read> v_stream: array<f32>;          // (B, T, H, N)
@group(0) @binding(3) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(4) var<storage, read> d_states: array<f32>;          // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(6) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(7) var<storage, read> kept_dsa: array<f32>;          // (B, T, H, N)
@group(0) @binding(8) var<storage, read_write> d_columns: array<f32>;   // (5, B, T, H, N)
const BLOCKS = PANEL / LANES;
// PANEL rows of each step, zero after the last step.
var<workgroup> v: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> g: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> sa: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> dsa: array<Lanes, CHUNK * BLOCKS>;

/// Where the row of step t lies, or that of the last step.
fn place(t: u32, last: u32) -> u32 {
  if (WHOLE) { return t * C; }
  return min(t, last) * C;
}

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) n: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  const H = C / N;
  const SPANS = CHUNK / SPAN;
  let chunk = unit / SPANS;
  let head = chunk / p.chunks;
  let first = chunk % p.chunks * CHUNK;
  let last = min(CHUNK, p.T - first) - 1u;
  // The span's steps in the chunk.
  let start = unit % SPANS * SPAN;
  let end = start + SPAN;
  if (start > last) { return; }
  let begin = ((head / H) * p.T + first) * C + (head % H) * N;
  let stride = p.M * C;
  let r = begin + n;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;
  var dr: array<f32, SPAN>;
  var dw: array<f32, SPAN>;
  var dk: array<f32, SPAN>;
  var da: array<f32, SPAN>;
  var db: array<f32, SPAN>;
  var before: array<Lanes, SPAN>;
  for (var panel = 0u; panel < N; panel += PANEL) {
    workgroupBarrier();
    for (var i = n; i < CHUNK * PANEL; i += N) {
      let t = i / PANEL;
      let at = begin + min(t, last) * C + panel + i % PANEL;
      let runs = select(0.0, 1.0, t <= last);
      put_v(i, runs * v_stream[at]);
      put_g(i, runs * dy[at]);
      put_sa(i, runs * kept_sa[at]);
      put_dsa(i, runs * kept_dsa[at]);
    }
    workgroupBarrier();
    for (var block = 0u; block < BLOCKS; block++) {
      let rows = (chunk * N + panel + block * LANES) * N + n;
      var S = states_lanes(rows, N);
      var dS = d_states_lanes(rows, N);
      for (var t = 0u; t < start; t++) {
        let at = place(t, last);
        S = S * columns[w + at] + sa[t * BLOCKS + block] * columns[b + at] + v[t * BLOCKS + block] * columns[k + at];
      }
      for (var after = CHUNK; after > end; after--) {
        let t = after - 1u;
        let at = place(t, last);
        dS += g[t * BLOCKS + block] * columns[r + at];
        dS = dS * select(1.0, columns[w + at], t <= last) + dsa[t * BLOCKS + block] * columns[a + at];
      }
      for (var j = 0u; j < SPAN; j++) {
        let t = start + j;
        let at = place(t, last);
        before[j] = S;
        S = S * columns[w + at] + sa[t * BLOCKS + block] * columns[b + at] + v[t * BLOCKS + block] * columns[k + at];
      }
      for (var j = 0u; j < SPAN; j++) {
        const back = SPAN - 1u - j;
        let t = start + back;
        let at = place(t, last);
        let g_t = g[t * BLOCKS + block];
        let dsa_t = dsa[t * BLOCKS + block];
        dr[back] += inner(S, g_t);
        S = before[back];
        dS += g_t * columns[r + at];
        dw[back] += inner(dS, S);
        dk[back] += inner(dS, v[t * BLOCKS + block]);
        db[back] += inner(dS, sa[t * BLOCKS + block]);
        da[back] += inner(S, dsa_t);
        dS = dS * select(1.0, columns[w + at], t <= last) + dsa_t * columns[a + at];
      }
    }
  }
  for (var j = 0u; j < SPAN; j++) {
    store(start + j <= last, r + (start + j) * C, stride, dr[j], dw[j], dk[j], da[j], db[j]);
  }
}

fn store(runs: bool, at: u32, stride: u32, dr: f32, dw: f32, dk: f32, da: f32, db: f32) {
  if (!runs) { return; }
  d_columns[at] = dr;
  d_columns[at + stride] = dw;
  d_columns[at + 2u * stride] = dk;
  d_columns[at + 3u * stride] = da;
  d_columns[at + 4u * stride] = db;
}
