/**
 * What the pages read of runs: lists, one run in full, its lines, and its lines as they come.
 *
 * @module
 */
import { type Context, Hono } from "hono";
import { ApiError } from "../errors.ts";
import { MetricsReader, type Piece } from "./metrics_reader.ts";
import type { RunFolder, RunList } from "./run_list.ts";
import type { Summaries } from "./summary.ts";

/** Streams of events at once. */
const MOST_STREAMS = 200;
/** Milliseconds between looks at a file. */
const LOOK_EVERY = 400;
/** Looks between two words to a page that nothing has come for, so that it knows that somebody is there. */
const LOOKS_A_WORD = 10;

/** The routes, to be put under /api/runs. */
export function runRoutes(list: RunList, summaries: Summaries): Hono {
  const routes = new Hono();
  let streams = 0;
  const runOf = (c: Context): RunFolder => {
    const run = list.find(c.req.param("id")!);
    if (!run) throw new ApiError(404, "There is no such run", null, "run_not_found");
    return run;
  };
  routes.get("/", (c) => c.json({ runs: summaries.all() }));
  routes.get("/:id", (c) => c.json(summaries.details(runOf(c))));
  routes.get("/:id/lines", (c) => {
    const path = list.file(runOf(c), "metrics.jsonl");
    const after = c.req.query("after") ?? "";
    const piece = path && new MetricsReader(path, after).read();
    return c.json(piece || { lines: [], malformed: 0, restarted: false, place: after });
  });
  routes.get("/:id/events", (c) => {
    const run = runOf(c);
    const headers = { "content-type": "text/event-stream; charset=utf-8" };
    // Of a HEAD nobody would read the body, or end it.
    if (c.req.raw.method === "HEAD") return new Response(null, { headers });
    if (streams >= MOST_STREAMS) {
      throw new ApiError(503, "Too many pages are open: close some", null, "too_many_streams");
    }
    streams++;
    const place = c.req.header("last-event-id") ?? "";
    const body = follow(run, place, list, summaries, () => void streams--);
    return new Response(body, { headers });
  });
  return routes;
}

/** A run's lines as events from a place on, and how it stands in between. */
function follow(
  run: RunFolder,
  place: string,
  list: RunList,
  summaries: Summaries,
  onEnd: () => void,
): ReadableStream<Uint8Array> {
  const encoder = new TextEncoder();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let reader: MetricsReader | undefined;
  let told = "", looks = 0;
  const news = (): string => {
    const path = list.file(run, "metrics.jsonl");
    if (path !== undefined && reader?.path !== path) reader = new MetricsReader(path, place);
    let text = "";
    // As much as a page takes at once: the rest comes when it asks for more.
    for (let pieces = 0; pieces < 4; pieces++) {
      const piece = reader?.read();
      if (!piece) break;
      text += event(piece);
    }
    const summary = summaries.summary(run);
    const standing = JSON.stringify({ ...summary, quietSeconds: 0 });
    if (standing !== told || ++looks >= LOOKS_A_WORD) {
      text += `event: summary\ndata: ${JSON.stringify(summary)}\n\n`;
      told = standing;
      looks = 0;
    }
    return text;
  };
  const end = () => {
    clearTimeout(timer);
    onEnd();
  };
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      try {
        for (;;) {
          const text = news();
          if (text) return controller.enqueue(encoder.encode(text));
          await new Promise((resolve) => timer = setTimeout(resolve, LOOK_EVERY));
        }
      } catch (error) {
        end();
        controller.error(error);
      }
    },
    cancel: end,
  }, { highWaterMark: 0 });
}

function event({ lines, malformed, restarted, place }: Piece): string {
  return `${restarted ? "event: restart\ndata:\n\n" : ""}` +
    `id: ${place}\nevent: lines\ndata: ${JSON.stringify({ lines, malformed })}\n\n`;
}
