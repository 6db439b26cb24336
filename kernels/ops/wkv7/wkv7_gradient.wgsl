// One workgroup a head. From the last chunk to the first: thread n recomputes column n of the chunk's states from the kept one,
// with sa as the forward pass kept it; then walks back. It then holds row n of dS, for dv and dsa, and column n of it, for the
// gradients along the key axis, so that every sum is one thread's own, and neighbours read and write neighbours. Four channels at a time.
// Loops over j are written out before compiling: see lanes.ts.
// Declared before this text: N, CHUNK, and Lanes (vec4<f32>, or f32 where N is no multiple of 4) with LANES and inner().
struct Parameters { T: u32, C: u32, M: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(3) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(4) var<storage, read> d_final: array<f32>;           // (B, H, N, N)
@group(0) @binding(5) var<storage, read> kept_sa: array<f32>;           // (B, T, H, N)
@group(0) @binding(6) var<storage, read_write> d_streams: array<f32>;   // (6, B, T, H, N)
@group(0) @binding(7) var<storage, read_write> d_initial: array<f32>;   // (B, H, N, N)
@group(0) @binding(8) var<storage, read_write> scratch: array<f32>;     // (B, H, CHUNK, N, N)
const L = N / LANES;
var<workgroup> r: array<Lanes, L>;
var<workgroup> w: array<Lanes, L>;
var<workgroup> k: array<Lanes, L>;
var<workgroup> v: array<Lanes, L>;
var<workgroup> a: array<Lanes, L>;
var<workgroup> b: array<Lanes, L>;
var<workgroup> g: array<Lanes, L>;
var<workgroup> sa: array<Lanes, L>;
var<workgroup> dsa: array<Lanes, L>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) n: u32) {
  let head = group.x;
  let H = p.C / N;
  let stride = p.M * p.C;
  let first_row = (head / H) * p.T;
  let column = (head % H) * N + n;
  let own = head * CHUNK * N * N;
  var row_dS: array<Lanes, L>;
  var column_dS: array<Lanes, L>;
  for (var j = 0u; j < L; j++) {
    row_dS[j] = d_final_lanes((head * N + n) * N + j * LANES, 1u);
    column_dS[j] = d_final_lanes((head * N + j * LANES) * N + n, N);
  }
  for (var chunk = p.chunks; chunk > 0u; chunk--) {
    let first = (chunk - 1u) * CHUNK;
    let count = min(CHUNK, p.T - first);
    let kept = (head * p.chunks + chunk - 1u) * N * N;
    // The state's column: after step t on the way there, before it on the way back. scratch holds what precedes each step.
    var S: array<Lanes, L>;
    for (var j = 0u; j < L; j++) { S[j] = states_lanes(kept + j * LANES * N + n, N); }
    for (var t = 0u; t < count; t++) {
      let at = (first_row + first + t) * p.C + column;
      workgroupBarrier();
      put_v(n, streams[at + 3u * stride]);
      put_sa(n, kept_sa[at]);
      workgroupBarrier();
      let w_n = streams[at + stride];
      let k_n = streams[at + 2u * stride];
      let b_n = streams[at + 5u * stride];
      let here = own + t * N * N + n;
      for (var j = 0u; j < L; j++) {
        store_column(here + j * LANES * N, S[j]);
        S[j] = S[j] * w_n + sa[j] * b_n + v[j] * k_n;
      }
    }
    for (var back = count; back > 0u; back--) {
      let t = back - 1u;
      let at = (first_row + first + t) * p.C + column;
      let r_n = streams[at];
      let w_n = streams[at + stride];
      let a_n = streams[at + 4u * stride];
      let g_n = dy[at];
      workgroupBarrier();
      put_r(n, r_n);
      put_w(n, w_n);
      put_k(n, streams[at + 2u * stride]);
      put_v(n, streams[at + 3u * stride]);
      put_a(n, a_n);
      put_b(n, streams[at + 5u * stride]);
      put_g(n, g_n);
      put_sa(n, kept_sa[at]);
      workgroupBarrier();
      var dv = 0.0;
      var ds = 0.0;
      for (var j = 0u; j < L; j++) {
        row_dS[j] += g_n * r[j];
        dv += inner(row_dS[j], k[j]);
        ds += inner(row_dS[j], b[j]);
      }
      put_dsa(n, ds);
      workgroupBarrier();
      for (var j = 0u; j < L; j++) { row_dS[j] = row_dS[j] * w[j] + ds * a[j]; }
      var dr = 0.0;
      var dw = 0.0;
      var dk = 0.0;
      var da = 0.0;
      var db = 0.0;
      let here = own + t * N * N + n;
      for (var j = 0u; j < L; j++) {
        dr += inner(S[j], g[j]);
        S[j] = scratch_lanes(here + j * LANES * N, N);
        column_dS[j] += g[j] * r_n;
        dw += inner(column_dS[j], S[j]);
        dk += inner(column_dS[j], v[j]);
        db += inner(column_dS[j], sa[j]);
        da += inner(S[j], dsa[j]);
        column_dS[j] = column_dS[j] * w_n + dsa[j] * a_n;
      }
      d_streams[at] = dr;
      d_streams[at + stride] = dw;
      d_streams[at + 2u * stride] = dk;
      d_streams[at + 3u * stride] = dv;
      d_streams[at + 4u * stride] = da;
      d_streams[at + 5u * stride] = db;
    }
  }
  for (var j = 0u; j < L; j++) { store_d_initial((head * N + n) * N + j * LANES, row_dS[j]); }
}
