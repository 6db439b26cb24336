// The sum over the LANES threads of a group, for each of them, in a fixed order: ROOTS threads of a group sum up LEAVES numbers
// each, then all of them what those found. Called by all threads of a workgroup.
// Declared before this text: Sum, a number or a vector; THREADS; LANES, a divisor of it, ROOTS and LEAVES, whose product it is.
var<workgroup> leaves: array<Sum, THREADS>;
var<workgroup> roots: array<Sum, THREADS / LEAVES>;

fn total_of(value: Sum, place: u32) -> Sum {
  let group = place / LANES;
  let lane = place % LANES;
  leaves[place] = value;
  workgroupBarrier();
  if (lane < ROOTS) {
    var sum = Sum();
    for (var j = 0u; j < LEAVES; j++) { sum += leaves[group * LANES + lane + j * ROOTS]; }
    roots[group * ROOTS + lane] = sum;
  }
  workgroupBarrier();
  var total = Sum();
  for (var j = 0u; j < ROOTS; j++) { total += roots[group * ROOTS + j]; }
  return total;
}
