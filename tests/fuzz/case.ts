/**
 * One file given to one reader: whether it was read or refused, and what that took.
 *
 * @module
 */
import { join } from "node:path";
import type { Reader } from "./readers.ts";

/** Memory that any file may take beyond four times its size: blocks that are read at once, and what is made once. */
const FREE_ARRAYS = 4 << 20, FREE_HEAP = 64 << 20;
/** Milliseconds that a small file may take. */
export const PATIENCE = 1000;

/** How a case ended. */
export interface Outcome {
  readonly kind: "read" | "refused" | "fault";
  /** What is wrong, for a fault. */
  readonly reason?: string;
}

let arrays = 0;

/** Counts, from now on, the bytes of every typed array that is made with a length or from a list. */
export function countArrays(): void {
  const scope = globalThis as unknown as Record<string, unknown>;
  for (
    const name of [
      "ArrayBuffer",
      "Uint8Array",
      "Uint16Array",
      "Uint32Array",
      "Float32Array",
      "Float64Array",
      "BigUint64Array",
    ]
  ) {
    const width = (scope[name] as { BYTES_PER_ELEMENT?: number }).BYTES_PER_ELEMENT ?? 1;
    scope[name] = new Proxy(scope[name] as new (...args: unknown[]) => object, {
      construct(target, args, self) {
        const [first] = args;
        if (typeof first === "number") {
          arrays += first * width;
          // Counted, and not tried: it would end the process.
          if (first * width > 2 ** 31) throw new Error(`asked for ${first * width} bytes at once`);
        } else if (ArrayBuffer.isView(first) || Array.isArray(first)) {
          arrays += (first as unknown[]).length * width;
        }
        return Reflect.construct(target, args, self);
      },
    });
  }
}

/** Gives a file to a reader; again where that took too long, as a machine that is busy may be slow once, hardly three times. */
export async function tryPatiently(reader: Reader, bytes: Uint8Array, scratch: string): Promise<Outcome> {
  let outcome = await tryCase(reader, bytes, scratch);
  for (let again = 0; again < 2 && /^took \d+ ms/.test(outcome.reason ?? ""); again++) {
    outcome = await tryCase(reader, bytes, scratch);
  }
  return outcome;
}

/** Gives a file to a reader, in a folder of its own that is made and removed. */
export async function tryCase(reader: Reader, bytes: Uint8Array, scratch: string): Promise<Outcome> {
  const folder = join(scratch, "case");
  const path = join(folder, "file");
  Deno.mkdirSync(folder);
  try {
    Deno.writeFileSync(path, bytes);
    arrays = 0;
    const heap = Deno.memoryUsage().heapUsed, started = performance.now();
    const ended = await outcomeOf(reader, path);
    const elapsed = performance.now() - started, grown = Deno.memoryUsage().heapUsed - heap;
    if (ended.kind === "fault") return ended;
    if (elapsed > PATIENCE) return { kind: "fault", reason: `took ${Math.round(elapsed)} ms` };
    if (arrays > 4 * bytes.length + FREE_ARRAYS) {
      return { kind: "fault", reason: `made arrays of ${arrays} bytes` };
    }
    if (grown > 4 * bytes.length + FREE_HEAP) return { kind: "fault", reason: `took ${grown} bytes of heap` };
    return ended;
  } finally {
    Deno.removeSync(folder, { recursive: true });
  }
}

async function outcomeOf(reader: Reader, path: string): Promise<Outcome> {
  try {
    await reader.read(path);
    return { kind: "read" };
  } catch (error) {
    if (reader.isRefusal(error)) return { kind: "refused" };
    return { kind: "fault", reason: `threw ${error instanceof Error ? error.stack ?? error : error}` };
  }
}
