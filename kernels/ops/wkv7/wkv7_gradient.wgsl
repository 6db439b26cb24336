// One workgroup a head. From the last chunk to the first: recompute the chunk's states from the kept one, each thread a
// value row; then walk back. Thread n then holds row n of dS, for dv and dsa, and column n of it, for the gradients along
// the key axis, so that every sum is one thread's own. Declared before this text: N, CHUNK.
struct Parameters { T: u32, C: u32, M: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> states: array<f32>;            // (B, H, chunks, N, N)
@group(0) @binding(3) var<storage, read> dy: array<f32>;                // (B, T, H, N)
@group(0) @binding(4) var<storage, read> d_final: array<f32>;           // (B, H, N, N)
@group(0) @binding(5) var<storage, read_write> d_streams: array<f32>;   // (6, B, T, H, N)
@group(0) @binding(6) var<storage, read_write> d_initial: array<f32>;   // (B, H, N, N)
@group(0) @binding(7) var<storage, read_write> scratch: array<f32>;     // (B, H, CHUNK, N, N)
var<workgroup> r: array<f32, N>;
var<workgroup> w: array<f32, N>;
var<workgroup> k: array<f32, N>;
var<workgroup> v: array<f32, N>;
var<workgroup> a: array<f32, N>;
var<workgroup> b: array<f32, N>;
var<workgroup> g: array<f32, N>;
var<workgroup> dsa: array<f32, N>;
var<workgroup> sa: array<f32, N * CHUNK>;

fn stage(at: u32, stride: u32, n: u32) {
  workgroupBarrier();
  r[n] = streams[at];
  w[n] = streams[at + stride];
  k[n] = streams[at + 2u * stride];
  v[n] = streams[at + 3u * stride];
  a[n] = streams[at + 4u * stride];
  b[n] = streams[at + 5u * stride];
  g[n] = dy[at];
  workgroupBarrier();
}

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) n: u32) {
  let head = group.x;
  let H = p.C / N;
  let stride = p.M * p.C;
  let first_row = (head / H) * p.T;
  let column = (head % H) * N + n;
  let own = head * CHUNK * N * N;
  var row_dS: array<f32, N>;
  var column_dS: array<f32, N>;
  for (var j = 0u; j < N; j++) {
    row_dS[j] = d_final[(head * N + n) * N + j];
    column_dS[j] = d_final[(head * N + j) * N + n];
  }
  for (var chunk = p.chunks; chunk > 0u; chunk--) {
    let first = (chunk - 1u) * CHUNK;
    let count = min(CHUNK, p.T - first);
    let kept = (head * p.chunks + chunk - 1u) * N * N;
    var S: array<f32, N>;
    for (var j = 0u; j < N; j++) { S[j] = states[kept + n * N + j]; }
    for (var t = 0u; t < count; t++) {
      stage((first_row + first + t) * p.C + column, stride, n);
      var sum = 0.0;
      for (var j = 0u; j < N; j++) { sum += S[j] * a[j]; }
      sa[t * N + n] = sum;
      for (var j = 0u; j < N; j++) {
        S[j] = S[j] * w[j] + sum * b[j] + v[n] * k[j];
        scratch[own + (t * N + n) * N + j] = S[j];
      }
    }
    storageBarrier();
    for (var back = count; back > 0u; back--) {
      let t = back - 1u;
      let at = (first_row + first + t) * p.C + column;
      stage(at, stride, n);
      var dv = 0.0;
      var ds = 0.0;
      for (var j = 0u; j < N; j++) {
        row_dS[j] += g[n] * r[j];
        dv += row_dS[j] * k[j];
        ds += row_dS[j] * b[j];
      }
      dsa[n] = ds;
      workgroupBarrier();
      for (var j = 0u; j < N; j++) { row_dS[j] = row_dS[j] * w[j] + ds * a[j]; }
      var dr = 0.0;
      var dw = 0.0;
      var dk = 0.0;
      var da = 0.0;
      var db = 0.0;
      for (var i = 0u; i < N; i++) {
        var before: f32;
        if (t == 0u) { before = states[kept + i * N + n]; } else { before = scratch[own + ((t - 1u) * N + i) * N + n]; }
        dr += scratch[own + (t * N + i) * N + n] * g[i];
        let d = column_dS[i] + g[i] * r[n];
        dw += d * before;
        dk += d * v[i];
        db += d * sa[t * N + i];
        da += before * dsa[i];
        column_dS[i] = d * w[n] + dsa[i] * a[n];
      }
      d_streams[at] = dr;
      d_streams[at + stride] = dw;
      d_streams[at + 2u * stride] = dk;
      d_streams[at + 3u * stride] = dv;
      d_streams[at + 4u * stride] = da;
      d_streams[at + 5u * stride] = db;
    }
    storageBarrier();
  }
  for (var j = 0u; j < N; j++) { d_initial[(head * N + n) * N + j] = row_dS[j]; }
}
