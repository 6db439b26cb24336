// out[m, j] = sum over b of x[m, b * width + j]
struct Parameters { size: u32, width: u32, K: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (M, K)
@group(0) @binding(2) var<storage, read_write> out: array<f32>;         // (M, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * groups.x + group.x) * 64u + lane;
  if (index >= p.size) { return; }
  let row = (index / p.width) * p.K;
  var total = 0.0;
  for (var i = index % p.width; i < p.K; i += p.width) { total += x[row + i]; }
  out[index] = total;
}
