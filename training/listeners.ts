/**
 * What a run tells while it goes on, and what it came to.
 *
 * @module
 */

/** What is known after a step. */
export interface StepReport {
  /** From 1. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Mean cross-entropy over the step's counted targets, in nats. */
  readonly loss: number;
  /** Of the step. */
  readonly learningRate: number;
  /** Before clipping. */
  readonly gradientNorm: number;
  /** Targets of the step. */
  readonly tokens: number;
  /** Targets a second, in this step. */
  readonly tokensPerSecond: number;
  /** Estimate of what is left. */
  readonly secondsLeft: number;
}

/** What a run says of itself on the way. */
export interface TrainListeners {
  /** Every step, in order. */
  onStep?: (report: StepReport) => void;
  /** Phases, findings and results, one sentence each. */
  onMessage?: (message: string) => void;
  /** Asked after every step: true saves and stops. */
  shouldStop?: () => boolean;
  /** Called where a run fails at work, before the error is thrown, if it can go on from the checkpoint of `step`. */
  onFailure?: (run: { readonly projDir: string; readonly step: number }) => void;
}

/** What a run came to. */
export interface TrainResult {
  /** The run folder. */
  readonly projDir: string;
  /** The adapter, or the model where every weight trained. */
  readonly output: string;
  /** Steps that it has taken. */
  readonly steps: number;
  /** Mean loss of the last step. */
  readonly loss: number;
  /** Mean loss on held-out text; undefined where none is held out. */
  readonly heldOut: { readonly before: number; readonly after: number } | undefined;
  /** Text from the prompt; undefined without a prompt. */
  readonly samples: { readonly before: string; readonly after: string } | undefined;
  /** Whether it ended because it was asked to stop. */
  readonly stopped: boolean;
}
