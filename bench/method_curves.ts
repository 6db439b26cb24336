/**
 * How the methods learn the bundled text at equal numbers of trained parameters, each over several learning rates: a method that
 * moves further at one nominal rate looks faster there, whatever it is worth. First every method at one rate, then at the others, then at its
 * own best rate with other seeds. Writes method_curves.json as it goes (and goes on from it), and from it the table
 * method_curves.md and the plots method_curves.svg (all at one rate), method_tuned.svg (each at its best), method_rates.svg (LoRA over
 * rates, beside Bone) and method_best.svg (held-out loss over rates).
 *
 *     deno task bench:method_curves [--engine auto|cpu|webgpu|deno|dawn] [--precision auto|fp32] [--out FOLDER] [--minutes N]
 *         [--steps 300] [--rates 0.0005,0.002] [--methods bone,lora] [--seeds 42,43,44]
 *
 * @module
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { type EngineChoice, EngineError } from "../mod.ts";
import { METHODS, outcome, type Point, type Run, runAt, Runs } from "./method_runs.ts";
import { type Line, plotSvg } from "./plot.ts";

/** One rate for all, which is what the bundled example trains Bone with. */
const COMMON = 2e-3;

const { values } = parseArgs({
  options: {
    engine: { type: "string", default: "auto" },
    precision: { type: "string", default: "auto" },
    out: { type: "string", default: "runs/method_curves" },
    minutes: { type: "string", default: "Infinity" },
    steps: { type: "string", default: "300" },
    rates: { type: "string", default: "0.00025,0.0005,0.001,0.002,0.004,0.008,0.016" },
    methods: { type: "string", default: Object.keys(METHODS).join(",") },
    seeds: { type: "string", default: "42,43,44" },
  },
});
const numbers = (list: string) => list.split(",").map(Number);
const rates = numbers(values.rates).sort((a, b) => a - b), [seed, ...otherSeeds] = numbers(values.seeds);
const methods = values.methods.split(","), steps = Number(values.steps);
const unknown = methods.find((method) => !METHODS[method]);
if (unknown !== undefined) {
  throw new Error(`No method is called ${unknown}: there are ${Object.keys(METHODS).join(", ")}`);
}
const distance = (rate: number) => Math.abs(Math.log(rate / COMMON));
const common = [...rates].sort((a, b) => distance(a) - distance(b))[0]!;

Deno.mkdirSync(values.out, { recursive: true });
const runs = new Runs(join(values.out, "method_curves.json"), {
  steps,
  precision: values.precision as "auto" | "fp32",
});

const at = (method: string, rate: number) => runs.of({ method, rate, seed: seed! });
/** The run at the best rate so far. */
function best(method: string): Run | undefined {
  const made = rates.flatMap((rate) => at(method, rate) ?? []).filter(({ finished }) => finished);
  return made.sort((a, b) => outcome(a) - outcome(b))[0];
}

const mean = (values: readonly number[]) => values.reduce((sum, x) => sum + x, 0) / values.length;
/** Held-out loss with all seeds at the best rate: its mean, and by how much it lies over Bone's, seed by seed. */
function overSeeds(method: string): string[] {
  const outcomes = (name: string) =>
    [seed!, ...otherSeeds].map((seed) => {
      const run = best(name) && runs.of({ method: name, rate: best(name)!.rate, seed });
      return run ? outcome(run) : NaN;
    });
  const own = outcomes(method), bone = outcomes("bone");
  const apart = own.map((loss, i) => loss - bone[i]!).filter(Number.isFinite);
  const signed = (x: number) => `${x < 0 ? "−" : "+"}${Math.abs(x).toFixed(4)}`;
  return [
    own.every(Number.isFinite) ? mean(own).toFixed(4) : "",
    apart.length
      ? `${signed(mean(apart))} (${signed(Math.min(...apart))} to ${signed(Math.max(...apart))})`
      : "",
  ];
}

function table(): string {
  const seeds = 1 + otherSeeds.length;
  const head = ["", ...rates.map((rate) => `lr ${rate}`), "best at", `mean of ${seeds} seeds`, "over Bone's"];
  const lines = methods.map((method) => [
    method,
    ...rates.map((rate) => {
      const run = at(method, rate);
      if (!run) return "";
      const shown = run.finished ? outcome(run).toFixed(4) : "diverged";
      return run === best(method) ? `**${shown}**` : shown;
    }),
    String(best(method)?.rate ?? ""),
    ...(method === "bone" ? [overSeeds(method)[0]!, ""] : overSeeds(method)),
  ]);
  return [head, head.map(() => "---"), ...lines].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

function plot(name: string, title: string, lines: Line[], x: { label: string; log?: boolean }): void {
  const drawn = lines.filter(({ points }) => points.length);
  if (drawn.length < 2) return;
  const losses = drawn.flatMap(({ points }) => points.map(([, y]) => y)).sort((a, b) => a - b);
  // A run that went wrong must not flatten all others.
  const range = [losses[0]!, Math.min(losses.at(-1)!, losses[0]! + 0.3)] as const;
  const y = { label: "held-out loss, nats a byte", range };
  Deno.writeTextFileSync(join(values.out, `${name}.svg`), plotSvg({ title, x, y, lines: drawn }));
}

/** Writes table and plots of what is known so far. */
function show(): void {
  const about = `Held-out loss after ${steps} steps, seed ${seed}. ${runs.engine}. ${runs.all.length} runs.`;
  Deno.writeTextFileSync(join(values.out, "method_curves.md"), `${about}\n\n${table()}\n`);
  const step = { label: "step" }, curve = (run: Run | undefined) => run?.heldOut ?? [];
  const curves = methods.map((name) => ({ name, points: curve(at(name, common)) }));
  plot("method_curves", `Held-out loss, every method at lr ${common}`, curves, step);
  const tuned = methods.map((name) => ({
    name: `${name}, ${best(name)?.rate}`,
    points: curve(best(name)),
  }));
  plot("method_tuned", "Held-out loss, every method at its best learning rate", tuned, step);
  const sweep = rates.map((rate) => ({ name: `lora, lr ${rate}`, points: curve(at("lora", rate)) }));
  const bone = { name: `bone, lr ${common}`, dashed: true, points: curve(at("bone", common)) };
  plot("method_rates", "Held-out loss: LoRA over learning rates, beside Bone", [...sweep, bone], step);
  const over = methods.map((name) => ({
    name,
    points: rates.flatMap((rate): [number, number][] => {
      const run = at(name, rate);
      return run?.finished ? [[rate, outcome(run)]] : [];
    }),
  }));
  if (rates.length > 1) {
    plot("method_best", `Held-out loss after ${steps} steps`, over, { label: "learning rate", log: true });
  }
}

/** Points in the order of what they tell, so that a sweep that is cut has told most; the seeds' rates are known by then. */
function* points(): Generator<Point & { left: number }> {
  const byDistance = [...rates].sort((a, b) => distance(a) - distance(b));
  let left = methods.length * (rates.length + otherSeeds.length);
  for (const rate of byDistance) {
    for (const method of methods) yield { method, rate, seed: seed!, left: left-- };
  }
  for (const seed of otherSeeds) {
    for (const method of methods) {
      const chosen = best(method);
      if (chosen) yield { method, rate: chosen.rate, seed, left };
      left--;
    }
  }
}

const progress = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(text));
const deadline = performance.now() + 60_000 * Number(values.minutes), times: number[] = [];
for (const { left, ...point } of points()) {
  if (runs.of(point)) continue;
  if (performance.now() + 1000 * (times.length ? mean(times) : 0) > deadline) {
    console.error(`Out of time with ${left} runs to make: the same command goes on from here`);
    break;
  }
  const { method, rate, seed } = point, name = `${method}, lr ${rate}, seed ${seed}`;
  const onStep = (step: number) =>
    Deno.stderr.isTerminal() && progress(`\r\x1b[K${name}: step ${step} of ${steps}`);
  const onEngine = (sentence: string) => {
    if (!runs.engine) console.error(sentence);
    runs.engine = sentence;
  };
  try {
    const run = await runAt(point, runs.conditions, values.engine as EngineChoice, { onEngine, onStep });
    times.push(run.seconds);
    runs.add(run);
    show();
    const result = run.finished ? outcome(run).toFixed(4) : "diverged";
    const minutes = (left - 1) * mean(times) / 60;
    progress(
      `${Deno.stderr.isTerminal() ? "\r\x1b[K" : ""}${name}: ${result} (${run.seconds} s, ${left - 1} `,
    );
    progress(`runs to make, about ${minutes.toFixed(1)} min)\n`);
  } catch (error) {
    if (!(error instanceof EngineError)) throw error;
    console.error(`${name}: ${error.message}`);
  }
}
show();
console.log(Deno.readTextFileSync(join(values.out, "method_curves.md")));
// Dawn keeps the process.
Deno.exit(0);
