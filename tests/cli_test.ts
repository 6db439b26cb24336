/**
 * The commands as a person runs them: child processes, on small models, in a folder of their own.
 *
 * @module
 */
import { deepStrictEqual, doesNotMatch, match, ok, strictEqual } from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { loadAdapter } from "../adapters/file.ts";
import { openTensorFile, writeTensorFile } from "../formats/tensor_file.ts";
import { MODEL_PATH } from "./small_model.ts";

const REPOSITORY = fileURLToPath(new URL("..", import.meta.url));
const onWindows = Deno.build.os === "windows";

const folder = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "wishbone cli " }));
Deno.test.afterAll(() => Deno.removeSync(folder, { recursive: true }));
const inFolder = (name: string) => join(folder, name);

// The small model knows 97 bytes: capitals, digits and the blank are among them.
const line = (i: number) => `THE QUICK BROWN FOX JUMPS OVER ${i} LAZY DOGS\n`;
Deno.copyFileSync(MODEL_PATH, inFolder("model.safetensors"));
Deno.writeTextFileSync(inFolder("text.txt"), Array.from({ length: 60 }, (_, i) => line(i)).join(""));

const SMALL = [
  "--load_model",
  "model.safetensors",
  "--data_file",
  "text.txt",
  "--ctx_len",
  "32",
  "--micro_bsz",
  "4",
];
const SHORT = [
  ...SMALL,
  "--bone_config",
  '{"bone_mode":"bone","bone_r":4}',
  "--engine",
  "cpu",
  "--lr_init",
  "1e-3",
];

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** A task as deno.json has it, started where a person would stand. */
function task(name: string, args: readonly string[]): Deno.Command {
  const config = join(REPOSITORY, "deno.json");
  return new Deno.Command("deno", {
    args: ["task", "--quiet", "--config", config, name, ...args],
    cwd: folder,
    env: { NO_COLOR: "1", INIT_CWD: folder },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

async function run(name: string, ...args: string[]): Promise<Ended> {
  return ended(await task(name, args).output());
}

function ended({ code, stdout, stderr }: Deno.CommandOutput): Ended {
  const decoder = new TextDecoder();
  // Mesa complains on stderr, in a process without a desktop, when an adapter is asked for.
  const said = decoder.decode(stderr).split("\n").filter((line) => !line.includes("XDG_RUNTIME_DIR"));
  return { code, stdout: decoder.decode(stdout), stderr: said.join("\n") };
}

function succeeded({ code, stderr }: Ended): void {
  strictEqual(code, 0, stderr);
}

/** Ends with 2, one line on stderr (after the one that says which engine, where it came to that) and nothing on stdout. */
async function refuses(name: string, args: string[], sentence: string | RegExp): Promise<void> {
  const { code, stdout, stderr: said } = await run(name, ...args);
  const stderr = said.replace(/^Engine: .*\n/, "");
  strictEqual(stderr.trimEnd().split("\n").length, 1, stderr);
  if (typeof sentence === "string") strictEqual(stderr.trimEnd(), sentence);
  else match(stderr, sentence);
  doesNotMatch(stderr, /\bat .*:\d+:\d+|Uncaught/);
  deepStrictEqual([code, stdout], [2, ""]);
}

/** A file of tensors of zeros. */
function tensorFile(name: string, shapes: Record<string, number[]>): string {
  writeTensorFile(inFolder(name), {
    format: "safetensors",
    tensors: Object.entries(shapes).map(([name, shape]) => ({ name, shape, dtype: "F32" })),
    read: ({ shape }) => new Uint8Array(4 * shape.reduce((a, b) => a * b, 1)),
  });
  return name;
}

Deno.test("run_bone with a file that is no model says what it is instead", async (t) => {
  Deno.mkdirSync(inFolder("folder"));
  const file = (name: string, content: string) => (Deno.writeTextFileSync(inFolder(name), content), name);
  const cases: [string, string | RegExp][] = [
    ["nothing.pth", 'Cannot read "nothing.pth": there is no such file, check the path'],
    [file("empty.pth", ""), /^Cannot read "empty\.pth": .*/],
    [file("words.pth", "These are words, no tensors.\n"), /^Cannot read "words\.pth": .*/],
    [
      "folder",
      /^Cannot read "folder": it is a folder without model\.safetensors\.index\.json, .*; name a file$/m,
    ],
    [
      tensorFile("other.safetensors", { "layer.weight": [2, 2] }),
      /^Cannot use other\.safetensors: it is not an RWKV model/,
    ],
    [
      tensorFile("v6.safetensors", { "blocks.0.att.time_maa_x": [1, 1, 4], "emb.weight": [8, 4] }),
      /^Cannot use v6\.safetensors: it is an RWKV-6 model; give an RWKV-7 model/,
    ],
    [
      tensorFile("adapter.safetensors", { "blocks.0.att.key.bone": [4, 128] }),
      /^Cannot use adapter\.safetensors: it is an adapter, not a model/,
    ],
  ];
  for (const [model, sentence] of cases) {
    await t.step(
      model,
      () => refuses("run_bone", ["--load_model", model, "--data_file", "text.txt"], sentence),
    );
  }
});

Deno.test("run_bone with text that cannot be learnt says why", async (t) => {
  Deno.writeTextFileSync(inFolder("empty.txt"), "");
  Deno.writeTextFileSync(inFolder("short.txt"), "TEN LETTERS");
  Deno.writeTextFileSync(inFolder("bad.jsonl"), '{"text": "A LINE"}\n{"text": }\n');
  Deno.writeTextFileSync(
    inFolder("small.txt"),
    "lower case letters, which this model does not know. ".repeat(20),
  );
  const cases: [string, string | RegExp][] = [
    ["nothing.txt", "Cannot read the data file nothing.txt: there is no such file"],
    ["empty.txt", "The data file empty.txt is empty: give it some text"],
    [
      "short.txt",
      "The text in short.txt is 12 tokens, shorter than one sample of ctx_len 32 + 1: lower --ctx_len to at most 11 or give more text",
    ],
    ["bad.jsonl", /^bad\.jsonl:2: the line is not JSON/],
    ["small.txt", /^Byte 108 at offset 0 of the text is not in the model's vocabulary of 97 bytes/],
  ];
  for (const [text, sentence] of cases) {
    await t.step(
      text,
      () =>
        refuses(
          "run_bone",
          ["--load_model", "model.safetensors", "--ctx_len", "32", "--data_file", text],
          sentence,
        ),
    );
  }
});

Deno.test("run_bone with settings that do not fit says which", async (t) => {
  Deno.mkdirSync(inFolder("taken"));
  const bone = (r: number) => ["--bone_config", `{"bone_mode":"bone","bone_load":"","bone_r":${r}}`];
  const cases: [string[], string | RegExp][] = [
    [["--ctx_lenn", "32"], "Unknown flag --ctx_lenn: did you mean --ctx_len?"],
    [bone(0), "The rank r of bone must be a whole number of at least 1: it is 0"],
    [
      bone(129),
      /^The rank r of bone is 129, over the 128 input channels of blocks\.0\.att\.receptance: lower r$/m,
    ],
    [
      ["--bone_config", '{"bone_mode":"mode"}'],
      'Unknown bone_mode "mode" in --bone_config: there are bone and bat',
    ],
    [["--peft", "pisa"], 'Unknown adapter "pisa": there are bone, bat, lora, pissa, dora, state'],
    [["--bat_axis", "up"], '--bat_axis must be one of in, out: it is "up"'],
    [
      ["--target_modules", "keys"],
      /^The targets \{"target_modules":\["keys"\]\} choose no linear layer of the model: there are /,
    ],
    [
      ["--peft_config", '{"alpha":1}'],
      /^--peft_config has "alpha", which means nothing for bone: there are /,
    ],
    [["--vocab_size", "65536"], /^--vocab_size is 65536 but model\.safetensors has 97: /],
    [["--vocab", "text.txt"], /^The vocabulary text\.txt does not fit model\.safetensors/],
    [["--micro_bsz", "0"], "--micro_bsz must be a whole number of at least 1: it is 0"],
    [["--lr_init", "-1"], "--lr_init must be above 0: it is -1"],
    [
      ["--proj_dir", "taken"],
      "The run folder taken exists: name another with --proj_dir, or replace it with --force",
    ],
    [["--resume", "taken"], /^Cannot resume taken: it has no config\.json/],
  ];
  for (const [args, sentence] of cases) {
    const given = SMALL.filter((_, i) => !args.includes(SMALL[i - i % 2]!));
    await t.step(
      args.join(" "),
      () => refuses("run_bone", args[0] === "--resume" ? args : [...given, ...args], sentence),
    );
  }
  strictEqual(existsSync(inFolder("runs")), false);
});

Deno.test("run_bone, merge_bone and generate without a name for anything but the input", async (t) => {
  await t.step("run_bone trains, measures, shows samples and says how to merge", async () => {
    const ended = await run(
      "run_bone",
      ...SHORT,
      "--epoch_count",
      "2",
      "--sample_prompt",
      "THE ",
      "--accelerator",
      "gpu",
    );
    succeeded(ended);
    const { stdout, stderr } = ended;
    match(stderr, /^Not needed here and without effect: --accelerator$/m);
    match(stderr, /^Engine: cpu, .*\(as asked\)$/m);
    match(stderr, /^Text: 1 documents?, \d+ tokens \(bytes\) in text\.txt; /m);
    match(stderr, /^trainable params: [\d,]+ \|\| all params: [\d,]+ \|\| trainable%: \d+\.\d{4}$/m);
    match(stderr, /^Memory: \d+\.\d MB /m);
    const [, last] = stderr.match(
      /^step (\d+)\/\1, loss \d+\.\d{4}, .*, \d+ tokens\/s, \d+ MB, 0:00 left$/m,
    )!;
    ok(Number(last) > 2);
    const [, before, after] = stdout.match(/^Held-out loss: (\d+\.\d{4}) before, (\d+\.\d{4}) after$/m)!;
    ok(Number(after) < Number(before), stdout);
    match(stdout, /^Before:\n {4}THE /m);
    match(stdout, /^After:\n {4}THE /m);
    match(stdout, /^Merge it with: (sh|deno) .*merge_bone.* --lora_checkpoint runs\/bone\/adapter\.pth /m);
    ok(loadAdapter(inFolder("runs/bone/adapter.pth")).tensors.has("blocks.0.att.key.bone"));
  });
  await t.step(
    "merge_bone merges the newest run with its own base and says how far it is from the adapter",
    async () => {
      const ended = await run("merge_bone", "--engine", "cpu", "--device", "cuda");
      succeeded(ended);
      match(ended.stderr, /^Merging runs\/bone\/adapter\.pth into \/.*\/model\.safetensors$/m);
      const [, difference] = ended.stdout.match(
        /^Checked: .* by at most ([\d.e-]+), relative error [\d.]+e-\d+ where rounding explains [\d.]+$/m,
      )!;
      ok(Number(difference) < 1e-3, difference);
      using base = openTensorFile(inFolder("model.safetensors"));
      using merged = openTensorFile(inFolder("runs/bone/merged.safetensors"));
      deepStrictEqual([...merged.tensors.values()], [...base.tensors.values()]);
      const changed = [...base.tensors.keys()].filter((name) =>
        base.readBytes(name).toHex() !== merged.readBytes(name).toHex()
      );
      const trained = new Set(loadAdapter(inFolder("runs/bone/adapter.pth")).tensors.keys());
      const wanted = [...base.tensors.keys()].filter((name) =>
        trained.has(name) || trained.has(name.replace(/weight$/, "bone"))
      );
      deepStrictEqual(changed, wanted);
      // Six linears and three norms of each of the two layers, the norms before and after all.
      strictEqual(changed.length, 2 * (6 + 2 * 3) + 4);
    },
  );
  await t.step("merge_bone refuses an output that exists, and replaces it with --force", async () => {
    await refuses(
      "merge_bone",
      ["--engine", "cpu"],
      "The output runs/bone/merged.safetensors exists: choose another with --output, or replace it with --force",
    );
    succeeded(await run("merge_bone", "--engine", "cpu", "--force"));
  });
  await t.step("generate says the same for the merged model and for base plus adapter", async () => {
    const likeliest = ["--prompt", "THE QUICK", "--tokens", "20", "--temperature", "0", "--engine", "cpu"];
    const merged = await run("generate", "--load_model", "runs/bone/merged.safetensors", ...likeliest);
    const adapted = await run(
      "generate",
      "--load_model",
      "model.safetensors",
      "--adapter",
      "runs/bone/adapter.pth",
      ...likeliest,
    );
    const base = await run("generate", "--load_model", "model.safetensors", ...likeliest);
    succeeded(merged);
    match(merged.stdout, /^THE QUICK/);
    match(merged.stderr, /^Engine: cpu/);
    strictEqual(merged.stdout, adapted.stdout);
    ok(merged.stdout !== base.stdout);
  });
  await t.step(
    "merge_bone --unmerge takes the newest run's adapter out of what it was merged into",
    async () => {
      const ended = await run("merge_bone", "--engine", "cpu", "--unmerge");
      succeeded(ended);
      match(
        ended.stderr,
        /^Taking runs\/bone\/adapter\.pth out of runs\/bone\/merged\.safetensors$/m,
      );
      match(
        ended.stdout,
        /^It is not byte for byte the model that the adapter was trained on: rounding can have left an adapted weight up to [\d.e-]+ off$/m,
      );
      match(ended.stdout, /^Written to runs\/bone\/unmerged\.safetensors$/m);
      using base = openTensorFile(inFolder("model.safetensors"));
      using back = openTensorFile(inFolder("runs/bone/unmerged.safetensors"));
      for (const name of base.tensors.keys()) {
        if (!name.includes(".ln")) continue;
        deepStrictEqual(back.readBytes(name), base.readBytes(name), name);
      }
      await refuses(
        "merge_bone",
        ["--engine", "cpu", "--unmerge", "--base_model", "model.safetensors", "--output", "never.pth"],
        /^Cannot take the bone adapter out of model\.safetensors: ".*" there is not what the adapter brings/m,
      );
    },
  );
  await t.step("a second run takes the next free folder and is the newest", async () => {
    succeeded(await run("run_bone", ...SHORT, "--max_steps", "1", "--sample_prompt", ""));
    const { stderr } = await run("merge_bone", "--engine", "cpu", "--output", "merged.pth");
    match(stderr, /^Merging runs\/bone-2\/adapter\.pth into /m);
    using merged = openTensorFile(inFolder("merged.pth"));
    strictEqual(merged.format, "pth");
  });
});

Deno.test("run_bone --peft pissa keeps what it began with, begins with it again, and merge_bone takes both files", async () => {
  const pissa = (folder: string, more: Record<string, unknown>) =>
    run(
      "run_bone",
      ...[...SMALL, "--engine", "cpu", "--lr_init", "1e-3", "--sample_prompt", "", "--peft", "pissa"],
      ...["--max_steps", "1", "--proj_dir", folder],
      ...["--pissa_config", JSON.stringify({ pissa_r: 4, ...more })],
    );
  succeeded(await pissa("first", {}));
  const pissa_init = join("first", "init_pissa.pth");
  succeeded(await pissa("second", { pissa_init }));
  deepStrictEqual(
    Deno.readFileSync(inFolder(join("second", "adapter.pth"))),
    Deno.readFileSync(inFolder(join("first", "adapter.pth"))),
  );
  await refuses(
    "merge_bone",
    ["--lora_checkpoint", pissa_init, "--base_model", "model.safetensors", "--output", "never.pth"],
    /it holds what a PiSSA began with and no adapter: name it beside the adapter, with --lora_init$/m,
  );
  Deno.mkdirSync(inFolder("theirs"));
  const names = ["--adapter", "first/adapter.pth", "--output", "theirs/rwkv-0.pth"];
  succeeded(await run("export_adapter", ...names));
  const merge = ["--base_model", "model.safetensors", "--engine", "cpu"];
  const files = ["--lora_checkpoint", "theirs/rwkv-0.pth", "--lora_init", "theirs/init_pissa.pth"];
  succeeded(await run("merge_bone", ...merge, ...files, "--output", "theirs.safetensors"));
});

Deno.test("merge_bone with inputs that do not go together says why", async (t) => {
  const [adapter] = [tensorFile("wide.safetensors", { "blocks.0.att.key.bone": [4, 256] })];
  const cases: [string[], string | RegExp][] = [
    [["--lora_checkpoint", adapter], /^The base model of wide\.safetensors is not known/],
    [
      ["--lora_checkpoint", adapter, "--base_model", "nothing.pth", "--output", "never.pth"],
      /^Cannot read "nothing\.pth": there is no such file/,
    ],
    [["--lora_checkpoint", "text.txt", "--base_model", "model.safetensors"], /^Cannot read "text\.txt"/],
    [
      [
        "--lora_checkpoint",
        adapter,
        "--base_model",
        "model.safetensors",
        "--output",
        "model.safetensors",
        "--force",
      ],
      "The output model.safetensors would replace model.safetensors, which it is made from: choose another with --output",
    ],
    [
      ["--lora_checkpoint", adapter, "--base_model", "model.safetensors", "--output", "nowhere/merged.pth"],
      "The folder of the output nowhere/merged.pth does not exist: create it, or choose another with --output",
    ],
    [["--quant", "int8"], /^--quant must be none: it is "int8"/],
    [["--output"], "--output needs a value (FILE) after it"],
  ];
  for (const [args, sentence] of cases) {
    await t.step(args.join(" "), () => refuses("merge_bone", args, sentence));
  }
  await t.step("an adapter of another width", async () => {
    const args = ["--lora_checkpoint", adapter, "--base_model", "model.safetensors", "--output", "never.pth"];
    await refuses("merge_bone", args, /^The bone adapter does not fit the model: shapes differ: /);
    strictEqual(existsSync(inFolder("never.pth")), false);
  });
});

Deno.test("generate with settings out of range says which", async (t) => {
  const cases: [string[], string | RegExp][] = [
    [["--tokens", "0"], /^The number of tokens must be a whole number of at least 1: it is 0$/m],
    [["--temperature", "-1"], /^The temperature must be at least 0: it is -1$/m],
    [["--top_p", "2"], /^top_p must be above 0 and at most 1: it is 2$/m],
    [["--adapter", "nothing.pth"], /^Cannot read "nothing\.pth": there is no such file/],
  ];
  for (const [args, sentence] of cases) {
    await t.step(
      args.join(" "),
      () =>
        refuses("generate", [
          "--load_model",
          "model.safetensors",
          "--prompt",
          "A",
          "--engine",
          "cpu",
          ...args,
        ], sentence),
    );
  }
});

Deno.test("pretrain writes a fresh model, trains it, and generate reads it", async () => {
  const sizes = ["--n_layer", "1", "--n_embd", "64", "--vocab_size", "256", "--head_size", "32"];
  const args = [
    ...sizes,
    "--data_file",
    "text.txt",
    "--ctx_len",
    "32",
    "--micro_bsz",
    "4",
    "--engine",
    "cpu",
    "--max_steps",
    "3",
  ];
  await refuses(
    "pretrain",
    args,
    "Give the sizes and a run folder: --n_layer 12 --n_embd 768 --proj_dir runs/mine",
  );
  const ended = await run("pretrain", ...args, "--proj_dir", "fresh", "--sample_prompt", "");
  succeeded(ended);
  const [, output] = ended.stdout.match(/^Written to (.*)$/m)!;
  const text = await run(
    "generate",
    "--load_model",
    output!,
    "--tokens",
    "4",
    "--engine",
    "cpu",
    "--prompt",
    "A",
  );
  succeeded(text);
  match(text.stdout, /^A/);
});

Deno.test("run_bone and merge_bone without any input take the bundled model and text", async () => {
  const short = [
    "--ctx_len",
    "16",
    "--micro_bsz",
    "2",
    "--max_steps",
    "2",
    "--held_out",
    "0",
    "--engine",
    "cpu",
  ];
  const trained = await run(
    "run_bone",
    ...short,
    "--proj_dir",
    join("runs", "bundled"),
    "--sample_prompt",
    "",
  );
  succeeded(trained);
  match(trained.stderr, /^Text: 233 documents, /m);
  doesNotMatch(trained.stdout, /Held-out|Before/);
  match(trained.stdout, /^Merge it with: .*merge_bone(\.sh)?$/m);
  succeeded(await run("merge_bone", "--engine", "cpu"));
  ok(existsSync(inFolder("runs/bundled/merged.safetensors")));
});

Deno.test("run_bone --dry_run says what a run would be, as a file that --config reads, and writes nothing", async () => {
  Deno.writeTextFileSync(
    inFolder("run.yaml"),
    "ctx_len: 32\nmicro_bsz: 4\nbone_config: {bone_r: 4}\nengine: cpu\n",
  );
  const files = ["--load_model", "model.safetensors", "--data_file", "text.txt", "--proj_dir", "planned"];
  const planned = await run("run_bone", ...files, "--config", "run.yaml", "--micro_bsz", "2", "--dry_run");
  succeeded(planned);
  const [settings, table] = planned.stdout.split("\nMemory:\n") as [string, string];
  match(settings, /^ctx_len: 32$/m);
  match(settings, /^micro_bsz: 2$/m);
  match(table, /^ {2}frozen weights +\d+\.\d MB$/m);
  match(table, /^ {2}saved activations +\d+\.\d MB$/m);
  match(table, /^ {2}largest tensor +\d+\.\d MB {2}\w/m);
  match(table, /^Time: [\d.e-]+ s a step, \d+ tokens\/s; \d+ steps take \d+:\d\d/m);
  match(table, /^It fits\. Nothing was written\.$/m);
  strictEqual(existsSync(inFolder("planned")), false);
  Deno.writeTextFileSync(inFolder("planned.yaml"), settings);
  const trained = await run(
    "run_bone",
    "--config",
    "planned.yaml",
    "--max_steps",
    "1",
    "--sample_prompt",
    "",
  );
  succeeded(trained);
  ok(existsSync(inFolder("planned/report.html")));
});

Deno.test("--help is on stdout", async () => {
  for (const name of ["run_bone", "merge_bone", "generate", "pretrain"]) {
    const ended = await run(name, "--help");
    succeeded(ended);
    match(ended.stdout, /^ {2}--\w+ .*\[?/m);
    strictEqual(ended.stderr, "");
  }
});

Deno.test({
  name: "Ctrl-C finishes the step, saves, says how to go on and ends with 130; --resume goes on there",
  ignore: onWindows,
  fn: async () => {
    const child = task("run_bone", [
      ...SHORT,
      "--epoch_count",
      "200",
      "--proj_dir",
      "stopped",
      "--sample_prompt",
      "",
    ]).spawn();
    const [seen, kept] = child.stderr.tee();
    let said = "";
    for await (const text of seen.pipeThrough(new TextDecoderStream())) {
      said += text;
      if (/^step \d/m.test(said)) break;
    }
    child.kill("SIGINT");
    const [{ code }, stderr] = await Promise.all([
      child.status,
      new Response(kept).text(),
      child.stdout.cancel(),
    ]);
    strictEqual(code, 130, stderr);
    match(stderr, /^Stopping after this step and saving; Ctrl-C again ends at once$/m);
    const [, step] = stderr.match(/^Stopped at step (\d+); to go on: .*run_bone.* --resume stopped$/m)!;
    const resumed = await run("run_bone", "--resume", "stopped", "--max_steps", String(Number(step) + 2));
    succeeded(resumed);
    match(resumed.stderr, new RegExp(`^Resumed at step ${step} from `, "m"));
    match(resumed.stderr, /^Trained 2 steps /m);
  },
});

Deno.test({
  name:
    "run_bone.sh runs from any folder, from a repository whose path has blanks, and keeps arguments and exit code",
  ignore: onWindows,
  fn: async () => {
    Deno.symlinkSync(REPOSITORY, inFolder("a repository"));
    const sh = async (args: string[], path?: string) =>
      ended(
        await new Deno.Command("sh", {
          // With another PATH from the start, this would be another program than the one that the tests may run.
          args: [
            "-c",
            'PATH="${OTHER_PATH:-$PATH}" exec sh "$@"',
            "sh",
            "a repository/scripts/run_bone.sh",
            ...args,
          ],
          cwd: folder,
          env: { NO_COLOR: "1", OTHER_PATH: path ?? "" },
        }).output(),
      );
    const refused = await sh(["--load_model", '$(it\'s) "a" `file` \\ *.pth', "--data_file", "text.txt"]);
    strictEqual(refused.code, 2);
    match(
      refused.stderr,
      /^Cannot read "\$\(it's\) "a" `file` \\ \*\.pth": there is no such file/m,
    );
    succeeded(await sh(["--help"]));
    Deno.mkdirSync(inFolder("old"));
    for (const name of ["sh", "sed", "dirname"]) {
      const found = ["/usr/bin", "/bin"].map((folder) => join(folder, name)).find((path) =>
        existsSync(path)
      )!;
      Deno.symlinkSync(found, inFolder(`old/${name}`));
    }
    const without = await sh(["--help"], inFolder("old"));
    deepStrictEqual([without.code, without.stdout], [1, ""]);
    match(without.stderr, /^Deno 2\.\d+ or newer is needed and was not found: install it/);
    Deno.writeTextFileSync(inFolder("old/deno"), "#!/bin/sh\necho 'deno 2.4.0 (stable)'\n", { mode: 0o755 });
    deepStrictEqual(await sh(["--help"], inFolder("old")), without);
  },
});
