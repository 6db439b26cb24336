/**
 * Element types of tensor files, and the conversions between them and float32.
 *
 * The names are those of safetensors. Half-precision NaNs keep their payload in both directions, so that
 * widening and narrowing a file again gives the same bytes. All bytes are little-endian, as is every
 * machine that Deno runs on, so a tensor can be viewed in place once it is aligned.
 *
 * @module
 */

/**
 * The element type of a tensor. Those of eight bits and less that are no integers, and `C64`, can be listed and copied, but not
 * converted.
 */
export type DType =
  | "F64"
  | "F32"
  | "F16"
  | "BF16"
  | "I64"
  | "I32"
  | "I16"
  | "I8"
  | "U64"
  | "U32"
  | "U16"
  | "U8"
  | "BOOL"
  | "C64"
  | "F8_E4M3"
  | "F8_E5M2"
  | "F8_E8M0"
  | "F8_E4M3FNUZ"
  | "F8_E5M2FNUZ"
  | "F6_E2M3"
  | "F6_E3M2"
  | "F4";

const BITS: Readonly<Record<DType, number>> = {
  F64: 64,
  F32: 32,
  F16: 16,
  BF16: 16,
  I64: 64,
  I32: 32,
  I16: 16,
  I8: 8,
  U64: 64,
  U32: 32,
  U16: 16,
  U8: 8,
  BOOL: 8,
  C64: 64,
  F8_E4M3: 8,
  F8_E5M2: 8,
  F8_E8M0: 8,
  F8_E4M3FNUZ: 8,
  F8_E5M2FNUZ: 8,
  F6_E2M3: 6,
  F6_E3M2: 6,
  F4: 4,
};

/** The names of all element types, widest first within each family. */
export const dtypeNames: readonly DType[] = Object.keys(BITS) as DType[];

/** Whether `name` is an element type. */
export function isDType(name: string): name is DType {
  return Object.hasOwn(BITS, name);
}

/** Bytes of one element; a fraction where a byte holds more than one, as two of `F4`. */
export function byteWidth(dtype: DType): number {
  return BITS[dtype] / 8;
}

/**
 * Bytes of a contiguous tensor, or `undefined` where a dimension is no integer from 0 to 2^53 - 1, the product
 * passes 2^53 at any step, or the elements do not fill whole bytes.
 */
export function tensorByteLength(dtype: DType, shape: readonly number[]): number | undefined {
  let count = 1;
  for (const dimension of shape) {
    count *= dimension;
    if (!Number.isSafeInteger(dimension) || dimension < 0 || !Number.isSafeInteger(count)) return undefined;
  }
  const bits = count * BITS[dtype];
  return Number.isSafeInteger(bits) && bits % 8 === 0 ? bits / 8 : undefined;
}

/**
 * Widens little-endian elements to float32: exact for `F32`, `BF16`, `F16` and the 8- and 16-bit integers,
 * rounded to nearest for the others; `BOOL` gives 0 or 1.
 *
 * @param bytes the elements, at any alignment
 * @returns a copy, never a view of `bytes`
 * @throws {RangeError} where `bytes` is no whole number of elements, or `dtype` has no conversion
 */
export function toFloat32(bytes: Uint8Array, dtype: DType): Float32Array<ArrayBuffer> {
  const width = byteWidth(dtype);
  if (bytes.length % width !== 0) {
    throw new RangeError(
      `Cannot widen ${bytes.length} bytes: ${dtype} elements take ${width} bytes each, pass whole elements`,
    );
  }
  const aligned = bytes.byteOffset % width === 0 ? bytes : bytes.slice();
  const { buffer, byteOffset } = aligned;
  const length = bytes.length / width;
  switch (dtype) {
    case "F32":
      // Copied as integers: a float copy may quieten a signalling NaN.
      return new Float32Array(new Uint32Array(new Uint32Array(buffer, byteOffset, length)).buffer);
    case "BF16":
      return bfloat16ToFloat32(new Uint16Array(buffer, byteOffset, length));
    case "F16":
      return float16ToFloat32(new Uint16Array(buffer, byteOffset, length));
    case "F64":
      return new Float32Array(new Float64Array(buffer, byteOffset, length));
    case "I64":
      return new Float32Array(Float64Array.from(new BigInt64Array(buffer, byteOffset, length), Number));
    case "U64":
      return new Float32Array(Float64Array.from(new BigUint64Array(buffer, byteOffset, length), Number));
    case "I32":
      return new Float32Array(new Int32Array(buffer, byteOffset, length));
    case "U32":
      return new Float32Array(new Uint32Array(buffer, byteOffset, length));
    case "I16":
      return new Float32Array(new Int16Array(buffer, byteOffset, length));
    case "U16":
      return new Float32Array(new Uint16Array(buffer, byteOffset, length));
    case "I8":
      return new Float32Array(new Int8Array(buffer, byteOffset, length));
    case "U8":
      return new Float32Array(bytes);
    case "BOOL":
      return Float32Array.from(bytes, (byte) => byte === 0 ? 0 : 1);
    case "C64":
    case "F8_E4M3":
    case "F8_E5M2":
    case "F8_E8M0":
    case "F8_E4M3FNUZ":
    case "F8_E5M2FNUZ":
    case "F6_E2M3":
    case "F6_E3M2":
    case "F4":
      throw new RangeError(`Cannot widen ${dtype}: convert the tensor to BF16, F16 or F32 first`);
    default:
      return dtype satisfies never;
  }
}

/**
 * Narrows float32 to the bytes of a floating-point type, rounding to nearest, ties to even. NaN stays NaN and
 * keeps the upper bits of its payload.
 *
 * @returns a copy, never a view of `values`
 * @throws {RangeError} where `dtype` is not `F64`, `F32`, `F16` or `BF16`
 */
export function fromFloat32(values: Float32Array, dtype: DType): Uint8Array<ArrayBuffer> {
  switch (dtype) {
    case "F32":
      return new Uint8Array(values.buffer, values.byteOffset, values.byteLength).slice();
    case "BF16":
      return new Uint8Array(float32ToBfloat16(values).buffer);
    case "F16":
      return new Uint8Array(float32ToFloat16(values).buffer);
    case "F64":
      return new Uint8Array(new Float64Array(values).buffer);
    default:
      throw new RangeError(`Cannot narrow float32 to ${dtype}: choose F64, F32, F16 or BF16`);
  }
}

const INFINITY_BITS = 0x7f80_0000;
const MAGNITUDE_BITS = 0x7fff_ffff;

function bfloat16ToFloat32(source: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) bits[i] = source[i] << 16;
  return new Float32Array(bits.buffer);
}

function float32ToBfloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const target = new Uint16Array(source.length);
  for (let i = 0; i < source.length; i++) {
    const bits = source[i];
    if ((bits & MAGNITUDE_BITS) > INFINITY_BITS) {
      const kept = bits >>> 16;
      target[i] = (kept & 0x7f) === 0 ? kept | 0x40 : kept;
    } else {
      target[i] = (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
    }
  }
  return target;
}

let float16Table: Uint32Array | undefined;

/** The float32 bits of each of the 65,536 float16 values: faster than arithmetic, and exact for NaN. */
function float32BitsOfFloat16(): Uint32Array {
  if (float16Table) return float16Table;
  const halves = Uint16Array.from({ length: 0x10000 }, (_, half) => half);
  const bits = new Uint32Array(new Float32Array(new Float16Array(halves.buffer)).buffer);
  for (let half = 0; half < bits.length; half++) {
    if ((half & 0x7fff) > 0x7c00) bits[half] = (half & 0x8000) << 16 | INFINITY_BITS | (half & 0x3ff) << 13;
  }
  return float16Table = bits;
}

function float16ToFloat32(source: Uint16Array): Float32Array<ArrayBuffer> {
  const table = float32BitsOfFloat16();
  const bits = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) bits[i] = table[source[i]];
  return new Float32Array(bits.buffer);
}

function float32ToFloat16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const source = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const target = new Uint16Array(new Float16Array(values).buffer);
  for (let i = 0; i < source.length; i++) {
    const bits = source[i];
    if ((bits & MAGNITUDE_BITS) > INFINITY_BITS) {
      const payload = (bits >>> 13) & 0x3ff;
      target[i] = (bits >>> 16) & 0x8000 | 0x7c00 | (payload === 0 ? 0x200 : payload);
    }
  }
  return target;
}
