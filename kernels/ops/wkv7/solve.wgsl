// What a block of BLOCK steps does to any state, one workgroup a block of a head, so that all blocks go at once. With X the state
// (or, backward, its gradient) where the block is entered, and the roles of scan.wgsl, a step is
//
//     forward:   echo_u = X_u probe_u;  X_{u+1} = X_u · diag(w_u) + drive_u ⊗ add_u + echo_u ⊗ back_u
//     backward:  X'_u = X_u + drive_u ⊗ add_u;  echo_u = X'_u probe_u;  X_{u+1} = X'_u · diag(w_u) + echo_u ⊗ back_u
//
// and so, P being products of the decays of the steps between,
//
//     echo_u = X (P probe_u) + Σ_s B_us echo_s + Σ_s K_us drive_s,   B_us = ⟨probe_u, P back_s⟩,   K_us = ⟨probe_u, P add_s⟩
//
// Solving row by row for echo (the WY form: Bischof and Van Loan 1987; for this recurrence Yang et al., arXiv 2406.06484) gives
//
//     echo = X Wᵀ + K' drive;   X ← X · diag(P) + driveᵀ add' + echoᵀ back'
//
// W, add', back', P and K' are written, one after the other. Products of decays are taken anew for every pair of steps, never as
// quotients: a decay may be 0. Steps after the last do nothing.
//
// Backward, the streams are also written one below the other, for chunk_gradient.wgsl, which could not bind them one by one.
//
// Declared before this text: N, BLOCK, BACKWARD; Lanes with LANES and inner(), put_ and at_ functions. What stands between the marks
// is for the backward direction alone.
struct Parameters { T: u32, C: u32, M: u32, blocks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> decays: array<f32>;            // (B, T, H, N), as all streams: w
@group(0) @binding(2) var<storage, read> adds: array<f32>;              // k, backward r
@group(0) @binding(3) var<storage, read> probes: array<f32>;            // a, backward b
@group(0) @binding(4) var<storage, read> backs: array<f32>;             // b, backward a
@group(0) @binding(5) var<storage, read_write> solved: array<f32>;      // (B, H, blocks, (3·BLOCK + 1)·N + BLOCK·BLOCK)
//<backward
@group(0) @binding(6) var<storage, read> reads: array<f32>;             // k
@group(0) @binding(7) var<storage, read_write> columns: array<f32>;     // (5, B, T, H, N): r, w, k, a, b
//backward>
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
  let column = (head / H) * p.T * p.C + (head % H) * N + n;
  for (var u = 0u; u < BLOCK; u++) {
    let t = first + select(u, BLOCK - 1u - u, BACKWARD);
    let at = column + min(t, p.T - 1u) * p.C;
    let runs = select(0.0, 1.0, t < p.T);
    let w = decays[at];
    let add_u = adds[at];
    let probe_u = probes[at];
    let back_u = backs[at];
    put_decay(u * N + n, select(1.0, w, t < p.T));
    put_add(u * N + n, runs * add_u);
    put_probe(u * N + n, runs * probe_u);
    put_back(u * N + n, runs * back_u);
    //<backward
    if (t < p.T) {
      let stride = p.M * p.C;
      columns[at] = add_u;
      columns[at + stride] = w;
      columns[at + 2u * stride] = reads[at];
      columns[at + 3u * stride] = back_u;
      columns[at + 4u * stride] = probe_u;
    }
    //backward>
  }
  workgroupBarrier();
  for (var pair = n; pair < BLOCK * BLOCK; pair += N) {
    let u = pair / BLOCK;
    let s = pair % BLOCK;
    var b = 0.0;
    var k = 0.0;
    if (s <= u) {
      for (var l = 0u; l < L; l++) {
        var seen = probe[u * L + l];
        for (var x = s + 1u; x < u; x++) { seen *= decay[x * L + l]; }
        b += inner(seen, back[s * L + l]);
        // Backward, what a step adds passes its own decay, after the step itself has seen it.
        if (BACKWARD && s < u) { seen *= decay[s * L + l]; }
        k += inner(seen, add[s * L + l]);
      }
    }
    B[pair] = select(0.0, b, s < u);
    K[pair] = select(0.0, k, s < u || (BACKWARD && s == u));
  }
  workgroupBarrier();
  // Forward substitution, a column a thread, in place: rows above u are solved.
  let to = unit * ((3u * BLOCK + 1u) * N + BLOCK * BLOCK);
  var before = 1.0;
  for (var u = 0u; u < BLOCK; u++) {
    var sum = before * at_probe(u * N + n);
    for (var s = 0u; s < u; s++) { sum += B[u * BLOCK + s] * at_probe(s * N + n); }
    put_probe(u * N + n, sum);
    solved[to + u * N + n] = sum;
    before *= at_decay(u * N + n);
  }
  solved[to + 3u * BLOCK * N + n] = before;
  var after = 1.0;
  for (var from_end = 1u; from_end <= BLOCK; from_end++) {
    let u = BLOCK - from_end;
    let w = at_decay(u * N + n);
    solved[to + (BLOCK + u) * N + n] = at_add(u * N + n) * select(after, after * w, BACKWARD);
    solved[to + (2u * BLOCK + u) * N + n] = at_back(u * N + n) * after;
    after *= w;
  }
  for (var c = n; c < BLOCK; c += N) {
    for (var u = 0u; u < BLOCK; u++) {
      var sum = K[u * BLOCK + c];
      for (var s = 0u; s < u; s++) { sum += B[u * BLOCK + s] * K[s * BLOCK + c]; }
      K[u * BLOCK + c] = sum;
      solved[to + (3u * BLOCK + 1u) * N + u * BLOCK + c] = sum;
    }
  }
}
