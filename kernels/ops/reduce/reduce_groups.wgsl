// LANES threads add up one group of neighbours, in a fixed tree so that the sum never depends on timing; small groups share a
// workgroup of 256. Declared before this text: LANES, a power of two; Element, one number or four; sum_of(Element) -> f32.
struct Parameters { groups: u32, size: u32 }                            // size in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;             // (groups, size)
@group(0) @binding(2) var<storage, read_write> out: array<f32>;         // (groups)
var<workgroup> partial: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) place: u32) {
  let index = (group.y * groups.x + group.x) * (256u / LANES) + place / LANES;
  let lane = place % LANES;
  var total = Element();
  if (index < p.groups) {
    for (var j = lane; j < p.size; j += LANES) { total += x[index * p.size + j]; }
  }
  partial[place] = sum_of(total);
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) { partial[place] += partial[place + half]; }
    workgroupBarrier();
  }
  if (lane == 0u && index < p.groups) { out[index] = partial[place]; }
}
