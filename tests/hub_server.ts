/**
 * A server on the loopback device that answers as the Hugging Face Hub does.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { newPath } from "./tiny_model.ts";

/** Content of a file that a test fetches. */
export const CONTENT = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7919) >> 3);

/** A SHA-256 in hexadecimal. */
export const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

export interface Served {
  readonly content: Uint8Array<ArrayBuffer>;
  readonly etag?: string;
}

/** What the server does besides answering. */
export interface Behaviour {
  /** Breaks the connection after so many bytes of a body. */
  breakAfter?: number;
  /** Ends a body after so many bytes as if that were all. */
  endAfter?: number;
  /** Sends so many bytes more than it said. */
  tooMany?: number;
  /** Where requests for more than a size are sent on to. */
  redirect?: string;
  status?: number;
}

/** Runs `body` with a Hub that has these files, by owner/repo/revision/path. */
export async function withHub(
  files: Record<string, Served>,
  body: (hub: { hubUrl: string; folder: string; requests: string[]; behaviour: Behaviour }) => Promise<void>,
): Promise<void> {
  const requests: string[] = [], behaviour: Behaviour = {};
  const folder = newPath("hub");
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, (request) => {
    const { pathname } = new URL(request.url), range = request.headers.get("range");
    requests.push(`${pathname} ${range} ${request.headers.get("authorization")}`);
    if (behaviour.status) return new Response("", { status: behaviour.status });
    const [, owner, repo, , revision, ...path] = pathname.split("/");
    const found = files[[owner, repo, revision, ...path].join("/")];
    if (!found) return new Response("", { status: 404, headers: { "X-Error-Code": "EntryNotFound" } });
    const { content, etag = sha256(content) } = found;
    const [, from = "0", to = ""] = /bytes=(\d+)-(\d*)/.exec(range ?? "") ?? [];
    const end = to ? Math.min(Number(to) + 1, content.length) : content.length;
    const part = content.slice(Number(from), end);
    const { breakAfter = Infinity, endAfter, tooMany, redirect } = behaviour;
    const isSize = range === "bytes=0-0";
    if (redirect !== undefined && !isSize) return Response.redirect(`${redirect}${pathname}`);
    const headers = {
      "ETag": `"${etag}"`,
      ...(endAfter === undefined && tooMany === undefined ? { "Content-Length": String(part.length) } : {}),
      ...(range ? { "Content-Range": `bytes ${from}-${end - 1}/${content.length}` } : {}),
    };
    if (!isSize && (endAfter !== undefined || tooMany !== undefined)) {
      const body = endAfter === undefined ? [part, new Uint8Array(tooMany!)] : [part.slice(0, endAfter)];
      return new Response(ReadableStream.from(body), { status: 206, headers });
    }
    if (part.length <= breakAfter) return new Response(part, { status: range ? 206 : 200, headers });
    const broken = new ReadableStream({
      async start(controller) {
        controller.enqueue(part.subarray(0, breakAfter));
        await new Promise((later) => setTimeout(later, 100));
        controller.error(new Error("broken off"));
      },
    });
    return new Response(broken, { status: range ? 206 : 200, headers });
  });
  try {
    await body({ hubUrl: `http://127.0.0.1:${server.addr.port}`, folder, requests, behaviour });
  } finally {
    await server.shutdown();
  }
}

/** Deno complains of the error that the server's broken answer is. */
export const quiet = { sanitizeOps: false, sanitizeResources: false };
