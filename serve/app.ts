/**
 * The server: guard, pages, runs, models. Everything that answers a request comes together here.
 *
 * @module
 */
import { Hono } from "hono";
import { ASSETS, PAGES } from "./assets.ts";
import { ApiError, asApiError, errorResponse } from "./errors.ts";
import { checkRequest, type Policy, secured } from "./guard.ts";
import type { Library } from "./inference/library.ts";
import type { Scheduler } from "./inference/scheduler.ts";
import { apiRoutes, unknownPath } from "./openai/routes.ts";
import { playgroundRoutes } from "./playground.ts";
import { runRoutes } from "./runs/routes.ts";
import type { RunList } from "./runs/run_list.ts";
import { Summaries } from "./runs/summary.ts";

/** What a server is made of. */
export interface ServerOptions {
  readonly policy: Policy;
  readonly library: Library;
  readonly scheduler: Scheduler;
  readonly runs: RunList;
  /** Tokens of an answer, at most. */
  readonly maxTokens: number;
  /** Seconds that a request may take, at most. */
  readonly timeoutSeconds: number;
  /** Told errors that are nobody's but the server's. */
  onError(error: unknown): void;
}

/** Answers a request; what `Deno.serve` takes. */
export type Handler = (
  request: Request,
  info?: Pick<Deno.ServeHandlerInfo<Deno.NetAddr>, "remoteAddr">,
) => Promise<Response>;

/** Makes the handler of a server. */
export function createHandler(options: ServerOptions): Handler {
  const { policy, library, scheduler, runs, onError } = options;
  const addresses = new WeakMap<Request, string>();
  const app = new Hono();
  for (const [path, text] of PAGES) {
    app.get(path, () => new Response(text, { headers: { "content-type": "text/html; charset=utf-8" } }));
  }
  app.get("/assets/:name", (c) => {
    const asset = ASSETS.get(c.req.param("name"));
    if (!asset) throw new ApiError(404, "There is no such file");
    return new Response(asset.text, { headers: { "content-type": asset.type, "cache-control": "no-cache" } });
  });
  app.route("/api/runs", runRoutes(runs, new Summaries(runs)));
  app.route("/api/playground", playgroundRoutes(library, scheduler));
  app.route("/v1", apiRoutes({ ...options, clientOf: (request) => addresses.get(request) ?? "" }));
  app.notFound((c) => {
    if (/^\/(v1|api)\//.test(c.req.path)) return unknownPath(c);
    return c.text("There is no such page: the runs are at /", 404);
  });
  app.onError((error) => {
    const told = asApiError(error);
    if (told.status === 500) onError(error);
    return errorResponse(told);
  });
  return async (request, info) => {
    try {
      checkRequest(request, policy);
      addresses.set(request, info?.remoteAddr.hostname ?? "");
      return secured(await app.fetch(request));
    } catch (error) {
      const told = asApiError(error);
      if (told.status === 500) onError(error);
      return secured(errorResponse(told, told.status === 405 ? { allow: "GET, HEAD, POST" } : {}));
    }
  };
}
