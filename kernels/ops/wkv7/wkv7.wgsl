// One workgroup a head, one thread a value row, which it keeps in registers for all T steps.
// Declared before this text: N, CHUNK.
struct Parameters { T: u32, C: u32, M: u32, chunks: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> initial: array<f32>;           // (B, H, N, N)
@group(0) @binding(3) var<storage, read_write> y: array<f32>;           // (B, T, H, N)
@group(0) @binding(4) var<storage, read_write> states: array<f32>;      // (B, H, chunks, N, N)
@group(0) @binding(5) var<storage, read_write> final_: array<f32>;      // (B, H, N, N)
var<workgroup> r: array<f32, N>;
var<workgroup> w: array<f32, N>;
var<workgroup> k: array<f32, N>;
var<workgroup> a: array<f32, N>;
var<workgroup> b: array<f32, N>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) i: u32) {
  let head = group.x;
  let H = p.C / N;
  let stride = p.M * p.C;
  var S: array<f32, N>;
  for (var j = 0u; j < N; j++) { S[j] = initial[(head * N + i) * N + j]; }
  for (var t = 0u; t < p.T; t++) {
    let at = ((head / H) * p.T + t) * p.C + (head % H) * N + i;
    if (t % CHUNK == 0u) {
      let kept = ((head * p.chunks + t / CHUNK) * N + i) * N;
      for (var j = 0u; j < N; j++) { states[kept + j] = S[j]; }
    }
    workgroupBarrier();
    r[i] = streams[at];
    w[i] = streams[at + stride];
    k[i] = streams[at + 2u * stride];
    let v = streams[at + 3u * stride];
    a[i] = streams[at + 4u * stride];
    b[i] = streams[at + 5u * stride];
    workgroupBarrier();
    var sa = 0.0;
    for (var j = 0u; j < N; j++) { sa += S[j] * a[j]; }
    var sum = 0.0;
    for (var j = 0u; j < N; j++) {
      S[j] = S[j] * w[j] + sa * b[j] + v * k[j];
      sum += S[j] * r[j];
    }
    y[at] = sum;
  }
  for (var j = 0u; j < N; j++) { final_[(head * N + i) * N + j] = S[j]; }
}
