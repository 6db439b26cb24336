/**
 * How long work takes on the device itself, by timestamps that it writes before and after a pass.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { Device } from "./device.ts";

/** Passes of one submission: two timestamps each, and a set holds 4096. */
const PASSES_A_SET = 1024;

/**
 * Runs each piece of work in a pass of its own, all submitted together.
 * @param before is called before each submission, to keep the device busy
 * @returns milliseconds of each
 * @throws EngineError if the device writes no timestamps
 */
export async function timedPasses(
  device: Device,
  work: readonly ((pass: GPUComputePassEncoder) => void)[],
  before: () => void = () => {},
): Promise<number[]> {
  const { gpu } = device;
  if (!gpu.features.has("timestamp-query")) {
    throw new EngineError(`Cannot measure on ${device.description}: it writes no timestamps`);
  }
  const times: number[] = [];
  for (let first = 0; first < work.length; first += PASSES_A_SET) {
    const now = work.slice(first, first + PASSES_A_SET), count = 2 * now.length;
    const querySet = gpu.createQuerySet({ type: "timestamp", count });
    const resolved = gpu.createBuffer({
      size: 8 * count,
      usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC,
    });
    const staging = gpu.createBuffer({
      size: 8 * count,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    try {
      before();
      await device.attempt(() => {
        const encoder = gpu.createCommandEncoder();
        now.forEach((encode, i) => {
          const pass = encoder.beginComputePass({
            timestampWrites: {
              querySet,
              beginningOfPassWriteIndex: 2 * i,
              endOfPassWriteIndex: 2 * i + 1,
            },
          });
          encode(pass);
          pass.end();
        });
        encoder.resolveQuerySet(querySet, 0, count, resolved, 0);
        encoder.copyBufferToBuffer(resolved, 0, staging, 0, 8 * count);
        gpu.queue.submit([encoder.finish()]);
      });
      await staging.mapAsync(GPUMapMode.READ);
      const stamps = new BigUint64Array(staging.getMappedRange().slice(0));
      now.forEach((_, i) => times.push(Number(stamps[2 * i + 1]! - stamps[2 * i]!) / 1e6));
    } finally {
      querySet.destroy();
      resolved.destroy();
      staging.destroy();
    }
  }
  return times;
}
