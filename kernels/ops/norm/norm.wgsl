// y = (x - mean) * rstd * weight + bias; one workgroup a group. Two passes for the variance, as the mean may be large.
// Declared before this text: Element, one number or COUNT of them; sum_of(Element) -> f32.
struct Parameters { total: u32, groups: u32, n: u32, eps: f32 }         // n in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;                 // (M, G, n)
@group(0) @binding(2) var<storage, read> weight: array<Element>;            // (G, n)
@group(0) @binding(3) var<storage, read> bias: array<Element>;              // (G, n)
@group(0) @binding(4) var<storage, read_write> y: array<Element>;           // (M, G, n)
@group(0) @binding(5) var<storage, read_write> means: array<f32>;       // (M, G)
@group(0) @binding(6) var<storage, read_write> rstds: array<f32>;       // (M, G)
var<workgroup> partial: array<f32, 64>;

fn total_of(value: f32, lane: u32) -> f32 {
  partial[lane] = value;
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] += partial[lane + half]; }
    workgroupBarrier();
  }
  let total = partial[0];
  workgroupBarrier();
  return total;
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) ids: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let group = id.y * ids.x + id.x;
  if (group >= p.total) { return; }
  let at = group * p.n;
  let c = (group % p.groups) * p.n;
  let count = f32(p.n * COUNT);
  var sum = Element();
  for (var i = lane; i < p.n; i += 64u) { sum += x[at + i]; }
  let mean = total_of(sum_of(sum), lane) / count;
  var squares = Element();
  for (var i = lane; i < p.n; i += 64u) { squares += (x[at + i] - mean) * (x[at + i] - mean); }
  let rstd = 1.0 / sqrt(total_of(sum_of(squares), lane) / count + p.eps);
  for (var i = lane; i < p.n; i += 64u) { y[at + i] = (x[at + i] - mean) * rstd * weight[c + i] + bias[c + i]; }
  if (lane == 0u) {
    means[group] = mean;
    rstds[group] = rstd;
  }
}
