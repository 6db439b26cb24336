// One workgroup a row: largest logit and its first index, sum of exponentials, then loss and gradient.
struct Parameters { rows: u32, V: u32, l2: f32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> logits: array<f32>;            // (M, V)
@group(0) @binding(2) var<storage, read> targets: array<i32>;           // (M)
@group(0) @binding(3) var<storage, read> weights: array<f32>;           // (M)
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;        // (M)
@group(0) @binding(5) var<storage, read_write> d_logits: array<f32>;    // (M, V)
var<workgroup> values: array<f32, 64>;
var<workgroup> indices: array<u32, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let at = row * p.V;
  let weight = weights[row];
  var best = lane;
  var max_value = -3.4e38;
  for (var i = lane; i < p.V; i += 64u) {
    if (logits[at + i] > max_value) { max_value = logits[at + i]; best = i; }
  }
  values[lane] = max_value;
  indices[lane] = best;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) {
      let other = values[lane + half];
      if (other > values[lane] || (other == values[lane] && indices[lane + half] < indices[lane])) {
        values[lane] = other;
        indices[lane] = indices[lane + half];
      }
    }
    workgroupBarrier();
  }
  max_value = values[0];
  best = indices[0];
  workgroupBarrier();
  var sum = 0.0;
  for (var i = lane; i < p.V; i += 64u) { sum += exp(logits[at + i] - max_value); }
  values[lane] = sum;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) { values[lane] += values[lane + half]; }
    workgroupBarrier();
  }
  sum = values[0];
  let target_index = u32(targets[row]);
  if (lane == 0u) {
    loss[row] = select(weight * (log(sum) + max_value - logits[at + target_index]), 0.0, weight == 0.0);
  }
  for (var i = lane; i < p.V; i += 64u) {
    var slope = exp(logits[at + i] - max_value) / sum;
    if (i == target_index) { slope -= 1.0; }
    if (i == best) { slope += p.l2 * max_value; }
    d_logits[at + i] = select(weight * slope, 0.0, weight == 0.0);
  }
}
