/**
 * `--dry_run`: what a run would be, on stdout, as settings that `--config` reads and a table of memory and time.
 *
 * @module
 */
import { stringify } from "yaml";
import type { TrainingPlan, TrainListeners } from "../mod.ts";
import { flag } from "../training/option_error.ts";
import type { Flags } from "./flags.ts";
import { duration, Progress } from "./progress.ts";

/**
 * Says what a run would be.
 * @param flags those of the command, which its settings are printed as
 * @returns 0; 2 where it would not fit
 */
export async function dryRunOnTerminal(
  flags: Flags,
  make: (listeners: TrainListeners) => Promise<TrainingPlan>,
): Promise<number> {
  const progress = new Progress();
  const plan = await make({ onMessage: (text) => progress.message(text) });
  console.log(describe(plan, flags));
  return plan.advice === undefined ? 0 : 2;
}

/** A plan as text. */
export function describe(
  { settings, memory, steps, secondsPerStep, tokensPerStep, advice }: TrainingPlan,
  flags: Flags,
): string {
  const named = Object.entries(settings).filter(([option, value]) => value !== undefined && option in flags)
    .map(
      ([option, value]) => [flag(option).slice(2), value],
    );
  const { rows, bytes, needed, room, largest } = memory;
  const table: [string, number, string][] = [
    ...rows.map(({ what, bytes }): [string, number, string] => [what, bytes, ""]),
    ["all together", bytes, ""],
    [
      "still to be had",
      needed,
      Number.isFinite(room) ? `of ${megabytes(room)} that are left` : "the device does not say what is left",
    ],
    [
      largest.limit === undefined ? "largest tensor" : "largest binding",
      largest.bytes,
      `${largest.limit === undefined ? "" : `of ${megabytes(largest.limit)}, `}${largest.what}`,
    ],
  ];
  const width = Math.max(...table.map(([what]) => what.length));
  const lines = table.map(([what, bytes, note]) =>
    `  ${what.padEnd(width)}  ${megabytes(bytes).padStart(12)}  ${note}`.trimEnd()
  );
  const time = secondsPerStep === undefined ? [] : [
    `Time: ${secondsPerStep.toPrecision(3)} s a step, ${
      Math.round(tokensPerStep / secondsPerStep)
    } tokens/s; ` +
    `${steps} steps take ${duration(secondsPerStep * steps)}, besides measuring, samples and checkpoints`,
  ];
  return [
    "# Settings in effect; as a file, --config reads them.",
    stringify(Object.fromEntries(named)),
    "Memory:",
    ...lines,
    ...time,
    advice === undefined ? "It fits. Nothing was written." : `It does not fit: ${advice}`,
  ].join("\n");
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
