// One workgroup adds up one group of neighbours, in a fixed tree so that the sum never depends on timing.
struct Parameters { groups: u32, size: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (groups, size)
@group(0) @binding(2) var<storage, read_write> out: array<f32>;         // (groups)
var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  if (index >= p.groups) { return; }
  var total = 0.0;
  for (var j = lane; j < p.size; j += 64u) { total += x[index * p.size + j]; }
  partial[lane] = total;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] += partial[lane + half]; }
    workgroupBarrier();
  }
  if (lane == 0u) { out[index] = partial[0]; }
}
