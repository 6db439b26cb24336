/**
 * What can happen to a run folder while a run is at work in it, or before: a second run, an owner that died, links that lead
 * out, a folder that is no run, a folder that is taken away. And what a damaged checkpoint leads to.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { listCheckpoints } from "../training/checkpoint.ts";
import type { TrainOptions } from "../training/options.ts";
import { LOCK_FILE, RunLock } from "../training/run_lock.ts";
import type { TrainListeners } from "../training/listeners.ts";
import { train } from "../training/trainer.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const BASE: TrainOptions = {
  loadModel: writeTinyModel(newPath("model.safetensors")),
  dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
  ctxLen: 16,
  microBsz: 4,
  epochCount: 1,
  boneConfig: { bone_r: 3 },
  heldOut: 0,
  samplePrompt: "",
  engine: "cpu",
  saveSteps: 1,
  keep: 9,
};

function run(options: TrainOptions = {}, listeners: TrainListeners = {}) {
  return train({ projDir: newPath("run"), ...BASE, ...options }, listeners);
}

/** Everything below a folder, links not followed: paths with their bytes. */
function contentOf(folder: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const { name, isDirectory, isSymlink } of Deno.readDirSync(folder)) {
    const path = join(folder, name);
    if (isDirectory) { for (const [below, bytes] of contentOf(path)) found.set(`${name}/${below}`, bytes); }
    else found.set(name, isSymlink ? Deno.readLinkSync(path) : Deno.readFileSync(path).toHex());
  }
  return found;
}

Deno.test("train + a folder in which a run is at work: refused in one sentence, and the first goes on undisturbed", async () => {
  const refused: string[] = [];
  const projDir = newPath("shared");
  let waiting: Promise<void> | undefined;
  const first = await run({ projDir }, {
    onStep: () => {
      const second = (options: TrainOptions) =>
        train(options).then(() => {}, (error: Error) => void refused.push(`${error.name}: ${error.message}`));
      waiting ??= Promise.all([second({ resume: projDir }), second({ ...BASE, projDir, force: true })]).then(
        () => {},
      );
    },
  });
  await waiting;
  assert.equal(refused.length, 2);
  for (const message of refused) {
    assert.match(
      message,
      /^OptionError: The run folder .*shared is in use by process \d+ since \S+: wait for that run to end, or choose another with --proj_dir$/,
    );
  }
  assert.deepEqual(listCheckpoints(projDir).map(({ step }) => step)[0], first.steps);
  assert.ok(!existsSync(join(projDir, LOCK_FILE)));
});

for (
  const [what, isAtWork, force, says] of [
    ["ended", false, false, /exists: name another with --proj_dir, or replace it with --force$/],
    ["at work", true, false, /is in use by process \d+ since \S+: wait for that run to end, /],
    ["at work, and --force", true, true, /is in use by process \d+ since \S+: wait for that run to end, /],
  ] as const
) {
  Deno.test(`train + a folder that another run made after this one looked for it, ${what}: refused, and nothing of the other is touched`, async () => {
    const { projDir } = await run({ maxSteps: 1 }),
      before = contentOf(projDir),
      contested = newPath("contested");
    using held = new DisposableStack();
    const appear = (phase: string) => {
      if (phase !== "preparing the programs") return;
      Deno.renameSync(projDir, contested);
      if (isAtWork) held.use(RunLock.take(contested));
    };
    await assert.rejects(run({ projDir: contested, force }, { onPhase: appear }), {
      name: "OptionError",
      message: says,
    });
    held.dispose();
    assert.deepEqual(contentOf(contested), before);
  });
}

Deno.test("RunLock + an owner that was killed: its lock is taken over; one that lives: it is not", async () => {
  const folder = newPath("held");
  Deno.mkdirSync(folder);
  const script = newPath("hold.ts");
  const module = new URL("../training/run_lock.ts", import.meta.url).href;
  Deno.writeTextFileSync(
    script,
    `import { RunLock } from ${JSON.stringify(module)};
     RunLock.take(${JSON.stringify(folder)});
     console.log("held");
     setInterval(() => {}, 1000);`,
  );
  const owner = new Deno.Command("deno", {
    args: ["run", "--no-prompt", "--allow-read", "--allow-write", script],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const reader = owner.stdout.getReader();
  assert.match(new TextDecoder().decode((await reader.read()).value), /held/);
  assert.throws(() => RunLock.take(folder), new RegExp(`in use by process ${owner.pid} `));
  owner.kill("SIGKILL");
  await owner.status;
  await reader.cancel();
  assert.ok(existsSync(join(folder, LOCK_FILE)), "a killed owner removes nothing");
  {
    using _lock = RunLock.take(folder);
    assert.throws(() => RunLock.take(folder), new RegExp(`in use by process ${Deno.pid} `));
  }
  assert.ok(!existsSync(join(folder, LOCK_FILE)));
});

Deno.test({
  name:
    "train + links in the run folder that lead out of it: refused by name, and nothing outside is touched",
  ignore: Deno.build.os === "windows",
  async fn() {
    const outside = newPath("outside");
    Deno.mkdirSync(outside);
    Deno.writeTextFileSync(join(outside, "step-00000001.safetensors"), "not ours");
    Deno.writeTextFileSync(join(outside, "file"), "not ours");
    const before = contentOf(outside);
    const links: [string, string][] = [
      ["checkpoints", outside],
      ["metrics.jsonl", join(outside, "file")],
      ["adapter.pth", join(outside, "file")],
      ["config.json", join(outside, "file")],
      ["more", outside],
      [LOCK_FILE, join(outside, "file")],
      ["nowhere", join(outside, "nothing")],
    ];
    for (const [name, target] of links) {
      const { projDir } = await run({ maxSteps: 2 });
      const link = join(projDir, name);
      if (name === "config.json") Deno.copyFileSync(link, join(outside, "file"));
      const expected = name === "config.json" ? contentOf(outside) : before;
      if (existsSync(link)) Deno.removeSync(link, { recursive: true });
      Deno.symlinkSync(target, link);
      for (const options of [{ resume: projDir, maxSteps: 3 }, { ...BASE, projDir, force: true }]) {
        // A lock's link is not followed but replaced: it is no reason to refuse.
        if (name === LOCK_FILE) await train(options);
        else {
          await assert.rejects(train(options), (error: Error) => {
            assert.equal(
              error.message,
              `Cannot write to the run folder ${projDir}: ${link} is a link that leads out of it, remove the link`,
            );
            return error.name === "OptionError";
          });
        }
        assert.deepEqual(contentOf(outside), expected, name);
      }
      if (name === "config.json") Deno.writeTextFileSync(join(outside, "file"), "not ours");
    }
  },
});

Deno.test({
  name: "train + a run folder that is itself a link, and links within it: as the person named it",
  ignore: Deno.build.os === "windows",
  async fn() {
    const { projDir } = await run({ maxSteps: 1 });
    Deno.symlinkSync("checkpoints", join(projDir, "saved"));
    const link = newPath("link");
    Deno.symlinkSync(projDir, link);
    assert.equal((await train({ resume: link, maxSteps: 2 })).steps, 2);
    assert.equal(listCheckpoints(projDir)[0]!.step, 2);
  },
});

Deno.test({
  name: "train + files of the run that have another name outside: those are left as they are",
  ignore: Deno.build.os === "windows",
  async fn() {
    const { projDir, output } = await run({ maxSteps: 1 });
    const names = [
      join(projDir, "metrics.jsonl"),
      join(projDir, "config.json"),
      join(projDir, "log.txt"),
      output,
      join(projDir, LOCK_FILE),
    ];
    Deno.writeTextFileSync(names.at(-1)!, "somebody's");
    const others = names.map((name) => {
      const other = newPath("other");
      Deno.linkSync(name, other);
      return other;
    });
    const before = others.map((path) => Deno.readFileSync(path));
    await train({ resume: projDir, maxSteps: 2 });
    assert.deepEqual(others.map((path) => Deno.readFileSync(path)), before);
    assert.notDeepEqual(Deno.readFileSync(names[0]!), before[0]);
  },
});

Deno.test("train + force on a folder that is no run: refused, and nothing in it is touched", async () => {
  const folder = newPath("thesis");
  Deno.mkdirSync(folder);
  Deno.writeTextFileSync(join(folder, "chapter-1.txt"), "years of work");
  await assert.rejects(run({ projDir: folder, force: true }), {
    name: "OptionError",
    message:
      /^The folder .*thesis is not replaced, as it has no config\.json and so is not a run folder: name another with --proj_dir$/,
  });
  assert.deepEqual([...contentOf(folder).keys()], ["chapter-1.txt"]);
  Deno.removeSync(join(folder, "chapter-1.txt"));
  await run({ projDir: folder, force: true, maxSteps: 1 });
});

Deno.test({
  name: "train + the run folder taken away at work: one sentence, and no folder that is not whole",
  ignore: Deno.build.os === "windows",
  async fn() {
    const projDir = newPath("taken");
    await assert.rejects(
      run({ projDir }, {
        onStep: ({ step }) => step === 2 && Deno.renameSync(projDir, `${projDir}-elsewhere`),
      }),
      {
        name: "Error",
        message: `The run folder ${projDir} was taken away while the run was at work: start it again`,
      },
    );
    assert.ok(!existsSync(projDir));
    // What was saved until then is whole.
    const { steps } = await train({ resume: `${projDir}-elsewhere`, maxSteps: 2 });
    assert.equal(steps, 2);
  },
});

Deno.test({
  name: "train + what others put into the run folder at work: the run goes on as if it were not there",
  ignore: Deno.build.os === "windows",
  async fn() {
    const whole = await run({ maxSteps: 4 }), projDir = newPath("shared-by-others");
    const { output } = await run({ projDir, maxSteps: 4 }, {
      onStep: ({ step }) => {
        if (step !== 2) return;
        const foreign = [
          "not ours",
          "null",
          "5",
          '{"step":"3"}',
          '{"step":3,"loss":"low"}',
          '{"step":3,"samples":[1]}',
        ];
        Deno.writeTextFileSync(join(projDir, "metrics.jsonl"), foreign.join("\n") + "\n", { append: true });
        Deno.symlinkSync("save", join(projDir, "save"));
        Deno.removeSync(join(projDir, "checkpoints"), { recursive: true });
      },
    });
    assert.deepEqual(Deno.readFileSync(output), Deno.readFileSync(whole.output));
    Deno.removeSync(join(projDir, "save"));
    assert.equal((await train({ resume: projDir, maxSteps: 5 })).steps, 5);
    const lines = Deno.readTextFileSync(join(projDir, "metrics.jsonl")).trimEnd().split("\n").map((line) =>
      JSON.parse(line)
    );
    assert.deepEqual(lines.filter((line) => "loss" in line).map(({ step }) => step), [1, 2, 3, 4, 5]);
  },
});

Deno.test("train + a text that is changed while the run is made ready: refused, so that no run goes on with another", async () => {
  const texts = randomTexts(12, 30), [dataFile, evalFile] = [newPath("text.jsonl"), newPath("eval.jsonl")];
  for (const changed of [dataFile, evalFile]) {
    for (const path of [dataFile, evalFile]) writeDocuments(path, texts);
    const projDir = newPath("run");
    const change = (phase: string) => {
      if (phase === "loading the model") writeDocuments(changed, texts.slice(1));
    };
    await assert.rejects(run({ projDir, dataFile, evalFile }, { onPhase: change }), {
      name: "OptionError",
      message: `The text ${changed} was changed while the run was made ready: start it again`,
    });
    assert.ok(!existsSync(projDir));
  }
});

Deno.test("train + a failure at work: says from which step the run can go on", async () => {
  const told: unknown[] = [];
  const projDir = newPath("failing");
  await assert.rejects(
    run({ projDir }, {
      onStep: ({ step }) => {
        if (step === 3) throw new Error("a fault of the test");
      },
      onFailure: (failure) => told.push(failure),
    }),
    /a fault of the test/,
  );
  assert.deepEqual(told, [{ projDir, step: 2 }]);
  assert.ok(!existsSync(join(projDir, LOCK_FILE)));
});

Deno.test("train + what cut-off saves have left: removed when the run goes on, and nothing else", async () => {
  const { projDir } = await run({ maxSteps: 1 });
  const folder = join(projDir, "checkpoints");
  const leftovers = [
    join(folder, ".step-00000002.safetensors.77-abcdef01.tmp"),
    join(projDir, ".adapter.pth.9-00000000.tmp"),
  ];
  Deno.mkdirSync(join(projDir, "last"), { recursive: true });
  leftovers.push(join(projDir, "last", ".adapter.pth.9-00000001.tmp"));
  const others = [join(folder, "notes.tmp"), join(projDir, ".hidden")];
  for (const path of [...leftovers, ...others]) Deno.writeTextFileSync(path, "half");
  await train({ resume: projDir, maxSteps: 2 });
  assert.deepEqual(leftovers.map((path) => existsSync(path)), [false, false, false]);
  assert.deepEqual(others.map((path) => existsSync(path)), [true, true]);
});

Deno.test("train + a damaged checkpoint: named, the newest whole one before it offered, which serves bit for bit", async () => {
  const whole = await run(), { projDir } = await run();
  const [last, before, earlier] = listCheckpoints(projDir).map(({ path }) => path) as [
    string,
    string,
    string,
  ];
  for (const path of [last, before]) {
    const bytes = Deno.readFileSync(path);
    Deno.writeFileSync(path, bytes.with(bytes.length - 3, bytes.at(-3)! ^ 4));
  }
  const step = Number(basename(earlier).slice(5, 13));
  await assert.rejects(train({ resume: projDir }), (error: Error) => {
    assert.match(
      error.message,
      /^Cannot resume from .*: tensor ".*" does not match its checksum; to go on from step \d+, which is whole, resume .*$/,
    );
    assert.ok(error.message.startsWith(`Cannot resume from ${last}: `));
    assert.ok(
      error.message.endsWith(`; to go on from step ${step}, which is whole, resume ${earlier}`),
      error.message,
    );
    return error.name === "CheckpointError";
  });
  const said: string[] = [];
  const resumed = await train({ resume: earlier }, { onMessage: (message) => said.push(message) });
  assert.ok(said.includes(`Resumed at step ${step} from ${earlier}`), said.join("\n"));
  assert.equal(resumed.projDir, projDir);
  assert.deepEqual(Deno.readFileSync(resumed.output), Deno.readFileSync(whole.output));
  assert.deepEqual(Deno.readFileSync(last), Deno.readFileSync(listCheckpoints(whole.projDir)[0]!.path));
  // What was there under those names is kept beside them, also when they are taken away again.
  assert.ok(existsSync(`${last}.aside`) && existsSync(`${before}.aside`));
  const damaged = Deno.readFileSync(`${last}.aside`);
  await train({ resume: earlier });
  assert.deepEqual(Deno.readFileSync(`${last}.aside`), damaged);
  assert.deepEqual(Deno.readFileSync(`${last}.aside-2`), Deno.readFileSync(last));

  for (const { path } of listCheckpoints(projDir)) Deno.writeTextFileSync(path, "");
  await assert.rejects(
    train({ resume: projDir }),
    /; there is none before it that is whole, so start a new run$/,
  );
});

Deno.test("train + a checkpoint under the name of another step, or of another run: refused", async () => {
  const { projDir } = await run(), other = await run({ boneConfig: { bone_r: 4 } });
  const [last, before] = listCheckpoints(projDir).map(({ path }) => path) as [string, string];
  Deno.copyFileSync(before, last);
  await assert.rejects(
    train({ resume: projDir }),
    /: it holds step \d+, not that of its name; to go on from/,
  );
  Deno.copyFileSync(listCheckpoints(other.projDir)[0]!.path, last);
  await assert.rejects(
    train({ resume: projDir }),
    /: tensor ".*" is F32 \[4,16\] where the run has F32 \[3,16\]; to go on from/,
  );
  assert.equal(dirname(dirname(last)), projDir);
});
