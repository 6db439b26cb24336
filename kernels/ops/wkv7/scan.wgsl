// The recurrence in one direction of time. Rows of the state do not mix, so a workgroup takes ROWS of a head's N; a row's keys are
// divided among KEY_THREADS threads, which keep them in registers for all T steps.
//
// Forward, X is the state:      echo = X probe; X ← X · diag(w) + drive ⊗ add + echo ⊗ back; result = X read
//   with probe a, drive v, add k, back b, read r: echo is S a, and result is y.
// Backward, X is its gradient:  X ← X + drive ⊗ add; echo = X probe; result = X read; X ← X · diag(w) + echo ⊗ back
//   with probe b, drive dy, add r, back a, read k: echo is the gradient of S a, and result is dv.
//
// Of a step only echo crosses threads, so there is one barrier. STAGE steps of the streams lie in workgroup memory; the next STAGE
// are on their way into registers meanwhile; results are summed over the keys once a stage.
//
// Declared before this text: N, CHUNK, BACKWARD, ROWS, ROWS_A_THREAD, KEY_THREADS, STAGE; Lanes (vec4<f32>, or f32 where N is no
// multiple of 4) with LANES and inner(); Parts with PARTS, in which sums over the keys are stored, with put_ and sum_ functions.
// Loops over j are written out before compiling.
struct Parameters { T: u32, C: u32, M: u32, chunks: u32, units: u32, drive: u32, result: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<Lanes>;         // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> drive: array<f32>;             // (B, T, H, N) from p.drive on
@group(0) @binding(3) var<storage, read> initial: array<Lanes>;         // (B, H, N, N)
@group(0) @binding(4) var<storage, read_write> result: array<f32>;      // (B, T, H, N) from p.result on
@group(0) @binding(5) var<storage, read_write> kept: array<Lanes>;      // (B, H, chunks, N, N): X where a chunk is entered
@group(0) @binding(6) var<storage, read_write> final_: array<Lanes>;    // (B, H, N, N)
@group(0) @binding(7) var<storage, read_write> echo: array<f32>;        // (B, T, H, N)
const L = N / LANES;                       // Lanes of a row
const OWN = L / KEY_THREADS;               // Lanes of a row that a thread holds
const HELD = ROWS_A_THREAD * OWN;
const THREADS = ROWS / ROWS_A_THREAD * KEY_THREADS;
const SUMS = KEY_THREADS / PARTS;          // Parts of a row's sum
const STAGED = 5u * STAGE * L;
const LOADS = (STAGED + THREADS - 1u) / THREADS;
const DRIVES = (STAGE * ROWS + THREADS - 1u) / THREADS;
// Where in `staged` a role begins.
const READ = 0u;
const DECAY = STAGE * L;
const ADD = 2u * STAGE * L;
const PROBE = 3u * STAGE * L;
const BACK = 4u * STAGE * L;
var<workgroup> staged: array<Lanes, LOADS * THREADS>;
var<workgroup> driving: array<f32, DRIVES * THREADS>;
var<workgroup> echoes: array<Parts, 2u * ROWS * SUMS>;
var<workgroup> results: array<Parts, STAGE * ROWS * SUMS>;

/// The stream that plays a role.
fn stream(role: u32) -> u32 {
  if (BACKWARD) { return select(8u - role, 2u - role, role < 3u); }
  return select(role + 1u, role, role < 3u);
}

fn first_step(round: u32, stages: u32) -> u32 {
  return select(round, stages - 1u - round, BACKWARD) * STAGE;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / (N / ROWS);
  let row = unit % (N / ROWS) * ROWS;
  let begin = (head / H) * p.T * p.C + (head % H) * N;
  let key = lane % KEY_THREADS;
  let own = lane / KEY_THREADS * ROWS_A_THREAD;
  let place = (head * N + row + own) * L + key;
  var X: array<Lanes, HELD>;
  for (var j = 0u; j < HELD; j++) { X[j] = initial[place + j / OWN * L + j % OWN * KEY_THREADS]; }

  let stages = (p.T + STAGE - 1u) / STAGE;
  var coming: array<Lanes, LOADS>;
  var driven: array<f32, DRIVES>;
  // A round asks for the next stage and works on the one that the round before it brought.
  for (var round = 0u; round <= stages; round++) {
    let next = first_step(min(round, stages - 1u), stages);
    for (var j = 0u; j < LOADS; j++) {
      let i = min(j * THREADS + lane, STAGED - 1u);
      let t = min(next + i / L % STAGE, p.T - 1u);
      coming[j] = streams[(stream(i / (STAGE * L)) * p.M * p.C + begin + t * p.C) / LANES + i % L];
    }
    for (var j = 0u; j < DRIVES; j++) {
      let i = min(j * THREADS + lane, STAGE * ROWS - 1u);
      driven[j] = drive[p.drive + begin + min(next + i / ROWS, p.T - 1u) * p.C + row + i % ROWS];
    }
    if (round > 0u) {
      let first = first_step(round - 1u, stages);
      let count = min(STAGE, p.T - first);
      if (select(first % CHUNK == 0u, (first + STAGE) % CHUNK == 0u || first + STAGE >= p.T, BACKWARD)) {
        let chunk = ((head * p.chunks + first / CHUNK) * N + row + own) * L + key;
        for (var j = 0u; j < HELD; j++) { kept[chunk + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
      }
      for (var step = 0u; step < count; step++) {
        let t = select(step, count - 1u - step, BACKWARD);
        let at = t * L + key;
        let half = step % 2u * ROWS + own;
        var input = array<f32, ROWS_A_THREAD>();
        var product = array<f32, ROWS_A_THREAD>();
        var output = array<f32, ROWS_A_THREAD>();
        for (var j = 0u; j < ROWS_A_THREAD; j++) { input[j] = driving[t * ROWS + own + j]; }
        if (BACKWARD) {
          for (var j = 0u; j < HELD; j++) { X[j] += input[j / OWN] * staged[ADD + at + j % OWN * KEY_THREADS]; }
        }
        for (var j = 0u; j < HELD; j++) { product[j / OWN] += inner(X[j], staged[PROBE + at + j % OWN * KEY_THREADS]); }
        for (var j = 0u; j < ROWS_A_THREAD; j++) { put_echoes((half + j) * KEY_THREADS + key, product[j]); }
        // What needs no echo is done while the others arrive.
        if (BACKWARD) {
          for (var j = 0u; j < HELD; j++) { output[j / OWN] += inner(X[j], staged[READ + at + j % OWN * KEY_THREADS]); }
        }
        for (var j = 0u; j < HELD; j++) { X[j] *= staged[DECAY + at + j % OWN * KEY_THREADS]; }
        if (!BACKWARD) {
          for (var j = 0u; j < HELD; j++) { X[j] += input[j / OWN] * staged[ADD + at + j % OWN * KEY_THREADS]; }
        }
        workgroupBarrier();
        for (var j = 0u; j < ROWS_A_THREAD; j++) { product[j] = sum_echoes((half + j) * SUMS); }
        for (var j = 0u; j < HELD; j++) { X[j] += product[j / OWN] * staged[BACK + at + j % OWN * KEY_THREADS]; }
        if (!BACKWARD) {
          for (var j = 0u; j < HELD; j++) { output[j / OWN] += inner(X[j], staged[READ + at + j % OWN * KEY_THREADS]); }
        }
        for (var j = 0u; j < ROWS_A_THREAD; j++) { put_results((t * ROWS + own + j) * KEY_THREADS + key, output[j]); }
        if (key == 0u) {
          let to = begin + (first + t) * p.C + row + own;
          for (var j = 0u; j < ROWS_A_THREAD; j++) { echo[to + j] = product[j]; }
        }
      }
      workgroupBarrier();
      for (var i = lane; i < count * ROWS; i += THREADS) {
        result[p.result + begin + (first + i / ROWS) * p.C + row + i % ROWS] = sum_results(i * SUMS);
      }
    }
    for (var j = 0u; j < LOADS; j++) { staged[j * THREADS + lane] = coming[j]; }
    for (var j = 0u; j < DRIVES; j++) { driving[j * THREADS + lane] = driven[j]; }
    workgroupBarrier();
  }
  for (var j = 0u; j < HELD; j++) { final_[place + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
}
