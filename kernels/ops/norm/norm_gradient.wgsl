// dX = rstd * (g - mean(g) - x̂ * mean(g * x̂)) with g = dY * weight. LANES threads a group, each with HELD elements of it, which
// are read once and kept.
// Declared before this text: Element, one number or COUNT of them; sum_of(Element) -> f32; HELD; total.wgsl with pairs for sums.
struct Parameters { total: u32, groups: u32, n: u32 }                   // n in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;                 // (M, G, n)
@group(0) @binding(2) var<storage, read> weight: array<Element>;            // (G, n)
@group(0) @binding(3) var<storage, read> means: array<f32>;             // (M, G)
@group(0) @binding(4) var<storage, read> rstds: array<f32>;             // (M, G)
@group(0) @binding(5) var<storage, read> dy: array<Element>;                // (M, G, n)
@group(0) @binding(6) var<storage, read_write> dx: array<Element>;          // (M, G, n)

fn write(index: u32, i: u32, value: Element) {
  if (index < p.total && i < p.n) { dx[index * p.n + i] = value; }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(num_workgroups) ids: vec3<u32>,
        @builtin(local_invocation_index) place: u32) {
  let index = (id.y * ids.x + id.x) * (THREADS / LANES) + place / LANES;
  let lane = place % LANES;
  // Past the last group, and past the end of one, the last is read, not none: loads after a branch would wait for it.
  let group = min(index, p.total - 1u);
  let last = p.n - 1u;
  let at = group * p.n;
  let c = (group % p.groups) * p.n;
  let mean = means[group];
  let rstd = rstds[group];
  var g: array<Element, HELD>;
  var normal: array<Element, HELD>;                                         // x̂
  for (var j = 0u; j < HELD; j++) {
    let i = min(lane + j * LANES, last);
    g[j] = dy[at + i] * weight[c + i];
    normal[j] = (x[at + i] - mean) * rstd;
  }
  var sum = Element();
  var projection = Element();
  for (var j = 0u; j < HELD; j++) {
    let counted = lane + j * LANES <= last;
    sum += select(Element(), g[j], counted);
    projection += select(Element(), g[j] * normal[j], counted);
  }
  let averages = total_of(vec2(sum_of(sum), sum_of(projection)), place) / f32(p.n * COUNT);
  for (var j = 0u; j < HELD; j++) {
    write(index, lane + j * LANES, rstd * (g[j] - averages.x - normal[j] * averages.y));
  }
}
