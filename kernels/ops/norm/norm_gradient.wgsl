// dX = rstd * (g - mean(g) - x̂ * mean(g * x̂)) with g = dY * weight; one workgroup a group.
// Declared before this text: Element, one number or COUNT of them; sum_of(Element) -> f32.
struct Parameters { total: u32, groups: u32, n: u32 }                   // n in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;                 // (M, G, n)
@group(0) @binding(2) var<storage, read> weight: array<Element>;            // (G, n)
@group(0) @binding(3) var<storage, read> means: array<f32>;             // (M, G)
@group(0) @binding(4) var<storage, read> rstds: array<f32>;             // (M, G)
@group(0) @binding(5) var<storage, read> dy: array<Element>;                // (M, G, n)
@group(0) @binding(6) var<storage, read_write> dx: array<Element>;          // (M, G, n)
var<workgroup> partial: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) ids: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let group = id.y * ids.x + id.x;
  if (group >= p.total) { return; }
  let at = group * p.n;
  let c = (group % p.groups) * p.n;
  let mean = means[group];
  let rstd = rstds[group];
  var sum = Element();
  var projection = Element();
  for (var i = lane; i < p.n; i += 64u) {
    let g = dy[at + i] * weight[c + i];
    sum += g;
    projection += g * (x[at + i] - mean) * rstd;
  }
  partial[lane] = vec2(sum_of(sum), sum_of(projection));
  workgroupBarrier();
  for (var half = 32u; half > 0u; half /= 2u) {
    if (lane < half) { partial[lane] += partial[lane + half]; }
    workgroupBarrier();
  }
  let averages = partial[0] / f32(p.n * COUNT);
  for (var i = lane; i < p.n; i += 64u) {
    let g = dy[at + i] * weight[c + i];
    dx[at + i] = rstd * (g - averages.x - (x[at + i] - mean) * rstd * averages.y);
  }
}
