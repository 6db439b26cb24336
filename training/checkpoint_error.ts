/**
 * The error of checkpoints.
 *
 * @module
 */

/** A checkpoint that cannot be used: which and why. */
export class CheckpointError extends Error {
  override readonly name = "CheckpointError";
}
