/**
 * `metrics.jsonl`: one line a step, appended as it happens, so that anything may follow the run by reading the file; and the
 * same for TensorBoard.
 *
 * @module
 */

import { dirname, join } from "node:path";
import { writeError, writeFileAtomic } from "../formats/atomic.ts";
import { writeFully } from "../formats/random_access_file.ts";
import { EventFile } from "./tensorboard.ts";

/** A line: a step, and whatever was known after it. */
export type MetricsLine = Readonly<Record<string, unknown>> & { readonly step: number };

/** What TensorBoard shows of a line, and under which tags. */
const TAGS: Readonly<Record<string, string>> = {
  loss: "loss/train",
  smoothedLoss: "loss/smoothed",
  heldOutLoss: "loss/held_out",
  heldOutPerplexity: "perplexity/held_out",
  learningRate: "optimizer/learning_rate",
  gradientNorm: "optimizer/gradient_norm",
  tokensPerSecond: "speed/tokens_per_second",
  memoryBytes: "memory/bytes",
};

/** Appends lines to a run's metrics. */
export class Metrics implements Disposable {
  /** The lines that were there before. */
  readonly kept: readonly MetricsLine[];
  readonly #path: string;
  readonly #file: Deno.FsFile;
  readonly #events: EventFile;
  readonly #encoder = new TextEncoder();
  #length: number;

  /**
   * @param path the file; created where it is not there, with a folder `tensorboard` beside it
   * @param resumeAt lines of later steps are taken out, as the run will write them again
   */
  constructor(path: string, resumeAt: number) {
    this.#path = path;
    let kept: string[] = [];
    try {
      kept = readLines(path).filter((line) => isUpTo(line, resumeAt));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    this.kept = kept.map((line) => JSON.parse(line));
    // Renamed into place, so that a crash here costs no line, and a link is replaced and not followed.
    const bytes = this.#encoder.encode(kept.map((line) => line + "\n").join(""));
    writeFileAtomic(path, bytes, { force: true });
    this.#length = bytes.length;
    this.#file = Deno.openSync(path, { append: true });
    this.#events = new EventFile(join(dirname(path), "tensorboard"), resumeAt);
  }

  /** All lines, read again: a long run has too many to keep. What others wrote between them is passed over. */
  get lines(): readonly MetricsLine[] {
    return readLines(this.#path).filter((line) => isUpTo(line, Infinity)).map((line) => JSON.parse(line));
  }

  /** Writes one line, whole or not at all. @throws what the system says, such as that the disk is full */
  write(line: MetricsLine): void {
    const bytes = this.#encoder.encode(JSON.stringify({ ...line, time: new Date().toISOString() }) + "\n");
    try {
      writeFully(this.#file, bytes);
    } catch (error) {
      this.#file.truncateSync(this.#length);
      throw writeError(this.#path, error);
    }
    this.#length += bytes.length;
    const { step, samples, ...others } = line;
    const numbers = Object.entries(others).flatMap(([name, value]) =>
      name in TAGS && typeof value === "number" ? [[TAGS[name], value]] : []
    );
    this.#events.scalars(step, Object.fromEntries(numbers));
    (samples as readonly string[] | undefined)?.forEach((text, i) =>
      this.#events.text(step, `sample/${i + 1}`, text)
    );
  }

  [Symbol.dispose](): void {
    this.#file.close();
    this.#events[Symbol.dispose]();
  }
}

function readLines(path: string): string[] {
  return Deno.readTextFileSync(path).split("\n");
}

/** Whether a line is whole, of a step up to `step`, and of the kinds that are written here; a crash may have cut the last one. */
function isUpTo(text: string, step: number): boolean {
  let line: Record<string, unknown>;
  try {
    line = Object(JSON.parse(text));
  } catch {
    return false;
  }
  const { samples = [] } = line, isNumber = (value: unknown) => value === null || typeof value === "number";
  return typeof line.step === "number" && line.step <= step &&
    Object.keys(TAGS).every((name) => !(name in line) || isNumber(line[name])) &&
    Array.isArray(samples) && samples.every((sample) => typeof sample === "string");
}
