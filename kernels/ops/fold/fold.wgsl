// out[m, j] = sum over b of x[m, b * width + j]
// Declared before this text: Element, one number or four; sizes are in elements.
struct Parameters { size: u32, width: u32, K: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;                 // (M, K)
@group(0) @binding(2) var<storage, read_write> out: array<Element>;         // (M, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * groups.x + group.x) * 64u + lane;
  if (index >= p.size) { return; }
  let row = (index / p.width) * p.K;
  var total = Element();
  for (var i = index % p.width; i < p.K; i += p.width) { total += x[row + i]; }
  out[index] = total;
}
