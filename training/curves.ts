/**
 * A run's curves as one SVG: the loss, raw and smoothed, with what was measured on held-out text and its best; below it the
 * learning rate and the gradient norm. It reads on light and dark paper.
 *
 * @module
 */
import type { MetricsLine } from "./metrics.ts";

/** A curve: points from left to right. */
interface Curve {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Class of the style below. */
  readonly style: "raw" | "main" | "other";
  /** Whether points are marked. */
  readonly marked?: boolean;
}

/** Pixels: of the whole, of a panel, and around the panels. */
const WIDTH = 860, LEFT = 64, RIGHT = 16, TOP = 30, GAP = 56;
const HEIGHTS = [280, 110, 110];

/** Points of a curve that are drawn at most: more cannot be told apart. */
const POINTS = 1200;

const STYLE = `
svg { background: #fff; color: #222; font: 12px system-ui, sans-serif }
text { fill: currentColor } .grid { stroke: #8884; stroke-width: 1 } .name { font-weight: 600 }
path { fill: none } .raw { stroke: #3b82f6; opacity: .5 } .main { stroke: #2563eb; stroke-width: 1.8 }
.other { stroke: #e8590c; stroke-width: 1.8 } circle { fill: #e8590c } .best { fill: none; stroke: #e8590c; stroke-width: 2 }
@media (prefers-color-scheme: dark) { svg { background: #16181d; color: #ddd } .main { stroke: #7aa7ff } .raw { stroke: #7aa7ff } }
`;

/** The curves of a run. @param best step of the lowest held-out loss */
export function curvesSvg(lines: readonly MetricsLine[], best: number | undefined): string {
  const of = (key: string) =>
    lines.flatMap((line): [number, number][] => {
      const value = line[key];
      return typeof value === "number" && Number.isFinite(value) ? [[line.step, value]] : [];
    });
  const heldOut = of("heldOutLoss");
  const panels: { title: string; curves: Curve[] }[] = [
    {
      title: "Loss (nats a token)",
      curves: [
        { name: "each step", points: of("loss"), style: "raw" },
        { name: "smoothed", points: of("smoothedLoss"), style: "main" },
        { name: "held-out text", points: heldOut, style: "other", marked: true },
      ],
    },
    { title: "Learning rate", curves: [{ name: "", points: of("learningRate"), style: "main" }] },
    { title: "Gradient norm", curves: [{ name: "", points: of("gradientNorm"), style: "main" }] },
  ];
  const last = Math.max(1, ...lines.map(({ step }) => step));
  const height = HEIGHTS.reduce((sum, panel) => sum + panel + GAP, TOP);
  let top = TOP;
  const drawn = panels.map(({ title, curves }, i) => {
    const panel = drawPanel(title, curves, last, top, HEIGHTS[i]!, i === 0 ? best : undefined);
    top += HEIGHTS[i]! + GAP;
    return panel;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" ` +
    `height="${height}" role="img" aria-label="Curves of the run">\n<style>${STYLE}</style>\n${
      drawn.join("\n")
    }\n</svg>\n`;
}

function drawPanel(
  title: string,
  curves: readonly Curve[],
  last: number,
  top: number,
  height: number,
  best: number | undefined,
): string {
  const values = curves.flatMap(({ points }) => points.map(([, y]) => y));
  const ticksY = ticks(Math.min(...values, Infinity), Math.max(...values, -Infinity), 5);
  const [low, high] = [ticksY[0]!, ticksY.at(-1)!];
  const x = (step: number) => round(LEFT + (WIDTH - LEFT - RIGHT) * step / last);
  const y = (value: number) => round(top + height * (high - value) / (high - low));
  const rows = ticksY.map((value) =>
    `<line class="grid" x1="${LEFT}" x2="${WIDTH - RIGHT}" y1="${y(value)}" y2="${y(value)}"/>` +
    `<text x="${LEFT - 8}" y="${y(value) + 4}" text-anchor="end">${label(value)}</text>`
  );
  const columns = ticks(0, last, 8).filter((step) => step <= last).map((step) =>
    `<text x="${x(step)}" y="${top + height + 18}" text-anchor="middle">${label(step)}</text>`
  );
  const lines = curves.map(({ points, style, marked }) => {
    const shown = thinned(points).map(([step, value]) => `${x(step)},${y(value)}`);
    const path = shown.length ? `<path class="${style}" d="M${shown.join("L")}"/>` : "";
    const dots = marked
      ? points.map(([step, value]) => `<circle cx="${x(step)}" cy="${y(value)}" r="3"/>`).join("")
      : "";
    return path + dots;
  });
  const found = curves.find(({ marked }) => marked)?.points.find(([step]) => step === best);
  const ring = found ? `<circle class="best" cx="${x(found[0])}" cy="${y(found[1])}" r="7"/>` : "";
  let at = LEFT + 8 * title.length;
  const legend = curves.filter(({ name, points }) => name && points.length).map(({ name, style }) => {
    const from = at;
    at += 34 + 7 * name.length;
    return `<path class="${style}" d="M${from},${top - 14}h18"/><text x="${from + 23}" y="${
      top - 10
    }">${name}</text>`;
  });
  return [
    `<text class="name" x="${LEFT}" y="${top - 10}">${title}</text>`,
    ...legend,
    ...rows,
    ...columns,
    ...lines,
    ring,
  ].filter(Boolean).join("\n");
}

/** Round numbers that enclose a range, about `count` of them. */
function ticks(low: number, high: number, count: number): number[] {
  if (!(low <= high)) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - Math.abs(low) / 10 - 1e-9, high + Math.abs(high) / 10 + 1e-9];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((step) => step >= rough)!;
  const from = Math.floor(low / step + 1e-9), to = Math.ceil(high / step - 1e-9);
  return Array.from({ length: to - from + 1 }, (_, i) => (from + i) * step);
}

/** At most {@link POINTS} points: of each stretch the lowest and the highest, so that no spike is lost. */
function thinned(points: Curve["points"]): Curve["points"] {
  if (points.length <= POINTS) return points;
  const stretch = Math.ceil(2 * points.length / POINTS);
  return Array.from({ length: Math.ceil(points.length / stretch) }, (_, i) => {
    const some = points.slice(i * stretch, (i + 1) * stretch);
    const low = some.reduce((a, b) => b[1] < a[1] ? b : a), high = some.reduce((a, b) => b[1] > a[1] ? b : a);
    return low[0] < high[0] ? [low, high] : [high, low];
  }).flat();
}

function label(value: number): string {
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(1).replace(".0e", "e");
  return String(Number(value.toPrecision(6)));
}

function round(x: number): number {
  return Math.round(10 * x) / 10;
}
