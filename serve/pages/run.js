/**
 * One run: its figures and curves as they come, its samples, log, settings, and what to do with it.
 *
 * @module
 */
import { Chart } from "./chart.js";
import { follow, getJson } from "./connection.js";
import {
  ago,
  byId,
  bytes,
  command,
  count,
  duration,
  loss,
  make,
  numberOf,
  PHASES,
  Steps,
  tell,
  unhurried,
} from "./page.js";

const id = decodeURIComponent(location.pathname.split("/").at(-1));
const path = `/api/runs/${encodeURIComponent(id)}`;
/** What is known after each step. */
const steps = new Steps();
let best, malformed = 0;

const lossChart = new Chart(byId("loss"), {
  title: "Loss by step",
  height: 320,
  xName: "step",
  yText: (y) => Number(y.toFixed(4)).toString(),
  series: [
    { name: "each step", colour: "--raw", width: 1 },
    { name: "smoothed", colour: "--accent", width: 2 },
    { name: "held-out text", colour: "--held-out", dots: true },
  ],
  mark: () => best && { x: best.step, text: `best ${loss(best.loss)}` },
});
const small = (place, title, name) =>
  new Chart(byId(place), { title, height: 170, xName: "step", series: [{ name, colour: "--accent" }] });
const rateChart = small("rate", "Learning rate by step", "learning rate");
const normChart = small("norm", "Gradient norm by step", "gradient norm");

const drawSoon = unhurried(() => {
  const lines = steps.shown(), taken = lines.filter((line) => "loss" in line);
  const column = (lines, name) => lines.map((line) => numberOf(line[name]));
  const columns = (lines, ...names) => ["step", ...names].map((name) => column(lines, name));
  lossChart.show(columns(lines, "loss", "smoothedLoss", "heldOutLoss"));
  rateChart.show(columns(taken, "learningRate"));
  normChart.show(columns(taken, "gradientNorm"));
});

function fact(name, value, note) {
  return [make("dt", {}, name), make("dd", {}, value, note ? make("small", {}, note) : null)];
}

function showSummary(run) {
  best = run.heldOut.best ?? undefined;
  document.title = `${run.name} · ${PHASES[run.phase]} · Wishbone`;
  byId("name").textContent = run.name;
  const phase = byId("phase");
  phase.hidden = false;
  phase.className = `phase ${run.phase}`;
  phase.textContent = PHASES[run.phase];
  const silent = run.phase === "silent" &&
    `No heartbeat for ${
      ago(run.quietSeconds).replace(" ago", "")
    }: the trainer may have ended or be stuck. Its last checkpoint goes on with the command below.`;
  const unread = malformed &&
    `${malformed} ${malformed === 1 ? "line" : "lines"} of metrics.jsonl could not be read and ${
      malformed === 1 ? "is" : "are"
    } left out.`;
  tell("notice", [silent, unread].filter((text) => text).join(" ") || undefined);
  byId("content").hidden = run.steps === null;
  const progress = byId("progress");
  progress.max = run.steps ?? 1;
  progress.value = run.step;
  const live = run.phase === "training" || run.phase === "measuring";
  const { first } = run.heldOut;
  const facts = [
    fact("Step", count(run.step), run.steps === null ? undefined : `of ${count(run.steps)}`),
    fact("Time left", live ? duration(run.secondsLeft) : "–"),
    fact("Speed", run.tokensPerSecond === null ? "–" : count(run.tokensPerSecond), "tokens/s"),
    fact("Memory", bytes(run.memoryBytes)),
    fact("Loss", loss(run.loss), "last step"),
    fact(
      "Held-out loss",
      best ? loss(best.loss) : loss(first?.loss),
      best
        ? `best, at step ${count(best.step)}${
          first && first.step === 0 ? `; ${loss(first.loss)} before` : ""
        }`
        : first
        ? "before training"
        : undefined,
    ),
  ];
  byId("facts").replaceChildren(...facts.map((pair) => make("div", {}, ...pair)));
  byId("best").textContent = best ? `best ${loss(best.loss)} at step ${count(best.step)}` : "";
}

function passages(title, samples) {
  return make(
    "div",
    { class: "passage" },
    make("h3", {}, title),
    ...samples.texts.map((text) => make("p", { class: "text" }, text)),
  );
}

function flat(settings, before = "") {
  return Object.entries(settings).flatMap(([name, value]) =>
    typeof value === "object" && value !== null && !Array.isArray(value)
      ? flat(value, `${before}${name}.`)
      : [[before + name, typeof value === "string" ? value : JSON.stringify(value)]]
  );
}

function showDetails(run) {
  showSummary(run);
  const { first, last } = run.samples;
  byId("samples-section").hidden = !first;
  if (first) {
    const title = (samples) => samples.step === 0 ? "Before" : `At step ${count(samples.step)}`;
    const shown = last && last.step !== first.step ? [first, last] : [first];
    byId("samples").replaceChildren(
      ...shown.map((samples, i) =>
        passages(i ? `After ${count(samples.step)} steps` : title(samples), samples)
      ),
    );
  }
  const { resume, merge } = run.commands;
  const labelled = (label, line) => make("div", {}, make("p", { class: "label" }, label), command(line));
  byId("commands").replaceChildren(
    labelled("Go on with it", resume),
    run.result?.startsWith("adapter")
      ? make(
        "p",
        {},
        make(
          "a",
          { href: `/playground?model=${encodeURIComponent(run.id)}` },
          "Talk to it in the playground",
        ),
      )
      : "",
    merge
      ? labelled("Fold the adapter into its base", merge)
      : make("p", { class: "label" }, "The command that merges it appears when there is an adapter."),
  );
  const log = byId("log"), text = run.log.join("\n") || "The run has written no log.";
  if (log.textContent !== text) {
    const atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
    log.textContent = text;
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
  byId("settings").replaceChildren(
    ...flat(run.settings).map(([name, value]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value))
    ),
  );
}

const DETAILS_EVERY = 3000;
let detailsAt = -Infinity, heardAt;

async function refreshDetails() {
  detailsAt = performance.now();
  try {
    showDetails(await getJson(path));
  } catch (error) {
    gone(error);
  }
}

function gone(error) {
  if (error.status !== 404) return;
  byId("name").textContent = "No such run";
  tell(
    "notice",
    "There is no run of this name under the folder that the server watches. It may have been moved or removed.",
  );
  for (const part of document.querySelectorAll("main > :not(.heading, .notice)")) part.hidden = true;
}

const CONNECTION = { live: "", lost: "connection lost, trying again …", gone: "" };

follow(`${path}/events`, ({ event, data }) => {
  if (event === "restart") {
    steps.clear();
    malformed = 0;
  } else if (event === "lines") {
    const piece = JSON.parse(data);
    malformed += piece.malformed;
    piece.lines.forEach((line) => steps.add(line));
    drawSoon();
  } else if (event === "summary") {
    const run = JSON.parse(data);
    showSummary(run);
    drawSoon();
    if (run.heardAt !== heardAt && performance.now() - detailsAt > DETAILS_EVERY) {
      heardAt = run.heardAt;
      refreshDetails();
    }
  }
}, (state) => {
  byId("connection").textContent = CONNECTION[state];
  if (state === "gone") gone({ status: 404 });
});
refreshDetails();
drawSoon();
