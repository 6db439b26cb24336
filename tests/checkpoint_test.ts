/**
 * Checkpoints of somebody who meant harm: their checksums are right, and what they hold is not.
 *
 * @module
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { openTensorFile, type TensorInfo, writeTensorFile } from "../formats/tensor_file.ts";
import { listCheckpoints } from "../training/checkpoint.ts";
import { train } from "../training/trainer.ts";
import { archiveOf } from "./fuzz/mutate.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

Deno.test("train + checkpoints that somebody made, with right checksums: refused by name and reason", async () => {
  const projDir = newPath("run");
  await train({
    loadModel: writeTinyModel(newPath("model.safetensors")),
    dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
    projDir,
    engine: "cpu",
    ctxLen: 16,
    microBsz: 2,
    boneConfig: { bone_r: 3 },
    heldOut: 0,
    samplePrompt: "",
    maxSteps: 3,
    keep: 1,
    saveSteps: 1,
  });
  const path = listCheckpoints(projDir)[0]!.path, whole = Deno.readFileSync(path);
  const hash = (data: Uint8Array | string) => createHash("sha256").update(data).digest("hex");
  const original = openTensorFile(path), state = JSON.parse(original.metadata.get("state")!);
  const tensors = [...original.tensors.values()],
    contents = new Map(tensors.map(({ name }) => [name, original.readBytes(name)]));
  original.close();
  const [first, ...others] = tensors as [TensorInfo, ...TensorInfo[]];
  /** Writes the checkpoint again with something exchanged. */
  const made = (
    { description = JSON.stringify(state), metadata, infos = tensors, bytes = new Map() }: {
      description?: string;
      metadata?: Map<string, string>;
      infos?: readonly TensorInfo[];
      bytes?: Map<string, Uint8Array>;
    },
  ) =>
    writeTensorFile(path, {
      format: "safetensors",
      tensors: infos,
      read: ({ name }) => bytes.get(name) ?? contents.get(name)!,
      metadata: metadata ?? new Map([["state", description], ["sha256", hash(description)]]),
      force: true,
    });
  const described = (change: object) => () => made({ description: JSON.stringify({ ...state, ...change }) });
  const wrong = contents.get(first.name)!.slice();
  new Float32Array(wrong.buffer)[0] = NaN;
  const checked = { ...state.checksums, [first.name]: hash(wrong) };
  const cases: [string, () => void, RegExp][] = [
    ["no description", () => made({ metadata: new Map() }), /its description does not match its checksum/],
    [
      "a description without its checksum",
      () => made({ metadata: new Map([["state", "{}"]]) }),
      /does not match its checksum/,
    ],
    [
      "a description that is no JSON",
      () => made({ description: "{" }),
      /its description cannot be used: its text is not valid/,
    ],
    ["a description that is null", () => made({ description: "null" }), /it names no step or no checksums/],
    ["a description that is a list", () => made({ description: "[]" }), /it names no step or no checksums/],
    ["a step twice", () => made({ description: `{"step":1,"step":2,"checksums":{}}` }), /has "step" twice/],
    [
      "a prototype",
      () => made({ description: `{"__proto__":{"step":1,"checksums":{}}}` }),
      /has "__proto__" as a key/,
    ],
    ["a step in text", described({ step: "3" }), /it names no step or no checksums/],
    ["a step below nothing", described({ step: -1 }), /it names no step or no checksums/],
    ["a step with a fraction", described({ step: 2.5 }), /it names no step or no checksums/],
    ["a step of 2^53", described({ step: 2 ** 53 }), /it names no step or no checksums/],
    ["another step", described({ step: 1 }), /it holds step 1, not that of its name/],
    ["checksums that are null", described({ checksums: null }), /it names no step or no checksums/],
    ["checksums in a list", described({ checksums: [] }), /it names no step or no checksums/],
    ["no checksums", described({ checksums: {} }), /does not match its checksum/],
    ["a tensor too few", () => made({ infos: others }), /tensor ".*" is missing/],
    [
      "a tensor of another type",
      () => made({ infos: [{ ...first, dtype: "I32" }, ...others] }),
      / is I32 .* where the run has F32/,
    ],
    [
      "a tensor of another shape",
      () => made({ infos: [{ ...first, shape: [first.shape.reduce((a, b) => a * b, 1)] }, ...others] }),
      / where the run has F32/,
    ],
    [
      "tensors in another's place",
      () => made({ bytes: new Map([[first.name, wrong]]) }),
      /does not match its checksum/,
    ],
    [
      "a number that is none",
      () =>
        made({
          description: JSON.stringify({ ...state, checksums: checked }),
          bytes: new Map([[first.name, wrong]]),
        }),
      /holds NaN or infinity/,
    ],
    [
      "a text too many",
      () => {
        const description = JSON.stringify(state);
        made({ metadata: new Map([["state", description], ["sha256", hash(description)], ["a", "b"]]) });
      },
      /it holds texts that no checkpoint has/,
    ],
    [
      "a tensor too many",
      () =>
        made({
          infos: [...tensors, { ...first, name: "p.other" }],
          bytes: new Map([["p.other", contents.get(first.name)!]]),
        }),
      /it holds tensors that the run has not/,
    ],
    [
      "something behind it",
      () => Deno.writeFileSync(path, new Uint8Array([...whole, 0])),
      /follow the header/,
    ],
    [
      "a .pth of nothing",
      () =>
        Deno.writeFileSync(path, archiveOf(new Map([["m/data.pkl", Uint8Array.of(0x80, 2, 0x7d, 0x2e)]]))),
      /description/,
    ],
    ["a folder", () => (Deno.removeSync(path), Deno.mkdirSync(path)), /it is a folder/],
  ];
  for (const [what, make, message] of cases) {
    make();
    await assert.rejects(train({ resume: projDir, maxSteps: 9 }), (error: Error) => {
      assert.equal(error.name, "CheckpointError", `${what}: ${error.stack}`);
      assert.match(error.message, message, what);
      return error.message.includes(path) && !error.message.includes("\n");
    }, what);
  }
});
