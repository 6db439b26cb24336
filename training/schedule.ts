/**
 * The learning rate at a step.
 *
 * @module
 */

/** Shapes of the way from the first to the last learning rate. */
export type Schedule = "constant" | "cos" | "exp";

/** Settings of a schedule. */
export interface ScheduleSettings {
  readonly lrSchedule: Schedule;
  readonly lrInit: number;
  readonly lrFinal: number;
  /** Steps over which the rate first rises from a hundredth to the whole. */
  readonly warmupSteps: number;
}

/**
 * Learning rate of step `step` (from 0) of `steps`.
 *
 * Progress p runs from 0 after the warm-up to 1 at the last step: cos is `f + (i − f) (1 + cos πp) / 2`, exp is `i (f / i)^p`.
 */
export function learningRate(settings: ScheduleSettings, step: number, steps: number): number {
  const { lrSchedule, lrInit, lrFinal, warmupSteps } = settings;
  const p = Math.min(1, Math.max(0, (step - warmupSteps + 1) / Math.max(1, steps - warmupSteps)));
  const rate = lrSchedule === "constant"
    ? lrInit
    : lrSchedule === "exp"
    ? lrInit * (lrFinal / lrInit) ** p
    : lrFinal + (lrInit - lrFinal) * (1 + Math.cos(Math.PI * p)) / 2;
  return step < warmupSteps ? rate * (0.01 + 0.99 * step / warmupSteps) : rate;
}
