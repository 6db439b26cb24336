// What every step reads from the state, or backward from its gradient, one workgroup a chunk of a head, so that all chunks go at once.
// The scan has left X where the chunk is entered, and echo of every step: with these a row needs no other.
//
//     forward,  X the state:      X ← X · diag(w) + drive ⊗ add + echo ⊗ back; y = X r     with drive v, add k, back b
//     backward, X its gradient:   X ← X + drive ⊗ add; dv = X k; X ← X · diag(w) + echo ⊗ back     with drive dy, add r, back a
//
// A thread has ROWS_A_THREAD rows, and of each the keys of one of KEY_THREADS threads, so that what it reads from workgroup memory
// serves it several times.
//
// Declared before this text: N, CHUNK, STEPS, ROWS_A_THREAD, KEY_THREADS, BACKWARD; Lanes with LANES and inner(); Parts with PARTS,
// put_partial() and sum_partial(). Loops over j are written out before compiling.
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
const OWN = L / KEY_THREADS;               // Lanes of a row that a thread holds
const HELD = ROWS_A_THREAD * OWN;
const ROWS = N / ROWS_A_THREAD;            // between the rows of a thread, so that neighbours have neighbouring rows
const THREADS = ROWS * KEY_THREADS;
const SUMS = KEY_THREADS / PARTS;          // Parts of a row's sum
// What each thread brings of some steps.
const LOADS = (STEPS * L + THREADS - 1u) / THREADS;
const SIGNALS = (STEPS * N + THREADS - 1u) / THREADS;
var<workgroup> read_: array<Lanes, LOADS * THREADS>;
var<workgroup> decay: array<Lanes, LOADS * THREADS>;
var<workgroup> add: array<Lanes, LOADS * THREADS>;
var<workgroup> back: array<Lanes, LOADS * THREADS>;
var<workgroup> drives: array<f32, SIGNALS * THREADS>;
var<workgroup> echoes: array<f32, SIGNALS * THREADS>;
var<workgroup> partial: array<Parts, STEPS * N * SUMS>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / p.chunks;
  let first = unit % p.chunks * CHUNK;
  let count = min(CHUNK, p.T - first);
  let begin = ((head / H) * p.T + first) * p.C + (head % H) * N;
  let key = lane % KEY_THREADS;
  let row = lane / KEY_THREADS;
  var X: array<Lanes, HELD>;
  for (var j = 0u; j < HELD; j++) { X[j] = kept[(unit * N + row + j / OWN * ROWS) * L + key + j % OWN * KEY_THREADS]; }
  var next_read: array<Lanes, LOADS>;
  var next_decay: array<Lanes, LOADS>;
  var next_add: array<Lanes, LOADS>;
  var next_back: array<Lanes, LOADS>;
  var next_drive: array<f32, SIGNALS>;
  var next_echo: array<f32, SIGNALS>;
  // The first round works on nothing; the last brings nothing new. While some steps are worked on, the next are on their way.
  for (var round = 0u; round <= (count + STEPS - 1u) / STEPS; round++) {
    for (var j = 0u; j < LOADS; j++) {
      read_[j * THREADS + lane] = next_read[j];
      decay[j * THREADS + lane] = next_decay[j];
      add[j * THREADS + lane] = next_add[j];
      back[j * THREADS + lane] = next_back[j];
    }
    for (var j = 0u; j < SIGNALS; j++) {
      drives[j * THREADS + lane] = next_drive[j];
      echoes[j * THREADS + lane] = next_echo[j];
    }
    workgroupBarrier();
    for (var j = 0u; j < LOADS; j++) {
      let step = round * STEPS + (j * THREADS + lane) / L;
      let at = (begin + time(min(step, count - 1u), count) * p.C) / LANES + (j * THREADS + lane) % L;
      next_read[j] = reads[at];
      next_decay[j] = decays[at];
      next_add[j] = adds[at];
      next_back[j] = backs[at];
    }
    for (var j = 0u; j < SIGNALS; j++) {
      let step = round * STEPS + (j * THREADS + lane) / N;
      let at = begin + time(min(step, count - 1u), count) * p.C + (j * THREADS + lane) % N;
      next_drive[j] = drive[at];
      next_echo[j] = echo[at];
    }
    if (round > 0u) {
      for (var step = 0u; step < STEPS; step++) {
        let at = step * L + key;
        let own = step * N + row;
        var sum = array<Lanes, ROWS_A_THREAD>();
        if (BACKWARD) {
          for (var j = 0u; j < HELD; j++) {
            X[j] += drives[own + j / OWN * ROWS] * add[at + j % OWN * KEY_THREADS];
            sum[j / OWN] += X[j] * read_[at + j % OWN * KEY_THREADS];
            X[j] = X[j] * decay[at + j % OWN * KEY_THREADS] + echoes[own + j / OWN * ROWS] * back[at + j % OWN * KEY_THREADS];
          }
        } else {
          for (var j = 0u; j < HELD; j++) {
            X[j] = X[j] * decay[at + j % OWN * KEY_THREADS] + drives[own + j / OWN * ROWS] * add[at + j % OWN * KEY_THREADS] +
              echoes[own + j / OWN * ROWS] * back[at + j % OWN * KEY_THREADS];
            sum[j / OWN] += X[j] * read_[at + j % OWN * KEY_THREADS];
          }
        }
        for (var j = 0u; j < ROWS_A_THREAD; j++) {
          put_partial((own + j * ROWS) * KEY_THREADS + key, inner(sum[j], Lanes(1.0)));
        }
      }
      workgroupBarrier();
      for (var i = lane; i < STEPS * N; i += THREADS) {
        let step = (round - 1u) * STEPS + i / N;
        if (step < count) { result[begin + time(step, count) * p.C + i % N] = sum_partial(i * SUMS); }
      }
    }
  }
}

fn time(step: u32, count: u32) -> u32 { return select(step, count - 1u - step, BACKWARD); }
