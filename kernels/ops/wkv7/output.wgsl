// What every step reads from the state, or backward from its gradient, one workgroup a chunk of a head, so that all chunks go at once.
// The scan has left X where the chunk is entered, and echo of every step: with these a row needs no other.
//
//     forward,  X the state:      X ← X · diag(w) + drive ⊗ add + echo ⊗ back; y = X r     with drive v, add k, back b
//     backward, X its gradient:   X ← X + drive ⊗ add; dv = X k; X ← X · diag(w) + echo ⊗ back     with drive dy, add r, back a
//
// A thread has SHARE rows and one of SHARE parts of their keys, so that what it reads of the streams serves several rows.
//
// Declared before this text: N, CHUNK, STEPS, SHARE, BACKWARD; Lanes with LANES and inner(). Loops over j are written out before
// compiling.
struct Parameters { T: u32, C: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> reads: array<Lanes>;           // (B, T, H, N), as all streams: r, backward k
@group(0) @binding(2) var<storage, read> decays: array<Lanes>;          // w
@group(0) @binding(3) var<storage, read> adds: array<Lanes>;            // k, backward r
@group(0) @binding(4) var<storage, read> backs: array<Lanes>;           // b, backward a
@group(0) @binding(5) var<storage, read> drive: array<f32>;             // v, backward dy
@group(0) @binding(6) var<storage, read> kept: array<Lanes>;            // (B, H, chunks, N, N)
@group(0) @binding(7) var<storage, read> echo: array<f32>;              // (B, T, H, N)
@group(0) @binding(8) var<storage, read_write> result: array<f32>;      // (B, T, H, N): y, backward dv
const L = N / LANES;
const OWN = L / SHARE;
var<workgroup> read_: array<Lanes, STEPS * L>;
var<workgroup> decay: array<Lanes, STEPS * L>;
var<workgroup> add: array<Lanes, STEPS * L>;
var<workgroup> back: array<Lanes, STEPS * L>;
var<workgroup> driven: array<f32, STEPS * N>;
var<workgroup> echoed: array<f32, STEPS * N>;
var<workgroup> partial: array<f32, SHARE * STEPS * N>;

@compute @workgroup_size(N)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) n: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let count = min(CHUNK, p.T - first);
  let begin = ((head / H) * p.T + first) * p.C + (head % H) * N;
  let part = n / (N / SHARE);
  let row = n % (N / SHARE) * SHARE;
  var X: array<Lanes, L>;
  for (var j = 0u; j < L; j++) { X[j] = kept[(unit * N + row + j / OWN) * L + part * OWN + j % OWN]; }
  for (var stage = 0u; stage < count; stage += STEPS) {
    workgroupBarrier();
    for (var i = n; i < STEPS * L; i += N) {
      let at = (begin + place(stage + i / L, count) * p.C) / LANES + i % L;
      read_[i] = reads[at];
      decay[i] = decays[at];
      add[i] = adds[at];
      back[i] = backs[at];
    }
    for (var i = n; i < STEPS * N; i += N) {
      let at = begin + place(stage + i / N, count) * p.C + n;
      driven[i] = drive[at];
      echoed[i] = echo[at];
    }
    workgroupBarrier();
    let steps = min(STEPS, count - stage);
    for (var step = 0u; step < steps; step++) {
      let at = step * L + part * OWN;
      let rows = step * N + row;
      var sum = array<Lanes, SHARE>();
      if (BACKWARD) {
        for (var j = 0u; j < L; j++) {
          X[j] += driven[rows + j / OWN] * add[at + j % OWN];
          sum[j / OWN] += X[j] * read_[at + j % OWN];
          X[j] = X[j] * decay[at + j % OWN] + echoed[rows + j / OWN] * back[at + j % OWN];
        }
      } else {
        for (var j = 0u; j < L; j++) {
          X[j] = X[j] * decay[at + j % OWN] + driven[rows + j / OWN] * add[at + j % OWN] + echoed[rows + j / OWN] * back[at + j % OWN];
          sum[j / OWN] += X[j] * read_[at + j % OWN];
        }
      }
      for (var j = 0u; j < SHARE; j++) { partial[part * STEPS * N + rows + j] = inner(sum[j], Lanes(1.0)); }
    }
    workgroupBarrier();
    for (var step = 0u; step < steps; step++) {
      var sum = 0.0;
      for (var j = 0u; j < SHARE; j++) { sum += partial[(j * STEPS + step) * N + n]; }
      result[begin + place(stage + step, count) * p.C + n] = sum;
    }
  }
}

/// Where in the chunk the step lies, counted in the direction of the scan; after the last, where that lies.
fn place(step: u32, count: u32) -> u32 {
  let there = min(step, count - 1u);
  return select(there, count - 1u - there, BACKWARD);
}
