/**
 * JSON in headers: a strict reader that sees what `JSON.parse` hides (repeated keys, and how a number was
 * written), and a writer of objects of text.
 *
 * `JSON.parse` keeps the last of two equal keys, rounds integers beyond 2^53 and turns `1.0`, `1e0` and `-0`
 * into ordinary integers. In a file of offsets each of these lets two readers see two different files.
 *
 * @module
 */

import { type MakeError, quoted } from "./text.ts";

const MAX_DEPTH = 32;
const MAX_TEXTS = 100_000;
/** Characters of a name or a text, and values of all kinds: what they are held in takes many times their bytes. */
const MAX_LENGTH = 1 << 22, MAX_VALUES = 50_000;
const SCALAR = /true|false|null|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?/y;
const INTEGER = /0|[1-9]\d*/y;

/** Anything that JSON can say. */
export type JsonValue = null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue };

/** A position in a JSON text that moves over one token or one value at a time. */
export class JsonCursor {
  readonly #text: string;
  readonly #error: MakeError;
  #at = 0;
  #values = 0;

  /**
   * Begins at the start of the text.
   *
   * @param text the whole JSON text
   * @param error makes the error that is thrown where the text is not JSON or not what was asked for
   */
  constructor(text: string, error: MakeError) {
    this.#text = text;
    this.#error = error;
  }

  /** Passes `token` (after white space) if it comes next. */
  take(token: string): boolean {
    this.#skipSpace();
    if (!this.#text.startsWith(token, this.#at)) return false;
    this.#at += token.length;
    return true;
  }

  /** Passes `token`, which must come next. */
  expect(token: string, where: string): void {
    if (!this.take(token)) {
      throw this.#error(`${where} is not valid: expected ${token} at character ${this.#at}`);
    }
  }

  /** Passes an object and calls `member` at each value, with its key; a repeated key is up to `member`. */
  object(where: string, member: (key: string) => void): void {
    this.expect("{", where);
    if (this.take("}")) return;
    do {
      const key = this.string(where);
      this.expect(":", where);
      member(key);
    } while (this.take(","));
    this.expect("}", where);
  }

  /** Passes a list and calls `element` at each value. */
  list(where: string, element: () => void): void {
    this.expect("[", where);
    if (this.take("]")) return;
    do element(); while (this.take(","));
    this.expect("]", where);
  }

  /** Passes an object whose values are all text; no key may come twice. */
  textMap(where: string): Map<string, string> {
    const map = new Map<string, string>();
    this.object(where, (key) => {
      if (map.has(key)) throw this.#error(`${where} has ${quoted(key)} twice`);
      if (map.size >= MAX_TEXTS) throw this.#error(`${where} has more than ${MAX_TEXTS} members`);
      map.set(key, this.string(`${quoted(key)} of ${where}`));
    });
    return map;
  }

  /** Passes a string and returns it; a lone surrogate is refused, since UTF-8 cannot hold it. */
  string(where: string): string {
    this.expect('"', where);
    const start = this.#at;
    let escaped = false;
    for (;;) {
      const code = this.#text.charCodeAt(this.#at);
      if (code === 0x22) break;
      if (Number.isNaN(code) || code < 0x20) {
        throw this.#error(`${where} is not valid: a string is broken at character ${this.#at}`);
      }
      const escape = code === 0x5c;
      escaped ||= escape;
      this.#at += escape ? 2 : 1;
    }
    const raw = this.#text.slice(start, this.#at++);
    if (raw.length > MAX_LENGTH) {
      throw this.#error(
        `${where} holds a text of ${raw.length} characters, and at most ${MAX_LENGTH} are read`,
      );
    }
    const value = escaped ? this.#unescape(raw, where) : raw;
    if (!value.isWellFormed()) throw this.#error(`${where} is not valid: a string holds a lone surrogate`);
    return value;
  }

  /**
   * Passes a non-negative integer written in plain digits and at most 2^53 - 1. Of `1.0`, `1e0` or `01` it
   * passes the first digit only, and what follows is refused by whoever asks for the next token.
   */
  integer(where: string): number {
    this.#skipSpace();
    const digits = this.#match(INTEGER);
    const value = Number(digits);
    if (digits === undefined || !Number.isSafeInteger(value)) {
      throw this.#error(
        `${where} is not valid: expected an integer from 0 to 2^53 - 1 at character ${this.#at}`,
      );
    }
    return value;
  }

  /**
   * Passes any value and returns it, as `JSON.parse` would but for what that hides: a repeated key, a key `__proto__` and
   * deep nesting are refused.
   */
  value(where: string, depth = 0): JsonValue {
    if (depth > MAX_DEPTH) throw this.#error(`${where} is nested more than ${MAX_DEPTH} deep`);
    if (depth === 0) this.#values = 0;
    if (++this.#values > MAX_VALUES) throw this.#error(`${where} holds more than ${MAX_VALUES} values`);
    this.#skipSpace();
    switch (this.#text[this.#at]) {
      case "{": {
        const object: { [key: string]: JsonValue } = {};
        this.object(where, (key) => {
          if (key === "__proto__" || Object.hasOwn(object, key)) {
            throw this.#error(`${where} has ${quoted(key)} ${key === "__proto__" ? "as a key" : "twice"}`);
          }
          object[key] = this.value(where, depth + 1);
        });
        return object;
      }
      case "[": {
        const list: JsonValue[] = [];
        this.list(where, () => list.push(this.value(where, depth + 1)));
        return list;
      }
      case '"':
        return this.string(where);
    }
    const token = this.#match(SCALAR);
    if (token === undefined) {
      throw this.#error(`${where} is not valid: expected a value at character ${this.#at}`);
    }
    return JSON.parse(token);
  }

  /** Passes any value. */
  skipValue(where: string, depth = 0): void {
    if (depth > MAX_DEPTH) throw this.#error(`${where} is nested more than ${MAX_DEPTH} deep`);
    this.#skipSpace();
    switch (this.#text[this.#at]) {
      case "{":
        return this.object(where, () => this.skipValue(where, depth + 1));
      case "[":
        return this.list(where, () => this.skipValue(where, depth + 1));
      case '"':
        return void this.string(where);
    }
    if (this.#match(SCALAR) === undefined) {
      throw this.#error(`${where} is not valid: expected a value at character ${this.#at}`);
    }
  }

  /** Checks that nothing but white space is left. */
  end(where: string): void {
    this.#skipSpace();
    if (this.#at < this.#text.length) {
      throw this.#error(`${where} goes on after its end, at character ${this.#at}`);
    }
  }

  #skipSpace(): void {
    for (;; this.#at++) {
      const code = this.#text.charCodeAt(this.#at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return;
    }
  }

  #match(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const token = pattern.exec(this.#text)?.[0];
    if (token !== undefined) this.#at += token.length;
    return token;
  }

  #unescape(raw: string, where: string): string {
    try {
      return JSON.parse(`"${raw}"`);
    } catch {
      throw this.#error(`${where} is not valid: a string holds a wrong escape before character ${this.#at}`);
    }
  }
}

/** JSON of an object of text, without spaces; built from its members, so that every key is only a key. */
export function textMapJson(map: ReadonlyMap<string, string>): string {
  return `{${[...map].map(([key, value]) => `${textJson(key)}:${textJson(value)}`).join(",")}}`;
}

/**
 * JSON of a text.
 *
 * @throws {RangeError} where it is not valid Unicode, which {@linkcode JsonCursor.string} would refuse
 */
export function textJson(text: string): string {
  if (text.isWellFormed()) return JSON.stringify(text);
  throw new RangeError(`Cannot write ${JSON.stringify(text)} to a file: it is not valid Unicode`);
}
