/**
 * A file of flags: the same names, the same readers, and an error that names the line.
 *
 * @module
 */
import assert from "node:assert/strict";
import { CONFIG, parseWithConfig } from "../scripts/config_file.ts";
import { json, list, real, text, texts, toggle, whole } from "../scripts/flags.ts";
import { newPath } from "./tiny_model.ts";

const FLAGS = {
  ctxLen: whole(""),
  lrInit: real(""),
  gradCp: toggle(""),
  projDir: text("FOLDER", ""),
  trainParts: list(""),
  samplePrompt: texts(""),
  boneConfig: json('{"bone_r":8}', "", { bone_r: "number", bone_load: "string" }),
};

async function parse(yaml: string, ...args: string[]): Promise<Record<string, unknown>> {
  const path = newPath("run.yaml");
  Deno.writeTextFileSync(path, yaml);
  return (await parseWithConfig(FLAGS, ["--config", path, ...args])).values;
}

Deno.test("parseWithConfig + every kind of value: as the command line reads it, in any spelling of the names", async () => {
  const yaml = `# a run
ctx_len: 512
lr-init: 2e-5
gradCp: false
proj_dir: "runs/a: b"
train_parts: [ln, time]
sample_prompt:
  - "User: hi"
  - |
    two
    lines
bone_config: {bone_r: 8, bone_load: ''}
`;
  assert.deepEqual(await parse(yaml), {
    ctxLen: 512,
    lrInit: 2e-5,
    gradCp: false,
    projDir: "runs/a: b",
    trainParts: ["ln", "time"],
    samplePrompt: ["User: hi", "two\nlines\n"],
    boneConfig: { bone_r: 8, bone_load: "" },
  });
  assert.deepEqual(await parse("# nothing\n"), {});
  assert.deepEqual(await parse("sample_prompt: one\ntrain_parts: []\n"), {
    samplePrompt: ["one"],
    trainParts: [],
  });
});

Deno.test("parseWithConfig + a flag on the command line too: that one", async () => {
  assert.deepEqual(await parse("ctx_len: 512\nlr_init: 1\n", "--ctx_len", "64"), { ctxLen: 64, lrInit: 1 });
});

Deno.test("parseWithConfig + what cannot be read: the file, the line, and what to do", async () => {
  const cases: [string, RegExp][] = [
    ["ctx_len: 64\nctx_lenn: 3\n", /run\.yaml:2: there is no flag "ctx_lenn": did you mean ctx_len\?$/],
    ["config: other.yaml\n", /run\.yaml:1: there is no flag "config"/],
    ["__proto__: 1\n", /run\.yaml:1: there is no flag "__proto__"/],
    ["constructor: 1\n", /run\.yaml:1: there is no flag "constructor"/],
    ["ctx_len: many\n", /run\.yaml:1: ctx_len must be a whole number: it is "many"$/],
    ["\nctx_len:\n", /run\.yaml:2: ctx_len needs one value \(N\)$/],
    ["ctx_len: [1, 2]\n", /run\.yaml:1: ctx_len needs one value/],
    ["grad_cp: maybe\n", /run\.yaml:1: grad_cp must be 1 or 0, or stand alone: it is "maybe"$/],
    ["bone_config: {bone_rr: 8}\n", /run\.yaml:1: bone_config has no "bone_rr": did you mean bone_r\?$/],
    ["ctx_len: 1\nctx_len: 2\n", /run\.yaml:2: the line is not YAML \(Map keys must be unique\)/],
    ["ctx_len: 1\nctx-len: 2\n", /run\.yaml:2: ctx_len is given twice: leave one out$/],
    ["ctx_len: [\n", /run\.yaml:\d: the line is not YAML \(/],
    ["- ctx_len\n", /run\.yaml:1: write each flag on a line of its own, as ctx_len: 512$/],
  ];
  for (const [yaml, message] of cases) await assert.rejects(parse(yaml), { name: "OptionError", message });
  await assert.rejects(parseWithConfig({ ...FLAGS, ...CONFIG }, ["--config", "nothing.yaml"]), {
    message: "Cannot read the configuration nothing.yaml: there is no such file",
  });
});
