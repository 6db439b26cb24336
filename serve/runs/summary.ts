/**
 * What a run's files say of it, in few words: how far it is, what it came to, and whether anybody is at work on it.
 *
 * @module
 */
import { isAbsolute, relative, sep } from "node:path";
import { type Line, MetricsReader } from "./metrics_reader.ts";
import { type RunFolder, type RunList, statOf } from "./run_list.ts";

/** Seconds without news after which a trainer is called silent, at least. */
const SILENT_SECONDS = 40;
/** A result that is this much older than the last line is of an earlier part of the run. */
const RESULT_SLACK_SECONDS = 5;
/** Files that a run leaves when it ends. */
const RESULTS = ["adapter.pth", "adapter.safetensors", "model.pth", "model.safetensors"];
/** The result of the best measurement. */
const BEST_RESULTS = RESULTS.map((name) => `best/${name}`);

/** How far a run is. */
export type Phase = "starting" | "training" | "measuring" | "silent" | "finished" | "stopped";

/** A loss on held-out text. */
export interface HeldOut {
  readonly step: number;
  readonly loss: number;
}

/** Samples at a step, one for each prompt. */
export interface Samples {
  readonly step: number;
  readonly texts: readonly string[];
}

/** A run in short. */
export interface Summary {
  readonly id: string;
  readonly name: string;
  readonly phase: Phase;
  readonly step: number;
  readonly steps: number | null;
  readonly secondsLeft: number | null;
  readonly tokensPerSecond: number | null;
  readonly memoryBytes: number | null;
  /** Of the last step. */
  readonly loss: number | null;
  /** The first and the latest measurement, and the lowest after training began. */
  readonly heldOut: {
    readonly first: HeldOut | null;
    readonly last: HeldOut | null;
    readonly best: HeldOut | null;
  };
  /** Milliseconds since 1970 of the last news. */
  readonly heardAt: number;
  /** Seconds since the last news. */
  readonly quietSeconds: number;
  /** Lines of the metrics that could not be read. */
  readonly malformed: number;
  /** What it left, by its name in the folder. */
  readonly result: string | null;
  /** The result of the best measurement. */
  readonly best: string | null;
}

/** A run in full. */
export interface Details extends Summary {
  /** Everything in effect, paths shown from where the server was started. */
  readonly settings: Readonly<Record<string, unknown>>;
  readonly samples: { readonly first: Samples | null; readonly last: Samples | null };
  /** The last lines of its log. */
  readonly log: readonly string[];
  /** Command lines to copy. */
  readonly commands: { readonly resume: string; readonly merge: string | null };
}

/** Lines of a log that are shown. */
const LOG_LINES = 200;

/** What has been read of one run. */
class RunReader {
  #metrics: MetricsReader | undefined;
  #malformed = 0;
  #last: Line | undefined;
  #steps: number | null = null;
  #heldOut: HeldOut[] = [];
  #firstSamples: Samples | null = null;
  #lastSamples: Samples | null = null;

  constructor(readonly run: RunFolder, readonly list: RunList) {}

  #readOn(): void {
    const path = this.list.file(this.run, "metrics.jsonl");
    if (path === undefined) return;
    if (this.#metrics?.path !== path) this.#metrics = new MetricsReader(path);
    for (let piece = this.#metrics.read(); piece; piece = this.#metrics.read()) {
      if (piece.restarted) {
        this.#malformed = 0;
        this.#last = undefined;
        this.#steps = null;
        this.#heldOut = [];
        this.#firstSamples = this.#lastSamples = null;
      }
      this.#malformed += piece.malformed;
      for (const line of piece.lines) this.#add(line);
    }
  }

  #add(line: Line): void {
    const step = numberOf(line.step);
    if (step === null) return;
    if ("loss" in line) {
      this.#last = line;
      this.#steps = numberOf(line.steps) ?? this.#steps;
    }
    const loss = numberOf(line.heldOutLoss);
    if (loss !== null) this.#heldOut.push({ step, loss });
    const texts = [line.samples ?? line.sample].flat().filter((text) => typeof text === "string");
    if (!texts.length) return;
    this.#firstSamples ??= { step, texts };
    this.#lastSamples = { step, texts };
  }

  summary(): Summary {
    this.#readOn();
    const { run, list } = this;
    const news = ["metrics.jsonl", "log.txt", "config.json"].map((name) => modifiedAt(list.file(run, name)));
    const heardAt = Math.max(...news);
    const quietSeconds = Math.max(0, (Date.now() - heardAt) / 1000);
    const result = RESULTS.find((name) => list.file(run, name) !== undefined) ?? null;
    const resultAt = result ? modifiedAt(list.file(run, result)) : -Infinity;
    const ended = result !== null && resultAt >= news[0]! - RESULT_SLACK_SECONDS * 1000;
    const last = this.#last;
    const step = numberOf(last?.step) ?? 0, steps = this.#steps;
    const stepSeconds = (numberOf(last?.tokens) ?? 0) / (numberOf(last?.tokensPerSecond) || Infinity);
    const silent = quietSeconds > Math.max(SILENT_SECONDS, 10 * stepSeconds);
    const measured = this.#heldOut.filter((heldOut) => heldOut.step > 0);
    const best = measured.reduce<HeldOut | null>(
      (best, one) => best && best.loss <= one.loss ? best : one,
      null,
    );
    return {
      id: run.id,
      name: run.name,
      phase: ended
        ? steps !== null && step < steps ? "stopped" : "finished"
        : silent
        ? "silent"
        : !last && !this.#heldOut.length
        ? "starting"
        : last && step === steps
        ? "measuring"
        : "training",
      step,
      steps,
      secondsLeft: ended ? null : numberOf(last?.secondsLeft),
      tokensPerSecond: numberOf(last?.tokensPerSecond),
      memoryBytes: numberOf(last?.memoryBytes),
      loss: numberOf(last?.loss),
      heldOut: { first: this.#heldOut[0] ?? null, last: this.#heldOut.at(-1) ?? null, best },
      heardAt,
      quietSeconds,
      malformed: this.#malformed,
      result,
      best: BEST_RESULTS.find((name) => list.file(run, name) !== undefined) ?? null,
    };
  }

  details(): Details {
    const summary = this.summary();
    const settings = settingsOf(this.list.text(this.run, "config.json"));
    const log = this.list.tail(this.run, "log.txt").split("\n").filter((line) => line !== "")
      .slice(-LOG_LINES).map(withoutPlaces([this.run.path, ...absolutePaths(settings)]));
    return {
      ...summary,
      settings: shown(settings) as Details["settings"],
      samples: { first: this.#firstSamples, last: this.#lastSamples },
      log,
      commands: commands(this.run, summary, settings),
    };
  }
}

/** What is known of the runs under a root; reads only what has come since it was asked before. */
export class Summaries {
  readonly #readers = new Map<string, RunReader>();

  constructor(readonly list: RunList) {}

  #reader(run: RunFolder): RunReader {
    let reader = this.#readers.get(run.path);
    if (!reader) this.#readers.set(run.path, reader = new RunReader(run, this.list));
    return reader;
  }

  /** All runs, those with the latest news first. */
  all(): Summary[] {
    const runs = this.list.list();
    for (const path of this.#readers.keys()) {
      if (!runs.some((run) => run.path === path)) this.#readers.delete(path);
    }
    return runs.map((run) => this.#reader(run).summary()).sort((a, b) => b.heardAt - a.heardAt);
  }

  /** One run in short. */
  summary(run: RunFolder): Summary {
    return this.#reader(run).summary();
  }

  /** One run in full. */
  details(run: RunFolder): Details {
    return this.#reader(run).details();
  }
}

/** The settings in the text of a config.json; none where it is not one. */
export function settingsOf(text: string | undefined): Readonly<Record<string, unknown>> {
  try {
    const { settings } = JSON.parse(text ?? "{}");
    return typeof settings === "object" && settings !== null && !Array.isArray(settings) ? settings : {};
  } catch {
    return {};
  }
}

/** A finite number, or null. */
function numberOf(value: unknown): number | null {
  return typeof value === "number" && Number.isFinite(value) ? value : null;
}

function modifiedAt(path: string | undefined): number {
  return (path === undefined ? undefined : statOf(path)?.mtime?.getTime()) ?? 0;
}

/** A value with every path in it as it is from where the server was started, so that no page tells where that is. */
function shown(value: unknown): unknown {
  if (typeof value === "string") return isAbsolute(value) ? fromHere(value) : value;
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, shown(inner)]));
}

/** A path from where the server was started. */
export function fromHere(path: string): string {
  return relative(Deno.cwd(), path).split(sep).join("/") || ".";
}

/** Makes sentences show paths as they are from where the server was started: those that are known, and what looks like one. */
function withoutPlaces(known: readonly string[]): (text: string) => string {
  const longestFirst = known.toSorted((a, b) => b.length - a.length);
  return (text) => {
    for (const path of longestFirst) text = text.replaceAll(path, () => fromHere(path));
    return text.replace(/(?<![\w.:/\\])(?:[A-Za-z]:\\|\/)[^\s:;,'"()]+/g, (path) => fromHere(path));
  };
}

/** Every absolute path in some settings. */
function absolutePaths(value: unknown): string[] {
  if (typeof value === "string") return isAbsolute(value) ? [value] : [];
  return typeof value === "object" && value !== null ? Object.values(value).flatMap(absolutePaths) : [];
}

/** A word as a shell reads it. */
export function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

function commands(run: RunFolder, { result, best }: Summary, settings: Readonly<Record<string, unknown>>) {
  const folder = fromHere(run.path);
  const adapter = (best?.includes("adapter") ? best : undefined) ??
    (result?.startsWith("adapter") ? result : undefined);
  const base = typeof settings.loadModel === "string" ? settings.loadModel : undefined;
  const extension = /\.(pth|safetensors)$/.exec(base ?? "")?.[0] ?? ".safetensors";
  const merge = adapter === undefined || base === undefined ? null : [
    "deno task merge_bone",
    `--base_model ${quoted(fromHere(base))}`,
    `--lora_checkpoint ${quoted(`${folder}/${adapter}`)}`,
    `--output ${quoted(`${folder}/merged${extension}`)}`,
  ].join(" ");
  return { resume: `deno task run_bone --resume ${quoted(folder)}`, merge };
}
