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
  /** The losses so far, later ones weighing more: the mean of the first twenty, then an exponential mean. */
  readonly smoothedLoss: number;
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
  /** Bytes that the engine holds. */
  readonly memoryBytes: number;
}

/** What a run is doing. */
export type Phase =
  | "reading the text"
  | "loading the model"
  | "decomposing the weights"
  | "preparing the programs"
  | "measuring"
  | "writing samples"
  | "training"
  | "saving";

/** What a run says of itself on the way. */
export interface TrainListeners {
  /** Every step, in order. */
  onStep?: (report: StepReport) => void;
  /** Each phase as it begins. */
  onPhase?: (phase: Phase) => void;
  /** How far a phase of many parts is: before each, its name, how many were done and how many there are. */
  onProgress?: (part: string, done: number, all: number) => void;
  /** Findings and results, one sentence each. */
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
  /** Mean loss on held-out text; undefined where none is held out, or it was asked to stop and so not measured again. */
  readonly heldOut: { readonly before: number; readonly after: number } | undefined;
  /** The lowest held-out loss since training began, and its step: its result is in `best/`. */
  readonly best: { readonly step: number; readonly heldOutLoss: number } | undefined;
  /** Text from the prompt, one below the other where there are several; undefined as heldOut is, or without a prompt. */
  readonly samples: { readonly before: string; readonly after: string } | undefined;
  /** Whether it ended because it was asked to stop by its listener. */
  readonly stopped: boolean;
  /** Whether it ended because held-out text was no longer learnt better. */
  readonly stoppedEarly: boolean;
}
