/**
 * The list of runs, looked at again every few seconds.
 *
 * @module
 */
import { getJson } from "./connection.js";
import { ago, byId, count, loss, make, PHASES, tell } from "./page.js";

const REFRESH = 2000;
const chosen = new Set();

function row(run) {
  const { id, name, phase, step, steps, heldOut, quietSeconds } = run;
  const box = make("input", { type: "checkbox", name: "run", value: id, "aria-label": `Compare ${name}` });
  box.checked = chosen.has(id);
  const best = heldOut.best ?? heldOut.last;
  return make(
    "tr",
    { "data-run": id },
    make("td", { class: "check" }, box),
    make("th", { scope: "row" }, make("a", { href: `/runs/${id}` }, name)),
    make("td", {}, make("span", { class: `phase ${phase}` }, PHASES[phase])),
    make(
      "td",
      { class: "wide-row" },
      steps === null ? count(step) : `${count(step)} of ${count(steps)}`,
      steps === null ? null : make("progress", { max: steps, value: step, "aria-label": `Steps of ${name}` }),
    ),
    make("td", { class: "number wide-row", "data-label": "Loss" }, loss(run.loss)),
    make("td", { class: "number wide-row", "data-label": "Held-out loss" }, best ? loss(best.loss) : "–"),
    make("td", { class: "number wide-row", "data-label": "Last news" }, ago(quietSeconds)),
  );
}

function showChosen() {
  byId("compare").disabled = chosen.size < 2;
  byId("chosen").textContent = chosen.size < 2 ? "Choose two or more" : `${chosen.size} chosen`;
}

let shown = "";

async function refresh() {
  try {
    const { runs } = await getJson("/api/runs");
    tell("problem", undefined);
    for (const id of chosen) if (!runs.some((run) => run.id === id)) chosen.delete(id);
    byId("list").hidden = !runs.length;
    byId("none").hidden = runs.length > 0;
    byId("count").textContent = runs.length
      ? `${runs.length} ${runs.length === 1 ? "folder" : "folders"}`
      : "";
    const rows = runs.map(row), html = rows.map((row) => row.outerHTML).join("");
    if (html !== shown) {
      // The focus stays where it is while the rows are made anew.
      const { activeElement } = document,
        inRow = activeElement?.closest?.("tr")?.dataset.run,
        tag = activeElement?.tagName;
      byId("rows").replaceChildren(...rows);
      shown = html;
      if (inRow) byId("rows").querySelector(`[data-run="${CSS.escape(inRow)}"] ${tag}`)?.focus();
    }
    showChosen();
  } catch (error) {
    tell("problem", error.message);
  }
  setTimeout(refresh, REFRESH);
}

byId("rows").addEventListener("change", ({ target }) => {
  if (target.checked) chosen.add(target.value);
  else chosen.delete(target.value);
  showChosen();
});
byId("list").addEventListener("submit", (event) => {
  // The page's policy lets no form go anywhere by itself.
  event.preventDefault();
  location.assign(`/compare?${new URLSearchParams([...chosen].map((id) => ["run", id]))}`);
});
refresh();
