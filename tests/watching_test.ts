/**
 * What can be seen of a run: the line on the way, TensorBoard's files, curves and the report.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { train } from "../mod.ts";
import { Progress, type Screen, stepLine } from "../scripts/progress.ts";
import { curvesSvg } from "../training/curves.ts";
import type { StepReport } from "../training/listeners.ts";
import { crc32c } from "../training/tensorboard.ts";
import { newPath, randomTexts, writeDocuments, writeTinyModel } from "./tiny_model.ts";

const REPORT: StepReport = {
  step: 3,
  steps: 12,
  loss: 1.23456,
  smoothedLoss: 1.3,
  learningRate: 2e-5,
  gradientNorm: 0.4123,
  tokens: 100,
  tokensPerSecond: 2714.4,
  secondsLeft: 86,
  memoryBytes: 321.2e6,
};
const LINE =
  "step 3/12, loss 1.2346, smoothed 1.3000, lr 2.00e-5, grad norm 0.412, 2714 tokens/s, 321 MB, 1:26 left";

function screen(terminal: boolean, columns = 200): Screen & { text: string } {
  return {
    text: "",
    terminal,
    columns: () => columns,
    write(text) {
      this.text += text;
    },
  };
}

Deno.test("Progress + a log: plain lines, the first and the last, without control characters", () => {
  const log = screen(false), progress = new Progress(log);
  assert.equal(stepLine(REPORT), LINE);
  progress.phase("loading the model");
  progress.message("Hello");
  progress.phase("training");
  for (const step of [3, 4, 5, 12]) progress.step({ ...REPORT, step });
  progress.finish();
  assert.deepEqual(log.text.split("\n"), ["Hello", LINE, LINE.replace("step 3", "step 12"), ""]);
});

Deno.test("Progress + a phase of many parts: the part by name and how many there are, now and then", () => {
  const clock = performance.now.bind(performance);
  let now = 0;
  performance.now = () => now;
  try {
    const shown = (terminal: boolean) => {
      const target = screen(terminal), progress = new Progress(target);
      progress.phase("decomposing the weights");
      for (const [done, name] of ["att.key", "att.value", "ffn.key"].entries()) {
        progress.part(name, done, 3);
        now += 4000;
      }
      progress.finish();
      return target.text;
    };
    assert.equal(shown(false), "Decomposing the weights: ffn.key, 3 of 3\n");
    assert.ok(shown(true).includes("decomposing the weights… ffn.key, 3 of 3 \x1b[K"));
  } finally {
    performance.now = clock;
  }
});

Deno.test("Progress + a terminal: one line drawn again, with a bar and the phase, never wider than the terminal", () => {
  const wide = screen(true), progress = new Progress(wide);
  progress.phase("loading the model");
  assert.equal(wide.text, "\rloading the model… \x1b[K");
  wide.text = "";
  progress.phase("training");
  progress.step(REPORT);
  assert.ok(wide.text.endsWith(`\r████░░░░░░░░░░░░ ${LINE}\x1b[K`), wide.text);
  wide.text = "";
  progress.phase("saving");
  assert.equal(wide.text, `\r████░░░░░░░░░░░░ saving… ${LINE}\x1b[K`);
  wide.text = "";
  progress.message("Hello");
  assert.ok(wide.text.startsWith("\r\x1b[KHello\n\r████"));
  const shown = (columns: number) => {
    const narrow = screen(true, columns);
    new Progress(narrow).step(REPORT);
    return narrow.text;
  };
  assert.equal(
    shown(80),
    "\rstep 3/12, loss 1.2346, smoothed 1.3000, lr 2.00e-5, 2714 tokens/s, 1:26 left\x1b[K",
  );
  assert.equal(shown(40), "\rstep 3/12, loss 1.2346, 1:26 left\x1b[K");
  assert.equal(shown(20), "\rstep 3/12, loss 1.2\x1b[K");
});

/** The events of a file: each a list of fields, as [number, value], with messages as bytes. */
function eventsOf(bytes: Uint8Array): Map<number, unknown>[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), events = [];
  const masked = (crc: number) => (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
  for (let at = 0; at < bytes.length;) {
    const length = Number(view.getBigUint64(at, true)), payload = bytes.subarray(at + 12, at + 12 + length);
    assert.equal(view.getUint32(at + 8, true), masked(crc32c(bytes.subarray(at, at + 8))));
    assert.equal(view.getUint32(at + 12 + length, true), masked(crc32c(payload)));
    events.push(fieldsOf(payload));
    at += length + 16;
  }
  return events;
}

function fieldsOf(bytes: Uint8Array): Map<number, unknown> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const fields = new Map<number, unknown>();
  let at = 0;
  const varint = () => {
    for (let value = 0, unit = 1;; unit *= 128) {
      const byte = bytes[at++]!;
      value += (byte & 127) * unit;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key & 7;
    if (kind === 0) fields.set(key >> 3, varint());
    else if (kind === 1) fields.set(key >> 3, view.getFloat64((at += 8) - 8, true));
    else if (kind === 5) fields.set(key >> 3, view.getFloat32((at += 4) - 4, true));
    else {
      const length = varint(), content = bytes.subarray(at, at += length), before = fields.get(key >> 3);
      fields.set(key >> 3, before ? [before, content].flat() : content);
    }
  }
  return fields;
}

const text = (bytes: unknown) => new TextDecoder().decode(bytes as Uint8Array);

Deno.test("crc32c + the check value of its definition", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
});

Deno.test("train + what is left to look at: event files with every step, a report with curves, samples and commands", async () => {
  const projDir = newPath("a run <b>");
  const options = {
    loadModel: writeTinyModel(newPath("model.safetensors")),
    dataFile: writeDocuments(newPath("text.jsonl"), randomTexts(12, 30)),
    projDir,
    ctxLen: 16,
    microBsz: 4,
    heldOut: 0.2,
    trainParts: [],
    boneConfig: { bone_r: 4 },
    samplePrompt: ["a<b", "c&d"],
    engine: "cpu",
    lrInit: 1e-2,
  } as const;
  const lines: StepReport[] = [];
  await train({ ...options, maxSteps: 2 }, { onStep: (line) => lines.push(line) });
  const messages: string[] = [];
  await train({ resume: projDir, maxSteps: 3 }, {
    onStep: (line) => lines.push(line),
    onMessage: (message) => messages.push(message),
  });

  const folder = join(projDir, "tensorboard");
  const names = [...Deno.readDirSync(folder)].map(({ name }) => name).sort();
  assert.equal(names.length, 2);
  const [first, second] = names.map((name) => eventsOf(Deno.readFileSync(join(folder, name))));
  assert.equal(text(first![0]!.get(3)), "brain.Event:2");
  assert.deepEqual([second![1]!.get(2), fieldsOf(second![1]!.get(7) as Uint8Array).get(1)], [3, 1]);
  const scalars = [...first!, ...second!].flatMap((event) => {
    const values = event.has(5) ? [fieldsOf(event.get(5) as Uint8Array).get(1)].flat() : [];
    return values.map((value) => ({ step: event.get(2), ...summaryOf(value as Uint8Array) }));
  });
  for (const { step, loss, learningRate } of lines) {
    const of = (tag: string) => scalars.find((scalar) => scalar.step === step && scalar.tag === tag)!.value;
    assert.equal(of("loss/train"), Math.fround(loss));
    assert.equal(of("optimizer/learning_rate"), Math.fround(learningRate));
  }
  assert.ok(scalars.some(({ tag, text }) => tag === "sample/2" && text?.startsWith("c&d")));
  assert.ok(scalars.some(({ step, tag }) => step === 0 && tag === "loss/held_out"));

  assert.ok(messages.includes(`Report: ${join(projDir, "report.html")}`));
  const html = Deno.readTextFileSync(join(projDir, "report.html"));
  const svg = Deno.readTextFileSync(join(projDir, "curves.svg"));
  assert.ok(html.includes(svg));
  assert.ok(html.includes("<q>a&lt;b</q>") && html.includes("c&amp;d") && !html.includes("<b>"));
  assert.match(
    html,
    /deno task merge_bone --base_model .*model\.safetensors --lora_checkpoint .*adapter\.pth/,
  );
  assert.match(html, /<th>--ctx_len<\/th><td>16<\/td>/);
  assert.match(html, /Held-out loss before<\/th><td>\d\.\d{4} \(perplexity /);
});

function summaryOf(bytes: Uint8Array): { tag: string; value: unknown; text: string | undefined } {
  const fields = fieldsOf(bytes), tensor = fields.get(8) as Uint8Array | undefined;
  return {
    tag: text(fields.get(1)),
    value: fields.get(2),
    text: tensor && text(fieldsOf(tensor).get(8)),
  };
}

Deno.test("curvesSvg + long runs, spikes and nothing at all: all points within the panel, and no spike is lost", () => {
  const lines = Array.from({ length: 50_000 }, (_, i) => ({
    step: i + 1,
    loss: i === 31_111 ? 9 : 1 + 1 / (i + 1),
    smoothedLoss: 1,
    learningRate: 1e-5,
    gradientNorm: i % 100 === 0 ? NaN : 1,
    ...(i % 10_000 === 0 ? { heldOutLoss: 1.5 } : {}),
  }));
  const svg = curvesSvg(lines, 10_001);
  assert.ok(svg.length < 200_000, `${svg.length} characters`);
  assert.doesNotMatch(svg, /NaN|Infinity/);
  const [, raw] = /<path class="raw" d="M([^"]*L[^"]*)"/.exec(svg)!;
  const ys = raw!.split("L").map((point) => Number(point.split(",")[1]));
  assert.ok(Math.min(...ys) < 80 && Math.min(...ys) >= 30, "the spike is near the top");
  assert.match(svg, /<circle class="best"/);
  assert.doesNotMatch(curvesSvg([], undefined), /NaN|Infinity/);
});
