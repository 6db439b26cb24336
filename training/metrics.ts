/**
 * `metrics.jsonl`: one line a step, appended as it happens, so that anything may follow the run by reading the file.
 *
 * @module
 */

/** Appends lines to a run's metrics. */
export class Metrics implements Disposable {
  readonly #file: Deno.FsFile;
  readonly #encoder = new TextEncoder();

  /**
   * @param path the file; created where it is not there
   * @param resumeAt lines of later steps are taken out, as the run will write them again
   */
  constructor(path: string, resumeAt: number) {
    let kept = "";
    try {
      kept = Deno.readTextFileSync(path).split("\n").filter((line) => isUpTo(line, resumeAt)).map((line) =>
        line + "\n"
      ).join("");
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    Deno.writeTextFileSync(path, kept);
    this.#file = Deno.openSync(path, { append: true });
  }

  /** Writes one line. */
  write(line: Readonly<Record<string, unknown>>): void {
    const bytes = this.#encoder.encode(JSON.stringify({ ...line, time: new Date().toISOString() }) + "\n");
    for (let done = 0; done < bytes.length;) done += this.#file.writeSync(bytes.subarray(done));
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** Whether a line is whole and of a step up to `step`; a crash may have cut the last one. */
function isUpTo(line: string, step: number): boolean {
  try {
    return JSON.parse(line).step <= step;
  } catch {
    return false;
  }
}
