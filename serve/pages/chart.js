/**
 * A line chart: uPlot, in the page's colours, with arrow keys as well as a pointer.
 *
 * @module
 */
import { count, make, short } from "./page.js";

/** Comes with a script of its own, before this one. */
const { uPlot } = globalThis;

/** The colour of a custom property, or the colour itself. */
const colour = (name) =>
  name.startsWith("--") ? getComputedStyle(document.documentElement).getPropertyValue(name).trim() : name;

/** The values that no line leads to or from, which would not be seen without a dot. */
function alone(plot, series) {
  const values = plot.data[series], isNone = (i) => values[i] === null || values[i] === undefined;
  return [...values.keys()].filter((i) => !isNone(i) && isNone(i - 1) && isNone(i + 1));
}

/** A chart in a place of the page. */
export class Chart {
  #plot;
  #data = [[]];
  #options;
  #place;
  #reading;

  /**
   * @param {HTMLElement} place
   * @param {{ title: string, height: number, series: object[], xName: string, xText?: (x: number) => string, yText?: (y: number) => string, mark?: () => { x: number, text: string } | undefined }} options
   *   each of the series: name, colour, and width, or dots, or joined over what is missing
   */
  constructor(place, options) {
    this.#options = options;
    this.#place = make("div", {
      class: "chart",
      tabindex: "0",
      role: "group",
      "aria-label": `${options.title}: a chart. Left and right arrows read its values.`,
    });
    this.#reading = make("p", { class: "reading", "aria-live": "polite" });
    place.replaceChildren(this.#place, this.#reading);
    this.#place.addEventListener("keydown", (event) => this.#onKey(event));
    this.#place.addEventListener("blur", () => this.#plot?.setCursor({ left: -10, top: -10 }));
    new ResizeObserver(() => this.#plot?.setSize(this.#size())).observe(this.#place);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  #size() {
    return { width: Math.max(200, this.#place.clientWidth), height: this.#options.height };
  }

  /** Other series from now on. */
  setSeries(series, xName = this.#options.xName, xText = this.#options.xText) {
    this.#options = { ...this.#options, series, xName, xText };
    this.#plot?.destroy();
    this.#plot = undefined;
  }

  /** Shows data: x, then each of the series, all of one length, null where there is nothing. */
  show(data) {
    this.#data = data;
    if (this.#plot) this.#plot.setData(data);
    else this.#draw();
  }

  #draw() {
    this.#plot?.destroy();
    const { series, yText = short, xText = count } = this.#options;
    const axis = {
      stroke: colour("--muted"),
      font: "12px system-ui",
      grid: { stroke: colour("--line"), width: 1 },
      ticks: { show: false },
    };
    this.#plot = new uPlot(
      {
        ...this.#size(),
        padding: [12, 24, 0, 0],
        legend: { show: false },
        cursor: { y: false, points: { size: 7 }, drag: { x: true, y: false } },
        scales: { x: { time: false } },
        series: [
          {},
          ...series.map(({ name, colour: of, width = 1.75, dots, joined }) => ({
            label: name,
            stroke: colour(of),
            width: dots ? 1 : width,
            spanGaps: Boolean(dots || joined),
            points: dots
              ? { show: true, size: 8, fill: colour(of) }
              : { show: true, size: 5, fill: colour(of), filter: alone },
          })),
        ],
        axes: [
          {
            ...axis,
            size: 32,
            // Steps and seconds are whole.
            incrs: [1, 2, 5].flatMap((n) => Array.from({ length: 8 }, (_, i) => n * 10 ** i)).sort((a, b) =>
              a - b
            ),
            grid: { show: false },
            values: (_, ticks) => ticks.map(xText),
          },
          { ...axis, size: 58, values: (_, ticks) => ticks.map(yText) },
        ],
        hooks: { setCursor: [() => this.#read()], draw: [(plot) => this.#mark(plot)] },
      },
      this.#data,
      this.#place,
    );
  }

  /** A dashed line at a place that matters. */
  #mark(plot) {
    const mark = this.#options.mark?.();
    if (!mark) return;
    const { ctx, bbox } = plot, x = Math.round(plot.valToPos(mark.x, "x", true));
    if (x < bbox.left || x > bbox.left + bbox.width) return;
    ctx.save();
    ctx.strokeStyle = ctx.fillStyle = colour("--held-out");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([4 * devicePixelRatio, 4 * devicePixelRatio]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.font = `${12 * devicePixelRatio}px system-ui`;
    const right = x > bbox.left + bbox.width / 2;
    ctx.textAlign = right ? "right" : "left";
    ctx.fillText(mark.text, x + (right ? -6 : 6) * devicePixelRatio, bbox.top + 12 * devicePixelRatio);
    ctx.restore();
  }

  /** Says what is under the cursor. */
  #read() {
    const { series, xName, xText = count, yText = short } = this.#options;
    const at = this.#plot?.cursor.idx, [xs, ...columns] = this.#data;
    if (at === null || at === undefined || this.#plot.cursor.left < 0 || xs[at] === undefined) {
      this.#reading.textContent = "";
      return;
    }
    const parts = series.map(({ name }, i) =>
      columns[i]?.[at] === null || columns[i]?.[at] === undefined
        ? undefined
        : `${name} ${yText(columns[i][at])}`
    );
    this.#reading.textContent = [`${xName} ${xText(xs[at])}`, ...parts.filter((part) => part)].join(" · ");
  }

  #onKey(event) {
    const length = this.#data[0].length;
    const now = this.#plot?.cursor.left >= 0 ? this.#plot.cursor.idx ?? length : length;
    const stride = event.shiftKey ? Math.max(1, Math.round(length / 20)) : 1;
    const to = { ArrowLeft: now - stride, ArrowRight: now + stride, Home: 0, End: length - 1 }[event.key];
    if (to === undefined || !length || !this.#plot) return;
    event.preventDefault();
    const at = Math.min(length - 1, Math.max(0, to));
    this.#plot.setCursor({ left: this.#plot.valToPos(this.#data[0][at], "x"), top: 10 });
  }
}
