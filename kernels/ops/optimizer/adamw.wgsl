// One AdamW update. Declared before this text: RATE, DECAY.
struct Parameters { size: u32 }
@group(0) @binding(0) var<uniform> u: Parameters;
@group(0) @binding(1) var<storage, read_write> p: array<f32>;
@group(0) @binding(2) var<storage, read_write> g: array<f32>;
@group(0) @binding(3) var<storage, read_write> m: array<f32>;
@group(0) @binding(4) var<storage, read_write> v: array<f32>;
@group(0) @binding(5) var<storage, read> norms: array<f32>;             // (1)
// (9): learning rate, beta1, beta2, eps, weight decay, bias correction 1 and 2, clip, gradient scale
@group(0) @binding(6) var<storage, read> settings: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let i = (group.y * groups.x + group.x) * 256u + lane;
  if (i >= u.size) { return; }
  let norm = norms[0] * settings[8];
  // Not finite: the exponent bits are all ones. A comparison with NaN may be optimised away.
  if ((bitcast<u32>(norm) & 0x7f800000u) == 0x7f800000u) {
    g[i] = 0.0;
    return;
  }
  let gradient = g[i] * (select(1.0, settings[7] / norm, norm > settings[7]) * settings[8]);
  let m1 = settings[1] * m[i] + (1.0 - settings[1]) * gradient;
  let v1 = settings[2] * v[i] + (1.0 - settings[2]) * gradient * gradient;
  let step = m1 / settings[5] / (sqrt(v1 / settings[6]) + settings[3]) + settings[4] * DECAY * p[i];
  p[i] -= settings[0] * RATE * step;
  m[i] = m1;
  v[i] = v1;
  g[i] = 0.0;
}
