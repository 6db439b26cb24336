// out[m, j] = sum over b of x[m, b * width + j]; LANES threads an output, each with every LANES-th shard, so that a row of many
// shards is many loads under way at once. Neighbouring threads have neighbouring columns.
// Declared before this text: Element, one number or four; sizes are in elements; x, at binding 1, with x_of(i); THREADS; LANES, a
// divisor of it.
struct Parameters { size: u32, width: u32, K: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(2) var<storage, read_write> out: array<Element>;         // (M, width)
const OUTPUTS = THREADS / LANES;
var<workgroup> partial: array<Element, THREADS>;

// Without a branch, past the end of a row as well: loads after one would wait for it.
fn shard(row: u32, i: u32) -> Element {
  return select(Element(), x_of(row + min(i, p.K - 1u)), i < p.K);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) place: u32) {
  let index = (group.y * groups.x + group.x) * OUTPUTS + place % OUTPUTS;
  var total = Element();
  if (index < p.size) {
    let row = (index / p.width) * p.K;
    let step = LANES * p.width;
    for (var i = index % p.width + place / OUTPUTS * p.width; i < p.K; i += 4u * step) {
      total += shard(row, i) + shard(row, i + step) + shard(row, i + 2u * step) + shard(row, i + 3u * step);
    }
  }
  partial[place] = total;
  workgroupBarrier();
  if (place >= OUTPUTS || index >= p.size) { return; }
  total = Element();
  for (var j = 0u; j < LANES; j++) { total += partial[place + j * OUTPUTS]; }
  out[index] = total;
}
