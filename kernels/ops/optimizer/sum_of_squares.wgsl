// One workgroup adds up one part; run twice: squares into parts, parts into the sum. Declared before this text: SQUARE.
struct Parameters { size: u32, part: u32, first: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> out: array<f32>;         // (parts)
var<workgroup> partial: array<f32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = group.y * groups.x + group.x;
  var total = 0.0;
  for (var i = index * p.part + lane; i < min((index + 1u) * p.part, p.size); i += 64u) {
    total += select(x[i], x[i] * x[i], SQUARE);
  }
  partial[lane] = total;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] += partial[lane + half]; }
    workgroupBarrier();
  }
  // The first sum is written even of nothing.
  if (lane == 0u && (index == 0u || index * p.part < p.size)) { out[p.first + index] = partial[0]; }
}
