// out = op(A)·op(B) + initial. A workgroup of (TILE / 8)² threads makes a TILE × TILE tile from slices of 16 along K that it
// stages together; a thread makes 8 × 8 of it: fours of rows and of columns at its place in either half of the tile, so that
// neighbouring threads read neighbouring fours. The sums are sixteen named vectors, for an array that is indexed at run time
// would be put into memory. Where there are few tiles, the z-th workgroup of a tile adds up the z-th part of K alone (a multiple
// of 16), and another pass adds the parts. Loops over j are written out before compiling.
// Declared before this text: TILE, A_ALONG_K, B_ALONG_K, the bindings 0 to 4, and the reads and writes of four at once:
// a_four(m, k), b_four(k, n), out_four(m, n, value), which are zero or do nothing outside the matrices.
const SIDE = TILE / 8u;                  // threads along one side of the tile
const LOADS = 256u / TILE;               // fours of each operand that a thread stages
const ROW = TILE / 4u + 1u;              // fours in a staged row, and one more against bank conflicts
var<workgroup> a_tile: array<vec4<f32>, 16u * ROW>;   // (16 k, TILE m)
var<workgroup> b_tile: array<vec4<f32>, 16u * ROW>;   // (16 k, TILE n)

// The i-th four of a slice that starts at k0: along K for a row, or along the rows for one k.
fn a_fetch(i: u32, m0: u32, k0: u32) -> vec4<f32> {
  if (A_ALONG_K) { return a_four(m0 + i / 4u, k0 + (i % 4u) * 4u); }
  return a_four(m0 + (i % (TILE / 4u)) * 4u, k0 + i / (TILE / 4u));
}

fn b_fetch(i: u32, n0: u32, k0: u32) -> vec4<f32> {
  if (B_ALONG_K) { return b_four(k0 + (i % 4u) * 4u, n0 + i / 4u); }
  return b_four(k0 + i / (TILE / 4u), n0 + (i % (TILE / 4u)) * 4u);
}

fn a_stage(i: u32, four: vec4<f32>) {
  if (A_ALONG_K) {
    let m = i / 4u;
    let k = (i % 4u) * 4u;
    a_tile[k * ROW + m / 4u][m % 4u] = four.x;
    a_tile[(k + 1u) * ROW + m / 4u][m % 4u] = four.y;
    a_tile[(k + 2u) * ROW + m / 4u][m % 4u] = four.z;
    a_tile[(k + 3u) * ROW + m / 4u][m % 4u] = four.w;
  } else {
    a_tile[(i / (TILE / 4u)) * ROW + i % (TILE / 4u)] = four;
  }
}

fn b_stage(i: u32, four: vec4<f32>) {
  if (B_ALONG_K) {
    let n = i / 4u;
    let k = (i % 4u) * 4u;
    b_tile[k * ROW + n / 4u][n % 4u] = four.x;
    b_tile[(k + 1u) * ROW + n / 4u][n % 4u] = four.y;
    b_tile[(k + 2u) * ROW + n / 4u][n % 4u] = four.z;
    b_tile[(k + 3u) * ROW + n / 4u][n % 4u] = four.w;
  } else {
    b_tile[(i / (TILE / 4u)) * ROW + i % (TILE / 4u)] = four;
  }
}

@compute @workgroup_size(SIDE * SIDE)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let m0 = group.y * TILE;
  let n0 = group.x * TILE;
  let y = lane / SIDE;
  let x = lane % SIDE;
  var s00 = vec4(0.0); var s01 = vec4(0.0); var s10 = vec4(0.0); var s11 = vec4(0.0);
  var s20 = vec4(0.0); var s21 = vec4(0.0); var s30 = vec4(0.0); var s31 = vec4(0.0);
  var s40 = vec4(0.0); var s41 = vec4(0.0); var s50 = vec4(0.0); var s51 = vec4(0.0);
  var s60 = vec4(0.0); var s61 = vec4(0.0); var s70 = vec4(0.0); var s71 = vec4(0.0);
  let last = min(p.K, (group.z + 1u) * p.part);
  var next_a: array<vec4<f32>, LOADS>;
  var next_b: array<vec4<f32>, LOADS>;
  for (var j = 0u; j < LOADS; j++) {
    next_a[j] = a_fetch(lane + j * SIDE * SIDE, m0, group.z * p.part);
    next_b[j] = b_fetch(lane + j * SIDE * SIDE, n0, group.z * p.part);
  }
  for (var k0 = group.z * p.part; k0 < last; k0 += 16u) {
    for (var j = 0u; j < LOADS; j++) {
      a_stage(lane + j * SIDE * SIDE, next_a[j]);
      b_stage(lane + j * SIDE * SIDE, next_b[j]);
    }
    workgroupBarrier();
    // The next slice is on its way while this one is worked on; past the end it reads zeros.
    for (var j = 0u; j < LOADS; j++) {
      next_a[j] = a_fetch(lane + j * SIDE * SIDE, m0, k0 + 16u);
      next_b[j] = b_fetch(lane + j * SIDE * SIDE, n0, k0 + 16u);
    }
    for (var j = 0u; j < 16u; j++) {
      let a0 = a_tile[j * ROW + y];
      let a1 = a_tile[j * ROW + SIDE + y];
      let b0 = b_tile[j * ROW + x];
      let b1 = b_tile[j * ROW + SIDE + x];
      s00 += a0.x * b0; s01 += a0.x * b1; s10 += a0.y * b0; s11 += a0.y * b1;
      s20 += a0.z * b0; s21 += a0.z * b1; s30 += a0.w * b0; s31 += a0.w * b1;
      s40 += a1.x * b0; s41 += a1.x * b1; s50 += a1.y * b0; s51 += a1.y * b1;
      s60 += a1.z * b0; s61 += a1.z * b1; s70 += a1.w * b0; s71 += a1.w * b1;
    }
    workgroupBarrier();
  }
  let z = group.z * p.out_part;
  let m = m0 + y * 4u;
  let n = n0 + x * 4u;
  let half = SIDE * 4u;
  out_four(z, m, n, s00);             out_four(z, m, n + half, s01);
  out_four(z, m + 1u, n, s10);        out_four(z, m + 1u, n + half, s11);
  out_four(z, m + 2u, n, s20);        out_four(z, m + 2u, n + half, s21);
  out_four(z, m + 3u, n, s30);        out_four(z, m + 3u, n + half, s31);
  out_four(z, m + half, n, s40);      out_four(z, m + half, n + half, s41);
  out_four(z, m + half + 1u, n, s50); out_four(z, m + half + 1u, n + half, s51);
  out_four(z, m + half + 2u, n, s60); out_four(z, m + half + 2u, n + half, s61);
  out_four(z, m + half + 3u, n, s70); out_four(z, m + half + 3u, n + half, s71);
}
