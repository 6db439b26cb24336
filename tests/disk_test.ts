/**
 * Disks that fill up or cannot be written, and files that are taken away while a run is at work.
 *
 * The disks are small ones in memory, in a namespace of their own, where the system lets one be made.
 *
 * @module
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { writeFileAtomic } from "../formats/atomic.ts";
import { prepareFile } from "../formats/pending.ts";
import { openTensorFile } from "../formats/tensor_file.ts";
import { train } from "../training/trainer.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const SCRIPT = fileURLToPath(new URL("../scripts/run_bone.ts", import.meta.url));
const MERGE = fileURLToPath(new URL("../scripts/merge_bone.ts", import.meta.url));
const model = writeTinyModel(newPath("model.safetensors"));
const text = writeDocuments(newPath("text.jsonl"), randomTexts(12, 30));

/** Runs a shell script in a namespace where `disk` is a small disk of its own. */
async function onDisk(script: string, disk: string): Promise<string> {
  Deno.mkdirSync(disk, { recursive: true });
  const { stdout, stderr } = await new Deno.Command("unshare", {
    args: ["-rm", "sh", "-c", `mount -t tmpfs -o size=1m tmpfs "$DISK" || exit 1\n${script}`],
    env: { DISK: disk, DENO: Deno.execPath(), MODEL: model, TEXT: text, RUN: SCRIPT, MERGE, NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
}

const withoutDisks = Deno.build.os !== "linux" ||
  !await onDisk("echo made", newPath("disk")).then((said) => said.includes("made"), () => false);

const TRAIN = `"$DENO" run --quiet --no-prompt --allow-read --allow-write "$RUN"`;
const SETTINGS =
  `--load_model "$MODEL" --data_file "$TEXT" --ctx_len 16 --micro_bsz 2 --bone_config '{"bone_r":4}' ` +
  `--epoch_count 99 --save_steps 1 --keep 999 --held_out 0 --sample_prompt '' --engine cpu`;

Deno.test({
  name:
    "run_bone + a disk that fills up: one sentence, code 1, every checkpoint whole, and a run that goes on to the same bits",
  ignore: withoutDisks,
  async fn() {
    const disk = newPath("disk"), kept = newPath("kept");
    Deno.mkdirSync(kept);
    const said = await onDisk(
      `head -c 700000 /dev/zero >"$DISK/ballast"
       ${TRAIN} ${SETTINGS} --max_steps 60 --proj_dir "$DISK/run" 2>"$DISK/../said" >"$DISK/../results"
       echo "code $?"; cp -r "$DISK/run" ${kept}/full; cat "$DISK/../said"
       rm "$DISK/ballast" "$DISK"/run/checkpoints/step-00000001.safetensors
       ${TRAIN} --resume "$DISK/run" --max_steps 8 2>&1; echo "then $?"
       cp -r "$DISK/run" ${kept}/done`,
      disk,
    );
    assert.match(said, /^code 1$/m, said);
    assert.match(
      said,
      /(was not saved: )?Cannot write ".*": the disk is full, free some space or choose another folder$/m,
      said,
    );
    const [, step] = said.match(/^Step (\d+) is saved; to go on: .*--resume .*run$/m)!;
    const checkpoints = [...Deno.readDirSync(join(kept, "full/checkpoints"))].map(({ name }) => name).sort();
    assert.deepEqual(
      checkpoints,
      Array.from({ length: Number(step) }, (_, i) => `step-${`${i + 1}`.padStart(8, "0")}.safetensors`),
    );
    for (const name of checkpoints) openTensorFile(join(kept, "full/checkpoints", name)).close();
    assert.ok(
      Deno.readTextFileSync(join(kept, "full/metrics.jsonl")).endsWith("\n"),
      "a line is half written",
    );
    assert.ok(!existsSync(join(kept, "full/run.lock")));
    assert.match(said, new RegExp(`^Resumed at step ${step} from `, "m"));
    assert.match(said, /^then 0$/m);
  },
});

Deno.test({
  name: "merge_bone + a disk that fills up: one sentence, code 1, and no file where the output was to be",
  ignore: withoutDisks,
  async fn() {
    const disk = newPath("disk"), run = newPath("run");
    const { output } = await train({
      loadModel: model,
      dataFile: text,
      projDir: run,
      ctxLen: 16,
      microBsz: 2,
      maxSteps: 1,
      heldOut: 0,
      samplePrompt: "",
      engine: "cpu",
      boneConfig: { bone_r: 2 },
    });
    const said = await onDisk(
      `head -c 1040000 /dev/zero >"$DISK/ballast"
       "$DENO" run --quiet --no-prompt --allow-read --allow-write "$MERGE" --base_model "$MODEL" --lora_checkpoint ${output} --output "$DISK/merged.safetensors" --engine cpu 2>&1
       echo "code $?"; ls -A "$DISK"`,
      disk,
    );
    assert.match(
      said,
      /^Cannot write ".*merged\.safetensors.*": the disk is full, free some space or choose another folder$/m,
      said,
    );
    assert.match(said, /^code 1\nballast$/m, said);
  },
});

Deno.test({
  name: "run_bone + a run folder that cannot be written: one sentence, code 2",
  ignore: withoutDisks,
  async fn() {
    const disk = newPath("disk");
    const said = await onDisk(
      `${TRAIN} ${SETTINGS} --max_steps 2 --proj_dir "$DISK/run" >/dev/null 2>&1 && mount -o remount,ro "$DISK"
       ${TRAIN} ${SETTINGS} --max_steps 1 --proj_dir "$DISK/other"; echo "code $?"
       ${TRAIN} --resume "$DISK/run" --max_steps 3; echo "then $?"`,
      disk,
    );
    assert.match(said, /^code 2$/m, said);
    assert.match(said, /^then 2$/m, said);
    assert.equal(said.match(/read-only/g)?.length, 2, said);
    assert.doesNotMatch(said, /\bat .*:\d+:\d+|Uncaught/);
  },
});

Deno.test("writeFileAtomic + a system that refuses: a sentence for each reason, the file as it was, and nothing beside it", () => {
  const folder = newPath("folder"), path = join(folder, "file");
  Deno.mkdirSync(folder);
  writeFileAtomic(path, "as it was");
  const refusals: [string, RegExp][] = [
    ["ENOSPC", /: the disk is full, free some space or choose another folder$/],
    ["EDQUOT", /: there is no space left for this user, /],
    ["EFBIG", /: files may not grow as large here, /],
    ["EROFS", /: its folder is read-only, /],
    ["EIO", /: the disk fails, /],
    ["EACCES", /: permission is denied, choose another folder or change its permissions$/],
    ["EOTHER", /^as the system says it$/],
  ];
  for (const [code, message] of refusals) {
    const half = (file: Deno.FsFile) => {
      file.writeSync(new Uint8Array(10));
      throw Object.assign(new Error("as the system says it"), { code });
    };
    assert.throws(() => writeFileAtomic(path, half, { force: true }), { message });
    assert.equal(Deno.readTextFileSync(path), "as it was");
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["file"]);
  }
});

Deno.test({
  name:
    "writeFileAtomic, prepareFile + a name that is no file's: refused even with force, and what is there stays",
  ignore: Deno.build.os === "windows",
  async fn() {
    const folder = newPath("names");
    const place = (name: string) => join(folder, name);
    Deno.mkdirSync(place("folder"), { recursive: true });
    await new Deno.Command("mkfifo", { args: [place("pipe")] }).output();
    Deno.symlinkSync("nothing", place("link"));
    const tensors = { format: "pth" as const, tensors: [], read: () => new Uint8Array() };
    const writers = [
      (path: string, force: boolean) => writeFileAtomic(path, "x", { force }),
      (path: string, force: boolean) => {
        using pending = prepareFile(path, { ...tensors, force });
        pending.commit();
      },
    ];
    for (const write of writers) {
      for (const force of [false, true]) {
        assert.throws(() => write(place("folder"), force), {
          message: /: it is a folder, choose another path$/,
        });
        assert.throws(() => write(place("pipe"), force), {
          message: /: it is a device, a pipe or a socket, choose/,
        });
      }
      // A link to nowhere is somebody's; with force it is replaced, and what it leads to is not made.
      assert.throws(() => write(place("link"), false), {
        message: /: it exists, choose another path or ask for /,
      });
      assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name).sort(), [
        "folder",
        "link",
        "pipe",
      ]);
    }
    assert.ok(Deno.lstatSync(place("pipe")).isFifo);
    writers[0]!(place("link"), true);
    assert.ok(Deno.lstatSync(place("link")).isFile && !existsSync(place("nothing")));
  },
});

for (const peft of ["bone", "none"]) {
  Deno.test({
    name:
      `train, ${peft} + model and text taken away at work: goes on to the bits that it would have come to`,
    ignore: Deno.build.os === "windows",
    async fn() {
      const run = (loadModel: string, dataFile: string, onStep = () => {}) =>
        train({
          loadModel,
          dataFile,
          projDir: newPath("run"),
          peft,
          ctxLen: 16,
          microBsz: 2,
          maxSteps: 4,
          heldOut: 0,
          samplePrompt: "",
          engine: "cpu",
          boneConfig: { bone_r: 2 },
        }, { onStep });
      const whole = await run(model, text);
      const [model2, text2] = [newPath("model.safetensors"), newPath("text.jsonl")];
      Deno.copyFileSync(model, model2);
      Deno.copyFileSync(text, text2);
      const taken = await run(model2, text2, () => {
        for (const path of [model2, text2]) if (existsSync(path)) Deno.removeSync(path);
      });
      assert.deepEqual(Deno.readFileSync(taken.output), Deno.readFileSync(whole.output));
    },
  });
}
