/**
 * The pickle of a state dict, byte for byte as `torch.save` writes it for a plain dict of contiguous tensors:
 * protocol 2, CPython's memo numbers and batches, `_rebuild_tensor_v2` on one storage per tensor.
 *
 * @module
 */

import { opcodes } from "./pickle_opcodes.ts";
import { storageClassOf } from "./pickle_values.ts";
import type { TensorInfo } from "./tensor.ts";

/** CPython closes a SETITEMS after this many items, so that readers need no deep stack. */
const BATCH = 1000;

/**
 * Pickles the description of tensors; the storage of the n-th is record `data/n`.
 *
 * @throws {RangeError} where torch has no storage class for an element type
 */
export function pickleStateDict(tensors: readonly TensorInfo[]): Uint8Array<ArrayBuffer> {
  const pickle = new PickleWriter();
  pickle.opcode(opcodes.PROTO, 2);
  pickle.opcode(opcodes.EMPTY_DICT);
  pickle.memoize();
  if (tensors.length === 1) {
    writeItem(pickle, tensors[0], 0);
    pickle.opcode(opcodes.SETITEM);
  } else if (tensors.length > 1) {
    // After a full batch CPython opens another, even an empty one.
    for (let start = 0; start <= tensors.length; start += BATCH) {
      pickle.opcode(opcodes.MARK);
      tensors.slice(start, start + BATCH).forEach((info, i) => writeItem(pickle, info, start + i));
      pickle.opcode(opcodes.SETITEMS);
    }
  }
  pickle.opcode(opcodes.STOP);
  return pickle.finish();
}

/** Row-major strides in elements; as in torch, an empty dimension counts as one. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length);
  let stride = 1;
  for (let i = shape.length - 1; i >= 0; i--) {
    strides[i] = stride;
    stride *= Math.max(shape[i], 1);
  }
  return strides;
}

function writeItem(pickle: PickleWriter, { name, dtype, shape }: TensorInfo, index: number): void {
  const storageClass = storageClassOf(dtype);
  if (!storageClass) {
    throw new RangeError(
      `Cannot write tensor "${name}": .pth has no type ${dtype}, write safetensors instead`,
    );
  }
  pickle.text(name);
  pickle.global("torch._utils", "_rebuild_tensor_v2");
  pickle.opcode(opcodes.MARK);

  pickle.opcode(opcodes.MARK);
  pickle.sharedText("storage");
  pickle.global("torch", storageClass);
  pickle.text(`${index}`);
  pickle.sharedText("cpu");
  pickle.integer(shape.reduce((count, dimension) => count * dimension, 1));
  pickle.opcode(opcodes.TUPLE);
  pickle.memoize();
  pickle.opcode(opcodes.BINPERSID);

  pickle.integer(0); // offset
  pickle.integers(shape);
  pickle.integers(contiguousStrides(shape));
  pickle.opcode(opcodes.NEWFALSE); // requires_grad

  pickle.global("collections", "OrderedDict"); // backward hooks
  pickle.opcode(opcodes.EMPTY_TUPLE);
  pickle.opcode(opcodes.REDUCE);
  pickle.memoize();

  pickle.opcode(opcodes.TUPLE);
  pickle.memoize();
  pickle.opcode(opcodes.REDUCE);
  pickle.memoize();
}

/** Appends pickle instructions and numbers the memo as CPython does: in order of first appearance. */
class PickleWriter {
  #bytes = new Uint8Array(1 << 12);
  #length = 0;
  #memoized = 0;
  readonly #shared = new Map<string, number>();

  opcode(opcode: number, operand?: number): void {
    this.#number(opcode, 1);
    if (operand !== undefined) this.#number(operand, 1);
  }

  memoize(): void {
    this.#indexed(opcodes.BINPUT, opcodes.LONG_BINPUT, this.#memoized++);
  }

  integer(value: number): void {
    if (value <= 0xff) {
      this.opcode(opcodes.BININT1, value);
    } else if (value <= 0xffff) {
      this.opcode(opcodes.BININT2);
      this.#number(value, 2);
    } else if (value <= 0x7fff_ffff) {
      this.opcode(opcodes.BININT);
      this.#number(value, 4);
    } else {
      // Two's complement, so a set top bit needs one more byte.
      const width = Math.floor(value.toString(2).length / 8) + 1;
      this.opcode(opcodes.LONG1, width);
      this.#number(value, width);
    }
  }

  integers(values: readonly number[]): void {
    if (values.length === 0) return this.opcode(opcodes.EMPTY_TUPLE);
    const short = [opcodes.TUPLE1, opcodes.TUPLE2, opcodes.TUPLE3][values.length - 1];
    if (short === undefined) this.opcode(opcodes.MARK);
    for (const value of values) this.integer(value);
    this.opcode(short ?? opcodes.TUPLE);
    this.memoize();
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.opcode(opcodes.BINUNICODE);
    this.#number(bytes.length, 4);
    this.#put(bytes);
    this.memoize();
  }

  sharedText(text: string): void {
    this.#once(`text ${text}`, () => this.text(text));
  }

  global(module: string, name: string): void {
    this.#once(`global ${module}.${name}`, () => {
      this.opcode(opcodes.GLOBAL);
      this.#put(new TextEncoder().encode(`${module}\n${name}\n`));
      this.memoize();
    });
  }

  finish(): Uint8Array<ArrayBuffer> {
    return this.#bytes.slice(0, this.#length);
  }

  /** Writes a value (which must memoize last) the first time, and recalls it from then on. */
  #once(identity: string, write: () => void): void {
    const index = this.#shared.get(identity);
    if (index !== undefined) return this.#indexed(opcodes.BINGET, opcodes.LONG_BINGET, index);
    this.#shared.set(identity, this.#memoized);
    write();
  }

  #indexed(short: number, long: number, index: number): void {
    if (index <= 0xff) return this.opcode(short, index);
    this.opcode(long);
    this.#number(index, 4);
  }

  /** Appends a non-negative integer, little-endian. */
  #number(value: number, width: number): void {
    const start = this.#grow(width);
    for (let i = 0, rest = value; i < width; i++, rest = Math.floor(rest / 256)) {
      this.#bytes[start + i] = rest % 256;
    }
  }

  #put(bytes: Uint8Array): void {
    const start = this.#grow(bytes.length);
    this.#bytes.set(bytes, start);
  }

  /** Makes room for `length` bytes and returns where they go; may replace `#bytes`. */
  #grow(length: number): number {
    const start = this.#length;
    this.#length += length;
    if (this.#length > this.#bytes.length) {
      const larger = new Uint8Array(2 * this.#length);
      larger.set(this.#bytes);
      this.#bytes = larger;
    }
    return start;
  }
}
