/**
 * What all pages share: elements, numbers as people read them, and commands to copy. Text is only ever set as text.
 *
 * @module
 */

/** The element of an id. */
export const byId = (id) => document.getElementById(id);

/** Makes an element; a child that is text stays text. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** Shows a sentence where the page has its place for it, or takes it away. */
export function tell(id, sentence) {
  const place = byId(id);
  place.hidden = !sentence;
  if (place.textContent !== (sentence || "")) place.textContent = sentence || "";
}

/** 1234.5 as 1,235. */
export const count = (number) =>
  number === null || number === undefined ? "–" : Math.round(number).toLocaleString("en-US");

/** A loss. */
export const loss = (number) => number === null || number === undefined ? "–" : number.toFixed(4);

/** A number of any size in few signs. */
export function short(number) {
  if (number === null || number === undefined) return "–";
  const size = Math.abs(number);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return number.toExponential(2).replace(/\.?0*e\+?/, "e");
  return String(Number(number.toPrecision(4)));
}

/** Seconds as 0:07, 12:34 or 1:02:03. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.max(0, Math.round(seconds)), two = (n) => String(n).padStart(2, "0");
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** How long ago, in words. */
export function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}

/** Bytes as MB or GB. */
export function bytes(number) {
  if (number === null || number === undefined) return "–";
  return number >= 1e9 ? `${(number / 1e9).toFixed(2)} GB` : `${(number / 1e6).toFixed(0)} MB`;
}

/** How a phase is called. */
export const PHASES = {
  starting: "starting",
  training: "training",
  measuring: "measuring",
  silent: "silent",
  finished: "finished",
  stopped: "stopped",
};

/** A command with a button that copies it. */
export function command(line) {
  const button = make("button", { type: "button" });
  const say = (word) => {
    button.textContent = word;
    button.setAttribute("aria-label", `${word}: ${line}`);
  };
  say("Copy");
  // A word is not broken after its hyphens, unless it holds line ends of its own.
  const words = line.split(/( )/).map((word) => /[ \n]/.test(word) ? word : make("span", {}, word));
  const box = make("div", { class: "command" }, make("code", {}, ...words), button);
  button.addEventListener("click", async () => {
    say(await copied(line) ? "Copied" : "Not copied");
    setTimeout(() => say("Copy"), 1500);
  });
  return box;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** Smooths a series: an exponential mean that does not lean on its start; gaps stay gaps. */
export function smoothed(values, weight = 0.9) {
  let sum = 0, norm = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = weight * sum + (1 - weight) * value;
    norm = weight * norm + (1 - weight);
    return sum / norm;
  });
}

/** Points of a curve that a screen can show. */
const MOST_POINTS = 2500;

/** What a run's lines say of each step, in their order, with a smoothed loss; a step that is told again is the later one. */
export class Steps {
  #lines = new Map();

  clear() {
    this.#lines.clear();
  }

  get size() {
    return this.#lines.size;
  }

  add(line) {
    if (typeof line.step !== "number") return;
    const { samples: _samples, sample: _sample, ...numbers } = line;
    const known = this.#lines.get(line.step);
    this.#lines.set(line.step, known ? { ...known, ...numbers } : numbers);
  }

  /** As many steps as can be shown: those whose loss stands out among their neighbours, and all with a loss on held-out text. */
  shown() {
    let lines = [...this.#lines.values()];
    if (lines.some(({ step }, i) => i && step < lines[i - 1].step)) lines.sort((a, b) => a.step - b.step);
    if (!lines.some((line) => "smoothedLoss" in line)) {
      const smooth = smoothed(lines.map(({ loss }) => numberOf(loss)));
      lines = lines.map((line, i) => ({ ...line, smoothedLoss: smooth[i] }));
    }
    const size = Math.ceil(lines.length / MOST_POINTS);
    if (size <= 1) return lines;
    const kept = [];
    for (let start = 0; start < lines.length; start += size) {
      const bucket = lines.slice(start, start + size);
      const middle = bucket.reduce((sum, { loss }) => sum + (numberOf(loss) ?? 0), 0) / bucket.length;
      const far = ({ loss }) => typeof loss === "number" ? Math.abs(loss - middle) : -1;
      const farthest = bucket.reduce((best, line) => far(line) > far(best) ? line : best);
      kept.push(...bucket.filter((line) => line === farthest || typeof line.heldOutLoss === "number"));
    }
    return kept;
  }
}

/** A number, or null for anything else. */
export const numberOf = (value) => typeof value === "number" ? value : null;

/** Calls what draws a while after it was asked to, once, however often it was asked, and not so often that nothing else is done. */
export function unhurried(draw) {
  let due = false, took = 0;
  return () => {
    if (due) return;
    due = true;
    setTimeout(() => {
      due = false;
      const started = performance.now();
      draw();
      took = performance.now() - started;
    }, Math.max(50, 10 * took));
  };
}

for (const link of document.querySelectorAll(".top nav a")) {
  const here = location.pathname, there = link.getAttribute("href");
  if (here === there || (there === "/" && here.startsWith("/runs/"))) {
    link.setAttribute("aria-current", "page");
  }
}

// Commands that stand in the page as it came.
for (const box of document.querySelectorAll(".command")) {
  box.replaceWith(command(box.querySelector("code").textContent));
}
