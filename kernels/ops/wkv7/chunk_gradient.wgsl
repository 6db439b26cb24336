// Gradients along the key axis, one workgroup a chunk of a head, so that all chunks go at once; one thread a key column. The scans
// have left the state where the chunk begins, its gradient where the chunk ends, and both S a and its gradient of every step; with
// these, columns do not mix and rows only meet in sums:
//
//     S_t = S_{t-1} w_t + (S a)_t b_t + v_t k_t;   dS ← dS + dy_t r_t;   dS ← dS w_t + (dS b)_t a_t
//     dr_t = ⟨S_t, dy_t⟩;  dw_t = ⟨dS, S_{t-1}⟩;  dk_t = ⟨dS, v_t⟩;  db_t = ⟨dS, (S a)_t⟩;  da_t = ⟨S_{t-1}, (dS b)_t⟩
//
// The gradients are written where the streams were, which each thread alone reads. A thread takes LANES rows at a time, and of the chunk one span after the other, the last first: forward to where the span begins,
// through it with the states kept in registers, and back.
//
// Declared before this text: N, C, CHUNK, SPAN, PANEL, WHOLE (whether the last chunk has all its steps); Lanes with LANES, inner(),
// put_ and _lanes functions. Loops over j are written out before compiling, and so is what stands between the marks, for each span
// with its FIRST step.
struct Parameters { T: u32, M: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> columns: array<f32>;     // (5, B, T, H, N): r, w, k, a, b, then their gradients
@group(0) @binding(2) var<storage, read> v_stream: array<f32>;          // (B, T, H, N)
@group(0) @binding(3) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(4) var<storage, read> d_states: array<f32>;          // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(6) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(7) var<storage, read> kept_dsa: array<f32>;          // (B, T, H, N)
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
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let last = min(CHUNK, p.T - first) - 1u;
  let begin = ((head / H) * p.T + first) * C + (head % H) * N;
  let stride = p.M * C;
  let r = begin + n;
  let w = r + stride;
  let k = w + stride;
  let a = k + stride;
  let b = a + stride;
  var dr: array<f32, CHUNK>;
  var dw: array<f32, CHUNK>;
  var dk: array<f32, CHUNK>;
  var da: array<f32, CHUNK>;
  var db: array<f32, CHUNK>;
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
      let rows = (unit * N + panel + block * LANES) * N + n;
      let entered = states_lanes(rows, N);
      var S: Lanes;
      var dS = d_states_lanes(rows, N);
      //<span
      S = entered;
      for (var j = 0u; j < FIRST; j++) {
        let at = place(j, last);
        S = S * columns[w + at] + sa[j * BLOCKS + block] * columns[b + at] + v[j * BLOCKS + block] * columns[k + at];
      }
      for (var j = 0u; j < SPAN; j++) {
        const t = FIRST + j;
        let at = place(t, last);
        before[j] = S;
        S = S * columns[w + at] + sa[t * BLOCKS + block] * columns[b + at] + v[t * BLOCKS + block] * columns[k + at];
      }
      for (var j = 0u; j < SPAN; j++) {
        const t = FIRST + SPAN - 1u - j;
        let at = place(t, last);
        let g_t = g[t * BLOCKS + block];
        let dsa_t = dsa[t * BLOCKS + block];
        dr[t] += inner(S, g_t);
        S = before[SPAN - 1u - j];
        dS += g_t * columns[r + at];
        dw[t] += inner(dS, S);
        dk[t] += inner(dS, v[t * BLOCKS + block]);
        db[t] += inner(dS, sa[t * BLOCKS + block]);
        da[t] += inner(S, dsa_t);
        dS = dS * select(1.0, columns[w + at], t <= last) + dsa_t * columns[a + at];
      }
      //span>
    }
  }
  for (var j = 0u; j < CHUNK; j++) {
    store(j <= last, r + j * C, stride, dr[j], dw[j], dk[j], da[j], db[j]);
  }
}

fn store(runs: bool, at: u32, stride: u32, dr: f32, dw: f32, dk: f32, da: f32, db: f32) {
  if (!runs) { return; }
  columns[at] = dr;
  columns[at + stride] = dw;
  columns[at + 2u * stride] = dk;
  columns[at + 3u * stride] = da;
  columns[at + 4u * stride] = db;
}
