// out = op(A)·op(B) + initial. A workgroup of 64 threads makes a 64×64 tile, each thread 8×8 of it, from slices of 16
// along K that the workgroup stages together. Which index runs along neighbouring threads follows A_ALONG_K and
// B_ALONG_K, so that global reads are contiguous. Where there are few tiles, the z-th workgroup of a tile adds up the z-th part
// of K alone (a multiple of 16), and another pass adds the parts. Declared before this text: b_at(), A_ALONG_K, B_ALONG_K, initial().
struct Parameters {
  M: u32, N: u32, K: u32,
  a_start: u32, out_start: u32,
  a_m: u32, a_k: u32,      // strides of A in elements
  b_k: u32, b_n: u32,      // strides of B
  out_m: u32,              // stride of the output's rows
  part: u32,               // extent of K that one workgroup adds up
  out_part: u32,           // elements between the outputs of two parts
}
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

var<workgroup> a_tile: array<vec4<f32>, 256>;   // (16 k, 64 m) in fours of m
var<workgroup> b_tile: array<vec4<f32>, 256>;   // (16 k, 64 n) in fours of n

fn a_value(m: u32, k: u32) -> f32 {
  if (m >= p.M || k >= p.K) { return 0.0; }
  return a[p.a_start + m * p.a_m + k * p.a_k];
}

fn b_value(k: u32, n: u32) -> f32 {
  if (n >= p.N || k >= p.K) { return 0.0; }
  return b_at(k * p.b_k + n * p.b_n);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * 64u;
  let n0 = group.x * 64u;
  let row = (lane / 8u) * 8u;
  let column = (lane % 8u) * 8u;
  var sum: array<vec4<f32>, 16>;
  let last = min(p.K, (group.z + 1u) * p.part);
  for (var k0 = group.z * p.part; k0 < last; k0 += 16u) {
    for (var i = 0u; i < 4u; i++) {
      if (A_ALONG_K) {
        let k = lane % 16u;
        let m = (lane / 16u + i * 4u) * 4u;
        a_tile[k * 16u + m / 4u] = vec4(a_value(m0 + m, k0 + k), a_value(m0 + m + 1u, k0 + k),
                                        a_value(m0 + m + 2u, k0 + k), a_value(m0 + m + 3u, k0 + k));
      } else {
        let m = (lane % 16u) * 4u;
        let k = lane / 16u + i * 4u;
        a_tile[k * 16u + m / 4u] = vec4(a_value(m0 + m, k0 + k), a_value(m0 + m + 1u, k0 + k),
                                        a_value(m0 + m + 2u, k0 + k), a_value(m0 + m + 3u, k0 + k));
      }
      if (B_ALONG_K) {
        let k = lane % 16u;
        let n = (lane / 16u + i * 4u) * 4u;
        b_tile[k * 16u + n / 4u] = vec4(b_value(k0 + k, n0 + n), b_value(k0 + k, n0 + n + 1u),
                                        b_value(k0 + k, n0 + n + 2u), b_value(k0 + k, n0 + n + 3u));
      } else {
        let n = (lane % 16u) * 4u;
        let k = lane / 16u + i * 4u;
        b_tile[k * 16u + n / 4u] = vec4(b_value(k0 + k, n0 + n), b_value(k0 + k, n0 + n + 1u),
                                        b_value(k0 + k, n0 + n + 2u), b_value(k0 + k, n0 + n + 3u));
      }
    }
    workgroupBarrier();
    for (var k = 0u; k < 16u; k++) {
      let a0 = a_tile[k * 16u + row / 4u];
      let a1 = a_tile[k * 16u + row / 4u + 1u];
      let b0 = b_tile[k * 16u + column / 4u];
      let b1 = b_tile[k * 16u + column / 4u + 1u];
      sum[0] += a0.x * b0;  sum[1] += a0.x * b1;
      sum[2] += a0.y * b0;  sum[3] += a0.y * b1;
      sum[4] += a0.z * b0;  sum[5] += a0.z * b1;
      sum[6] += a0.w * b0;  sum[7] += a0.w * b1;
      sum[8] += a1.x * b0;  sum[9] += a1.x * b1;
      sum[10] += a1.y * b0; sum[11] += a1.y * b1;
      sum[12] += a1.z * b0; sum[13] += a1.z * b1;
      sum[14] += a1.w * b0; sum[15] += a1.w * b1;
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 8u; i++) {
    let m = m0 + row + i;
    if (m >= p.M) { break; }
    for (var j = 0u; j < 8u; j++) {
      let n = n0 + column + j;
      if (n >= p.N) { break; }
      let at = p.out_start + group.z * p.out_part + m * p.out_m + n;
      out[at] = initial(at) + sum[i * 2u + j / 4u][j % 4u];
    }
  }
}
