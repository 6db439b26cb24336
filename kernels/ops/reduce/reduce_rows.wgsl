// Each thread adds up the rows of one part of one column; run twice: x to parts, parts to the sum.
struct Parameters { rows: u32, width: u32, part: u32, parts: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<f32>;                 // (rows, width)
@group(0) @binding(2) var<storage, read_write> out: array<f32>;         // (parts, width)

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let index = (group.y * groups.x + group.x) * 64u + lane;
  if (index >= p.width * p.parts) { return; }
  let first = (index / p.width) * p.part;
  var total = 0.0;
  for (var i = first; i < min(first + p.part, p.rows); i++) {
    total += x[i * p.width + index % p.width];
  }
  out[index] = total;
}
