// What every step reads from the state, or backward from its gradient, one workgroup a chunk of a head, so that all chunks go at once.
// The scan has left X where the chunk is entered, and echo of every step: with these a row needs no other.
//
//     forward,  X the state:      X ← X · diag(w) + drive ⊗ add + echo ⊗ back; y = X r     with drive v, add k, back b
//     backward, X its gradient:   X ← X + drive ⊗ add; dv = X k; X ← X · diag(w) + echo ⊗ back     with drive dy, add r, back a
//
// Declared before this text: N, CHUNK, STEPS, BACKWARD; Lanes with LANES and inner(). Loops over j are written out before compiling.
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
var<workgroup> read_: array<Lanes, STEPS * L>;
var<workgroup> decay: array<Lanes, STEPS * L>;
var<workgroup> add: array<Lanes, STEPS * L>;
var<workgroup> back: array<Lanes, STEPS * L>;

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
  var X: array<Lanes, L>;
  for (var j = 0u; j < L; j++) { X[j] = kept[(unit * N + n) * L + j]; }
  for (var step = 0u; step < count; step++) {
    if (step % STEPS == 0u) {
      workgroupBarrier();
      for (var i = n; i < STEPS * L; i += N) {
        let at = (begin + time(min(step + i / L, count - 1u), count) * p.C) / LANES + i % L;
        read_[i] = reads[at];
        decay[i] = decays[at];
        add[i] = adds[at];
        back[i] = backs[at];
      }
      workgroupBarrier();
    }
    let own = begin + time(step, count) * p.C + n;
    let d = drive[own];
    let e = echo[own];
    let at = step % STEPS * L;
    var sum = Lanes(0.0);
    if (BACKWARD) {
      for (var j = 0u; j < L; j++) {
        X[j] += d * add[at + j];
        sum += X[j] * read_[at + j];
        X[j] = X[j] * decay[at + j] + e * back[at + j];
      }
    } else {
      for (var j = 0u; j < L; j++) {
        X[j] = X[j] * decay[at + j] + d * add[at + j] + e * back[at + j];
        sum += X[j] * read_[at + j];
      }
    }
    result[own] = inner(sum, Lanes(1.0));
  }
}

fn time(step: u32, count: u32) -> u32 { return select(step, count - 1u - step, BACKWARD); }
