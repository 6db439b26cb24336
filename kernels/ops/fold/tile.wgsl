// out[m, i] = x[m, i mod K]
// Declared before this text: Element, one number or four; sizes are in elements; x [M, K], at binding 1, with x_of(i).
struct Parameters { size: u32, width: u32, K: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(2) var<storage, read_write> out: array<Element>;         // (M, width)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * groups.x + group.x) * 256u + lane;
  if (index >= p.size) { return; }
  out[index] = x_of((index / p.width) * p.K + (index % p.width) % p.K);
}
