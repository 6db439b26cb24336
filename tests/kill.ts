/**
 * Kills a training at random moments and lets it go on: what is left each time, and whether it comes to the bits of a run that
 * was left alone.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { draws } from "./fuzz/mutate.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const SCRIPT = fileURLToPath(new URL("../scripts/run_bone.ts", import.meta.url));
const STEPS = 24;

/** What kills came to. */
export interface Kills {
  /** Trainings that were killed. */
  killed: number;
  /** Of these, killed while a file was being written. */
  writing: number;
  /** Killed before the first checkpoint, or when all was done: nothing to go on from, or nothing left to do. */
  early: number;
  /** Went on to the end. */
  resumed: number;
  /** Came to the same bits: result, last checkpoint, metrics. */
  same: number;
  /** Steps that had a checkpoint and were gone. */
  lost: number;
}

/** Kills `count` trainings. @param report called after each */
export async function killTrainings(
  count: number,
  seed: number,
  report: (kills: Kills) => void = () => {},
): Promise<Kills> {
  const model = writeTinyModel(newPath("model.safetensors"));
  const text = writeDocuments(newPath("text.jsonl"), randomTexts(12, 30));
  const start = (projDir: string) =>
    command(
      [
        "--load_model",
        model,
        "--data_file",
        text,
        "--proj_dir",
        projDir,
        "--ctx_len",
        "16",
        "--micro_bsz",
        "2",
      ].concat(
        [
          "--bone_config",
          '{"bone_r":4}',
          "--max_steps",
          `${STEPS}`,
          "--epoch_count",
          "99",
          "--save_steps",
          "1",
          "--keep",
          "2",
        ],
        ["--held_out", "0", "--sample_prompt", "", "--engine", "cpu"],
      ),
    );
  const whole = newPath("whole");
  const child = start(whole).spawn();
  await hasBegun(child, whole);
  const made = performance.now();
  const { code } = await child.status;
  if (code !== 0) throw new Error("The training that is left alone failed");
  const wanted = await traces(whole), duration = performance.now() - made;

  const draw = draws(seed);
  let spread = 1;
  const kills: Kills = { killed: 0, writing: 0, early: 0, resumed: 0, same: 0, lost: 0 };
  while (kills.killed < count) {
    const projDir = newPath("killed");
    const child = start(projDir).spawn();
    await hasBegun(child, projDir);
    await pause(draw(1000) / 1000 * duration * spread);
    try {
      child.kill("SIGKILL");
    } catch (error) {
      // It was done already.
      if (!(error instanceof TypeError)) throw error;
    }
    if ((await child.status).signal !== "SIGKILL") {
      // Runs are not all as long as the first: this one was done.
      spread *= 0.95;
      Deno.removeSync(projDir, { recursive: true });
      continue;
    }
    kills.killed++;
    if (isWriting(projDir)) kills.writing++;
    const before = newestStep(projDir);
    if (before === 0 || before === STEPS) kills.early++;
    const { code, stderr } = await command(["--resume", projDir], "piped").output();
    if (code !== 0) throw new Error(`The training did not go on: ${new TextDecoder().decode(stderr)}`);
    kills.resumed++;
    const from = Number(/Resumed at step (\d+)/.exec(new TextDecoder().decode(stderr))?.[1] ?? 0);
    if (from < before) kills.lost += before - from;
    if (await traces(projDir) === wanted) kills.same++;
    Deno.removeSync(projDir, { recursive: true });
    report(kills);
  }
  return kills;
}

/** Waits until a training has made its folder ready. @throws Error where it ends before that */
async function hasBegun(child: Deno.ChildProcess, projDir: string): Promise<void> {
  let ended = false;
  child.status.then(() => ended = true);
  while (!existsSync(join(projDir, "config.json"))) {
    if (ended) throw new Error("The training ended before it began");
    await pause(1);
  }
}

function command(args: readonly string[], stderr: "piped" | "null" = "null"): Deno.Command {
  return new Deno.Command("deno", {
    args: ["run", "--quiet", "--no-prompt", "--allow-read", "--allow-write", SCRIPT, ...args],
    stdin: "null",
    stdout: "null",
    stderr,
  });
}

/** What a run leaves that does not depend on the clock, as one text. */
async function traces(projDir: string): Promise<string> {
  const metrics = Deno.readTextFileSync(join(projDir, "metrics.jsonl")).trimEnd().split("\n").map((line) => {
    const { time: _, tokensPerSecond: _s, secondsLeft: _l, ...rest } = JSON.parse(line);
    return rest;
  }).filter(({ loss }) => loss !== undefined);
  const hashes = await Promise.all(
    [join(projDir, "adapter.pth"), checkpoint(projDir, STEPS)].map(async (path) =>
      new Uint8Array(await crypto.subtle.digest("SHA-256", Deno.readFileSync(path))).toHex()
    ),
  );
  return JSON.stringify({ metrics, hashes });
}

function checkpoint(projDir: string, step: number): string {
  return join(projDir, "checkpoints", `step-${`${step}`.padStart(8, "0")}.safetensors`);
}

/** Step of the newest checkpoint; 0 where there is none. */
function newestStep(projDir: string): number {
  const folder = join(projDir, "checkpoints");
  if (!existsSync(folder)) return 0;
  return [...Deno.readDirSync(folder)].reduce(
    (newest, { name }) => Math.max(newest, Number(/^step-(\d+)\.safetensors$/.exec(name)?.[1] ?? 0)),
    0,
  );
}

/** Whether a file lies there that has not got its name yet. */
function isWriting(projDir: string): boolean {
  return [projDir, join(projDir, "checkpoints")].some((folder) =>
    existsSync(folder) && [...Deno.readDirSync(folder)].some(({ name }) => name.endsWith(".tmp"))
  );
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
