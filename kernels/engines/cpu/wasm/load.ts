/**
 * The compiled kernels and their types. Every kernel works on byte addresses in one shared memory and does a share of an op,
 * given as explicit ranges: several workers call the same kernel with the same arguments and disjoint ranges, in any number,
 * and the result has the same bits. Matrices are row-major; every address is a multiple of 4 (16 is faster); a flag is 0 or 1.
 *
 * @module
 */
import relaxed from "./kernels.relaxed.base64" with { type: "text" };
import simd from "./kernels.simd.base64" with { type: "text" };

/** `matmul` layouts: which of A and B is stored transposed. */
export const LAYOUT = {
  /** A [M, K] · B [K, N]. */
  NN: 0,
  /** A [K, M]ᵀ · B [K, N]. */
  TN: 1,
  /** A [M, K] · B [N, K]ᵀ. */
  NT: 2,
  /** A [K, M]ᵀ · B [N, K]ᵀ. */
  TT: 3,
} as const;

/** How the elements of `matmul`'s B are stored. */
export const DTYPE = { f32: 0, bf16: 1, f16: 2 } as const;

/** Steps between two kept states of `wkv7Forward`. */
export const WKV7_CHUNK = 16;

/** Elements in a part of `sumOfSquares`. */
export const SUM_PART = 4096;

/** The exports of the module; all numbers are u32 (addresses, counts, flags) unless said otherwise. */
export interface WasmKernels {
  /** Bytes of scratch (16-byte aligned) that each worker needs for `matmul`. */
  matmulScratchBytes(): number;

  /**
   * Rows [m0, m1) × columns [n0, n1) of C [M, N] = op(A)·op(B), or C += with `accumulate`; then + `addend`, a matrix that is
   * stored as C is, or 0 for none. A and C are f32, B is `DTYPE`;
   * `lda`, `ldb`, `ldc` are row lengths in elements. Shares: columns in multiples of 8 when M ≤ 64 (B is then read once in
   * all), otherwise rows in multiples of 4 or columns in multiples of 8, whichever is longer.
   */
  matmul(
    layout: number,
    dtype: number,
    a: number,
    lda: number,
    b: number,
    ldb: number,
    c: number,
    ldc: number,
    M: number,
    K: number,
    accumulate: number,
    addend: number,
    m0: number,
    m1: number,
    n0: number,
    n1: number,
    scratch: number,
  ): void;

  /** Bytes of scratch (16-byte aligned) that each worker needs for `wkv7Forward` and `wkv7Backward` with head size `N`. */
  wkv7ScratchBytes(N: number): number;

  /**
   * y and S·a of the RWKV-7 recurrence for units [unit0, unit1) of B·H, unit = batch·H + head. r, w, k, v, a, b, y, sa:
   * [B, T, H, N] f32, w the decay itself; `initial` [B, H, N, N] or 0 for zeros; `states` [B, H, ceil(T/16), N, N], the state at the start of each
   * chunk, or 0 to keep none; `final` [B, H, N, N] or 0 (it may be `initial`).
   */
  wkv7Forward(
    r: number,
    w: number,
    k: number,
    v: number,
    a: number,
    b: number,
    initial: number,
    y: number,
    sa: number,
    states: number,
    final: number,
    T: number,
    H: number,
    N: number,
    unit0: number,
    unit1: number,
    scratch: number,
  ): void;

  /**
   * The six stream gradients [B, T, H, N] for units [unit0, unit1), from dy and the forward pass's `sa` and `states`. `dFinal` is the
   * gradient of the final state or 0; `dInitial` takes that of the initial one, or 0 (it may be `dFinal`). All are written,
   * not added.
   */
  wkv7Backward(
    r: number,
    w: number,
    k: number,
    v: number,
    a: number,
    b: number,
    sa: number,
    states: number,
    dy: number,
    dFinal: number,
    dr: number,
    dw: number,
    dk: number,
    dv: number,
    da: number,
    db: number,
    dInitial: number,
    T: number,
    H: number,
    N: number,
    unit0: number,
    unit1: number,
    scratch: number,
  ): void;

  /**
   * y = (x − mean)·rstd·weight + bias over each of `groups` equal parts of a row; x, y [rows, C], weight, bias [C]; the mean and
   * rstd of each unit are kept in `means`, `rstds` [rows, groups]; `eps` is a float. Shares: units of rows·groups.
   */
  norm(
    x: number,
    weight: number,
    bias: number,
    y: number,
    means: number,
    rstds: number,
    C: number,
    groups: number,
    eps: number,
    unit0: number,
    unit1: number,
  ): void;

  /** dx of `norm` from dy and what it kept. Shares: units of rows·groups. */
  normGradient(
    x: number,
    weight: number,
    means: number,
    rstds: number,
    dy: number,
    dx: number,
    C: number,
    groups: number,
    unit0: number,
    unit1: number,
  ): void;

  /**
   * loss = weight·(logsumexp − logit[target]), and dLogits = weight·(softmax − onehot), + l2·weight·max at the first largest
   * logit. `logits` [M, V]; `targets` [M] i32; `weights`, `loss` [M]; `dLogits` [M, V] may be `logits`, or 0 for the loss alone;
   * `l2` is a float. A row of weight 0 gives zeros, a target outside [0, V) NaN. Shares: rows.
   */
  crossEntropy(
    logits: number,
    targets: number,
    weights: number,
    loss: number,
    dLogits: number,
    V: number,
    l2: number,
    row0: number,
    row1: number,
  ): void;

  /**
   * One AdamW step on elements [start, end), as in `ops/optimizer`: p, g, m, v are updated in place, g to 0; `norm` [1] and
   * `settings` [9] (learning rate, β₁, β₂, eps, weight decay, two bias corrections, clip, gradient scale) are read from memory; `rate` and
   * `decay` are floats. A norm that is not finite only clears g. Shares: elements, best multiples of 16.
   */
  adamW(
    p: number,
    g: number,
    m: number,
    v: number,
    norm: number,
    settings: number,
    rate: number,
    decay: number,
    start: number,
    end: number,
  ): void;

  /** parts[i] = Σx² over the i-th `SUM_PART` of the `n` numbers at `x`, in f64 until stored. Shares: parts. */
  sumOfSquares(x: number, n: number, parts: number, part0: number, part1: number): void;

  /** out[i] = Σ of the `group` numbers from x + i·group. Shares: units i. */
  reduceGroups(x: number, out: number, group: number, unit0: number, unit1: number): void;

  /** out[j] = Σᵢ x[i, j], x [rows, width]. Shares: columns, best multiples of 16. */
  reduceRows(x: number, out: number, rows: number, width: number, column0: number, column1: number): void;

  /** y += x for elements [start, end). */
  accumulate(x: number, y: number, start: number, end: number): void;

  /** out[t] = x[t] + (x[t−1] − x[t])·mix, x [B·T, C], mix [C], `carried` [B, C] or 0 for zeros. Shares: rows. */
  tokenShift(
    x: number,
    mix: number,
    carried: number,
    out: number,
    T: number,
    C: number,
    row0: number,
    row1: number,
  ): void;

  /** dx[t] = d[t]·(1 − mix) + d[t+1]·mix within each T, or += with `accumulate`. Shares: rows. */
  tokenShiftGradient(
    d: number,
    mix: number,
    dx: number,
    T: number,
    C: number,
    accumulate: number,
    row0: number,
    row1: number,
  ): void;

  /** out[t] = x[t−1], x [B·T, C], `carried` [B, C] or 0 for zeros. Shares: rows. */
  previousRow(
    x: number,
    carried: number,
    out: number,
    T: number,
    C: number,
    row0: number,
    row1: number,
  ): void;

  /** out[m, j] = Σ_b x[m, b·R + j]: x [M, K] → [M, R]. Shares: rows. */
  fold(x: number, out: number, K: number, R: number, row0: number, row1: number): void;

  /** out[m, i] = x[m, i mod R]: x [M, R] → [M, K]. Shares: rows. */
  tile(x: number, out: number, R: number, K: number, row0: number, row1: number): void;

  /** out[m] = table[ids[m]], table [V, C] of `DTYPE`, ids i32; zeros for an id outside the table. Shares: rows of out. */
  embedding(
    table: number,
    dtype: number,
    ids: number,
    out: number,
    V: number,
    C: number,
    row0: number,
    row1: number,
  ): void;

  /**
   * out[o, i] = w[o, i] + d[i mod R, o]: w [O, K] of `DTYPE`, of which `w` is the address of row `row0`, d [R, O] → [O, K].
   * Shares: rows.
   */
  addTile(
    w: number,
    dtype: number,
    d: number,
    out: number,
    K: number,
    R: number,
    O: number,
    row0: number,
    row1: number,
  ): void;

  /** dTable[id] = Σ of the rows of d [M, C] with that id, in their order. Shares: ids [id0, id1) of V. */
  embeddingGradient(
    ids: number,
    d: number,
    dTable: number,
    M: number,
    C: number,
    id0: number,
    id1: number,
  ): void;

  /** Functions of four lanes, for emitted modules to import; JavaScript cannot call them. */
  readonly expLanes: WebAssembly.ExportValue;
  readonly f16Lanes: WebAssembly.ExportValue;
  readonly logLanes: WebAssembly.ExportValue;
  readonly sigmoidLanes: WebAssembly.ExportValue;
  readonly tanhLanes: WebAssembly.ExportValue;
}

/** Which of the two builds runs here. */
export type KernelVariant = "relaxed" | "simd";

let compiled: { variant: KernelVariant; module: WebAssembly.Module } | undefined;

/** The module for this machine, decoded and compiled once: with fused multiply-add where the engine knows relaxed SIMD. */
function compile(): { variant: KernelVariant; module: WebAssembly.Module } {
  const binary = Uint8Array.fromBase64(relaxed);
  if (WebAssembly.validate(binary)) return { variant: "relaxed", module: new WebAssembly.Module(binary) };
  return { variant: "simd", module: new WebAssembly.Module(Uint8Array.fromBase64(simd)) };
}

/**
 * The kernels on `memory`, which must be shared, with `initial` ≥ 16 pages and `maximum` ≤ 65536. Each worker loads its own.
 * `variant` forces a build, for tests.
 */
export function loadKernels(
  memory: WebAssembly.Memory,
  variant?: KernelVariant,
): { variant: KernelVariant; kernels: WasmKernels } {
  const chosen = variant === "simd"
    ? { variant, module: new WebAssembly.Module(Uint8Array.fromBase64(simd)) }
    : compiled ??= compile();
  const { exports } = new WebAssembly.Instance(chosen.module, { env: { memory } });
  return { variant: chosen.variant, kernels: exports as unknown as WasmKernels };
}
