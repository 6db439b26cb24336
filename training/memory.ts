/**
 * What a run takes of an engine's memory, said before it is allocated.
 *
 * @module
 */
import { bytesOf } from "../kernels/graph.ts";
import type { Learner } from "./learner.ts";
import { OptionError } from "./options.ts";

/** One sentence on the memory that a run takes. @throws OptionError if it cannot fit, with what would */
export function requireMemory({ engine, programs, settings }: Learner): string {
  const { gradients, bytes } = programs;
  const held = engine.allocatedBytes, room = engine.room("f32");
  if (bytes > room) {
    const fits = Math.floor(settings.microBsz * room / bytes);
    const advice = fits >= 1
      ? `use --micro_bsz ${fits}`
      : `lower --ctx_len${settings.gradCp ? "" : " or use --grad_cp 1"}`;
    throw new OptionError(
      `The values of a step need ${megabytes(bytes)} and the ${engine.name} engine has ${
        megabytes(room)
      } left beside weights, adapter and optimizer: ${advice}`,
    );
  }
  const largest = Math.max(...gradients.slots, ...[...gradients.variables].map(bytesOf));
  return `Memory: ${megabytes(held)} for weights, adapter and optimizer, ${
    megabytes(bytes)
  } for the values of a step (largest single tensor ${megabytes(largest)})`;
}

/** Bytes as people read them. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
