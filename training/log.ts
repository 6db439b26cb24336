/**
 * `log.txt`: what a run says of itself, a line a sentence with its time, for whoever looks at the run from elsewhere or later.
 *
 * @module
 */
import { writeError, writeFileAtomic } from "../formats/atomic.ts";
import { writeFully } from "../formats/random_access_file.ts";
import type { TrainListeners } from "./listeners.ts";

/** Name of the log in a run folder. */
export const LOG_FILE = "log.txt";

/** Writes a run's log. What is said before there is a folder is kept until there is one. */
export class RunLog implements Disposable {
  #early: string[] = [];
  #file: Deno.FsFile | undefined;
  #path = "";

  /** Begins to write to a file, behind what is there. */
  open(path: string): void {
    // Appended to under one name only: another that the file has may be outside the run folder.
    if (namesOf(path) > 1) writeFileAtomic(path, Deno.readFileSync(path), { force: true });
    this.#path = path;
    this.#file = Deno.openSync(path, { append: true, create: true });
    this.#early.forEach((line) => this.#write(line));
    this.#early = [];
  }

  /** Writes a sentence; line ends in it become blanks. */
  write(sentence: string): void {
    const line = `${new Date().toISOString()} ${sentence.replace(/\s+/g, " ")}\n`;
    if (this.#file) this.#write(line);
    else this.#early.push(line);
  }

  /** The same listeners, with what they are told written down first. */
  logged(
    listeners: TrainListeners,
  ): TrainListeners & Required<Pick<TrainListeners, "onMessage" | "onPhase">> {
    return {
      ...listeners,
      onMessage: (message) => {
        this.write(message);
        listeners.onMessage?.(message);
      },
      onPhase: (phase) => {
        this.write(`Now ${phase}`);
        listeners.onPhase?.(phase);
      },
    };
  }

  /** Writes down why a run ended, if that can be: what failed may be the disk. */
  end(error: unknown): void {
    try {
      this.write(`Ended: ${error instanceof Error ? error.message : error}`);
    } catch {
      // The error itself goes on to whoever started the run.
    }
  }

  #write(line: string): void {
    try {
      writeFully(this.#file!, new TextEncoder().encode(line));
    } catch (error) {
      throw writeError(this.#path, error);
    }
  }

  [Symbol.dispose](): void {
    this.#file?.close();
    this.#file = undefined;
  }
}

/** How many names a file has; 0 where there is none. */
function namesOf(path: string): number {
  try {
    return Deno.lstatSync(path).nlink ?? 1;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}
