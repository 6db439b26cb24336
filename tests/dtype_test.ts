import assert from "node:assert/strict";
import { byteWidth, type DType, fromFloat32, tensorByteLength, toFloat32 } from "../formats/dtype.ts";

const bitsOf = (values: Float32Array): Uint32Array =>
  new Uint32Array(values.buffer, values.byteOffset, values.length);
const fromBits = (bits: Iterable<number>): Float32Array => new Float32Array(Uint32Array.from(bits).buffer);
const bytesOf = (view: ArrayBufferView<ArrayBuffer>): Uint8Array =>
  new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const halves = (bytes: Uint8Array): Uint16Array => new Uint16Array(bytes.slice().buffer);
const everyHalf = Uint16Array.from({ length: 0x10000 }, (_, i) => i);

/** Float32 values of every exponent, near and on the ties of both 16-bit formats. */
function probes(): Float32Array {
  const bits: number[] = [];
  let state = 12345;
  for (let exponent = 0; exponent < 256; exponent++) {
    for (let i = 0; i < 64; i++) {
      state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
      const mantissa = [
        state & 0x7fffff,
        state & 0x7f8000 | 0x8000,
        state & 0x7fe000 | 0x1000,
        state & 0x7fffff | 0xfff,
      ];
      bits.push((((state >>> 31) << 31) | exponent << 23 | mantissa[i & 3]) >>> 0);
    }
  }
  return fromBits(bits).filter((value) => !Number.isNaN(value));
}

/** The nearest 16-bit value found by distance alone, ties to the even pattern; an independent reference. */
function nearestHalf(value: number, widened: Float32Array, infinity: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  let low = 0;
  let high = infinity;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (widened[middle] <= magnitude) low = middle;
    else high = middle;
  }
  // Beyond the largest finite value the next step would be one more of the same size.
  const step = high === infinity ? widened[low] + (widened[low] - widened[low - 1]) : widened[high];
  const below = magnitude - widened[low];
  const above = step - magnitude;
  if (magnitude === Infinity) return sign | infinity;
  return sign | (below < above || (below === above && low % 2 === 0) ? low : high);
}

Deno.test("toFloat32() and fromFloat32() keep all 65,536 F16 and BF16 patterns, NaN payloads included", () => {
  for (const dtype of ["F16", "BF16"] as const) {
    const widened = toFloat32(bytesOf(everyHalf), dtype);
    assert.deepEqual(halves(fromFloat32(widened, dtype)), everyHalf, dtype);
  }
});

Deno.test("toFloat32() widens F16 and BF16 to the exact values", () => {
  const f16 = toFloat32(bytesOf(everyHalf), "F16");
  const bf16 = toFloat32(bytesOf(everyHalf), "BF16");
  for (let half = 0; half < 0x10000; half++) {
    const sign = half & 0x8000 ? -1 : 1;
    const exponent = half >> 10 & 31;
    const fraction = half & 0x3ff;
    const expected = exponent === 31
      ? (fraction ? NaN : sign * Infinity)
      : sign * (exponent === 0 ? fraction / 1024 * 2 ** -14 : (1 + fraction / 1024) * 2 ** (exponent - 15));
    assert.ok(Object.is(f16[half], expected), `F16 ${half.toString(16)}: ${f16[half]} is not ${expected}`);
    assert.equal(bitsOf(bf16)[half], half * 0x10000);
  }
});

Deno.test("fromFloat32() rounds to nearest even in F16 and BF16, subnormals and overflow included", () => {
  const values = probes();
  for (const [dtype, infinity] of [["F16", 0x7c00], ["BF16", 0x7f80]] as const) {
    const widened = toFloat32(bytesOf(everyHalf), dtype);
    const narrowed = halves(fromFloat32(values, dtype));
    for (let i = 0; i < values.length; i++) {
      assert.equal(narrowed[i], nearestHalf(values[i], widened, infinity), `${dtype} of ${values[i]}`);
    }
  }
});

Deno.test("fromFloat32() keeps NaN where the kept payload bits are all zero", () => {
  const nans = fromBits([0x7f800001, 0xff800001, 0x7fc00000, 0xffffffff]);
  for (const dtype of ["F16", "BF16", "F32", "F64"] as const) {
    const back = toFloat32(fromFloat32(nans, dtype), dtype);
    assert.ok(back.every(Number.isNaN), `${dtype} ${bitsOf(back)}`);
  }
  assert.deepEqual(bitsOf(toFloat32(fromFloat32(nans, "F32"), "F32")), bitsOf(nans));
});

Deno.test("toFloat32() converts integers, BOOL and F64", () => {
  const cases: [DType, ArrayBufferView<ArrayBuffer>, number[]][] = [
    ["I64", BigInt64Array.of(-1n, 2n ** 40n, -(2n ** 63n)), [-1, 2 ** 40, -(2 ** 63)]],
    ["U64", BigUint64Array.of(1n, 2n ** 64n - 1n), [1, 2 ** 64]],
    ["I32", Int32Array.of(-7, 2 ** 31 - 1), [-7, 2 ** 31]],
    ["U32", Uint32Array.of(2 ** 32 - 1), [2 ** 32]],
    ["I16", Int16Array.of(-32768, 5), [-32768, 5]],
    ["U16", Uint16Array.of(65535), [65535]],
    ["I8", Int8Array.of(-128, 127), [-128, 127]],
    ["U8", Uint8Array.of(255, 0), [255, 0]],
    ["BOOL", Uint8Array.of(0, 1, 255), [0, 1, 1]],
    ["F64", Float64Array.of(0.1, 1e300, -0), [Math.fround(0.1), Infinity, -0]],
  ];
  for (const [dtype, view, expected] of cases) {
    assert.deepEqual([...toFloat32(bytesOf(view), dtype)], expected, dtype);
  }
});

Deno.test("toFloat32() reads at any alignment and never shares memory", () => {
  for (const dtype of ["F64", "F32", "F16", "BF16", "I64", "U32", "I16", "U8"] as const) {
    const width = byteWidth(dtype);
    const shifted = new Uint8Array(3 * width + 1).subarray(1);
    for (let i = 0; i < shifted.length; i++) shifted[i] = 37 * i + 11;
    const before = shifted.slice();
    const values = toFloat32(shifted, dtype);
    assert.deepEqual(values, toFloat32(before, dtype), dtype);
    values.fill(1);
    assert.deepEqual(shifted, before, dtype);
  }
  const window = new Float32Array([9, 1.5, -2, 9]).subarray(1, 3);
  assert.deepEqual([...toFloat32(fromFloat32(window, "BF16"), "BF16")], [1.5, -2]);
  assert.deepEqual([...toFloat32(fromFloat32(window, "F16"), "F16")], [1.5, -2]);
  assert.deepEqual([...toFloat32(fromFloat32(window, "F32"), "F32")], [1.5, -2]);
});

Deno.test("conversions refuse part of an element and types without values", () => {
  assert.throws(() => toFloat32(new Uint8Array(5), "F32"), RangeError);
  assert.throws(() => toFloat32(new Uint8Array(4), "F8_E4M3"), RangeError);
  assert.throws(() => fromFloat32(new Float32Array(1), "I8"), RangeError);
});

Deno.test("tensorByteLength() refuses sizes that no file can have", () => {
  assert.equal(tensorByteLength("F32", []), 4);
  assert.equal(tensorByteLength("BF16", [3, 5]), 30);
  assert.equal(tensorByteLength("F32", [2, 0]), 0);
  assert.equal(tensorByteLength("F4", [2]), 1);
  assert.equal(tensorByteLength("F4", [3]), undefined);
  assert.equal(tensorByteLength("F32", [2 ** 40, 2 ** 40, 0]), undefined);
  assert.equal(tensorByteLength("U8", [-1]), undefined);
  assert.equal(tensorByteLength("U8", [1.5, 2]), undefined);
});
