// Gradients along the key axis, one workgroup a chunk of a head, so that all chunks go at once; one thread a key column. The scans
// have left the state where the chunk begins, its gradient where the chunk ends, and both S a and its gradient of every step; with
// these, columns do not mix and rows only meet in sums:
//
//     S_t = S_{t-1} w_t + (S a)_t b_t + v_t k_t;   dS ← dS + dy_t r_t;   dS ← dS w_t + (dS b)_t a_t
//     dr_t = ⟨S_t, dy_t⟩;  dw_t = ⟨dS, S_{t-1}⟩;  dk_t = ⟨dS, v_t⟩;  db_t = ⟨dS, (S a)_t⟩;  da_t = ⟨S_{t-1}, (dS b)_t⟩
//
// A thread takes LANES rows at a time: forward, keeping the states in registers, then back.
//
// Declared before this text: N, CHUNK, PANEL, and Lanes (vec4<f32>, or f32 where N is no multiple of 4) with LANES and inner().
// Loops over j are written out before compiling.
struct Parameters { T: u32, C: u32, M: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(3) var<storage, read> d_states: array<f32>;          // (B, H, chunks, N, N)
@group(0) @binding(4) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(5) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(6) var<storage, read> kept_dsa: array<f32>;          // (B, T, H, N)
@group(0) @binding(7) var<storage, read_write> d_streams: array<f32>;   // (6, B, T, H, N), without v's, which the scan wrote
const BLOCKS = PANEL / LANES;
// PANEL rows of each step, zero after the last step.
var<workgroup> v: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> g: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> sa: array<Lanes, CHUNK * BLOCKS>;
var<workgroup> dsa: array<Lanes, CHUNK * BLOCKS>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) n: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let last = min(CHUNK, p.T - first) - 1u;
  let begin = ((head / H) * p.T + first) * p.C + (head % H) * N;
  let column = begin + n;
  let stride = p.M * p.C;
  var dr: array<f32, CHUNK>;
  var dw: array<f32, CHUNK>;
  var dk: array<f32, CHUNK>;
  var da: array<f32, CHUNK>;
  var db: array<f32, CHUNK>;
  var before: array<Lanes, CHUNK>;
  for (var panel = 0u; panel < N; panel += PANEL) {
    workgroupBarrier();
    for (var i = n; i < CHUNK * PANEL; i += N) {
      let t = i / PANEL;
      let at = begin + min(t, last) * p.C + panel + i % PANEL;
      let runs = select(0.0, 1.0, t <= last);
      put_v(i, runs * streams[at + 3u * stride]);
      put_g(i, runs * dy[at]);
      put_sa(i, runs * kept_sa[at]);
      put_dsa(i, runs * kept_dsa[at]);
    }
    workgroupBarrier();
    for (var block = 0u; block < BLOCKS; block++) {
      let rows = (unit * N + panel + block * LANES) * N + n;
      var S = states_lanes(rows, N);
      var dS = d_states_lanes(rows, N);
      for (var j = 0u; j < CHUNK; j++) {
        let at = column + min(j, last) * p.C;
        before[j] = S;
        S = S * streams[at + stride] + sa[j * BLOCKS + block] * streams[at + 5u * stride] + v[j * BLOCKS + block] * streams[at + 2u * stride];
      }
      for (var j = 0u; j < CHUNK; j++) {
        const t = CHUNK - 1u - j;
        let at = column + min(t, last) * p.C;
        let g_t = g[t * BLOCKS + block];
        let dsa_t = dsa[t * BLOCKS + block];
        dr[t] += inner(S, g_t);
        S = before[t];
        dS += g_t * streams[at];
        dw[t] += inner(dS, S);
        dk[t] += inner(dS, v[t * BLOCKS + block]);
        db[t] += inner(dS, sa[t * BLOCKS + block]);
        da[t] += inner(S, dsa_t);
        dS = dS * select(1.0, streams[at + stride], t <= last) + dsa_t * streams[at + 4u * stride];
      }
    }
  }
  for (var j = 0u; j < CHUNK; j++) {
    store(j <= last, column + j * p.C, dr[j], dw[j], dk[j], da[j], db[j]);
  }
}

fn store(runs: bool, at: u32, dr: f32, dw: f32, dk: f32, da: f32, db: f32) {
  if (!runs) { return; }
  let stride = p.M * p.C;
  d_streams[at] = dr;
  d_streams[at + stride] = dw;
  d_streams[at + 2u * stride] = dk;
  d_streams[at + 4u * stride] = da;
  d_streams[at + 5u * stride] = db;
}
