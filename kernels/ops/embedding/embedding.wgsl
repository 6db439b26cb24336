// out[m] = table[ids[m]] for the ids within this range of the table. Declared before this text: table_at().
struct Parameters { M: u32, C: u32, first: u32, count: u32, clear: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(2) var<storage, read> ids: array<i32>;               // (M)
@group(0) @binding(3) var<storage, read_write> out: array<f32>;         // (M, C)

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 256u + lane;
  if (i >= p.M * p.C) { return; }
  let id = u32(ids[i / p.C]);
  if (id >= p.first && id - p.first < p.count) {
    out[i] = table_at((id - p.first) * p.C + i % p.C);
  } else if (p.clear == 1u) {
    out[i] = 0.0;
  }
}
