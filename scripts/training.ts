/**
 * A training run on a terminal: messages and progress on stderr, results on stdout, Ctrl-C, and what to do next.
 *
 * @module
 */
import type { TrainListeners, TrainOptions, TrainResult } from "../mod.ts";
import { freeFolder } from "../training/free_folder.ts";
import { commandLine, type Work } from "./command.ts";
import type { Confinement } from "./confine.ts";
import { listenForInterrupt } from "./interrupt.ts";
import { printable, Progress } from "./progress.ts";

/** What is particular to a command. */
export interface Training {
  /** Its task, as `--resume` is called by. */
  readonly task: string;
  run(listeners: TrainListeners): Promise<TrainResult>;
  /** What to do with the result, as a line. */
  next(result: TrainResult): string;
}

/** Where a run writes: in its folder, which is chosen here where none was named; and what it reads. */
export async function confineRun(
  task: string,
  options: Pick<TrainOptions, "projDir" | "resume" | "engine" | "precision" | Named>,
  args: readonly string[],
  config: string | undefined,
): Promise<Confinement> {
  const { projDir, resume } = options;
  const { folder, settings: previous } = resume === undefined
    ? { folder: projDir ?? freeFolder(), settings: {} }
    : await runOf(resume);
  const named = resume ?? projDir;
  return {
    args: named === undefined ? [...args, "--proj_dir", folder] : args,
    folders: [folder],
    reads: [config, resume, ...pathsIn(options), ...pathsIn(previous)],
    engine: {
      choice: options.engine ?? previous.engine ?? "auto",
      precision: options.precision ?? previous.precision,
    },
    goOn: async () => {
      const { listCheckpoints } = await import("../training/checkpoint.ts");
      const [newest] = listCheckpoints(folder);
      return newest && savedLine(task, folder, newest.step);
    },
  };
}

/** Options that name files. */
type Named = "loadModel" | "dataFile" | "evalFile" | "vocab" | "boneConfig" | "loraConfig" | "pissaConfig";

function pathsIn(options: Pick<TrainOptions, Named>): (string | undefined)[] {
  const { loadModel, dataFile, evalFile, vocab, boneConfig, loraConfig, pissaConfig } = options;
  const adapters = [
    ...[boneConfig?.bone_load, loraConfig?.lora_load],
    ...[pissaConfig?.pissa_load, pissaConfig?.pissa_init],
  ];
  return [loadModel, dataFile, evalFile, vocab, ...adapters];
}

/** A run that is gone on with; without settings where its folder cannot be used, which the command is about to say. */
async function runOf(resume: string): Promise<{ folder: string; settings: TrainOptions }> {
  const { resumePoint } = await import("../training/checkpoint.ts");
  const { readRun } = await import("../training/run_folder.ts");
  const { run: folder } = resumePoint(resume);
  try {
    return { folder, settings: readRun(folder).settings };
  } catch {
    return { folder, settings: {} };
  }
}

/** Says how a run that failed goes on. */
function savedLine(task: string, projDir: string, step: number): string {
  return `Step ${step} is saved; to go on: ${commandLine(task, ["--resume", projDir])}`;
}

/** Runs a training. @returns the exit code: 130 where it was stopped */
export async function trainOnTerminal({ task, run, next }: Training, work: Work): Promise<number> {
  const interrupt = listenForInterrupt();
  const progress = new Progress();
  const result = await run({
    onMessage: (text) => progress.message(text),
    onPhase: (phase) => progress.phase(phase),
    onProgress: (part, done, all) => progress.part(part, done, all),
    onStep: (report) => {
      work.begun = true;
      progress.step(report);
    },
    shouldStop: () => interrupt.requested,
    onFailure: ({ projDir, step }) => {
      progress.message(savedLine(task, projDir, step));
    },
  });
  progress.finish();
  const { heldOut, samples, output, projDir, steps, stopped } = result;
  if (heldOut) {
    console.log(`Held-out loss: ${heldOut.before.toFixed(4)} before, ${heldOut.after.toFixed(4)} after`);
  }
  if (samples) {
    console.log(`Before:${indented(samples.before)}`);
    console.log(`After:${indented(samples.after)}`);
  }
  console.log(`Written to ${output}`);
  console.log(next(result));
  if (!stopped) return 0;
  console.error(`Stopped at step ${steps}; to go on: ${commandLine(task, ["--resume", projDir])}`);
  return 130;
}

/** A text's lines one below the other, set off from what is around them. */
function indented(text: string): string {
  return printable(text).split("\n").map((line) => `\n    ${line}`).join("");
}
