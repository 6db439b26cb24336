/**
 * What a run shows on the way, all of it on stderr: one line that is drawn again on a terminal, now and then a plain line
 * elsewhere. No colours, so NO_COLOR has nothing to turn off.
 *
 * @module
 */
import type { Phase, StepReport } from "../mod.ts";

/** Milliseconds between plain lines, at least, and between drawings of the live line. */
const PLAIN_INTERVAL = 5000, LIVE_INTERVAL = 100;

/** Milliseconds from which on a log says how long a phase took. */
const LONG_PHASE = 2000;

/** Characters of the bar. */
const BAR = 16;

/** Where lines go, and what is known of it. */
export interface Screen {
  /** Whether it can draw a line again. */
  readonly terminal: boolean;
  /** Characters of a line. */
  columns(): number;
  write(text: string): void;
}

/** The standard error output. */
const STDERR: Screen = {
  terminal: Deno.stderr.isTerminal(),
  columns() {
    try {
      return Deno.consoleSize().columns;
    } catch {
      return 80;
    }
  },
  write(text) {
    Deno.stderr.writeSync(new TextEncoder().encode(text));
  },
};

/** Shows messages, phases and steps. */
export class Progress {
  readonly #screen: Screen;
  #lastPlain = -Infinity;
  #lastLive = -Infinity;
  #phase: { name: Phase; since: number; detail?: string } | undefined;
  #step: StepReport | undefined;

  /** @param screen where it shows them */
  constructor(screen: Screen = STDERR) {
    this.#screen = screen;
  }

  /** Shows a sentence on a line of its own. */
  message(text: string): void {
    this.#screen.write(`${this.#screen.terminal ? "\r\x1b[K" : ""}${text}\n`);
    if (this.#step) this.#draw();
  }

  /** Shows what is done now: on a terminal while it lasts, in a log afterwards where it took long. */
  phase(name: Phase): void {
    const now = performance.now(), ended = this.#phase;
    this.#phase = { name, since: now };
    if (this.#screen.terminal) this.#draw();
    else if (ended && ended.name !== "training" && now - ended.since >= LONG_PHASE) {
      this.message(`${capitalised(ended.name)} took ${((now - ended.since) / 1000).toFixed(1)} s`);
    }
  }

  /** Shows how far the phase is. */
  part(name: string, done: number, all: number): void {
    const now = performance.now(), detail = `${name}, ${done + 1} of ${all}`;
    if (this.#phase) this.#phase.detail = detail;
    if (this.#screen.terminal) {
      if (now - this.#lastLive >= LIVE_INTERVAL) this.#draw();
    } else if (this.#phase && now - Math.max(this.#lastPlain, this.#phase.since) >= PLAIN_INTERVAL) {
      this.#lastPlain = now;
      this.message(`${capitalised(this.#phase.name)}: ${detail}`);
    }
  }

  /** Shows a step. */
  step(report: StepReport): void {
    const isFirst = !this.#step;
    this.#step = report;
    const now = performance.now(), last = report.step === report.steps;
    if (this.#screen.terminal) {
      if (isFirst || last || now - this.#lastLive >= LIVE_INTERVAL) this.#draw();
    } else if (last || now - this.#lastPlain >= PLAIN_INTERVAL) {
      this.#lastPlain = now;
      this.#screen.write(`${stepLine(report)}\n`);
    }
  }

  /** Leaves the line where it is. */
  finish(): void {
    this.#phase = undefined;
    if (this.#step) this.#draw();
    if (this.#screen.terminal) this.#screen.write(this.#step ? "\n" : "\r\x1b[K");
    this.#step = undefined;
  }

  /** Draws the live line, no longer than a line is: a longer one would be drawn one below the other. */
  #draw(): void {
    if (!this.#screen.terminal) return;
    this.#lastLive = performance.now();
    const step = this.#step, phase = this.#phase?.name, room = this.#screen.columns() - 1;
    const detail = this.#phase?.detail ? `${this.#phase.detail} ` : "";
    const doing = phase && !(step && phase === "training") ? `${phase}… ${detail}` : "";
    const bar = step ? `${"█".repeat(filled(step)).padEnd(BAR, "░")} ` : "";
    let line = `${bar}${doing}${step ? stepLine(step) : ""}`;
    // What is wanted least is left out first.
    for (let left = 1; step && line.length > room && left <= DISPENSABLE.length; left++) {
      line = doing + stepLine(step, DISPENSABLE.slice(0, left));
    }
    this.#screen.write(`\r${line.slice(0, room)}\x1b[K`);
  }
}

function capitalised(text: string): string {
  return text[0]!.toUpperCase() + text.slice(1);
}

function filled({ step, steps }: StepReport): number {
  return Math.min(BAR, Math.floor(BAR * step / steps));
}

/** What a narrow terminal can do without, first what is wanted least. */
const DISPENSABLE = ["memory", "norm", "rate", "smoothed", "speed"] as const;

/** A step in a line. @param without parts that are left out */
export function stepLine(report: StepReport, without: readonly typeof DISPENSABLE[number][] = []): string {
  const parts: [what: string, text: string][] = [
    ["step", `step ${report.step}/${report.steps}`],
    ["loss", `loss ${report.loss.toFixed(4)}`],
    ["smoothed", `smoothed ${report.smoothedLoss.toFixed(4)}`],
    ["rate", `lr ${brief(report.learningRate)}`],
    ["norm", `grad norm ${brief(report.gradientNorm)}`],
    ["speed", `${Math.round(report.tokensPerSecond)} tokens/s`],
    ["memory", `${Math.round(report.memoryBytes / 1e6)} MB`],
    ["left", `${duration(report.secondsLeft)} left`],
  ];
  const left = new Set<string>(without);
  return parts.filter(([what]) => !left.has(what)).map(([, text]) => text).join(", ");
}

/** Three digits, and no more zeros than need be. */
function brief(x: number): string {
  return x !== 0 && (x < 1e-2 || x >= 1e4) ? x.toExponential(2) : String(Number(x.toPrecision(3)));
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
