/**
 * A pickle machine that can hold data and do nothing else.
 *
 * It runs the short list of opcodes in `pickle_opcodes.ts` over the values in `pickle_values.ts`. Every step
 * consumes input, no value is ever copied or walked, and the stack and the nesting are limited, so time is at
 * most proportional to the length of the pickle. A byte of it may ask for an object of a hundred, so what is
 * made is added up and stops at a budget.
 *
 * @module
 */

import { opcodes } from "./pickle_opcodes.ts";
import {
  findGlobal,
  findStorage,
  PickleDict,
  PickleFloat,
  PickleList,
  PickleTuple,
  type PickleValue,
  reduce,
  type StorageReference,
} from "./pickle_values.ts";
import { decodeUtf8, type MakeError, quoted } from "./text.ts";

const PROTOCOL = 2;
const MAX_STACK = 1 << 16;
const MAX_MARKS = 64;
/** What values take in memory, in bytes, rounded up. */
const COST = {
  slot: 24,
  float: 40,
  memo: 64,
  text: 64,
  tuple: 128,
  list: 128,
  dict: 384,
  item: 96,
  tensor: 256,
} as const;
/** Stands for every integer that a number cannot hold. */
const BEYOND = 1n << 64n;
/** What any pickle may take, however small its file: some thousand tensors of a few bytes each need most of it. */
const FREE_BYTES = 1 << 24;
const REFUSED = "save it again with torch.save and its usual protocol, or convert it to safetensors";

/** The result of a pickle. */
export interface Unpickled {
  /** The object that was pickled. */
  readonly root: PickleValue;
  /** Every storage that was referred to, used or not, in order. */
  readonly storages: readonly StorageReference[];
}

/** Bytes of memory that the values of a pickle may take in a file of `size` bytes. */
export function pickleBudget(size: number): number {
  return FREE_BYTES + 4 * size;
}

/**
 * Runs a pickle of protocol 2, as `torch.save` makes it.
 *
 * @param error makes the error that is thrown where anything is not as it should be
 * @param budget bytes of memory that its values may take; see {@linkcode pickleBudget}
 */
export function unpickle(bytes: Uint8Array, error: MakeError, budget: number): Unpickled {
  return new PickleMachine(bytes, error, budget).run();
}

class PickleMachine {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #makeError: MakeError;
  readonly #stack: PickleValue[] = [];
  /** Heights of the stack at each open MARK. */
  readonly #marks: number[] = [];
  readonly #memo = new Map<number, PickleValue>();
  readonly #storages: StorageReference[] = [];
  #at = 0;
  /** Bytes of memory that may still be taken. */
  #budget: number;

  constructor(bytes: Uint8Array, error: MakeError, budget: number) {
    this.#bytes = bytes;
    this.#budget = budget;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#makeError = error;
  }

  run(): Unpickled {
    if (this.#byte() !== opcodes.PROTO || this.#byte() !== PROTOCOL) {
      throw this.#error(`does not begin as a pickle of protocol ${PROTOCOL}`, REFUSED);
    }
    for (let opcode = this.#byte(); opcode !== opcodes.STOP; opcode = this.#byte()) this.#step(opcode);
    if (this.#stack.length !== 1 || this.#marks.length > 0) {
      throw this.#error("stops in the middle of a value");
    }
    if (this.#at !== this.#bytes.length) throw this.#error("goes on after its end");
    return { root: this.#pop(), storages: this.#storages };
  }

  #step(opcode: number): void {
    switch (opcode) {
      case opcodes.MARK:
        if (this.#marks.length >= MAX_MARKS) throw this.#error(`is nested more than ${MAX_MARKS} deep`);
        this.#marks.push(this.#stack.length);
        return;
      case opcodes.NONE:
        return this.#push(null);
      case opcodes.NEWTRUE:
        return this.#push(true);
      case opcodes.NEWFALSE:
        return this.#push(false);
      case opcodes.BININT1:
        return this.#push(this.#byte());
      case opcodes.BININT2:
        return this.#push(this.#view.getUint16(this.#advance(2), true));
      case opcodes.BININT:
        return this.#push(this.#view.getInt32(this.#advance(4), true));
      case opcodes.LONG1:
        return this.#push(this.#long(this.#byte()));
      case opcodes.BINFLOAT:
        this.#spend(COST.float);
        return this.#push(new PickleFloat(this.#view.getFloat64(this.#advance(8), false)));
      case opcodes.BINUNICODE:
        return this.#push(this.#text(this.#view.getUint32(this.#advance(4), true)));
      case opcodes.EMPTY_TUPLE:
        return this.#push(this.#tuple([]));
      case opcodes.TUPLE1:
        return this.#push(this.#tuple(this.#popMany(1)));
      case opcodes.TUPLE2:
        return this.#push(this.#tuple(this.#popMany(2)));
      case opcodes.TUPLE3:
        return this.#push(this.#tuple(this.#popMany(3)));
      case opcodes.TUPLE:
        return this.#push(this.#tuple(this.#popToMark()));
      case opcodes.EMPTY_LIST:
        this.#spend(COST.list);
        return this.#push(new PickleList());
      case opcodes.APPEND:
        return this.#appendOne(this.#pop());
      case opcodes.APPENDS:
        return this.#append(this.#popToMark());
      case opcodes.EMPTY_DICT:
        this.#spend(COST.dict);
        return this.#push(new PickleDict(false));
      case opcodes.SETITEM:
        return this.#setItems(this.#popMany(2));
      case opcodes.SETITEMS:
        return this.#setItems(this.#popToMark());
      case opcodes.BINPUT:
        return this.#remember(this.#byte());
      case opcodes.LONG_BINPUT:
        return this.#remember(this.#view.getUint32(this.#advance(4), true));
      case opcodes.BINGET:
        return this.#recall(this.#byte());
      case opcodes.LONG_BINGET:
        return this.#recall(this.#view.getUint32(this.#advance(4), true));
      case opcodes.GLOBAL: {
        const module = this.#line();
        return this.#push(findGlobal(module, this.#line(), this.#makeError));
      }
      case opcodes.BINPERSID: {
        this.#spend(COST.tensor);
        const storage = findStorage(this.#pop(), this.#makeError);
        this.#storages.push(storage);
        return this.#push(storage);
      }
      case opcodes.REDUCE: {
        this.#spend(COST.dict);
        const [callee, args] = this.#popMany(2);
        return this.#push(reduce(callee, args, this.#makeError));
      }
      case opcodes.BUILD:
        return this.#build();
      default: {
        const name = `0x${opcode.toString(16).padStart(2, "0")}`;
        throw this.#error(`uses pickle opcode ${name}, which no file of tensors needs`, REFUSED);
      }
    }
  }

  #append(items: readonly PickleValue[]): void {
    for (const item of items) this.#appendOne(item);
    if (!(this.#top() instanceof PickleList)) throw this.#error("appends to something that is not a list");
  }

  #appendOne(item: PickleValue): void {
    const list = this.#top();
    if (!(list instanceof PickleList)) throw this.#error("appends to something that is not a list");
    this.#spend(COST.slot);
    list.items.push(item);
  }

  #setItems(pairs: readonly PickleValue[]): void {
    const dict = this.#top();
    if (!(dict instanceof PickleDict) || pairs.length % 2 !== 0) {
      throw this.#error("sets items of something that is not a dict, or half an item");
    }
    this.#spend(pairs.length / 2 * COST.item);
    for (let i = 0; i < pairs.length; i += 2) {
      const said = pairs[i], key = said instanceof PickleFloat ? said.value : said;
      if (typeof key !== "string" && typeof key !== "number") {
        throw this.#error("has a dict key that is neither text nor a number", "save only the state dict");
      }
      if (dict.items.has(key)) throw this.#error(`has the dict key ${quoted(`${key}`)} twice`);
      dict.items.set(key, pairs[i + 1]);
    }
  }

  /** Torch attaches `_metadata` (module versions) to the `OrderedDict` of a state dict; it is dropped. */
  #build(): void {
    const state = this.#pop();
    const target = this.#top();
    if (!(target instanceof PickleDict && target.ordered && state instanceof PickleDict)) {
      throw this.#error("sets the state of something other than an OrderedDict", REFUSED);
    }
  }

  #remember(key: number): void {
    if (!this.#memo.has(key)) this.#spend(COST.memo);
    this.#memo.set(key, this.#top());
  }

  #recall(key: number): void {
    const value = this.#memo.get(key);
    if (value === undefined) throw this.#error(`recalls memo ${key}, which was never stored`);
    this.#push(value);
  }

  #push(value: PickleValue): void {
    if (this.#stack.length >= MAX_STACK) throw this.#error(`piles up more than ${MAX_STACK} values`);
    this.#stack.push(value);
  }

  #pop(): PickleValue {
    this.#require(1);
    return this.#stack.pop()!;
  }

  #top(): PickleValue {
    this.#require(1);
    return this.#stack[this.#stack.length - 1];
  }

  #popMany(count: number): PickleValue[] {
    this.#require(count);
    return this.#stack.splice(this.#stack.length - count);
  }

  #popToMark(): PickleValue[] {
    const height = this.#marks.pop();
    if (height === undefined) throw this.#error("closes a group that was never opened");
    return this.#stack.splice(height);
  }

  #require(count: number): void {
    const floor = this.#marks.at(-1) ?? 0;
    if (this.#stack.length - count < floor) throw this.#error("takes a value from an empty stack");
  }

  #tuple(items: readonly PickleValue[]): PickleTuple {
    this.#spend(COST.tuple + items.length * COST.slot);
    return new PickleTuple(items);
  }

  /** Counts memory that is about to be taken. */
  #spend(bytes: number): void {
    this.#budget -= bytes;
    if (this.#budget < 0) throw this.#error("makes more values than its file has room for");
  }

  #byte(): number {
    return this.#bytes[this.#advance(1)];
  }

  #text(length: number): string {
    const start = this.#advance(length);
    this.#spend(COST.text + 2 * length);
    return decodeUtf8(this.#bytes.subarray(start, start + length), "text in data.pkl", this.#makeError);
  }

  #line(): string {
    const end = this.#bytes.indexOf(0x0a, this.#at);
    if (end < 0) throw this.#error("ends in the middle of a name");
    const line = this.#text(end - this.#at);
    this.#advance(1);
    return line;
  }

  /** A two's complement integer; one beyond 2^53 is {@link BEYOND}, since no size or offset may be it. */
  #long(length: number): number | bigint {
    const start = this.#advance(length);
    let value = length && this.#bytes[start + length - 1] >= 0x80 ? -1 : 0;
    for (let at = start + length - 1; at >= start; at--) {
      value = value * 256 + this.#bytes[at];
      if (!Number.isSafeInteger(value)) return BEYOND;
    }
    return value;
  }

  /** Passes `length` bytes and returns where they begin. */
  #advance(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.length - start) throw this.#error("ends in the middle of a value");
    this.#at += length;
    return start;
  }

  #error(reason: string, remedy?: string): Error {
    return this.#makeError(`its data.pkl ${reason} (before byte ${this.#at})`, remedy);
  }
}
