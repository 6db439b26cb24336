// One workgroup a row: in one pass the largest logit with its first index and the sum of exponentials (rescaled when a larger
// logit turns up), then loss and gradient. Declared before this text: LANES; Element, one number or COUNT of them; and for an
// element its largest number, the place of that, its i-th number, the sum, and 1 where its place in the row is a given one; Stored
// and stored(Element), as which gradients are written.
struct Parameters { rows: u32, V: u32, l2: f32 }                        // V in elements
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> logits: array<Element>;        // (M, V)
@group(0) @binding(2) var<storage, read> targets: array<i32>;           // (M)
@group(0) @binding(3) var<storage, read> weights: array<f32>;           // (M)
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;        // (M)
@group(0) @binding(5) var<storage, read_write> d_logits: array<Stored>; // (M, V)
var<workgroup> largest: array<f32, LANES>;
var<workgroup> first: array<u32, LANES>;                                // index of the largest
var<workgroup> sums: array<f32, LANES>;                                 // of exp(logit - largest)
var<workgroup> target_logit: f32;

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let row = group.y * groups.x + group.x;
  if (row >= p.rows) { return; }
  let start = row * p.V;
  let weight = weights[row];
  let target_index = u32(targets[row]);
  var most = -3.4e38;
  var place = 0xffffffffu;
  var sum = 0.0;
  for (var i = lane; i < p.V; i += LANES) {
    let z = logits[start + i];
    let top = most_of(z);
    if (top > most) {
      sum *= exp(most - top);
      most = top;
      place = i * COUNT + place_of(z, top);
    }
    sum += sum_of(exp(z - most));
    if (i == target_index / COUNT) { target_logit = at(z, target_index % COUNT); }
  }
  largest[lane] = most;
  first[lane] = place;
  sums[lane] = sum;
  workgroupBarrier();
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    if (lane < half) {
      let other = lane + half;
      let top = max(largest[lane], largest[other]);
      sums[lane] = sums[lane] * exp(largest[lane] - top) + sums[other] * exp(largest[other] - top);
      if (largest[other] > largest[lane] || (largest[other] == largest[lane] && first[other] < first[lane])) {
        first[lane] = first[other];
      }
      largest[lane] = top;
    }
    workgroupBarrier();
  }
  most = largest[0];
  place = first[0];
  sum = sums[0];
  if (lane == 0u) {
    loss[row] = select(weight * (log(sum) + most - target_logit), 0.0, weight == 0.0);
  }
  for (var i = lane; i < p.V; i += LANES) {
    var slope = exp(logits[start + i] - most) / sum;
    slope -= chosen(i, target_index);
    slope += chosen(i, place) * (p.l2 * most);
    d_logits[start + i] = stored(select(weight * slope, Element(), weight == 0.0));
  }
}
