// The recurrence in one direction of time, BLOCK steps at a time. Rows of the state do not mix, so a workgroup takes ROWS of a head's
// N; a row's keys are divided among KEY_THREADS threads, which keep them in registers for all T steps.
//
// Forward, X is the state:      echo = X probe; X ← X · diag(w) + drive ⊗ add + echo ⊗ back; result = X read
//   with probe a, drive v, add k, back b, read r: echo is S a, and result is y.
// Backward, X is its gradient:  X ← X + drive ⊗ add; echo = X probe; result = X read; X ← X · diag(w) + echo ⊗ back
//   with probe b, drive dy, add r, back a, read k: echo is the gradient of S a, and result is dv.
//
// Only echo needs what other threads hold. solve.wgsl gives it for all steps of a block from the state where the block is entered,
// echo = X Wᵀ + K' drive, so threads wait for each other a few times a block instead of at every step. While a block is worked on,
// the next is on its way into registers.
//
// Declared before this text: N, CHUNK, BACKWARD, ROWS, ROWS_A_THREAD, KEY_THREADS, BLOCK; Lanes with LANES and inner(); Parts with
// PARTS, put_partial() and sum_partial(); stream() and step_at(). Loops over j are written out before compiling.
struct Parameters { T: u32, C: u32, M: u32, chunks: u32, units: u32, drive: u32, result: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> streams: array<Lanes>;         // (6, B, T, H, N): r, w, k, v, a, b
@group(0) @binding(2) var<storage, read> solved: array<Lanes>;          // (B, H, blocks, BLOCK·N + BLOCK·BLOCK)
@group(0) @binding(3) var<storage, read> drive: array<f32>;             // (B, T, H, N) from p.drive on
@group(0) @binding(4) var<storage, read> initial: array<Lanes>;         // (B, H, N, N)
@group(0) @binding(5) var<storage, read_write> result: array<f32>;      // (B, T, H, N) from p.result on
@group(0) @binding(6) var<storage, read_write> kept: array<Lanes>;      // (B, H, chunks, N, N): X where a chunk is entered
@group(0) @binding(7) var<storage, read_write> final_: array<Lanes>;    // (B, H, N, N)
@group(0) @binding(8) var<storage, read_write> echo: array<f32>;        // (B, T, H, N)
const L = N / LANES;                       // Lanes of a row
const OWN = L / KEY_THREADS;               // Lanes of a row that a thread holds
const HELD = ROWS_A_THREAD * OWN;
const THREADS = ROWS / ROWS_A_THREAD * KEY_THREADS;
const SUMS = KEY_THREADS / PARTS;          // Parts of a row's sum
const BL = BLOCK / LANES;                  // Lanes of a row of K'
const SOLVED = BLOCK * (L + BL);           // Lanes of a block's W and K'
// How many each thread brings of a block.
const STREAMED = (4u * BLOCK * L + THREADS - 1u) / THREADS;
const WEIGHTS = (SOLVED + THREADS - 1u) / THREADS;
const DRIVES = (BLOCK * ROWS + THREADS - 1u) / THREADS;
// Where in `staged` a role begins.
const READ = 0u;
const DECAY = BLOCK * L;
const ADD = 2u * BLOCK * L;
const BACK = 3u * BLOCK * L;
var<workgroup> staged: array<Lanes, STREAMED * THREADS>;
var<workgroup> weights: array<Lanes, WEIGHTS * THREADS>;
var<workgroup> drives: array<Lanes, (DRIVES * THREADS + LANES - 1u) / LANES>;     // (ROWS, BLOCK)
var<workgroup> echoes: array<f32, BLOCK * ROWS>;
var<workgroup> partial: array<Parts, BLOCK * ROWS * SUMS>;

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

  let blocks = (p.T + BLOCK - 1u) / BLOCK;
  var streamed: array<Lanes, STREAMED>;
  var weighed: array<Lanes, WEIGHTS>;
  var driven: array<f32, DRIVES>;
  // A round asks for the next block and works on the one that the round before it brought.
  for (var round = 0u; round <= blocks; round++) {
    let next = block_at(min(round, blocks - 1u), blocks);
    let steps = min(BLOCK, p.T - next * BLOCK);
    for (var j = 0u; j < STREAMED; j++) {
      let i = min(j * THREADS + lane, 4u * BLOCK * L - 1u);
      let t = next * BLOCK + step_at(i / L % BLOCK, steps);
      let role = i / (BLOCK * L);
      streamed[j] = streams[(stream(select(role, 4u, role == 3u)) * p.M * p.C + begin + t * p.C) / LANES + i % L];
    }
    for (var j = 0u; j < WEIGHTS; j++) {
      weighed[j] = solved[(head * blocks + next) * SOLVED + min(j * THREADS + lane, SOLVED - 1u)];
    }
    for (var j = 0u; j < DRIVES; j++) {
      let i = min(j * THREADS + lane, BLOCK * ROWS - 1u);
      let t = next * BLOCK + step_at(i % BLOCK, steps);
      driven[j] = drive[p.drive + begin + t * p.C + row + i / BLOCK];
    }
    if (round > 0u) {
      let first = block_at(round - 1u, blocks) * BLOCK;
      let count = min(BLOCK, p.T - first);
      if (select(first % CHUNK == 0u, (first + BLOCK) % CHUNK == 0u || first + BLOCK >= p.T, BACKWARD)) {
        let chunk = ((head * p.chunks + first / CHUNK) * N + row + own) * L + key;
        for (var j = 0u; j < HELD; j++) { kept[chunk + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
      }
      for (var u = 0u; u < BLOCK; u++) {
        var product = array<f32, ROWS_A_THREAD>();
        for (var j = 0u; j < HELD; j++) { product[j / OWN] += inner(X[j], weights[u * L + key + j % OWN * KEY_THREADS]); }
        for (var j = 0u; j < ROWS_A_THREAD; j++) { put_partial((u * ROWS + own + j) * KEY_THREADS + key, product[j]); }
      }
      workgroupBarrier();
      for (var i = lane; i < count * ROWS; i += THREADS) {
        let u = i / ROWS;
        var sum = sum_partial(i * SUMS);
        for (var s = 0u; s < BL; s++) { sum += inner(weights[BLOCK * L + u * BL + s], drives[i % ROWS * BL + s]); }
        echoes[i] = sum;
        echo[begin + (first + step_at(u, count)) * p.C + row + i % ROWS] = sum;
      }
      workgroupBarrier();
      for (var u = 0u; u < count; u++) {
        let at = u * L + key;
        var input = array<f32, ROWS_A_THREAD>();
        var output = array<f32, ROWS_A_THREAD>();
        for (var j = 0u; j < ROWS_A_THREAD; j++) { input[j] = at_drives((own + j) * BLOCK + u); }
        if (BACKWARD) {
          for (var j = 0u; j < HELD; j++) { X[j] += input[j / OWN] * staged[ADD + at + j % OWN * KEY_THREADS]; }
          for (var j = 0u; j < HELD; j++) { output[j / OWN] += inner(X[j], staged[READ + at + j % OWN * KEY_THREADS]); }
        }
        for (var j = 0u; j < HELD; j++) {
          X[j] = X[j] * staged[DECAY + at + j % OWN * KEY_THREADS] + echoes[u * ROWS + own + j / OWN] * staged[BACK + at + j % OWN * KEY_THREADS];
        }
        if (!BACKWARD) {
          for (var j = 0u; j < HELD; j++) { X[j] += input[j / OWN] * staged[ADD + at + j % OWN * KEY_THREADS]; }
          for (var j = 0u; j < HELD; j++) { output[j / OWN] += inner(X[j], staged[READ + at + j % OWN * KEY_THREADS]); }
        }
        for (var j = 0u; j < ROWS_A_THREAD; j++) { put_partial((u * ROWS + own + j) * KEY_THREADS + key, output[j]); }
      }
      workgroupBarrier();
      for (var i = lane; i < count * ROWS; i += THREADS) {
        result[p.result + begin + (first + step_at(i / ROWS, count)) * p.C + row + i % ROWS] = sum_partial(i * SUMS);
      }
    }
    for (var j = 0u; j < STREAMED; j++) { staged[j * THREADS + lane] = streamed[j]; }
    for (var j = 0u; j < WEIGHTS; j++) { weights[j * THREADS + lane] = weighed[j]; }
    for (var j = 0u; j < DRIVES; j++) { put_drives(j * THREADS + lane, driven[j]); }
    workgroupBarrier();
  }
  for (var j = 0u; j < HELD; j++) { final_[place + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
}
