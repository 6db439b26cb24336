// The recurrence in one direction of time, BLOCK steps at a time. Rows of the state do not mix, so a workgroup takes ROWS of a head's
// N; a row's keys are divided among KEY_THREADS threads, which keep them in registers for all T steps.
//
//     forward,  X the state:      echo is S a, with probe a, back b, drive v, add k
//     backward, X its gradient:   echo is the gradient of S a, with probe b, back a, drive dy, add r
//
// solve.ts has made of each block W, add', back', P and K', so that threads meet twice in a block and not at every step:
//
//     echo = X Wᵀ + K' drive;   X ← X · diag(P) + driveᵀ add' + echoᵀ back'
//
// While a block is worked on, the next is on its way into registers. What is read from the state follows in output.wgsl.
//
// Declared before this text: N, CHUNK, BLOCK, BACKWARD, ROWS, ROWS_A_THREAD, KEY_THREADS; Lanes with LANES, inner() and put_
// functions; weighed(x, i, step), the sum of the Lanes at i, i + step, … of the record, weighed by the numbers of x; Parts with PARTS,
// put_partial() and sum_partial(). Loops over j are written out before compiling. What stands
// between the marks is for a state that is carried in; else it is zero.
struct Parameters { T: u32, C: u32, blocks: u32, chunks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> solved: array<Lanes>;          // (B, H, blocks, (3·BLOCK + 1)·N + BLOCK·BLOCK)
@group(0) @binding(2) var<storage, read> drive: array<f32>;             // (B, T, H, N)
@group(0) @binding(3) var<storage, read_write> kept: array<Lanes>;      // (B, H, chunks, N, N): X where a chunk is entered
@group(0) @binding(4) var<storage, read_write> final_: array<Lanes>;    // (B, H, N, N)
@group(0) @binding(5) var<storage, read_write> echo: array<f32>;        // (B, T, H, N)
//<initial
@group(0) @binding(6) var<storage, read> initial: array<Lanes>;         // (B, H, N, N)
//initial>
const L = N / LANES;                       // Lanes of a row
const OWN = L / KEY_THREADS;               // Lanes of a row that a thread holds
const HELD = ROWS_A_THREAD * OWN;
const THREADS = ROWS / ROWS_A_THREAD * KEY_THREADS;
const SUMS = KEY_THREADS / PARTS;          // Parts of a row's sum
const SIGNALS = BLOCK * ROWS;              // numbers: a drive, or an echo, of every step and row
const BL = BLOCK / LANES;                  // Lanes of the steps
// Where in a block's record its parts begin.
const ADD = BLOCK * L;
const BACK = 2u * BLOCK * L;
const DECAY = 3u * BLOCK * L;
const K = DECAY + L;
const RECORD = K + BLOCK * BLOCK / LANES;
// What each thread brings of a block.
const LOADS = (RECORD + THREADS - 1u) / THREADS;
const DRIVES = (SIGNALS + THREADS - 1u) / THREADS;
var<workgroup> record: array<Lanes, LOADS * THREADS>;
var<workgroup> drives: array<Lanes, (DRIVES * THREADS + LANES - 1u) / LANES>;   // (ROWS, BLOCK)
var<workgroup> echoes: array<Lanes, ROWS * BL>;                                 // (ROWS, BLOCK)
var<workgroup> partial: array<Parts, SIGNALS * SUMS>;

fn block_at(round: u32) -> u32 { return select(round, p.blocks - 1u - round, BACKWARD); }
fn step_at(u: u32) -> u32 { return select(u, BLOCK - 1u - u, BACKWARD); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) lane: u32) {
  let unit = group.y * groups.x + group.x;
  if (unit >= p.units) { return; }
  let H = p.C / N;
  let head = unit / (N / ROWS);
  let row = unit % (N / ROWS) * ROWS;
  let begin = (head / H) * p.T * p.C + (head % H) * N + row;
  let key = lane % KEY_THREADS;
  let own = lane / KEY_THREADS * ROWS_A_THREAD;
  let place = (row + own) * L + key;
  var X: array<Lanes, HELD>;
  //<initial
  for (var j = 0u; j < HELD; j++) { X[j] = initial[head * N * L + place + j / OWN * L + j % OWN * KEY_THREADS]; }
  //initial>

  var coming: array<Lanes, LOADS>;
  var driven: array<f32, DRIVES>;
  // The last round works on nothing; the first brings the first block. A block is asked for in one round and used in the next, which
  // keeps compilers from moving the reads to where they would be waited for.
  for (var round = 0u; round <= p.blocks; round++) {
    for (var j = 0u; j < LOADS; j++) { record[j * THREADS + lane] = coming[j]; }
    for (var j = 0u; j < DRIVES; j++) { put_drives(j * THREADS + lane, driven[j]); }
    workgroupBarrier();
    let next = block_at(min(round, p.blocks - 1u));
    let source = (head * p.blocks + next) * RECORD;
    for (var j = 0u; j < LOADS; j++) { coming[j] = solved[source + min(j * THREADS + lane, RECORD - 1u)]; }
    for (var j = 0u; j < DRIVES; j++) {
      let i = min(j * THREADS + lane, SIGNALS - 1u);
      let t = next * BLOCK + step_at(i % BLOCK);
      driven[j] = select(0.0, drive[begin + min(t, p.T - 1u) * p.C + i / BLOCK], t < p.T);
    }
    if (round > 0u) {
      let block = block_at(round - 1u);
      let entered = select(block, block + 1u, BACKWARD) * BLOCK;
      if (entered % CHUNK == 0u || (BACKWARD && entered >= p.T)) {
        let chunk = (head * p.chunks + block * BLOCK / CHUNK) * N * L + place;
        for (var j = 0u; j < HELD; j++) { kept[chunk + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
      }
      for (var u = 0u; u < BLOCK; u++) {
        var product = array<Lanes, ROWS_A_THREAD>();
        for (var j = 0u; j < HELD; j++) { product[j / OWN] += X[j] * record[u * L + key + j % OWN * KEY_THREADS]; }
        for (var j = 0u; j < ROWS_A_THREAD; j++) { put_partial((u * ROWS + own + j) * KEY_THREADS + key, inner(product[j], Lanes(1.0))); }
      }
      workgroupBarrier();
      for (var i = lane; i < SIGNALS; i += THREADS) {
        let u = i / ROWS;
        let row_i = i % ROWS;
        var sum = sum_partial(i * SUMS);
        for (var s = 0u; s < BL; s++) { sum += inner(record[K + u * BL + s], drives[row_i * BL + s]); }
        put_echoes(row_i * BLOCK + u, sum);
        let t = block * BLOCK + step_at(u);
        if (t < p.T) { echo[begin + t * p.C + row_i] = sum; }
      }
      workgroupBarrier();
      for (var j = 0u; j < HELD; j++) { X[j] *= record[DECAY + key + j % OWN * KEY_THREADS]; }
      for (var s = 0u; s < BL; s++) {
        let at = s * LANES * L + key;
        for (var j = 0u; j < HELD; j++) {
          X[j] += weighed(drives[(own + j / OWN) * BL + s], ADD + at + j % OWN * KEY_THREADS, L) +
            weighed(echoes[(own + j / OWN) * BL + s], BACK + at + j % OWN * KEY_THREADS, L);
        }
      }
      workgroupBarrier();
    }
  }
  for (var j = 0u; j < HELD; j++) { final_[head * N * L + place + j / OWN * L + j % OWN * KEY_THREADS] = X[j]; }
}
