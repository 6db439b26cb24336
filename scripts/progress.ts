/**
 * What a run shows on the way, all of it on stderr: a bar on a terminal, now and then a plain line elsewhere.
 * No colours, so NO_COLOR has nothing to turn off.
 *
 * @module
 */
// @ts-types="./cli_progress.d.ts"
import cliProgress from "cli-progress";
import type { StepReport } from "../mod.ts";

/** Milliseconds between plain lines, at least. */
const PLAIN_INTERVAL = 5000;

/** Shows messages and steps. */
export class Progress {
  readonly #terminal: boolean;
  #bar: InstanceType<typeof cliProgress.SingleBar> | undefined;
  #lastLine = -Infinity;

  /** @param terminal whether stderr is one that can redraw a line */
  constructor(terminal: boolean = Deno.stderr.isTerminal()) {
    this.#terminal = terminal;
  }

  /** Shows a sentence on a line of its own. */
  message(text: string): void {
    this.finish();
    // The note on Ctrl-C may stand on this line.
    console.error(this.#terminal ? `\r\x1b[K${text}` : text);
  }

  /** Shows a step. */
  step(report: StepReport): void {
    const { step, steps } = report;
    const payload = {
      loss: report.loss.toFixed(4),
      rate: String(Math.round(report.tokensPerSecond)),
      left: duration(report.secondsLeft),
    };
    if (this.#terminal) {
      if (!this.#bar) {
        this.#bar = new cliProgress.SingleBar({
          format: "{bar} step {value}/{total}, loss {loss}, {rate} tokens/s, {left} left",
          barsize: 24,
          barCompleteChar: "█",
          barIncompleteChar: "░",
          // An end by Ctrl-C would leave it hidden.
          hideCursor: false,
        });
        this.#bar.start(steps, step, payload);
      } else this.#bar.update(step, payload);
    } else if (step === steps || performance.now() - this.#lastLine >= PLAIN_INTERVAL) {
      this.#lastLine = performance.now();
      const { loss, rate, left } = payload;
      console.error(`step ${step}/${steps}, loss ${loss}, ${rate} tokens/s, ${left} left`);
    }
  }

  /** Leaves the bar where it is. */
  finish(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

/** Seconds as 0:07, 12:34 or 1:02:03. */
export function duration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (n: number) => String(n).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60, hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** Text as it is safe to show on a terminal: control characters, which could move its cursor or worse, become �. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "\ufffd");
}
