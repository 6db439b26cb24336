/**
 * Least privilege: what the tasks are granted, and that a command which writes can write nowhere but where it should.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const REPOSITORY = fileURLToPath(new URL("..", import.meta.url));
const onWindows = Deno.build.os === "windows";
type Task = string | { command: string };
const tasks: Record<string, Task> = JSON.parse(Deno.readTextFileSync(join(REPOSITORY, "deno.json"))).tasks;
const HUB_HOSTS = ["huggingface.co", "*.huggingface.co", "*.hf.co", "hf-mirror.com", "*.hf-mirror.com"];
const commandOf = (name: string) => {
  const task = tasks[name]!;
  return typeof task === "string" ? task : task.command;
};

Deno.test("deno.json + its tasks: none is granted everything, and what runs strangers' files no program and no host but the Hub's", () => {
  for (const name of Object.keys(tasks)) {
    assert.doesNotMatch(commandOf(name), /(^|\s)(-A|--allow-all)\b/, name);
    // What may be named is named.
    assert.doesNotMatch(commandOf(name), /--allow-(env|run|net|sys|import)(?!=)/, name);
    // Every task is answered no where it would ask.
    if (/\bdeno (run|test)\b/.test(commandOf(name))) assert.match(commandOf(name), /--no-prompt/, name);
    // Dawn is native code, for those that compute on a GPU at length; what only reads files and writes them has no use for it.
    if (/--allow-ffi/.test(commandOf(name))) {
      assert.match(
        name,
        /^(run_bone|pretrain|generate|evaluate|serve|profile|bench.*)$/,
        `${name} loads native code`,
      );
    }
  }
  for (
    const name of [
      "run_bone",
      "merge_bone",
      "generate",
      "pretrain",
      "inspect",
      "evaluate",
      "export_adapter",
      "prepare",
    ]
  ) {
    assert.doesNotMatch(commandOf(name), /--allow-(run|sys(?!=systemMemoryInfo(\s|$))|import)\b/, name);
    assert.match(commandOf(name), /--allow-env=/, name);
    // What is fetched from the Hub before the work begins; then the network is given up.
    assert.deepEqual(commandOf(name).match(/--allow-net=(\S+)/)?.[1]?.split(","), HUB_HOSTS, name);
  }
  const served = commandOf("serve").match(/--allow-net=(\S+)/)![1]!.split(",");
  assert.deepEqual(served, ["127.0.0.1", "[::1]", "localhost", "0.0.0.0", "[::]", ...HUB_HOSTS]);
  for (const name of ["generate", "inspect", "evaluate", "serve", "fetch"]) {
    assert.match(commandOf(name), /--allow-write=models /);
  }
});

for (const engine of ["cpu", "webgpu"]) {
  Deno.test(`runCommand + a command on ${engine} that tries to reach elsewhere: refused in every way, and its exit code kept`, async () => {
    const folder = newPath("confined");
    for (const name of ["outside", "shards"]) Deno.mkdirSync(join(folder, name), { recursive: true });
    Deno.writeTextFileSync(join(folder, "outside", "file"), "as it was");
    for (const name of ["named", "shards/one.safetensors"]) Deno.writeTextFileSync(join(folder, name), "");
    Deno.writeTextFileSync(join(folder, "rwkv_vocab_v20230424.txt"), "");
    const { code, stdout, stderr } = await new Deno.Command("deno", {
      args: [
        "run",
        "--no-prompt",
        ...["read", "write", "run", "ffi", "env", "net", "sys"].map((name) => `--allow-${name}`),
        fileURLToPath(new URL("./confined_probe.ts", import.meta.url)),
        engine,
      ],
      cwd: folder,
      env: { INIT_CWD: folder },
    }).output();
    const text = new TextDecoder();
    assert.equal(code, 7, text.decode(stderr));
    const allowed = [
      ...["write inside", "rename inside", "read what was named", "read a shard"],
      ...["look for a vocabulary beside", "read this program"],
    ];
    for (const [what, outcome] of Object.entries(JSON.parse(text.decode(stdout)))) {
      assert.equal(outcome, allowed.includes(what) ? "done" : "NotCapable", what);
    }
    assert.equal(Deno.readTextFileSync(join(folder, "outside", "file")), "as it was");
    assert.deepEqual([...Deno.readDirSync(join(folder, "outside"))].map(({ name }) => name), ["file"]);
  });
}

for (const choice of ["cpu", "auto"]) {
  Deno.test(`giveUpNativeCode + ${choice}: nothing native can be loaded any more, and an engine is there all the same`, async () => {
    const { stdout, stderr } = await new Deno.Command("deno", {
      args: [
        ...["run", "--no-prompt", "--allow-read", "--allow-ffi"],
        ...[fileURLToPath(new URL("./native_probe.ts", import.meta.url)), choice],
      ],
    }).output();
    const text = new TextDecoder();
    const { state, loaded, engine } = JSON.parse(text.decode(stdout) || text.decode(stderr));
    assert.deepEqual([state, loaded], ["prompt", "NotCapable"]);
    assert.ok(engine === "cpu" || choice === "auto");
  });
}

Deno.test({
  name:
    "run_bone, as its task grants it, + run folders with links that lead out: one sentence, code 2, nothing outside touched",
  ignore: onWindows,
  async fn() {
    const folder = newPath("linked");
    Deno.mkdirSync(join(folder, "outside"), { recursive: true });
    writeTinyModel(join(folder, "model.safetensors"));
    writeDocuments(join(folder, "text.jsonl"), randomTexts(8, 30));
    const run = async (...args: string[]) => {
      const flags = [
        "--load_model",
        "model.safetensors",
        "--data_file",
        "text.jsonl",
        "--ctx_len",
        "16",
        "--micro_bsz",
        "2",
      ];
      const { code, stderr } = await new Deno.Command("deno", {
        args: [
          "task",
          "--quiet",
          "--config",
          join(REPOSITORY, "deno.json"),
          "run_bone",
          ...flags,
          "--engine",
          "cpu",
          ...args,
        ],
        env: { INIT_CWD: folder, NO_COLOR: "1" },
        cwd: folder,
        stdin: "null",
      }).output();
      return { code, stderr: new TextDecoder().decode(stderr) };
    };
    const small = ["--max_steps", "1", "--bone_config", '{"bone_r":2}', "--sample_prompt", ""];
    const first = await run("--proj_dir", "runs/mine", ...small);
    assert.equal(first.code, 0, first.stderr);
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
      "model.safetensors",
      "outside",
      "runs",
      "text.jsonl",
    ]);
    const checkpoints = join(folder, "runs/mine/checkpoints");
    Deno.removeSync(checkpoints, { recursive: true });
    Deno.symlinkSync("../../outside", checkpoints);
    for (const args of [["--resume", "runs/mine"], ["--proj_dir", "runs/mine", "--force", ...small]]) {
      const { code, stderr } = await run(...args);
      assert.equal(code, 2, stderr);
      assert.match(
        stderr,
        /^Cannot write to the run folder runs\/mine: runs\/mine\/checkpoints is a link that leads out of it, remove the link$/m,
      );
    }
    assert.deepEqual([...Deno.readDirSync(join(folder, "outside"))], []);
    // A folder that is reached through a link is where it leads.
    Deno.symlinkSync("outside", join(folder, "elsewhere"));
    const linked = await run("--proj_dir", "elsewhere/mine", ...small);
    assert.equal(linked.code, 0, linked.stderr);
    assert.deepEqual([...Deno.readDirSync(join(folder, "outside"))].map(({ name }) => name), ["mine"]);
  },
});

Deno.test("runCommand + a command that waits for a device for ever: ended in a sentence with what to try, and how to go on", async () => {
  const folder = newPath("hanging");
  Deno.mkdirSync(folder);
  const { code, stderr } = await new Deno.Command("deno", {
    args: [
      "run",
      "--no-prompt",
      "--allow-read",
      "--allow-write",
      fileURLToPath(new URL("./hanging_probe.ts", import.meta.url)),
    ],
    cwd: folder,
    env: { NO_COLOR: "1" },
  }).output();
  assert.equal(
    new TextDecoder().decode(stderr).trim(),
    "Step 3 is saved\nNothing was heard for 0 s while reading loss, after running first to second (dispatches 1 to 2 of 2): " +
      "the device's queue hangs; try --grad_cp 1, a smaller --micro_bsz or --ctx_len, or --engine cpu",
  );
  assert.equal(code, 1);
});
