// Copies a run of elements from one place to another. Declared before this text: Element.
struct Parameters { size: u32, from_start: u32, to_start: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> source: array<Element>;
@group(0) @binding(2) var<storage, read_write> target_: array<Element>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 256u + lane;
  if (i < p.size) { target_[p.to_start + i] = source[p.from_start + i]; }
}
