// deno-fmt-ignore-file: the formatter deletes the decorators of functions, and with them their inlining
/**
 * The inner loops of the RWKV-7 recurrence, for four value rows at a time: forward through a chunk, forward again with every
 * state kept, and one step back. `row` is the bytes of a state's row, `step` the bytes between two steps of a stream; pointers
 * to v, sa, y, dy and dv are to the first of the four rows' elements.
 *
 * Four rows of a state lie interleaved, four columns of each in turn: one address reaches all of them, and addresses are what
 * these loops run out of registers for.
 *
 * @module
 */
import { madd, splatLane0, splatLane1, splatLane2, splatLane3, sumEach, sumLanes } from "./vector";

/** Walks four value rows through `steps`, in place, and writes their part of y and of S·a. */
export function advance(
  s: u32,
  row: u32,
  steps: u32,
  step: u32,
  r: u32,
  w: u32,
  k: u32,
  v: u32,
  a: u32,
  b: u32,
  y: u32,
  sas: u32,
): void {
  for (let t: u32 = 0; t < steps; ++t) {
    let q0 = f32x4.splat(0), q1 = f32x4.splat(0), q2 = f32x4.splat(0), q3 = f32x4.splat(0);
    for (let i: u32 = 0; i < row; i += 16) {
      const x = v128.load(a + i);
      q0 = madd(v128.load(s + 4 * i), x, q0);
      q1 = madd(v128.load(s + 4 * i, 16), x, q1);
      q2 = madd(v128.load(s + 4 * i, 32), x, q2);
      q3 = madd(v128.load(s + 4 * i, 48), x, q3);
    }
    const sa = sumEach(q0, q1, q2, q3);
    v128.store(sas, sa);
    const value = v128.load(v);
    q0 = f32x4.splat(0), q1 = f32x4.splat(0), q2 = f32x4.splat(0), q3 = f32x4.splat(0);
    const sa0 = splatLane0(sa), sa1 = splatLane1(sa), sa2 = splatLane2(sa), sa3 = splatLane3(sa);
    const v0 = splatLane0(value), v1 = splatLane1(value), v2 = splatLane2(value), v3 = splatLane3(value);
    for (let i: u32 = 0; i < row; i += 16) {
      const decay = v128.load(w + i),
        erase = v128.load(b + i),
        key = v128.load(k + i),
        read = v128.load(r + i);
      let x = madd(v0, key, madd(sa0, erase, f32x4.mul(v128.load(s + 4 * i), decay)));
      v128.store(s + 4 * i, x);
      q0 = madd(x, read, q0);
      x = madd(v1, key, madd(sa1, erase, f32x4.mul(v128.load(s + 4 * i, 16), decay)));
      v128.store(s + 4 * i, x, 16);
      q1 = madd(x, read, q1);
      x = madd(v2, key, madd(sa2, erase, f32x4.mul(v128.load(s + 4 * i, 32), decay)));
      v128.store(s + 4 * i, x, 32);
      q2 = madd(x, read, q2);
      x = madd(v3, key, madd(sa3, erase, f32x4.mul(v128.load(s + 4 * i, 48), decay)));
      v128.store(s + 4 * i, x, 48);
      q3 = madd(x, read, q3);
    }
    v128.store(y, sumEach(q0, q1, q2, q3));
    r += step, w += step, k += step, v += step, a += step, b += step;
    y += step, sas += step;
  }
}

/** Walks four value rows through `steps`, knowing S·a, and keeps every state: four rows for t = 0 (given) to `steps`. */
export function retrace(
  s: u32,
  row: u32,
  steps: u32,
  step: u32,
  w: u32,
  k: u32,
  v: u32,
  b: u32,
  sas: u32,
): void {
  for (let t: u32 = 0; t < steps; ++t) {
    const sa = v128.load(sas), value = v128.load(v);
    const sa0 = splatLane0(sa), sa1 = splatLane1(sa), sa2 = splatLane2(sa), sa3 = splatLane3(sa);
    const v0 = splatLane0(value), v1 = splatLane1(value), v2 = splatLane2(value), v3 = splatLane3(value);
    const next = s + 4 * row;
    for (let i: u32 = 0; i < row; i += 16) {
      const decay = v128.load(w + i), erase = v128.load(b + i), key = v128.load(k + i);
      v128.store(next + 4 * i, madd(v0, key, madd(sa0, erase, f32x4.mul(v128.load(s + 4 * i), decay))));
      v128.store(next + 4 * i, madd(v1, key, madd(sa1, erase, f32x4.mul(v128.load(s + 4 * i, 16), decay))), 16);
      v128.store(next + 4 * i, madd(v2, key, madd(sa2, erase, f32x4.mul(v128.load(s + 4 * i, 32), decay))), 32);
      v128.store(next + 4 * i, madd(v3, key, madd(sa3, erase, f32x4.mul(v128.load(s + 4 * i, 48), decay))), 48);
    }
    s = next;
    w += step, k += step, v += step, b += step, sas += step;
  }
}

/**
 * One step back for four rows of the state's gradient `ds`: from the state before it (`s`) and its S·a, adds to (or, for the
 * first rows, sets) dw, dk, da, db and, in the place of dr, the sum over rows of the state before times dy; writes dv.
 */
export function stepBack(
  ds: u32,
  s: u32,
  row: u32,
  first: bool,
  r: u32,
  w: u32,
  k: u32,
  v: u32,
  a: u32,
  b: u32,
  sas: u32,
  dy: u32,
  dr: u32,
  dw: u32,
  dk: u32,
  dv: u32,
  da: u32,
  db: u32,
): void {
  const grad = v128.load(dy);
  const g0 = splatLane0(grad), g1 = splatLane1(grad), g2 = splatLane2(grad), g3 = splatLane3(grad);
  // dS + dy rᵀ, which is formed again below: that is less work than to store and to load it. From it dv = dS k, d(S a) = dS b.
  let p0 = f32x4.splat(0), p1 = f32x4.splat(0), p2 = f32x4.splat(0), p3 = f32x4.splat(0);
  let q0 = f32x4.splat(0), q1 = f32x4.splat(0), q2 = f32x4.splat(0), q3 = f32x4.splat(0);
  for (let i: u32 = 0; i < row; i += 16) {
    const read = v128.load(r + i), key = v128.load(k + i), erase = v128.load(b + i);
    let x = madd(g0, read, v128.load(ds + 4 * i));
    p0 = madd(x, key, p0);
    q0 = madd(x, erase, q0);
    x = madd(g1, read, v128.load(ds + 4 * i, 16));
    p1 = madd(x, key, p1);
    q1 = madd(x, erase, q1);
    x = madd(g2, read, v128.load(ds + 4 * i, 32));
    p2 = madd(x, key, p2);
    q2 = madd(x, erase, q2);
    x = madd(g3, read, v128.load(ds + 4 * i, 48));
    p3 = madd(x, key, p3);
    q3 = madd(x, erase, q3);
  }
  v128.store(dv, sumEach(p0, p1, p2, p3));
  const dsa = sumEach(q0, q1, q2, q3);
  const h0 = splatLane0(dsa), h1 = splatLane1(dsa), h2 = splatLane2(dsa), h3 = splatLane3(dsa);
  const value = v128.load(v), sa = v128.load(sas);
  const v0 = splatLane0(value), v1 = splatLane1(value), v2 = splatLane2(value), v3 = splatLane3(value);
  const sa0 = splatLane0(sa), sa1 = splatLane1(sa), sa2 = splatLane2(sa), sa3 = splatLane3(sa);
  for (let i: u32 = 0; i < row; i += 16) {
    const decay = v128.load(w + i), removal = v128.load(a + i), read = v128.load(r + i);
    let xr = f32x4.splat(0), xw = f32x4.splat(0), xk = f32x4.splat(0);
    let xa = f32x4.splat(0), xb = f32x4.splat(0);
    if (!first) {
      xr = v128.load(dr + i), xw = v128.load(dw + i), xk = v128.load(dk + i);
      xa = v128.load(da + i), xb = v128.load(db + i);
    }
    let x = madd(g0, read, v128.load(ds + 4 * i)), before = v128.load(s + 4 * i);
    xr = madd(before, g0, xr);
    xw = madd(x, before, xw);
    xk = madd(x, v0, xk);
    xb = madd(x, sa0, xb);
    xa = madd(before, h0, xa);
    v128.store(ds + 4 * i, madd(h0, removal, f32x4.mul(x, decay)));
    x = madd(g1, read, v128.load(ds + 4 * i, 16)), before = v128.load(s + 4 * i, 16);
    xr = madd(before, g1, xr);
    xw = madd(x, before, xw);
    xk = madd(x, v1, xk);
    xb = madd(x, sa1, xb);
    xa = madd(before, h1, xa);
    v128.store(ds + 4 * i, madd(h1, removal, f32x4.mul(x, decay)), 16);
    x = madd(g2, read, v128.load(ds + 4 * i, 32)), before = v128.load(s + 4 * i, 32);
    xr = madd(before, g2, xr);
    xw = madd(x, before, xw);
    xk = madd(x, v2, xk);
    xb = madd(x, sa2, xb);
    xa = madd(before, h2, xa);
    v128.store(ds + 4 * i, madd(h2, removal, f32x4.mul(x, decay)), 32);
    x = madd(g3, read, v128.load(ds + 4 * i, 48)), before = v128.load(s + 4 * i, 48);
    xr = madd(before, g3, xr);
    xw = madd(x, before, xw);
    xk = madd(x, v3, xk);
    xb = madd(x, sa3, xb);
    xa = madd(before, h3, xa);
    v128.store(ds + 4 * i, madd(h3, removal, f32x4.mul(x, decay)), 48);
    v128.store(dr + i, xr);
    v128.store(dw + i, xw);
    v128.store(dk + i, xk);
    v128.store(da + i, xa);
    v128.store(db + i, xb);
  }
}

/**
 * dr from what {@link stepBack} left in its place: with x = Σ S₋·dy, and S = S₋·diag(w) + sa ⊗ b + v ⊗ k, dr = Sᵀ dy is
 * w·x + (sa·dy) b + (v·dy) k.
 */
export function finishRead(row: u32, w: u32, k: u32, v: u32, b: u32, sas: u32, dy: u32, dr: u32): void {
  let p = f32x4.splat(0), q = f32x4.splat(0);
  for (let i: u32 = 0; i < row; i += 16) {
    const grad = v128.load(dy + i);
    p = madd(v128.load(sas + i), grad, p);
    q = madd(v128.load(v + i), grad, q);
  }
  const erased = f32x4.splat(sumLanes(p)), written = f32x4.splat(sumLanes(q));
  for (let i: u32 = 0; i < row; i += 16) {
    const kept = f32x4.mul(v128.load(w + i), v128.load(dr + i));
    v128.store(dr + i, madd(written, v128.load(k + i), madd(erased, v128.load(b + i), kept)));
  }
}
