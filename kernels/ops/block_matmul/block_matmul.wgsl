// Products of blocks: a tile of 32×32 of one block's product in each workgroup, 4×4 numbers a thread.
// K may be cut into parts, which a second dispatch adds up.
struct Parameters {
  M: u32, N: u32, K: u32, blocks: u32,
  a_block: u32, a_m: u32, a_k: u32,
  b_block: u32, b_k: u32, b_n: u32,
  out_block: u32, out_m: u32,
  part: u32, size: u32,
}
const TILE = 32u;
const SLICE = 16u;
var<workgroup> a_tile: array<f32, TILE * SLICE>;
var<workgroup> b_tile: array<f32, TILE * SLICE>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let block = group.z % p.blocks;
  let part = group.z / p.blocks;
  let row = group.y * TILE;
  let column = group.x * TILE;
  let m0 = (lane / 8u) * 4u;
  let n0 = (lane % 8u) * 4u;
  var sum: array<vec4<f32>, 4>;
  let last = min(p.K, (part + 1u) * p.part);
  for (var k0 = part * p.part; k0 < last; k0 += SLICE) {
    for (var i = lane; i < TILE * SLICE; i += 64u) {
      let k = k0 + i / TILE;
      let m = row + i % TILE;
      let n = column + i % TILE;
      var a_value = 0.0;
      var b_value = 0.0;
      if (k < last && m < p.M) { a_value = a_at(block * p.a_block + m * p.a_m + k * p.a_k); }
      if (k < last && n < p.N) { b_value = b_at(block * p.b_block + k * p.b_k + n * p.b_n); }
      a_tile[i] = a_value;
      b_tile[i] = b_value;
    }
    workgroupBarrier();
    for (var k = 0u; k < SLICE; k++) {
      let at = k * TILE + n0;
      let b = vec4<f32>(b_tile[at], b_tile[at + 1u], b_tile[at + 2u], b_tile[at + 3u]);
      let first = k * TILE + m0;
      sum[0] += a_tile[first] * b;
      sum[1] += a_tile[first + 1u] * b;
      sum[2] += a_tile[first + 2u] * b;
      sum[3] += a_tile[first + 3u] * b;
    }
    workgroupBarrier();
  }
  for (var i = 0u; i < 4u; i++) {
    for (var j = 0u; j < 4u; j++) {
      let m = row + m0 + i;
      let n = column + n0 + j;
      if (m < p.M && n < p.N) { out[part * p.size + block * p.out_block + m * p.out_m + n] = sum[i][j]; }
    }
  }
}
