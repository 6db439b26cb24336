/**
 * The pages as a person sees them, against real runs of the bundled example, in headless Chromium where there is one.
 * WISHBONE_PICTURES names a folder for pictures of what was seen.
 *
 * @module
 */
import { deepStrictEqual, strictEqual } from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { train } from "../mod.ts";
import { type Serving, serving } from "./serving.ts";

const CHROMIUM = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(
  existsSync,
);
const ignore = CHROMIUM === undefined;

const folder = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "wishbone browser " }));
Deno.test.afterAll(() => Deno.removeSync(folder, { recursive: true }));
const runs = join(folder, "runs");

/** A run of the bundled example, small enough to take seconds. */
const small = {
  engine: "cpu",
  ctxLen: 32,
  microBsz: 2,
  samplePrompt: "The American people ",
  evalBatches: 1,
} as const;

/** A run that trains for as long as a journey watches it, in a process of its own. */
function trainAside(projDir: string): Deno.ChildProcess {
  const [command, ...flags] = ["run_bone", "--engine", "cpu", "--ctx_len", "64", "--micro_bsz", "2"];
  return new Deno.Command("deno", {
    args: [
      "task",
      "--quiet",
      "--config",
      fileURLToPath(new URL("../deno.json", import.meta.url)),
      command!,
      ...flags,
      "--sample_prompt",
      "",
      "--eval_batches",
      "1",
      "--proj_dir",
      projDir,
    ],
    env: { INIT_CWD: folder },
    stdin: "null",
    stdout: "null",
    stderr: "null",
  }).spawn();
}

/** Writes a run that ended without a word, and one with texts that would do harm if they were anything but text. */
function writeOddRuns(): void {
  const write = (name: string, lines: readonly object[], age: number) => {
    const run = join(runs, name);
    Deno.mkdirSync(run);
    Deno.writeTextFileSync(join(run, "config.json"), JSON.stringify({ version: 1, settings: {} }));
    Deno.writeTextFileSync(
      join(run, "metrics.jsonl"),
      lines.map((line) => JSON.stringify(line) + "\n").join("") + '{"step":',
    );
    const at = Date.now() / 1000 - age;
    for (const file of ["config.json", "metrics.jsonl"]) Deno.utimeSync(join(run, file), at, at);
  };
  const step = (step: number, loss: number | null) => ({
    step,
    steps: 9,
    loss,
    learningRate: 1e-3,
    gradientNorm: 1,
  });
  write("silent", [step(1, 2), step(2, null), step(3, 1.5)], 600);
  const hostile = '<script>alert(1)</script>"><img src=x onerror="window.hurt = 1">\u001b[31m\u202e';
  write("hostile", [{ step: 0, heldOutLoss: 2, samples: [hostile] }, step(1, 2)], 5);
}

async function goOn(journey: string, { url, errors }: Serving): Promise<void> {
  const pictures = Deno.env.get("WISHBONE_PICTURES");
  // Without the lock file, which is not to name the browser's driver: everybody would be sent it.
  const { code, stderr } = await new Deno.Command("deno", {
    args: [
      "run",
      "--no-lock",
      "-A",
      fileURLToPath(new URL("./browser_probe.ts", import.meta.url)),
      journey,
      url,
      CHROMIUM!,
      ...(pictures ? [pictures] : []),
    ],
    stdout: "null",
    stderr: "piped",
  }).output();
  strictEqual(code, 0, new TextDecoder().decode(stderr));
  deepStrictEqual(errors, []);
}

Deno.test({
  name: "pages in a browser: watching, comparing, talking, by keys alone, in every window and scheme",
  ignore,
  async fn(t) {
    Deno.mkdirSync(runs);
    await train({ ...small, projDir: join(runs, "done"), maxSteps: 6, evalSteps: 3, lrInit: 1e-3 });
    writeOddRuns();
    await using server = await serving({ runs });
    const live = trainAside(join(runs, "live"));
    await t.step("watch", () => goOn("watch", server));
    // Asked to stop, it saves and ends.
    live.kill("SIGINT");
    await live.status;
    await t.step("ended", () => goOn("ended", server));
    for (const journey of ["look", "compare", "talk", "keys"]) {
      await t.step(journey, () => goOn(journey, server));
    }
  },
});

Deno.test({
  name: "pages in a browser: a server without runs that asks for a key",
  ignore,
  async fn() {
    await using server = await serving({ apiKey: "test-key" });
    await goOn("empty", server);
  },
});
