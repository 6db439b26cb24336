// dTable[v, c] = sum of dOut[m, c] over the rows m with ids[m] = v, in the order of m: one thread an element, no atomics.
struct Parameters { M: u32, C: u32, first: u32, count: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> ids: array<i32>;               // (M)
@group(0) @binding(2) var<storage, read> d: array<f32>;                 // (M, C)
@group(0) @binding(3) var<storage, read_write> d_table: array<f32>;     // (count, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 256u + lane;
  if (i >= p.count * p.C) { return; }
  let id = i32(p.first + i / p.C);
  var sum = 0.0;
  for (var m = 0u; m < p.M; m++) {
    if (ids[m] == id) { sum += d[m * p.C + i % p.C]; }
  }
  d_table[i] = sum;
}
