/**
 * Run folders as the pages see them: lists, ids, figures, and lines as they come, from whatever is in the files.
 *
 * @module
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";
import { join } from "node:path";
import { MetricsReader } from "../serve/runs/metrics_reader.ts";
import { RunList } from "../serve/runs/run_list.ts";
import { Summaries } from "../serve/runs/summary.ts";
import { adaptersFor, latestBase } from "../serve/served.ts";
import { BASE, comes, serving } from "./serving.ts";

const folder = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "wishbone runs " }));
Deno.test.afterAll(() => Deno.removeSync(folder, { recursive: true }));
const onWindows = Deno.build.os === "windows";

let made = 0;

/** A root for runs. */
function newRoot(): string {
  const root = join(folder, String(made++));
  Deno.mkdirSync(root);
  return root;
}

interface Fake {
  lines?: readonly (object | string)[];
  settings?: object;
  files?: Record<string, string>;
  /** Seconds since the last news. */
  age?: number;
}

/** Writes a run folder as a trainer would. @returns its path */
function writeRun(
  root: string,
  name: string,
  { lines = [], settings = {}, files = {}, age = 0 }: Fake = {},
): string {
  const run = join(root, name);
  Deno.mkdirSync(join(run, "best"), { recursive: true });
  const all: Record<string, string> = {
    "config.json": JSON.stringify({ version: 1, settings: { loadModel: BASE, peft: "bone", ...settings } }),
    "metrics.jsonl": lines.map((line) => (typeof line === "string" ? line : JSON.stringify(line)) + "\n")
      .join(""),
    ...files,
  };
  for (const [file, text] of Object.entries(all)) {
    Deno.writeTextFileSync(join(run, file), text);
    const at = Date.now() / 1000 - age + (file.includes("adapter") ? 1 : 0);
    Deno.utimeSync(join(run, file), at, at);
  }
  return run;
}

const step = (n: number, more: object = {}) => ({
  step: n,
  steps: 10,
  loss: 2 - n / 10,
  learningRate: 1e-3,
  gradientNorm: 0.5,
  tokens: 100,
  tokensPerSecond: 50,
  secondsLeft: 20 - 2 * n,
  memoryBytes: 3e8,
  ...more,
});
const look = (n: number, heldOutLoss: number | null, samples = [`after ${n}`]) => ({
  step: n,
  heldOutLoss,
  samples,
});

Deno.test("RunList + folders, files and links: runs only, and none outside the root", () => {
  const root = newRoot(), outside = newRoot();
  writeRun(root, "bone");
  writeRun(root, "with a blank, ünd more");
  writeRun(root, ".hidden");
  const foreign = writeRun(outside, "foreign", { files: { "log.txt": "secret" } });
  Deno.mkdirSync(join(root, "no-run"));
  Deno.writeTextFileSync(join(root, "file"), "");
  if (!onWindows) {
    Deno.symlinkSync(foreign, join(root, "link-out"));
    Deno.symlinkSync(join(root, "loop"), join(root, "loop"));
    Deno.symlinkSync(join(foreign, "log.txt"), join(root, "bone", "log.txt"));
    Deno.mkdirSync(join(root, "linked-config"));
    Deno.symlinkSync(join(foreign, "config.json"), join(root, "linked-config", "config.json"));
  }
  const list = new RunList(root);
  deepStrictEqual(list.list().map(({ name }) => name), ["bone", "with a blank, ünd more"]);
  const [bone, other] = list.list();
  strictEqual(bone!.id, "bone");
  match(other!.id, /^run-[0-9a-f]{16}$/);
  strictEqual(list.find(other!.id)?.name, other!.name);
  for (const id of ["..", ".", "", "/etc", "no-run", "file", "link-out", "bone/..", "bone\0", "BONE "]) {
    strictEqual(list.find(id), undefined, id);
  }
  if (!onWindows) strictEqual(list.tail(bone!, "log.txt"), "", "a link out of the root is not followed");
  deepStrictEqual(new RunList(join(root, "nothing-here")).list(), []);
  deepStrictEqual(new RunList(join(root, "file")).list(), []);
});

Deno.test("MetricsReader + a file that grows, is cut, is written again: each line once, and what is new from any place", () => {
  const path = join(newRoot(), "metrics.jsonl");
  const reader = new MetricsReader(path);
  strictEqual(reader.read(), undefined, "no file yet");
  const write = (text: string) => Deno.writeTextFileSync(path, text, { append: true });
  write('{"step":1}\n{"step":2}\n{"st');
  const first = reader.read()!;
  deepStrictEqual(first.lines, [{ step: 1 }, { step: 2 }]);
  strictEqual(reader.read(), undefined, "half a line waits");
  write('ep":3}\nnot json\n[1]\n\n{"step":4,"loss":null}\n');
  const second = reader.read()!;
  deepStrictEqual(second.lines, [{ step: 3 }, { step: 4, loss: null }]);
  strictEqual(second.malformed, 2);
  ok(!second.restarted);

  const again = new MetricsReader(path, first.place);
  deepStrictEqual(again.read()!.lines, second.lines, "from the place of the first piece");
  strictEqual(again.read(), undefined);
  for (
    const place of ["", "text", "-5", "1e9", "99999999-0000000000000000", "0-zz", "11-0000000000000000", "5"]
  ) {
    const all = new MetricsReader(path, place).read()!;
    strictEqual(all.lines.length, 4, place);
    strictEqual(all.restarted, /^\d+-[0-9a-f]{16}$/.test(place), place);
  }

  // A resumed run takes lines away and writes others.
  Deno.writeTextFileSync(path, '{"step":1}\n');
  const cut = reader.read()!;
  ok(cut.restarted);
  deepStrictEqual(cut.lines, [{ step: 1 }]);
  Deno.writeTextFileSync(
    path,
    '{"step":1}\n{"step":2,"again":true}\n{"step":3}\n{"step":4}\n{"step":5}\n{"step":6}\n',
  );
  const other = new MetricsReader(path, second.place).read()!;
  ok(other.restarted, "longer than before, but another file");
  strictEqual(other.lines.length, 6);
  Deno.writeTextFileSync(path, "");
  ok(reader.read()!.restarted, "emptied");
  const many = Array.from({ length: 20_000 }, (_, i) => `{"step":${i},"text":"${"x".repeat(30)}"}\n`).join(
    "",
  );
  Deno.writeTextFileSync(path, many);
  const long = new MetricsReader(path), steps: unknown[] = [];
  for (let piece = long.read(); piece; piece = long.read()) {
    steps.push(...piece.lines.map((line) => line.step));
  }
  deepStrictEqual(steps, Array.from({ length: 20_000 }, (_, i) => i));
});

Deno.test("Summaries + runs in every phase: what they say of themselves", () => {
  const root = newRoot();
  const adapter = { "adapter.pth": "", "best/adapter.pth": "" };
  writeRun(root, "new");
  writeRun(root, "training", { lines: [look(0, 2.5), step(1), step(2), look(2, 2.2), step(3)] });
  writeRun(root, "measuring", { lines: [look(0, 2.5), step(10)] });
  writeRun(root, "silent", { lines: [step(1)], age: 41 });
  writeRun(root, "slow", { lines: [step(1, { tokens: 1000, tokensPerSecond: 20 })], age: 41 });
  writeRun(root, "finished", { lines: [look(0, 2.5), step(10), look(10, 1.9)], files: adapter, age: 1000 });
  writeRun(root, "stopped", { lines: [look(0, 2.5), step(4)], files: adapter, age: 1000 });
  writeRun(root, "resumed", { lines: [step(5)], files: adapter });
  const old = Date.now() / 1000 - 500;
  Deno.utimeSync(join(root, "resumed", "adapter.pth"), old, old);
  writeRun(root, "broken", {
    lines: ["{", "", { step: "one" }, step(1, { loss: null }), { step: 2, loss: "NaN" }],
  });
  Deno.writeTextFileSync(join(root, "broken", "config.json"), "{");
  const summaries = new Summaries(new RunList(root));
  const all = new Map(summaries.all().map((summary) => [summary.name, summary]));
  const phases = Object.fromEntries([...all].map(([name, { phase }]) => [name, phase]));
  deepStrictEqual(phases, {
    new: "starting",
    training: "training",
    measuring: "measuring",
    silent: "silent",
    slow: "training",
    finished: "finished",
    stopped: "stopped",
    resumed: "training",
    broken: "training",
  });
  const { heldOut, ...training } = all.get("training")!;
  deepStrictEqual([training.step, training.steps, training.secondsLeft, training.memoryBytes], [
    3,
    10,
    14,
    3e8,
  ]);
  deepStrictEqual(heldOut, {
    first: { step: 0, loss: 2.5 },
    last: { step: 2, loss: 2.2 },
    best: { step: 2, loss: 2.2 },
  });
  strictEqual(all.get("broken")!.malformed, 1);
  strictEqual(all.get("broken")!.loss, null);
  // What comes later is added to what is known.
  Deno.writeTextFileSync(join(root, "training", "metrics.jsonl"), JSON.stringify(look(4, 2.3)) + "\n", {
    append: true,
  });
  const list = new RunList(root);
  strictEqual(summaries.summary(list.find("training")!).heldOut.last?.loss, 2.3);
  strictEqual(summaries.summary(list.find("training")!).heldOut.best?.loss, 2.2);
});

Deno.test("details + a run: samples, the end of its log, commands, and settings without where it lies", () => {
  const root = newRoot();
  const log = Array.from(
    { length: 500 },
    (_, i) => `line ${i} of ${root}/text.jsonl, not /etc/hosts, 5 tokens/s\n`,
  ).join("");
  writeRun(root, "it's", {
    lines: [look(0, 2, ["before"]), step(10), look(10, 1, ["after"])],
    files: { "log.txt": log, "adapter.pth": "", "best/adapter.pth": "" },
    settings: {
      dataFile: join(root, "text.jsonl"),
      boneConfig: { bone_r: 8, bone_load: "" },
      trainParts: ["ln"],
    },
  });
  const list = new RunList(root);
  const details = new Summaries(list).details(list.list()[0]!);
  deepStrictEqual(details.samples, {
    first: { step: 0, texts: ["before"] },
    last: { step: 10, texts: ["after"] },
  });
  strictEqual(details.log.length, 200);
  match(details.log.at(-1)!, /^line 499 of \.\.\/.*\/text\.jsonl, not \.\.\/.*etc\/hosts, 5 tokens\/s$/);
  deepStrictEqual((details.settings as { boneConfig: unknown }).boneConfig, { bone_r: 8, bone_load: "" });
  match(details.commands.resume, /^deno task run_bone --resume '.*it'\\''s'$/);
  match(details.commands.merge!, /--base_model .*base\.safetensors --lora_checkpoint .*best\/adapter\.pth/);
  ok(!/["' ]\/(?!s\b)\w/.test(JSON.stringify(details)), "no absolute path");
});

Deno.test("adaptersFor and latestBase + runs of two bases", () => {
  const root = newRoot(), other = join(root, "other.safetensors");
  Deno.copyFileSync(BASE, other);
  writeRun(root, "mine", { files: { "adapter.pth": "", "best/adapter.pth": "" }, age: 100 });
  writeRun(root, "none-yet");
  writeRun(root, "others", { settings: { loadModel: other }, files: { "adapter.pth": "" }, age: 50 });
  writeRun(root, "gone", { settings: { loadModel: join(root, "gone.pth") }, files: { "adapter.pth": "" } });
  const list = new RunList(root);
  deepStrictEqual(adaptersFor(BASE, [], list).map(({ name }) => name), ["mine", "mine-best"]);
  deepStrictEqual(adaptersFor(other, ["x/named/adapter.pth", "y/lora.pth"], list).map(({ name }) => name), [
    "named",
    "lora",
    "others",
  ]);
  strictEqual(latestBase(list), other);
  strictEqual(latestBase(new RunList(join(root, "nothing"))), undefined);
});

/** Reads events until a condition holds. */
async function eventsUntil(response: Response, enough: (text: string) => boolean): Promise<string> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!enough(text)) {
    const { value, done } = await reader.read();
    if (done) break;
    text += value;
  }
  await reader.cancel();
  return text;
}

Deno.test("events + a run at work: lines with ids, and after a lost connection only what is new", async () => {
  const root = newRoot();
  const hostile = "a\r\nevent: lines\r\ndata: {}\n\n\u2028<script>\0\u202e";
  const run = writeRun(root, "bone", { lines: [look(0, 2.5, [hostile]), step(1)] });
  const append = (line: object) =>
    Deno.writeTextFileSync(join(run, "metrics.jsonl"), JSON.stringify(line) + "\n", { append: true });
  await using server = await serving({ runs: root });
  const url = `${server.url}/api/runs/bone/events`;
  const first = await eventsUntil(await fetch(url), (text) => text.includes("event: summary"));
  const [, id] = /^id: (\S+)$/m.exec(first)!;
  const data = JSON.parse(first.split("\n").find((line) => line.startsWith('data: {"lines"'))!.slice(6));
  deepStrictEqual(data.lines.map(({ step }: { step: number }) => step), [0, 1]);
  strictEqual(data.lines[0].samples[0], hostile);
  strictEqual(first.match(/^event: lines$/gm)!.length, 1, "nothing in a file makes an event");
  append(step(2));
  const response = await fetch(url, { headers: { "last-event-id": id! } });
  setTimeout(() => append(step(3)), 300);
  const second = await eventsUntil(response, (text) => text.includes('"step":3'));
  ok(second.includes('"step":2') && !second.includes('"step":1,'));
  Deno.writeTextFileSync(join(run, "metrics.jsonl"), JSON.stringify(step(1)) + "\n");
  const third = await eventsUntil(
    await fetch(url, { headers: { "last-event-id": id! } }),
    (text) => text.includes("event: summary"),
  );
  match(third, /^event: restart\n/, "the file was written again");
  for (const place of ["text", "-1", "99999999999999999999"]) {
    const answer = await eventsUntil(
      await fetch(url, { headers: { "last-event-id": place } }),
      (text) => text.includes("event: summary"),
    );
    ok(answer.includes('"step":1'), place);
  }
  const none = await fetch(`${server.url}/api/runs/none/events`);
  strictEqual(none.status, 404);
  await none.body?.cancel();
  deepStrictEqual(server.errors, []);
});

Deno.test("events + two hundred pages: the next is told that there are too many, until one is closed", async () => {
  const root = newRoot();
  writeRun(root, "bone", { lines: [step(1)] });
  await using server = await serving({ runs: root });
  const open = () => fetch(`${server.url}/api/runs/bone/events`);
  for (let i = 0; i < 201; i++) {
    strictEqual((await fetch(`${server.url}/api/runs/bone/events`, { method: "HEAD" })).status, 200);
  }
  const streams = await Promise.all(Array.from({ length: 200 }, open));
  ok(streams.every(({ status }) => status === 200));
  const refused = await open();
  strictEqual(refused.status, 503);
  await refused.body?.cancel();
  await Promise.all(streams.map(({ body }) => body!.cancel()));
  const isOpen = async () => {
    const again = await open();
    await again.body?.cancel();
    return again.status === 200;
  };
  ok(await comes(isOpen), "no place was given back");
});
