/**
 * How a command line is read: flags, RWKV-PEFT's flags, help, and errors in one sentence.
 *
 * @module
 */
import { deepStrictEqual, match, ok, rejects, strictEqual, throws } from "node:assert/strict";
import { commandLine, explain } from "../scripts/command.ts";
import {
  boneConfig,
  checkDescription,
  COMPATIBILITY,
  notNeeded,
  stateTuning,
} from "../scripts/compatibility.ts";
import { choice, helpText, json, list, parseFlags, real, text, toggle, whole } from "../scripts/flags.ts";
import { LAYERS, METHOD } from "../scripts/method_flags.ts";
import { duration, printable } from "../scripts/progress.ts";
import { FILES, LENGTH, MODEL, OPTIMIZER, trainingDefaults, WATCHING } from "../scripts/training_flags.ts";
import { OptionError } from "../training/options.ts";
import { MODEL_PATH } from "./small_model.ts";

const FLAGS = {
  loadModel: text("FILE", "a model"),
  ctxLen: whole("tokens"),
  lrInit: real("rate"),
  gradCp: toggle("recompute"),
  engine: choice(["auto", "cpu"], "engine"),
  boneConfig: json('{"bone_r":64}', "settings", { bone_r: "number", bone_load: "string" }),
  trainParts: list("names"),
  samplePrompt: text("TEXT", "prompt"),
};
const parse = (...args: string[]) => parseFlags(FLAGS, args).values;

/** Checks the sentence of the error that a command line gives. */
function refuses(args: string[], sentence: string, flags: Parameters<typeof parseFlags>[0] = FLAGS): void {
  throws(() => parseFlags(flags, args), (error: Error) => {
    ok(error instanceof OptionError);
    strictEqual(error.message, sentence);
    return true;
  });
}

Deno.test("parseFlags takes values after a blank or =, and dashes for underscores", () => {
  deepStrictEqual(parse("--load_model", "a b.pth", "--ctx-len=512", "--lr-init", "2e-5"), {
    loadModel: "a b.pth",
    ctxLen: 512,
    lrInit: 2e-5,
  });
  deepStrictEqual(parse(), {});
});

Deno.test("parseFlags keeps dashes, = and emptiness of values", () => {
  deepStrictEqual(parse("--load-model=my-model=2.pth", "--sample_prompt", ""), {
    loadModel: "my-model=2.pth",
    samplePrompt: "",
  });
  deepStrictEqual(parse("--sample_prompt=--x-y", "--load_model", "-"), {
    samplePrompt: "--x-y",
    loadModel: "-",
  });
});

Deno.test("parseFlags takes negative numbers as values", () => {
  deepStrictEqual(parse("--ctx_len", "-1", "--lr_init", "-.5"), { ctxLen: -1, lrInit: -0.5 });
});

Deno.test("parseFlags with a switch alone, with a value, and before another flag", () => {
  for (
    const [args, wanted] of [
      [["--grad_cp"], true],
      [["--grad_cp", "1"], true],
      [["--grad_cp", "0"], false],
      [["--grad_cp=False"], false],
      [["--grad_cp", "true"], true],
    ] as [string[], boolean][]
  ) {
    deepStrictEqual(parse(...args, "--ctx_len", "4"), { gradCp: wanted, ctxLen: 4 }, args.join(" "));
  }
});

Deno.test("parseFlags with a list as words, as JSON, and as a shell leaves JSON", () => {
  for (
    const args of [["time", "ln"], ['["time", "ln"]'], ["[time,ln]"], ["time,ln"], ["[time,", "ln]"], [
      '["time",',
      '"ln"]',
    ]]
  ) {
    deepStrictEqual(parse("--train_parts", ...args, "--ctx_len", "4"), {
      trainParts: ["time", "ln"],
      ctxLen: 4,
    });
  }
  deepStrictEqual(parse("--train_parts", "[]"), { trainParts: [] });
  deepStrictEqual(parse("--train_parts"), { trainParts: [] });
  deepStrictEqual(parse("--train_parts=ln"), { trainParts: ["ln"] });
});

Deno.test("parseFlags with JSON", () => {
  deepStrictEqual(parse("--bone_config", '{"bone_r": 8, "bone_load": ""}'), {
    boneConfig: { bone_r: 8, bone_load: "" },
  });
});

Deno.test("parseFlags with --help anywhere reads nothing else", () => {
  deepStrictEqual(parseFlags(FLAGS, ["--ctx_len", "--help"]), { values: {}, help: true });
  deepStrictEqual(parseFlags(FLAGS, ["-h"]), { values: {}, help: true });
});

Deno.test("parseFlags after npm's --", () => {
  deepStrictEqual(parse("--", "--ctx_len", "4"), { ctxLen: 4 });
});

Deno.test("parseFlags with what it cannot understand says so in one sentence", () => {
  refuses(["--ctx_lne", "4"], "Unknown flag --ctx_lne: did you mean --ctx_len?");
  refuses(["--ctx-lne=4"], "Unknown flag --ctx-lne: did you mean --ctx_len?");
  refuses(["-ctx_len", "4"], "Unknown flag -ctx_len: did you mean --ctx_len?");
  refuses(["--model", "m.pth"], "Unknown flag --model: did you mean --load_model?");
  refuses(["--x"], "Unknown flag --x: --help lists all");
  refuses(["--xyzzyxyzzy"], "Unknown flag --xyzzyxyzzy: --help lists all");
  refuses(["--load_model"], "--load_model needs a value (FILE) after it");
  refuses(["--load_model", "--ctx_len", "4"], "--load_model needs a value (FILE) after it");
  refuses(["--ctx_len", "4", "--ctx-len", "5"], "--ctx_len is given twice: leave one out");
  refuses(["model.pth"], 'Unexpected "model.pth": it belongs to no flag, and flags begin with --');
  refuses(["--grad_cp", "1", "0"], 'Unexpected "0": it belongs to no flag, and flags begin with --');
  refuses(
    ["--ctx_len", "4", "\\"],
    "There is a lone backslash or blank on the command line: a backslash that continues a line must be its last character",
  );
  refuses(["--ctx_len", "many"], '--ctx_len must be a whole number: it is "many"');
  refuses(["--ctx_len", "1.5"], '--ctx_len must be a whole number: it is "1.5"');
  refuses(["--ctx_len="], '--ctx_len must be a whole number: it is ""');
  refuses(
    ["--ctx_len", "99999999999999999999"],
    '--ctx_len must be a whole number: it is "99999999999999999999"',
  );
  refuses(["--lr_init", "1e999"], '--lr_init must be a number such as 0.01 or 2e-5: it is "1e999"');
  refuses(["--lr_init", "0x10"], '--lr_init must be a number such as 0.01 or 2e-5: it is "0x10"');
  refuses(["--grad_cp", "2"], '--grad_cp must be 1 or 0, or stand alone: it is "2"');
  refuses(["--engine", "cuda"], '--engine must be one of auto, cpu: it is "cuda"');
});

Deno.test("parseFlags with JSON that a shell has taken apart shows how to quote it", () => {
  refuses(
    ["--bone_config", "{bone_r:64}"],
    `--bone_config is not JSON: {bone_r:64}; put it between single quotes, as in '{"bone_r":64}'`,
  );
  refuses(["--bone_config", "[1]"], `--bone_config must be a JSON object, as in '{"bone_r":64}': it is [1]`);
  refuses(["--bone_config", '{"bone_rr":8}'], '--bone_config has no "bone_rr": did you mean bone_r?');
  refuses(["--bone_config", '{"bone_r":"8"}'], '--bone_config needs a number for "bone_r": it is "8"');
  refuses(["--bone_config", '{"constructor":1}'], '--bone_config has no "constructor"');
});

Deno.test("helpText has every flag with its meaning and default, in lines that fit", () => {
  const sections = {
    Files: { ...MODEL, ...FILES },
    Method: METHOD,
    Layers: LAYERS,
    Length: LENGTH,
    Optimizer: OPTIMIZER,
    Watching: WATCHING,
  };
  const help = helpText("Usage.", sections, trainingDefaults());
  match(help, /^Usage\.\n\nFiles\n/);
  match(help, /--ctx_len N +tokens of a sample \[1024; bundled model 256\]\n/);
  match(help, /--lr_init X +learning rate at first \[2e-5; bundled model 0\.002\]\n/);
  for (const option of Object.values(sections).flatMap((flags) => Object.keys(flags))) {
    const name = option.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    match(help, new RegExp(`^  --${name} `, "m"));
  }
  strictEqual(help.split("\n").find((line) => line.length > 100), undefined);
});

const RUN_BONE = {
  ...MODEL,
  ...FILES,
  ...METHOD,
  ...LAYERS,
  ...LENGTH,
  ...OPTIMIZER,
  ...WATCHING,
  ...COMPATIBILITY,
};
const compatible = (line: string) => parseFlags(RUN_BONE, line.split(" ")).values;

Deno.test("RWKV-PEFT's own run_bone.sh is understood, and what it need not say is named", () => {
  const values = compatible(
    "--load_model m.pth --proj_dir out --data_file roleplay.jsonl --data_type utf-8 --vocab_size 65536 --n_layer 32 --n_embd 2560 " +
      "--dataload pad --loss_mask pad --ctx_len 1024 --micro_bsz 8 --epoch_steps 200 --epoch_count 1 --epoch_begin 0 --epoch_save 1 " +
      "--lr_init 2e-5 --lr_final 2e-5 --warmup_steps 0 --beta1 0.9 --beta2 0.99 --adam_eps 1e-8 --accelerator gpu --devices 1 " +
      "--precision bf16 --strategy deepspeed_stage_1 --grad_cp 1 --my_testing x070 --peft bone " +
      '--bone_config {"bone_mode":"bone","bone_load":"","bone_r":64} --quant none --dropout 0.0 --tiny_att_layer -999 --fla',
  );
  strictEqual(
    notNeeded(values),
    "Not needed here and without effect: --accelerator, --devices, --strategy, --tiny_att_layer, --fla",
  );
  strictEqual(notNeeded({ ctxLen: 4, quant: "none" }), undefined);
  const masks = compatible('--loss_mask pad --mask_id {"mask0":"0","mask1":"1"}');
  strictEqual(notNeeded(masks), "Not needed here and without effect: --mask_id");
  strictEqual(notNeeded({ ...masks, lossMask: "se" }), undefined);
  deepStrictEqual(values.boneConfig, { bone_mode: "bone", bone_load: "", bone_r: 64 });
});

Deno.test("RWKV-PEFT's -1 for none is none", () => {
  const { warmupSteps, randomSeed } = compatible("--warmup_steps -1 --random_seed -1");
  deepStrictEqual([warmupSteps, randomSeed], [0, undefined]);
});

Deno.test("RWKV-PEFT's flags whose other values are not supported say what there is", () => {
  refuses(
    ["--quant", "nf4"],
    '--quant must be none: it is "nf4", and nothing else is supported yet',
    RUN_BONE,
  );
  refuses(
    ["--dataload", "all"],
    '--dataload must be one of pad, pack, get, only: it is "all"',
    RUN_BONE,
  );
  refuses(
    ["--loss_mask", "sx"],
    '--loss_mask must be one of auto, none, pad, qa, se: it is "sx"',
    RUN_BONE,
  );
  refuses(
    ["--data_type", "numpy"],
    '--data_type must be one of auto, utf-8, jsonl, json, csv, parquet, binidx, sft: it is "numpy"',
    RUN_BONE,
  );
  refuses(
    ["--epoch_begin", "3"],
    '--epoch_begin must be 0: it is "3", and a run is gone on with by --resume FOLDER',
    RUN_BONE,
  );
});

Deno.test("boneConfig under Bone's later names", () => {
  deepStrictEqual(boneConfig({ dishaConfig: { mode: "bone", load: "", r: 8 } }), {
    bone_mode: "bone",
    bone_load: "",
    bone_r: 8,
  });
  strictEqual(boneConfig({}), undefined);
  throws(
    () => boneConfig({ boneConfig: { bone_r: 8 }, dishaConfig: { r: 4 } }),
    /--bone_config and --disha_config say the same/,
  );
  strictEqual(compatible("--peft disha").peft, "bone");
  strictEqual(compatible("--peft lora").peft, "lora");
});

Deno.test("layers by names, by one expression, and by numbers", () => {
  deepStrictEqual(
    compatible('--target_modules key att.value --layers_to_transform 0,2 --rank_pattern {"att.key":4}'),
    { targetModules: ["key", "att.value"], layersToTransform: [0, 2], rankPattern: { "att.key": 4 } },
  );
  deepStrictEqual(compatible("--exclude_modules .*ffn.*").excludeModules, ".*ffn.*");
  deepStrictEqual(compatible("--target_modules all-linear").targetModules, ["all-linear"]);
  refuses(
    ["--layers_to_transform", "first"],
    '--layers_to_transform must be whole numbers from 0: one is "first"',
    RUN_BONE,
  );
});

Deno.test("RWKV-PEFT's flags for state tuning", () => {
  deepStrictEqual(stateTuning(compatible("--train_type state")), { peft: "state" });
  deepStrictEqual(stateTuning(compatible("--peft none --state_tune")), { peft: "state" });
  deepStrictEqual(stateTuning(compatible("--peft lora --train_type state --train_parts ln")), {
    trainParts: ["ln", "time_state"],
  });
  deepStrictEqual(stateTuning(compatible("--train_type none")), {});
  strictEqual(compatible("--train_type infctx --chunk_ctx 64").trainType, "infctx");
  deepStrictEqual(stateTuning(compatible("--train_type infctx")), {});
});

Deno.test("checkDescription compares what was said with the file", async () => {
  await checkDescription(
    compatible("--n_layer 2 --n_embd 128 --vocab_size 97 --head_size_a 64 --dim_att 0 --my_testing x070"),
    MODEL_PATH,
  );
  await checkDescription({}, "/nowhere");
  for (
    const [args, wanted] of [
      ["--n_layer 24", "--n_layer is 24 but PATH has 2"],
      ["--vocab_size 65536", "--vocab_size is 65536 but PATH has 97"],
      ["--my_testing x060", "--my_testing is x060 but PATH has x070 (RWKV-7)"],
      ["--dim_ffn 300", "--dim_ffn is 300 but PATH has 512"],
    ] as const
  ) {
    await rejects(checkDescription(compatible(args), MODEL_PATH), (error: Error) => {
      strictEqual(
        error.message,
        `${wanted.replace("PATH", MODEL_PATH)}: leave it out, what a model is like is read from its file`,
      );
      return error instanceof OptionError;
    });
  }
});

Deno.test("explain gives a sentence for what a person can put right and nothing for a fault of the program", () => {
  strictEqual(explain(new OptionError("No.")), "No.");
  strictEqual(explain(new RangeError("The rank r of bone is 0")), "The rank r of bone is 0");
  strictEqual(
    explain(new Deno.errors.NotFound("No such file or directory (os error 2): open '/a b'")),
    'Cannot use "/a b": no such file or directory, check the path',
  );
  strictEqual(
    explain(
      new Deno.errors.NotCapable('Requires write access to "/x", run again with the --allow-write flag'),
    ),
    'Deno does not permit write access to "/x": run through deno task, or with --allow-write',
  );
  strictEqual(
    explain(
      new Deno.errors.NotCapable('Requires all access to "/dev", run again with the --allow-all flag'),
    ),
    'Deno does not permit all access to "/dev": choose another place',
  );
  strictEqual(
    explain(
      new Deno.errors.PermissionDenied("Permission denied (os error 13): rename '/a/.b.tmp' -> '/a/b'"),
    ),
    'Cannot use "/a/b": permission denied, choose another place or change its permissions',
  );
  for (
    const fault of [
      () => new Array(-1),
      () => new Float32Array(-1),
      () => new Float32Array(new ArrayBuffer(3)),
      () => new Float32Array(new ArrayBuffer(4), 8),
      () => (null as unknown as { x: number }).x,
      () => JSON.parse("{"),
      function recurse(): unknown {
        return [recurse()];
      },
    ]
  ) {
    throws(fault, (error: Error) => {
      strictEqual(explain(error), undefined, error.message);
      return true;
    });
  }
});

Deno.test("commandLine quotes what a shell would take apart", () => {
  match(commandLine("merge_bone"), /merge_bone(\.sh)?$/);
  ok(commandLine("merge_bone", ["--output", "it's mine.pth"]).endsWith(` --output 'it'\\''s mine.pth'`));
});

Deno.test("duration and printable", () => {
  deepStrictEqual([0, 7.4, 754, 3723].map(duration), ["0:00", "0:07", "12:34", "1:02:03"]);
  strictEqual(printable("a\tb\nc\x1b[2Jd\x07\x9bé"), "a\tb\nc\ufffd[2Jd\ufffd\ufffdé");
});
