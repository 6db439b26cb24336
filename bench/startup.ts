/**
 * Seconds from starting the command to its first training step done, on the bundled example: alone, and with the held-out loss
 * and the sample that a run measures before it trains.
 *
 *     deno task bench:startup
 *
 * @module
 */
import { fileURLToPath } from "node:url";

/** Runs of each kind, of which the median is printed. */
const RUNS = 3;

/** Seconds until the command says that its first step is done. */
async function secondsToFirstStep(flags: readonly string[]): Promise<number> {
  const folder = await Deno.makeTempDir({ prefix: "wishbone-startup-" });
  const script = fileURLToPath(new URL("../scripts/run_bone.ts", import.meta.url));
  const permissions = ["--no-prompt", "--allow-read", "--allow-write", "--allow-env=INIT_CWD"];
  const started = performance.now();
  const child = new Deno.Command("deno", {
    args: ["run", ...permissions, script, "--max_steps", "1", "--proj_dir", `${folder}/run`, ...flags],
    stdout: "null",
    stderr: "piped",
  }).spawn();
  let seconds = NaN, text = "";
  for await (const piece of child.stderr.pipeThrough(new TextDecoderStream())) {
    text += piece;
    if (Number.isNaN(seconds) && /step 1\/1/.test(text)) seconds = (performance.now() - started) / 1000;
  }
  await child.status;
  await Deno.remove(folder, { recursive: true });
  return seconds;
}

for (
  const [what, flags] of [
    ["to the first step alone", ["--held_out", "0", "--sample_prompt", ""]],
    ["with held-out loss and sample before it", []],
  ] as const
) {
  const times: number[] = [];
  for (let i = 0; i < RUNS; i++) times.push(await secondsToFirstStep(flags));
  console.log(`${what.padEnd(42)} ${times.sort((a, b) => a - b)[RUNS >> 1]!.toFixed(2)} s`);
}
