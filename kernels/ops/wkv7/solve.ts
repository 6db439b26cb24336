/**
 * WGSL of what a block of steps does to any state, for all blocks at once. With X the state (or, backward, its gradient) where the
 * block is entered, and the roles of scan.wgsl, a step is
 *
 *     forward:   echo_u = X_u probe_u;  X_{u+1} = X_u · diag(w_u) + drive_u ⊗ add_u + echo_u ⊗ back_u
 *     backward:  X'_u = X_u + drive_u ⊗ add_u;  echo_u = X'_u probe_u;  X_{u+1} = X'_u · diag(w_u) + echo_u ⊗ back_u
 *
 * and so, P being products of the decays of the steps between,
 *
 *     echo_u = X (P probe_u) + Σ_s B_us echo_s + Σ_s K_us drive_s,   B_us = ⟨probe_u, P back_s⟩,   K_us = ⟨probe_u, P add_s⟩
 *
 * Solving row by row for echo (the WY form: Bischof and Van Loan 1987; for this recurrence Yang et al., arXiv 2406.06484) gives
 *
 *     echo = X Wᵀ + K' drive;   X ← X · diag(P) + driveᵀ add' + echoᵀ back'
 *
 * W, add', back', P and K' are written, one after the other. Products of decays are never taken as quotients: a decay may be 0. Steps
 * after the last do nothing.
 *
 * A thread holds one or two columns of the block in registers, and walks with each step's probe back over the steps before it. Its share
 * of B and K is left in workgroup memory, some pairs of steps at a time, and summed there by one thread a pair; rows are one number
 * longer than they need be, so that neither meets a bank twice.
 *
 * Backward, the streams are also written one below the other, for the gradient of chunks, which could not bind them one by one.
 *
 * @module
 */
import { times } from "./text.ts";

/** Most pairs of steps, and bytes, that are summed at a time. */
const MOST_PAIRS = 32, MOST_BYTES = 8192;

/** How the blocks are divided among workgroups. */
export interface SolveLayout {
  /** Blocks of a workgroup. */
  readonly blocks: number;
  /** Columns of a thread. */
  readonly columns: 1 | 2;
}

/** About a subgroup of threads. */
export function solveLayout(N: number): SolveLayout {
  const columns = N % 2 === 0 ? 2 : 1;
  return { columns, blocks: Math.max(1, Math.min(4, Math.floor(32 * columns / N))) };
}

/** Pairs that are summed at a time. */
function pairsAtATime(N: number): number {
  const { blocks, columns } = solveLayout(N);
  return Math.max(1, Math.min(MOST_PAIRS, Math.floor(MOST_BYTES / (4 * blocks * (N / columns + 1)))));
}

/** Bytes of workgroup memory. */
export function solveWorkgroupBytes(N: number, block: number): number {
  const { blocks, columns } = solveLayout(N);
  return 4 * blocks * (pairsAtATime(N) * (N / columns + 1) + 2 * block * block);
}

/** The sums over columns that make up B and K (at 0 and at BLOCK² of them), and the statements that lead to each. */
function sums(BLOCK: number, backward: boolean, most: number): { to: number; text: string }[][] {
  const found: { to: number; text: string }[] = [];
  let before = "";
  const sum = (matrix: 0 | 1, u: number, s: number, value: string) => {
    found.push({
      to: (matrix * BLOCK + u) * BLOCK + s,
      text: `${before}share[own + ${found.length % most}u * ROW] = total(seen * ${value});`,
    });
    before = "";
  };
  for (let u = 0; u < BLOCK; u++) {
    before += `seen = probe${u}; `;
    if (backward) sum(1, u, u, `add${u}`);
    for (let s = u - 1; s >= 0; s--) {
      sum(0, u, s, `back${s}`);
      // Backward, what a step adds passes its own decay, after the step itself has seen it.
      if (backward) before += `seen *= decay${s}; `;
      sum(1, u, s, `add${s}`);
      if (!backward) before += `seen *= decay${s}; `;
    }
  }
  return Array.from(
    { length: Math.ceil(found.length / most) },
    (_, i) => found.slice(i * most, (i + 1) * most),
  );
}

/** The complete shader. */
export function solveShader(N: number, BLOCK: number, backward: boolean): string {
  const { blocks, columns } = solveLayout(N), most = pairsAtATime(N);
  const type = columns === 2 ? "vec2<f32>" : "f32", threads = N / columns, square = BLOCK * BLOCK;
  const steps = (line: (u: number) => string) => times(BLOCK, line);
  const weighed = (u: number, values: string) =>
    times(u, (s) => ` + B[matrices + ${u * BLOCK + s}u] * ${values}${s}`, "");
  const rounds = sums(BLOCK, backward, most);
  return `
alias Columns = ${type};
const L = ${threads}u;                     // Columns of a row
const BLOCK = ${BLOCK}u;
const ROW = L + 1u;
struct Parameters { T: u32, C: u32, M: u32, blocks: u32, units: u32 }
@group(0) @binding(0) var<uniform> p: Parameters;
@group(0) @binding(1) var<storage, read> decays: array<Columns>;        // (B, T, H, N), as all streams: w
@group(0) @binding(2) var<storage, read> adds: array<Columns>;          // k, backward r
@group(0) @binding(3) var<storage, read> probes: array<Columns>;        // a, backward b
@group(0) @binding(4) var<storage, read> backs: array<Columns>;         // b, backward a
@group(0) @binding(5) var<storage, read_write> solved: array<Columns>;  // (B, H, blocks, (3·BLOCK + 1)·N + BLOCK·BLOCK)
${
    backward
      ? `@group(0) @binding(6) var<storage, read> reads: array<Columns>;         // k
@group(0) @binding(7) var<storage, read_write> streams: array<Columns>; // (5, B, T, H, N): r, w, k, a, b`
      : ""
  }
var<workgroup> share: array<f32, ${blocks * most}u * ROW>;
var<workgroup> B: array<f32, ${blocks * 2 * square}>;                   // B and K of each block
${
    rounds.map((round, i) =>
      `const TO_${i} = array<u32, ${round.length}>(${round.map(({ to }) => `${to}u`).join(", ")});`
    ).join("\n")
  }

fn total(x: Columns) -> f32 { return ${columns === 2 ? "x.x + x.y" : "x"}; }

@compute @workgroup_size(${threads * blocks})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
  let block = thread / L;
  let n = thread % L;
  let wanted = (group.y * groups.x + group.x) * ${blocks}u + block;
  // Threads beyond the last block work on it and write nothing.
  let writes = wanted < p.units;
  let unit = min(wanted, p.units - 1u);
  let C = p.C / ${columns}u;
  let H = C / L;
  let head = unit / p.blocks;
  let first = unit % p.blocks * BLOCK;
  let column = (head / H) * p.T * C + (head % H) * L + n;
  ${
    steps((u) =>
      `let t${u} = first + ${backward ? BLOCK - 1 - u : u}u;
  let at${u} = column + min(t${u}, p.T - 1u) * C;
  let w${u} = decays[at${u}];
  let k${u} = adds[at${u}];
  let a${u} = probes[at${u}];
  let b${u} = backs[at${u}];
  ${backward ? `let r${u} = reads[at${u}];` : ""}`
    )
  }
  ${
    steps((u) =>
      `let decay${u} = select(Columns(1.0), w${u}, t${u} < p.T);
  let add${u} = select(Columns(0.0), k${u}, t${u} < p.T);
  let probe${u} = select(Columns(0.0), a${u}, t${u} < p.T);
  let back${u} = select(Columns(0.0), b${u}, t${u} < p.T);`
    )
  }
  ${
    backward
      ? steps((u) =>
        `if (writes && t${u} < p.T) {
    streams[at${u}] = k${u};
    streams[at${u} + p.M * C] = w${u};
    streams[at${u} + 2u * p.M * C] = r${u};
    streams[at${u} + 3u * p.M * C] = b${u};
    streams[at${u} + 4u * p.M * C] = a${u};
  }`
      )
      : ""
  }
  let shares = block * ${most}u * ROW;
  let own = shares + n;
  let matrices = block * ${2 * square}u;
  for (var i = n; i < ${2 * square}u; i += L) { B[matrices + i] = 0.0; }
  var seen: Columns;
  ${
    rounds.map((round, i) =>
      `${round.map(({ text }) => text).join("\n  ")}
  workgroupBarrier();
  for (var pair = n; pair < ${round.length}u; pair += L) {
    var sum = 0.0;
    for (var i = 0u; i < L; i++) { sum += share[shares + pair * ROW + i]; }
    B[matrices + TO_${i}[pair]] = sum;
  }
  workgroupBarrier();`
    ).join("\n  ")
  }
  if (!writes) { return; }
  // Forward substitution: rows above u are solved.
  let to = unit * ${((3 * BLOCK + 1) * N + square) / columns}u;
  var before = Columns(1.0);
  ${
    steps((u) =>
      `let W${u} = before * probe${u}${weighed(u, "W")};
  solved[to + ${u}u * L + n] = W${u};
  before *= decay${u};`
    )
  }
  solved[to + 3u * BLOCK * L + n] = before;
  var after = Columns(1.0);
  ${
    times(BLOCK, (i) => {
      const u = BLOCK - 1 - i;
      return `solved[to + (BLOCK + ${u}u) * L + n] = add${u} * ${backward ? `(after * decay${u})` : "after"};
  solved[to + (2u * BLOCK + ${u}u) * L + n] = back${u} * after;
  after *= decay${u};`;
    })
  }
  for (var c = n; c < BLOCK / ${columns}u; c += L) {
    ${
    steps((u) => {
      const at = `matrices + ${square + u * BLOCK}u + c`;
      const K = columns === 2 ? `Columns(B[${at} * 2u], B[${at} * 2u + 1u])` : `B[${at}]`;
      return `let K${u} = ${K.replaceAll("+ c * 2u", "+ 2u * c")}${weighed(u, "K")};
    solved[to + (3u * BLOCK + 1u) * L + ${u * BLOCK / columns}u + c] = K${u};`;
    })
  }
  }
}`;
}
