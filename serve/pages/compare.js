/**
 * Several runs on one chart, by step or by time.
 *
 * @module
 */
import { Chart } from "./chart.js";
import { getJson } from "./connection.js";
import { byId, count, duration, loss, make, numberOf, Steps, tell } from "./page.js";

const REFRESH = 2000, COLOURS = 8;
const colourOf = (index) => `--series-${index % COLOURS + 1}`;
const chosen = new Set(new URLSearchParams(location.search).getAll("run"));
/** By id: the place that was read to, and what is known after each step. */
const read = new Map();
let runs = [];

const chart = new Chart(byId("chart"), {
  title: "Loss of several runs",
  height: 420,
  xName: "step",
  series: [],
});

/** Reads what has come of a run. */
async function readOn(id) {
  let known = read.get(id);
  if (!known) read.set(id, known = { place: "", steps: new Steps() });
  for (;;) {
    const piece = await getJson(
      `/api/runs/${encodeURIComponent(id)}/lines?after=${encodeURIComponent(known.place)}`,
    );
    if (piece.restarted) known.steps.clear();
    piece.lines.forEach((line) => known.steps.add(line));
    if (piece.place === known.place) return;
    known.place = piece.place;
    if (!piece.lines.length) return;
  }
}

/** x, smoothed loss and held-out loss of a run. */
function curve(id, by) {
  const lines = read.get(id)?.steps.shown() ?? [];
  const start = Date.parse(lines[0]?.time);
  return {
    x: lines.map(({ step, time }) => by === "step" ? step : (Date.parse(time) - start) / 1000),
    smooth: lines.map(({ smoothedLoss }) => numberOf(smoothedLoss)),
    heldOut: lines.map(({ heldOutLoss }) => numberOf(heldOutLoss)),
  };
}

let drawn = "";

function draw() {
  const by = byId("form").elements.by.value;
  const shown = runs.filter(({ id }) => chosen.has(id) && read.has(id));
  byId("figure").hidden = byId("table").hidden = !shown.length;
  if (!shown.length) return;
  const curves = shown.map(({ id }) => curve(id, by));
  const xs = [...new Set(curves.flatMap(({ x }) => x))].filter(Number.isFinite).sort((a, b) => a - b);
  const at = new Map(xs.map((x, i) => [x, i]));
  const column = (curve, of) => {
    const values = new Array(xs.length).fill(null);
    curve.x.forEach((x, i) => {
      if (at.has(x)) values[at.get(x)] = curve[of][i];
    });
    return values;
  };
  const signature = JSON.stringify([by, shown.map(({ id }) => id)]);
  if (signature !== drawn) {
    drawn = signature;
    chart.setSeries(
      shown.flatMap(({ id, name }) => {
        const colour = colourOf(runs.findIndex((run) => run.id === id));
        return [{ name, colour, width: 2, joined: true }, { name: `${name}, held-out`, colour, dots: true }];
      }),
      by === "step" ? "step" : "time",
      by === "step" ? count : duration,
    );
  }
  chart.show([xs, ...curves.flatMap((curve) => [column(curve, "smooth"), column(curve, "heldOut")])]);
  byId("rows").replaceChildren(...shown.map(({ name, id, step, heldOut }, i) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("a", { href: `/runs/${id}` }, name)),
      make("td", { class: "number" }, count(step)),
      make("td", { class: "number" }, loss(curves[i].smooth.findLast((value) => value !== null))),
      make("td", { class: "number" }, heldOut.best ? loss(heldOut.best.loss) : "–"),
      make("td", { class: "number" }, heldOut.best ? count(heldOut.best.step) : "–"),
    )
  ));
}

function showChoices() {
  const known = new Map([...byId("runs").querySelectorAll("input")].map((box) => [box.value, box]));
  if (known.size === runs.length && runs.every(({ id }) => known.has(id))) return;
  byId("runs").replaceChildren(...runs.map(({ id, name }, i) => {
    const box = make("input", { type: "checkbox", value: id });
    box.checked = chosen.has(id);
    const swatch = make("span", { class: "swatch" });
    swatch.style.background = `var(${colourOf(i)})`;
    return make("label", {}, box, swatch, name);
  }));
}

async function refresh() {
  try {
    // By name, so that a run keeps its colour when another has news.
    runs = (await getJson("/api/runs")).runs.sort((a, b) =>
      a.name.localeCompare(b.name, "en", { numeric: true })
    );
    if (!chosen.size && runs.length) runs.slice(0, 4).forEach(({ id }) => chosen.add(id));
    byId("none").hidden = runs.length > 0;
    byId("form").hidden = !runs.length;
    showChoices();
    await Promise.all(runs.filter(({ id }) => chosen.has(id)).map(({ id }) => readOn(id)));
    tell("problem", undefined);
    draw();
  } catch (error) {
    tell("problem", error.message);
  }
}

byId("form").addEventListener("change", ({ target }) => {
  if (target.type === "checkbox") {
    if (target.checked) chosen.add(target.value);
    else chosen.delete(target.value);
    const query = new URLSearchParams([...chosen].map((id) => ["run", id]));
    history.replaceState(null, "", `?${query}`);
  }
  refresh();
});

async function keepRefreshing() {
  await refresh();
  setTimeout(keepRefreshing, REFRESH);
}
keepRefreshing();
