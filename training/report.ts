/**
 * The report of a run: what it came to, its curves, samples before and after, what to do next, and every setting. One HTML
 * file that needs nothing else, and the curves as an SVG of their own.
 *
 * @module
 */
import { basename, extname, join, resolve } from "node:path";
import { writeFileAtomic } from "../formats/atomic.ts";
import { curvesSvg } from "./curves.ts";
import type { TrainResult } from "./listeners.ts";
import type { MetricsLine } from "./metrics.ts";
import { flag, promptsOf, type TrainSettings } from "./options.ts";
import type { Look } from "./validation.ts";

/** What a report is made of. */
export interface ReportOptions {
  readonly projDir: string;
  /** With absolute paths. */
  readonly settings: TrainSettings;
  readonly lines: readonly MetricsLine[];
  readonly result: TrainResult;
  /** Before the first step, and the latest. */
  readonly before: Look | undefined;
  readonly after: Look | undefined;
}

const STYLE = `
body { font: 16px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto; padding: 0 1rem; color: #222; background: #fff }
h1, h2 { line-height: 1.2 } table { border-collapse: collapse } td, th { text-align: left; padding: .15rem 1.2rem .15rem 0; vertical-align: top }
pre { background: #8881; padding: .8rem; overflow-x: auto; white-space: pre-wrap } svg { max-width: 100%; height: auto }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #16181d } }
`;

/** Writes `report.html` and `curves.svg` into the run folder. @returns the path of the report */
export function writeReport(options: ReportOptions): string {
  const { projDir, lines, result } = options;
  const svg = curvesSvg(lines, result.best?.step);
  writeFileAtomic(join(projDir, "curves.svg"), svg, { force: true });
  const path = join(projDir, "report.html");
  writeFileAtomic(path, reportHtml(options, svg), { force: true });
  return path;
}

/** The commands that go on from a run, by what they do, as `deno task` knows them. */
function commands({ projDir, settings, result }: ReportOptions): [string, string][] {
  const { loadModel, peft } = settings;
  const run = resolve(projDir), output = resolve(result.output);
  const task = (name: string, ...args: string[]) => ["deno task", name, ...args.map(quoted)].join(" ");
  const goOn: [string, string] = ["Go on with the run", task("run_bone", "--resume", run)];
  if (peft === "none") return [["Try it", task("generate", "--load_model", output)], goOn];
  const merge = (adapter: string) =>
    task(
      "merge_bone",
      ...["--base_model", loadModel, "--lora_checkpoint", adapter],
      ...["--output", join(run, `merged${extname(loadModel) || ".safetensors"}`)],
    );
  const { best, steps } = result;
  return [
    ["Merge the adapter into the model", merge(output)],
    ...(best && best.step !== steps
      ? [[`Merge the best adapter, of step ${best.step}`, merge(join(run, "best", basename(output)))]] as [
        string,
        string,
      ][]
      : []),
    ["Try it without merging", task("generate", "--load_model", loadModel, "--adapter", output)],
    goOn,
  ];
}

function reportHtml(options: ReportOptions, svg: string): string {
  const { projDir, settings, result, before, after } = options;
  const name = escaped(basename(resolve(projDir)));
  const nats = (loss: number | undefined) =>
    loss === undefined ? "–" : `${loss.toFixed(4)} (perplexity ${Math.exp(loss).toFixed(2)})`;
  const outcome: [string, string][] = [
    ["Steps", `${result.steps}${result.stopped ? ", stopped" : result.stoppedEarly ? ", ended early" : ""}`],
    ["Loss of the last step", nats(Number.isFinite(result.loss) ? result.loss : undefined)],
    ...(before?.heldOutLoss === undefined
      ? []
      : [["Held-out loss before", nats(before.heldOutLoss)]] as [string, string][]),
    ...(after?.heldOutLoss === undefined
      ? []
      : [[`Held-out loss after step ${after.step}`, nats(after.heldOutLoss)]] as [string, string][]),
    ...(result.best
      ? [["Best held-out loss", `${nats(result.best.heldOutLoss)} at step ${result.best.step}`]] as [
        string,
        string,
      ][]
      : []),
    ["Result", result.output],
  ];
  const table = (rows: readonly (readonly [string, string])[]) =>
    `<table>${
      rows.map(([what, value]) => `<tr><th>${escaped(what)}</th><td>${escaped(value)}</td></tr>`).join("\n")
    }</table>`;
  const samples = promptsOf(settings).map((prompt, i) => {
    const shown = (look: Look | undefined) => look?.samples[i] === undefined ? "–" : escaped(look.samples[i]);
    return `<h3>From <q>${escaped(prompt)}</q></h3><p>Before</p><pre>${shown(before)}</pre><p>After step ${
      after?.step ?? "–"
    }</p><pre>${shown(after)}</pre>`;
  });
  const set = Object.entries(settings).filter(([, value]) => value !== undefined).map(([option, value]) =>
    [flag(option), typeof value === "string" ? value : JSON.stringify(value)] as const
  );
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>${name}</title>
<style>${STYLE}</style>
<h1>${name}</h1>
${table(outcome)}
<h2>Curves</h2>
${svg}
${samples.length ? `<h2>Samples</h2>\n${samples.join("\n")}` : ""}
<h2>Next</h2>
${commands(options).map(([what, command]) => `<p>${what}</p><pre>${escaped(command)}</pre>`).join("\n")}
<h2>Settings</h2>
${table(set)}
</html>
`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll(
    '"',
    "&quot;",
  );
}

/** A word as a shell reads it. */
function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
