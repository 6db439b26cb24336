/**
 * What stands before everything else: which requests are looked at at all.
 *
 * A page of a stranger can make a browser send requests to this server, and by DNS rebinding even read the answers. So the Host
 * header has to be, letter by letter, a name that the server goes by, before the path is looked at; whatever changes or
 * starts something must not come from another origin; and no answer allows another origin anything. Deno builds `request.url`
 * from the Host header, and from the request line where that holds a whole URL, so the two are compared as well.
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";
import { ApiError } from "./errors.ts";

/** By which names a server goes, and what it asks for. */
export interface Policy {
  /** Values of the Host header, exactly: `127.0.0.1:8007`. */
  readonly hosts: ReadonlySet<string>;
  /** The bearer token that data needs. */
  readonly apiKey: string | undefined;
}

/** Names of the machine itself. */
const LOOPBACK = ["127.0.0.1", "localhost", "[::1]"];

/** Whether an address can only be reached from the machine itself. */
export function isLoopback(hostname: string): boolean {
  return /^(127(\.\d{1,3}){3}|localhost|\[?::1\]?)$/.test(hostname);
}

/** The Host headers that a server answers to: loopback's names, its address, and others that it was told. */
export function hostsOf(hostname: string, port: number, others: readonly string[] = []): Set<string> {
  const bracketed = hostname.includes(":") && !hostname.startsWith("[") ? `[${hostname}]` : hostname;
  const names = [...LOOPBACK, bracketed, ...others.map((name) => name.toLowerCase())];
  return new Set(names.flatMap((name) => port === 80 ? [name, `${name}:80`] : [`${name}:${port}`]));
}

/** Paths whose answers hold data. */
const DATA = /^\/(v1|api)(\/|$)/;

/** Checks a request, before its path means anything. @throws ApiError */
export function checkRequest(request: Request, { hosts, apiKey }: Policy): void {
  const host = request.headers.get("host") ?? "";
  const url = URL.parse(request.url);
  const named = url?.port === "" && host.endsWith(":80") ? `${url.host}:80` : url?.host;
  if (!url || !hosts.has(host) || named !== host) {
    throw new ApiError(
      403,
      "The Host header is not a name of this server: open it under the address that it printed, or start it with --allow_host",
      null,
      "host_not_allowed",
    );
  }
  const { method, headers } = request;
  const isData = DATA.test(url.pathname);
  const reads = method === "GET" || method === "HEAD";
  if (!reads && !(method === "POST" && url.pathname.startsWith("/v1/"))) {
    throw new ApiError(405, `The method ${method} is not allowed here`, null, "method_not_allowed");
  }
  const site = headers.get("sec-fetch-site");
  if (!reads) {
    const origin = headers.get("origin");
    if ((origin !== null && origin !== url.origin) || (site !== null && site !== "same-origin")) {
      throw new ApiError(
        403,
        "Requests from pages of another origin are refused",
        null,
        "origin_not_allowed",
      );
    }
    const type = (headers.get("content-type") ?? "").split(";")[0]!.trim().toLowerCase();
    if (type !== "application/json") {
      throw new ApiError(415, "The Content-Type must be application/json", null, "unsupported_media_type");
    }
  } else if (isData && (site === "cross-site" || site === "same-site")) {
    throw new ApiError(403, "Requests from pages of another origin are refused", null, "origin_not_allowed");
  }
  if (apiKey !== undefined && isData && !isKey(headers.get("authorization"), apiKey)) {
    throw new ApiError(
      401,
      "The API key is missing or wrong: send it as Authorization: Bearer …",
      null,
      "invalid_api_key",
    );
  }
}

/** Compares in a time that does not tell how much of it was right. */
function isKey(authorization: string | null, apiKey: string): boolean {
  const given = /^Bearer +(\S+)$/i.exec(authorization ?? "")?.[1] ?? "";
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(given), digest(apiKey));
}

/** What every answer carries: nothing is run, framed or loaded but from here, and nothing of it is kept. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cross-origin-resource-policy": "same-origin",
  "cross-origin-opener-policy": "same-origin",
  "x-frame-options": "DENY",
};

/** Adds the headers that every answer carries. */
export function secured(response: Response): Response {
  for (const [name, value] of Object.entries(HEADERS)) response.headers.set(name, value);
  if (!response.headers.has("cache-control")) response.headers.set("cache-control", "no-store");
  return response;
}
