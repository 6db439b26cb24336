/**
 * What the playground has to know besides OpenAI's API: which models there are, and how to ask the same on the command line.
 *
 * @module
 */
import { Hono } from "hono";
import type { Library } from "./inference/library.ts";
import type { Scheduler } from "./inference/scheduler.ts";
import { EXAMPLE } from "../training/options.ts";
import { chatFormat } from "./openai/chat.ts";
import { fromHere, quoted } from "./runs/summary.ts";

/** The routes, to be put under /api/playground. */
export function playgroundRoutes(library: Library, scheduler: Scheduler): Hono {
  const routes = new Hono();
  routes.get("/", (c) => {
    const { base, vocab } = library.options;
    const named = base === EXAMPLE.model ? undefined : base;
    const flags = (adapter: string | undefined) =>
      [["--load_model", named], ["--adapter", adapter], ["--vocab", vocab]].flatMap(([flag, path]) =>
        path === undefined ? [] : [`${flag} ${quoted(fromHere(path))}`]
      );
    const models = library.list().map(({ name, adapter }) => ({
      name,
      isBase: adapter === undefined,
      promptFormat: library.promptFormat(name) ?? "plain",
      chatFormat: chatFormat(library.promptFormat(name)).name,
      command: ["deno task generate", ...flags(adapter)].join(" "),
    }));
    const { layers, channels, vocabulary } = library.config;
    return c.json({ models, sizes: { layers, channels, vocabulary }, load: scheduler.load });
  });
  return routes;
}
