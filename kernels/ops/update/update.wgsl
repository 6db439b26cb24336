// variable = value, or variable += value
struct Parameters { size: u32, add: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read_write> variable: array<f32>;
@group(0) @binding(2) var<storage, read> value: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 64u + lane;
  if (i >= p.size) { return; }
  if (p.add == 1u) { variable[i] += value[i]; } else { variable[i] = value[i]; }
}
