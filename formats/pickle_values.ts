/**
 * What a pickle of tensors may hold, as inert data.
 *
 * A global (a Python name in the file) becomes a tag from a fixed table; it is never looked up anywhere else.
 * Applying a tag to arguments is done by {@linkcode reduce}, which knows three of them and refuses the rest.
 *
 * @module
 */

import { byteWidth, type DType, tensorByteLength } from "./dtype.ts";
import { maxRank } from "./tensor.ts";
import { type MakeError, quoted } from "./text.ts";

/** Any value of the pickle machine. */
export type PickleValue =
  | null
  | boolean
  | number
  | bigint
  | PickleFloat
  | string
  | PickleList
  | PickleTuple
  | PickleDict
  | PickleGlobal
  | StorageReference
  | TensorReference;

/** A Python float, which is no size and no offset, not even where it is whole. */
export class PickleFloat {
  /** Holds `value`. */
  constructor(readonly value: number) {}
}

/** A Python list. */
export class PickleList {
  /** Its items. */
  readonly items: PickleValue[] = [];
}

/** A Python tuple. */
export class PickleTuple {
  /** Holds `items`, which are not copied. */
  constructor(readonly items: readonly PickleValue[]) {}
}

/** A Python `dict` or `OrderedDict`; both keep the order of insertion. */
export class PickleDict {
  /** Its items; only text and numbers can be keys. */
  readonly items: Map<string | number, PickleValue> = new Map();
  /** Begins empty; `ordered` makes it an `OrderedDict`, the one object that may be given a state. */
  constructor(readonly ordered: boolean) {}
}

/** A name that means something to the reader. */
export class PickleGlobal {
  /**
   * Makes a tag.
   *
   * @param role what the name stands for
   * @param dtype the element type of a storage class
   */
  constructor(
    readonly role: "OrderedDict" | "tensor" | "parameter" | "storage",
    readonly dtype?: DType,
  ) {}
}

/** A storage: a record of the archive, seen as elements of one type. */
export class StorageReference {
  /**
   * Describes a storage.
   *
   * @param dtype element type
   * @param key the record's name below `data/`
   * @param count number of elements
   */
  constructor(readonly dtype: DType, readonly key: string, readonly count: number) {}
}

/** A tensor: a strided window of a storage, already checked to lie inside it. */
export class TensorReference {
  /**
   * Describes a window.
   *
   * @param storage where the elements are
   * @param offset first element
   * @param shape dimensions, slowest first
   * @param strides distance in elements between neighbours along each dimension
   */
  constructor(
    readonly storage: StorageReference,
    readonly offset: number,
    readonly shape: readonly number[],
    readonly strides: readonly number[],
  ) {}
}

/** A tensor that repeats its storage (a stride of 0) may be larger than it by this, in bytes, and by a factor of 4. */
const MAX_EXPANDED = 1 << 20;

const REFUSED = "if you trust the file, save only its state dict, or convert it to safetensors";

const globals: ReadonlyMap<string, PickleGlobal> = new Map([
  ["collections.OrderedDict", new PickleGlobal("OrderedDict")],
  ["torch._utils._rebuild_tensor_v2", new PickleGlobal("tensor")],
  ["torch._utils._rebuild_parameter", new PickleGlobal("parameter")],
  ["torch._utils._rebuild_parameter_with_state", new PickleGlobal("parameter")],
  ["torch.DoubleStorage", new PickleGlobal("storage", "F64")],
  ["torch.FloatStorage", new PickleGlobal("storage", "F32")],
  ["torch.HalfStorage", new PickleGlobal("storage", "F16")],
  ["torch.BFloat16Storage", new PickleGlobal("storage", "BF16")],
  ["torch.LongStorage", new PickleGlobal("storage", "I64")],
  ["torch.IntStorage", new PickleGlobal("storage", "I32")],
  ["torch.ShortStorage", new PickleGlobal("storage", "I16")],
  ["torch.CharStorage", new PickleGlobal("storage", "I8")],
  ["torch.ByteStorage", new PickleGlobal("storage", "U8")],
  ["torch.BoolStorage", new PickleGlobal("storage", "BOOL")],
]);

/** The tag of `module` and `name`; the exact pair must be in the table. */
export function findGlobal(module: string, name: string, error: MakeError): PickleGlobal {
  // A dot in the name would be an attribute path, which can reach anything.
  const found = name.includes(".") ? undefined : globals.get(`${module}.${name}`);
  if (!found) throw error(`it names ${quoted(`${module}.${name}`)}, which no file of tensors needs`, REFUSED);
  return found;
}

/** The name of the storage class that holds `dtype`, or `undefined` where torch has none. */
export function storageClassOf(dtype: DType): string | undefined {
  for (const [name, global] of globals) if (global.dtype === dtype) return name.slice("torch.".length);
  return undefined;
}

/** Applies `callee` to `args`: an empty `OrderedDict`, a tensor or a parameter, or an error. */
export function reduce(callee: PickleValue, args: PickleValue, error: MakeError): PickleValue {
  if (!(callee instanceof PickleGlobal) || !(args instanceof PickleTuple)) {
    throw error("it calls something that is no function of a file of tensors", REFUSED);
  }
  const { items } = args;
  if (callee.role === "OrderedDict" && items.length === 0) return new PickleDict(true);
  if (callee.role === "tensor" && items.length === 6) return rebuildTensor(items, error);
  // Tensor, gradient wanted, hooks; and what Python attached to the parameter, which is dropped.
  const isParameter = callee.role === "parameter" && (items.length === 3 || items.length === 4);
  if (isParameter && items[0] instanceof TensorReference) return items[0];
  throw error(`it calls a ${callee.role} with ${items.length} arguments of the wrong kind`, REFUSED);
}

/** The storage of a persistent id: `("storage", class, key, device, element count)`. */
export function findStorage(id: PickleValue, error: MakeError): StorageReference {
  if (id instanceof PickleTuple && id.items.length === 5) {
    const [tag, type, key, device, count] = id.items;
    const typed = type instanceof PickleGlobal && type.dtype !== undefined;
    if (
      tag === "storage" && typed && typeof key === "string" && typeof device === "string" && isSize(count)
    ) {
      return new StorageReference(type.dtype!, key, count);
    }
  }
  throw error("it refers to something outside itself that is not a tensor's storage", REFUSED);
}

function rebuildTensor(items: readonly PickleValue[], error: MakeError): TensorReference {
  const [storage, offset, size, stride, requiresGrad, hooks] = items;
  const shape = sizes(size);
  const strides = sizes(stride);
  const wellFormed = storage instanceof StorageReference && isSize(offset) && shape && strides &&
    shape.length === strides.length && typeof requiresGrad === "boolean" && hooks instanceof PickleDict;
  if (!wellFormed) throw error("it describes a tensor with arguments of the wrong kind");
  const name = `a tensor ${storage.dtype} [${shape}] of storage ${quoted(storage.key)}`;
  const length = tensorByteLength(storage.dtype, shape);
  if (length === undefined) throw error(`${name} has an impossible size`);
  const extent = extentOf(shape, strides);
  if (offset + extent > storage.count) {
    throw error(`${name} reaches element ${offset + extent} of ${storage.count}`);
  }
  if (length > MAX_EXPANDED + 4 * storage.count * byteWidth(storage.dtype)) {
    throw error(`${name} repeats it to ${length} bytes`, "save the tensor after calling contiguous()");
  }
  return new TensorReference(storage, offset, shape, strides);
}

/** Elements from the first to the last of a window, or 0 where it has none. */
export function extentOf(shape: readonly number[], strides: readonly number[]): number {
  if (shape.includes(0)) return 0;
  return shape.reduce((extent, dimension, i) => extent + (dimension - 1) * strides[i], 1);
}

function sizes(value: PickleValue | undefined): readonly number[] | undefined {
  if (!(value instanceof PickleTuple) || value.items.length > maxRank) return undefined;
  return value.items.every(isSize) ? value.items : undefined;
}

function isSize(value: PickleValue | undefined): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
