/**
 * What the settings of several methods share. Each check complains in one sentence that names the method and the setting.
 *
 * @module
 */
import type { Settings } from "./method.ts";

/** RWKV-PEFT's default rank of Bone and BAT. */
export const DEFAULT_RANK = 64;

/** @throws RangeError if a setting is none of these */
export function requireKnown(method: string, given: Settings, known: readonly string[]): void {
  const unknown = Object.keys(given).find((name) => !known.includes(name));
  if (unknown === undefined) return;
  const there = known.length > 1
    ? `there are ${known.slice(0, -1).join(", ")} and ${known.at(-1)}`
    : `there is ${known[0]}`;
  throw new RangeError(`Unknown setting "${unknown}" for ${method}: ${known.length ? there : "it has none"}`);
}

/** A whole number of at least 1. @throws RangeError */
export function requireCount(method: string, what: string, value: unknown): number {
  if (!Number.isInteger(value) || (value as number) < 1) {
    throw new RangeError(`The ${what} of ${method} must be a whole number of at least 1: it is ${value}`);
  }
  return value as number;
}

/** A number. @throws RangeError */
export function requireNumber(
  method: string,
  what: string,
  value: unknown,
  holds: (x: number) => boolean = () => true,
  wanted = "a number",
): number {
  if (typeof value !== "number" || !Number.isFinite(value) || !holds(value)) {
    throw new RangeError(`The ${what} of ${method} must be ${wanted}: it is ${value}`);
  }
  return value;
}

/** True or false. @throws RangeError */
export function requireBoolean(method: string, what: string, value: unknown): boolean {
  if (typeof value !== "boolean") {
    throw new RangeError(`The ${what} of ${method} must be true or false: it is ${value}`);
  }
  return value;
}

/** The share of elements that dropout sets to zero. @throws RangeError */
export function requireDropout(method: string, value: unknown): number {
  return requireNumber(method, "dropout", value, (x) => x >= 0 && x < 1, "from 0 to below 1");
}
