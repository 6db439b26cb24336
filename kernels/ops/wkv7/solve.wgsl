// What a block of BLOCK steps does to any state, one workgroup a block of a head, so that all blocks go at once. Roles and order of
// steps are those of scan.wgsl. Within a block, with X the state where it is entered and P the decays between,
//
//     echo_u = X (P probe_u) + Σ_{s<u} B_us echo_s + Σ_s K_us drive_s,   B_us = ⟨probe_u, P back_s⟩,   K_us = ⟨probe_u, P add_s⟩
//
// where P is the product of the decays of the steps that lie between s and u. Solving for echo, row by row (Bischof and Van Loan's
// WY form), gives echo = X Wᵀ + K' drive: W [BLOCK, N] and K' [BLOCK, BLOCK] are what is written. Products of decays are taken
// anew for every pair, never as quotients: a decay may be 0.
//
// Declared before this text: N, BLOCK, BACKWARD; Lanes with LANES and inner(), put_*; stream() and step_at() of roles.wgsl.
struct Parameters { T: u32, C: u32, M: u32, blocks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<f32>;           // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read_write> solved: array<f32>;      // (B, H, blocks, BLOCK·N + BLOCK·BLOCK)
const L = N / LANES;
var<workgroup> decay: array<Lanes, BLOCK * L>;
var<workgroup> add: array<Lanes, BLOCK * L>;
var<workgroup> probe: array<Lanes, BLOCK * L>;
var<workgroup> back: array<Lanes, BLOCK * L>;
var<workgroup> B: array<f32, BLOCK * BLOCK>;
var<workgroup> K: array<f32, BLOCK * BLOCK>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) n: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / p.blocks;
  let first = unit % p.blocks * BLOCK;
  let count = min(BLOCK, p.T - first);
  let column = (head / H) * p.T * p.C + (head % H) * N + n;
  let stride = p.M * p.C;
  for (var u = 0u; u < BLOCK; u++) {
    let at = column + (first + step_at(u, count)) * p.C;
    let runs = select(0.0, 1.0, u < count);
    put_decay(u * N + n, select(1.0, streams[at + stride], u < count));
    put_add(u * N + n, runs * streams[at + stream(2u) * stride]);
    put_probe(u * N + n, runs * streams[at + stream(3u) * stride]);
    put_back(u * N + n, runs * streams[at + stream(4u) * stride]);
  }
  workgroupBarrier();
  for (var pair = n; pair < BLOCK * BLOCK; pair += N) {
    let u = pair / BLOCK;
    let s = pair % BLOCK;
    var b = 0.0;
    var k = 0.0;
    if (s <= u) {
      for (var l = 0u; l < L; l++) {
        var between = Lanes(1.0);
        for (var x = s + 1u; x < u; x++) { between *= decay[x * L + l]; }
        var seen = between * probe[u * L + l];
        b += inner(seen, back[s * L + l]);
        // Backward, what a step adds passes its own decay, after the step itself has read it.
        if (BACKWARD && s < u) { seen *= decay[s * L + l]; }
        k += inner(seen, add[s * L + l]);
      }
    }
    B[pair] = select(0.0, b, s < u);
    K[pair] = select(0.0, k, s < u || (BACKWARD && s == u));
  }
  workgroupBarrier();
  // Forward substitution, a column a thread, in place: rows above u are solved. The first BLOCK threads have a column of K as well.
  let to = unit * BLOCK * (N + BLOCK);
  var entered = 1.0;
  for (var u = 0u; u < BLOCK; u++) {
    var sum = entered * at_probe(u * N + n);
    for (var s = 0u; s < u; s++) { sum += B[u * BLOCK + s] * at_probe(s * N + n); }
    put_probe(u * N + n, sum);
    solved[to + u * N + n] = sum;
    entered *= at_decay(u * N + n);
  }
  for (var c = n; c < BLOCK; c += N) {
    for (var u = 0u; u < BLOCK; u++) {
      var sum = K[u * BLOCK + c];
      for (var s = 0u; s < u; s++) { sum += B[u * BLOCK + s] * K[s * BLOCK + c]; }
      K[u * BLOCK + c] = sum;
      solved[to + BLOCK * N + u * BLOCK + c] = sum;
    }
  }
}
