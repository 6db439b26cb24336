// y = (x - mean) * rstd * weight + bias. LANES threads a group, each with HELD elements of it, which are read once and kept. Two
// passes for the variance, as the mean may be large.
// Declared before this text: Element, one number or COUNT of them; sum_of(Element) -> f32; HELD; total.wgsl with numbers for sums.
struct Parameters { total: u32, groups: u32, n: u32, eps: f32 }         // n in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> x: array<Element>;                 // (M, G, n)
@group(0) @binding(2) var<storage, read> weight: array<Element>;            // (G, n)
@group(0) @binding(3) var<storage, read> bias: array<Element>;              // (G, n)
@group(0) @binding(4) var<storage, read_write> y: array<Element>;           // (M, G, n)
@group(0) @binding(5) var<storage, read_write> means: array<f32>;       // (M, G)
@group(0) @binding(6) var<storage, read_write> rstds: array<f32>;       // (M, G)

fn write(index: u32, i: u32, value: Element) {
  if (index < p.total && i < p.n) { y[index * p.n + i] = value; }
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
  let count = f32(p.n * COUNT);
  var held: array<Element, HELD>;
  for (var j = 0u; j < HELD; j++) { held[j] = x[at + min(lane + j * LANES, last)]; }
  var sum = Element();
  for (var j = 0u; j < HELD; j++) { sum += select(Element(), held[j], lane + j * LANES <= last); }
  let mean = total_of(sum_of(sum), place) / count;
  var squares = Element();
  for (var j = 0u; j < HELD; j++) {
    held[j] -= mean;
    squares += select(Element(), held[j] * held[j], lane + j * LANES <= last);
  }
  let rstd = 1.0 / sqrt(total_of(sum_of(squares), place) / count + p.eps);
  for (var j = 0u; j < HELD; j++) {
    let i = c + min(lane + j * LANES, last);
    held[j] = held[j] * rstd * weight[i] + bias[i];
  }
  for (var j = 0u; j < HELD; j++) { write(index, lane + j * LANES, held[j]); }
  if (lane == 0u && index < p.total) {
    means[group] = mean;
    rstds[group] = rstd;
  }
}
