// out[o, i] = w[o, i] + d[i mod R, o]. A thread adds neighbours of a row of d's tile to SHARDS shards of a row of w, so that d is
// read once for all of them. ROWS neighbouring threads have as many rows o, which lie together in d; the next ROWS have the
// columns beside theirs, which lie together in w.
// There may be several w, d and out of the same shapes: workgroups of one z have the z-th.
// Declared before this text: SHARDS, ROWS, THREADS; COUNT, of the neighbours; Numbers, as many f32; w_numbers(z, i), those of w from
// COUNT · i; d_at(z, i), the i-th number of d; tile_numbers(z, j, o), those of column o of d from row j; put_out(z, i, numbers).
struct Parameters { span: u32, K: u32, R: u32, O: u32 }                 // span: columns from one of a thread's shards to the next
@group(0) @binding(0) var<uniform> p: Parameters;

fn tile_four(z: u32, j: u32, o: u32) -> vec4<f32> {
  let at = j * p.O + o;
  return vec4(d_at(z, at), d_at(z, at + p.O), d_at(z, at + 2u * p.O), d_at(z, at + 3u * p.O));
}

fn write(z: u32, o: u32, i: u32, sum: Numbers) {
  if (i < p.K) { put_out(z, (o * p.K + i) / COUNT, sum); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) place: u32) {
  let index = (group.y * groups.x + group.x) * THREADS + place;
  let threads = p.span / COUNT;                                         // of a row
  let o = index / (ROWS * threads) * ROWS + index % ROWS;
  if (o >= p.O) { return; }
  let first = index / ROWS % threads * COUNT;
  let added = tile_numbers(group.z, first % p.R, o);
  var sums: array<Numbers, SHARDS>;
  // Past the end of a row the last numbers are read, not none: loads after a branch would wait for it.
  for (var j = 0u; j < SHARDS; j++) {
    sums[j] = w_numbers(group.z, (o * p.K + min(first + j * p.span, p.K - COUNT)) / COUNT) + added;
  }
  for (var j = 0u; j < SHARDS; j++) { write(group.z, o, first + j * p.span, sums[j]); }
}
