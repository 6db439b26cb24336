/**
 * Every file that the server gives to browsers, as text that came with the program: a request names one of these or nothing,
 * and no path of a request reaches the file system.
 *
 * @module
 */
import chartScript from "./pages/chart.js" with { type: "text" };
import compareScript from "./pages/compare.js" with { type: "text" };
import comparePage from "./pages/compare.html" with { type: "text" };
import connectionScript from "./pages/connection.js" with { type: "text" };
import iconImage from "./pages/icon.svg" with { type: "text" };
import pageScript from "./pages/page.js" with { type: "text" };
import playgroundScript from "./pages/playground.js" with { type: "text" };
import playgroundPage from "./pages/playground.html" with { type: "text" };
import runScript from "./pages/run.js" with { type: "text" };
import runPage from "./pages/run.html" with { type: "text" };
import runsScript from "./pages/runs.js" with { type: "text" };
import runsPage from "./pages/runs.html" with { type: "text" };
import style from "./pages/style.css" with { type: "text" };
import uPlotScript from "uplot/dist/uPlot.iife.min.js" with { type: "text" };
import uPlotStyle from "uplot/dist/uPlot.min.css" with { type: "text" };

/** Pages by their route. */
export const PAGES: ReadonlyMap<string, string> = new Map([
  ["/", runsPage],
  ["/runs/:id", runPage],
  ["/compare", comparePage],
  ["/playground", playgroundPage],
]);

/** A file that pages load. */
export interface Asset {
  /** Its media type. */
  readonly type: string;
  readonly text: string;
}

const script = (text: string): Asset => ({ type: "text/javascript; charset=utf-8", text });
const styleSheet = (text: string): Asset => ({ type: "text/css; charset=utf-8", text });

/** Files that pages load, by name. */
export const ASSETS: ReadonlyMap<string, Asset> = new Map([
  ["chart.js", script(chartScript)],
  ["compare.js", script(compareScript)],
  ["connection.js", script(connectionScript)],
  ["icon.svg", { type: "image/svg+xml; charset=utf-8", text: iconImage }],
  ["page.js", script(pageScript)],
  ["playground.js", script(playgroundScript)],
  ["run.js", script(runScript)],
  ["runs.js", script(runsScript)],
  ["style.css", styleSheet(style)],
  ["uplot.css", styleSheet(uPlotStyle)],
  ["uplot.js", script(uPlotScript)],
]);
