/**
 * Line plots as SVG, for what benches measure: axes, lines with points, a legend.
 *
 * @module
 */
// @ts-types="@types/d3-scale"
import { scaleLinear, scaleLog } from "d3-scale";

/** A line. */
export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  /** Drawn with dashes. */
  readonly dashed?: boolean;
  /** Has no points of its own marked, for there are many. */
  readonly smooth?: boolean;
}

/** What is plotted. */
export interface Plot {
  readonly title: string;
  readonly x: { readonly label: string; readonly log?: boolean };
  readonly y: { readonly label: string; readonly log?: boolean; readonly range?: readonly [number, number] };
  readonly lines: readonly Line[];
}

const WIDTH = 760, HEIGHT = 440, LEFT = 64, RIGHT = 190, TOP = 40, BOTTOM = 48;
/** Okabe and Ito's colours, which most people can tell apart. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f"];

const escaped = (text: string) =>
  text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]!);

function shown(value: number): string {
  if (value !== 0 && (Math.abs(value) < 1e-2 || Math.abs(value) >= 1e4)) return value.toExponential();
  return String(Number(value.toPrecision(6)));
}

/** The plot as an SVG document. */
export function plotSvg({ title, x, y, lines }: Plot): string {
  const all = lines.flatMap(({ points }) => points);
  const extent = (values: number[]): [number, number] => [Math.min(...values), Math.max(...values)];
  const scale = (log: boolean | undefined, domain: readonly [number, number], range: [number, number]) =>
    // A logarithmic scale would grow to whole decades.
    log
      ? scaleLog().domain([domain[0] / 1.2, domain[1] * 1.2]).range(range)
      : scaleLinear().domain(domain).range(range).nice();
  const sx = scale(x.log, extent(all.map(([x]) => x)), [LEFT, WIDTH - RIGHT]);
  const sy = scale(y.log, y.range ?? extent(all.map(([, y]) => y)), [HEIGHT - BOTTOM, TOP]);
  const text = (at: [number, number], content: string, more = "") =>
    `<text x="${at[0].toFixed(1)}" y="${at[1].toFixed(1)}" ${more}>${escaped(content)}</text>`;
  const rule = (from: [number, number], to: [number, number]) =>
    `<line x1="${from[0].toFixed(1)}" y1="${from[1].toFixed(1)}" x2="${to[0].toFixed(1)}" y2="${
      to[1].toFixed(1)
    }" stroke="#ddd"/>`;
  // A logarithmic scale of few decades has ticks at every digit.
  const sparse = (ticks: number[]) =>
    ticks.length > 9 ? ticks.filter((tick) => /^[125]/.test(tick.toExponential())) : ticks;
  const axes = [
    ...sparse(sx.ticks(7)).flatMap((tick) => [
      rule([sx(tick), TOP], [sx(tick), HEIGHT - BOTTOM]),
      text([sx(tick), HEIGHT - BOTTOM + 16], shown(tick), 'text-anchor="middle"'),
    ]),
    ...sparse(sy.ticks(7)).flatMap((tick) => [
      rule([LEFT, sy(tick)], [WIDTH - RIGHT, sy(tick)]),
      text([LEFT - 6, sy(tick) + 4], shown(tick), 'text-anchor="end"'),
    ]),
  ];
  // Where colours begin again, dashes tell the lines apart.
  const dashes = ({ dashed = false }: Line, i: number) =>
    dashed !== i >= COLOURS.length ? ' stroke-dasharray="5 4"' : "";
  const drawn = lines.map((line, i) => {
    const { points, smooth } = line;
    const colour = COLOURS[i % COLOURS.length]!;
    const places = points.map(([x, y]) => [sx(x).toFixed(1), sy(y).toFixed(1)] as const);
    const path = `<path d="M${
      places.map((place) => place.join(" ")).join("L")
    }" fill="none" stroke="${colour}" stroke-width="1.8"${dashes(line, i)} clip-path="url(#inside)"/>`;
    const marks = smooth
      ? ""
      : places.map(([x, y]) => `<circle cx="${x}" cy="${y}" r="3" fill="${colour}"/>`).join("");
    return path + marks;
  });
  const legend = lines.map((line, i) => {
    const at = TOP + 12 + 20 * i, from = WIDTH - RIGHT + 14;
    return `<line x1="${from}" y1="${at}" x2="${from + 22}" y2="${at}" stroke="${
      COLOURS[i % COLOURS.length]
    }" stroke-width="2.5"${dashes(line, i)}/>` + text([from + 28, at + 4], line.name);
  });
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" font-family="sans-serif" font-size="12">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="#fff"/>`,
    `<clipPath id="inside"><rect x="${LEFT}" y="${TOP}" width="${WIDTH - RIGHT - LEFT}" height="${
      HEIGHT - BOTTOM - TOP
    }"/></clipPath>`,
    text([LEFT, 22], title, 'font-size="15" font-weight="bold"'),
    ...axes,
    ...drawn,
    ...legend,
    text([(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10], x.label, 'text-anchor="middle"'),
    text(
      [16, (TOP + HEIGHT - BOTTOM) / 2],
      y.label,
      `text-anchor="middle" transform="rotate(-90 16 ${(TOP + HEIGHT - BOTTOM) / 2})"`,
    ),
    "</svg>\n",
  ].join("\n");
}
