// One workgroup a head, one thread a value row, which it keeps in registers for all T steps, four channels at a time.
// Loops over j are written out before compiling: see lanes.ts.
// Declared before this text: N, CHUNK, and Lanes (vec4<f32>, or f32 where N is no multiple of 4) with LANES and inner().
struct Parameters { T: u32, C: u32, M: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> initial: array<Lanes>;         // (B, H, N, N)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;           // (B, T, H, N)
@group(0) @binding(4) var<storage, read_write> states: array<Lanes>;    // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read_write> final_: array<Lanes>;    // (B, H, N, N)
@group(0) @binding(6) var<storage, read_write> kept_sa: array<f32>;     // (B, T, H, N)
const L = N / LANES;
var<workgroup> r: array<Lanes, L>;
var<workgroup> w: array<Lanes, L>;
var<workgroup> k: array<Lanes, L>;
var<workgroup> a: array<Lanes, L>;
var<workgroup> b: array<Lanes, L>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) i: u32) {
  let head = group.x;
  let H = p.C / N;
  let stride = p.M * p.C;
  var S: array<Lanes, L>;
  for (var j = 0u; j < L; j++) { S[j] = initial[(head * N + i) * L + j]; }
  for (var t = 0u; t < p.T; t++) {
    let at = ((head / H) * p.T + t) * p.C + (head % H) * N + i;
    if (t % CHUNK == 0u) {
      let kept = ((head * p.chunks + t / CHUNK) * N + i) * L;
      for (var j = 0u; j < L; j++) { states[kept + j] = S[j]; }
    }
    workgroupBarrier();
    put_r(i, streams[at]);
    put_w(i, streams[at + stride]);
    put_k(i, streams[at + 2u * stride]);
    let v = streams[at + 3u * stride];
    put_a(i, streams[at + 4u * stride]);
    put_b(i, streams[at + 5u * stride]);
    workgroupBarrier();
    var sa = 0.0;
    for (var j = 0u; j < L; j++) { sa += inner(S[j], a[j]); }
    var sum = 0.0;
    for (var j = 0u; j < L; j++) {
      S[j] = S[j] * w[j] + sa * b[j] + v * k[j];
      sum += inner(S[j], r[j]);
    }
    y[at] = sum;
    kept_sa[at] = sa;
  }
  for (var j = 0u; j < L; j++) { final_[(head * N + i) * L + j] = S[j]; }
}
