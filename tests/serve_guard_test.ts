/**
 * What the server refuses before anything else: other names, other origins, other bodies, no key.
 *
 * @module
 */
import { deepStrictEqual, match, ok, rejects, strictEqual } from "node:assert/strict";
import { hostsOf, isLoopback } from "../serve/guard.ts";
import { BODY_BYTES, readJson } from "../serve/body.ts";
import type { ApiError } from "../serve/errors.ts";
import { post, raw, serving } from "./serving.ts";

const statusOf = (answer: string) => Number(/^HTTP\/1\.\d (\d+)/.exec(answer)?.[1]);

Deno.test("guard + Host headers: only the server's own names, letter by letter, before the path is looked at", async () => {
  await using server = await serving();
  const { port } = server;
  const get = (host: string, target = "/v1/models") =>
    raw(port, `GET ${target} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`).then(statusOf);
  for (const host of [`127.0.0.1:${port}`, `localhost:${port}`, `[::1]:${port}`]) {
    strictEqual(await get(host), 200, host);
  }
  const refused = [
    "evil.example",
    `evil.example:${port}`,
    "127.0.0.1",
    "localhost",
    `127.0.0.1:${port + 1}`,
    `127.0.0.1.evil:${port}`,
    `127.0.0.1@evil.example`,
    `LOCALHOST:${port}`,
    `localhost.:${port}`,
    `0x7f.1:${port}`,
    `[::ffff:127.0.0.1]:${port}`,
    `127.0.0.1:${port}/evil`,
    `127.0.0.1:${port}\tx`,
    `127.0.0.1:${port},evil.example`,
    `user@127.0.0.1:${port}`,
    `0.0.0.0:${port}`,
    "a".repeat(8000),
    "",
  ];
  for (const host of refused) {
    const status = await get(host);
    ok(status === 403 || status === 400, `${host.slice(0, 40)}: ${status}`);
  }
  ok([400, 403].includes(statusOf(await raw(port, "GET /v1/models HTTP/1.0\r\n\r\n"))), "no Host");
  const own = `127.0.0.1:${port}`;
  strictEqual(await get(own, `http://evil.example/v1/models`), 403, "a whole URL on the request line");
  strictEqual(await get("evil.example", `http://${own}/v1/models`), 403, "and the other way round");
  const two = `GET / HTTP/1.1\r\nHost: ${own}\r\nHost: evil.example\r\nConnection: close\r\n\r\n`;
  ok([400, 403].includes(statusOf(await raw(port, two))), "two Hosts");
});

Deno.test("guard + methods: those that are used, and no word that lets another origin in", async () => {
  await using server = await serving();
  const { port, url } = server;
  for (const method of ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]) {
    const answer = await raw(
      port,
      `${method} /v1/models HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`,
    );
    strictEqual(statusOf(answer), 405, method);
    ok(!/access-control-allow/i.test(answer), method);
  }
  strictEqual((await post(`${url}/api/runs`, {})).status, 405);
  strictEqual((await post(`${url}/`, {})).status, 405);
  const page = await fetch(url);
  match(page.headers.get("content-security-policy")!, /default-src 'none'/);
  strictEqual(page.headers.get("x-content-type-options"), "nosniff");
  strictEqual(page.headers.get("referrer-policy"), "no-referrer");
  await page.body?.cancel();
  const data = await fetch(`${url}/api/runs`);
  strictEqual(data.headers.get("cache-control"), "no-store");
  await data.body?.cancel();
});

Deno.test("guard + writes from another origin: refused, those of its own pages and of programs are not", async () => {
  await using server = await serving();
  const { url, port } = server;
  const body = { model: "base", prompt: "a", max_tokens: 1 };
  const ask = async (headers: Record<string, string>) => {
    const response = await post(`${url}/v1/completions`, body, { headers });
    await response.body?.cancel();
    return response.status;
  };
  strictEqual(await ask({}), 200);
  strictEqual(await ask({ origin: url }), 200);
  strictEqual(await ask({ origin: url, "sec-fetch-site": "same-origin" }), 200);
  const foreign = [
    "http://evil.example",
    "null",
    "file://",
    "http://localhost",
    `http://127.0.0.1:${port}.evil`,
    "https://127.0.0.1",
  ];
  for (const origin of foreign) strictEqual(await ask({ origin }), 403, origin);
  strictEqual(await ask({ "sec-fetch-site": "cross-site" }), 403);
  strictEqual(await ask({ "content-type": "text/plain" }), 415);
  strictEqual(await ask({ "content-type": "application/x-www-form-urlencoded" }), 415);
  const read = await fetch(`${url}/api/runs`, { headers: { "sec-fetch-site": "cross-site" } });
  strictEqual(read.status, 403, "a page of another origin reads no data");
  await read.body?.cancel();
});

Deno.test("body + sizes and contents: limits hold with and without a length, and what is no JSON object is said to be none", async () => {
  await using server = await serving();
  const { url, port } = server;
  const to = `${url}/v1/completions`;
  const ask = async (body: string | Uint8Array<ArrayBuffer> | ReadableStream<Uint8Array>) => {
    const response = await fetch(to, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body,
    });
    return { status: response.status, error: (await response.json()).error };
  };
  const padded = (size: number) => {
    const start = '{"model":"base","max_tokens":1,"prompt":"a","user":"', end = '"}';
    return start + "x".repeat(size - start.length - end.length) + end;
  };
  strictEqual((await ask(padded(BODY_BYTES))).status, 200, "exactly the limit");
  strictEqual((await ask(padded(BODY_BYTES + 1))).status, 413);
  let left = 12;
  const chunked = new ReadableStream<Uint8Array>({
    pull(controller) {
      if (left-- > 0) controller.enqueue(new Uint8Array(100_000).fill(32));
      else controller.close();
    },
  });
  strictEqual((await ask(chunked)).status, 413, "without a length");
  for (const body of ["", "no json", "[]", "null", '"text"', "{", '{"model":"base"', "[".repeat(100_000)]) {
    const { status, error } = await ask(body);
    strictEqual(status, 400, body.slice(0, 20));
    strictEqual(error.code, "invalid_json");
  }
  strictEqual((await ask(new Uint8Array([0x7b, 0xff, 0x7d]))).status, 400, "not UTF-8");
  const deep = `{"model":"base","prompt":${"[".repeat(100_000)}${"]".repeat(100_000)}}`;
  strictEqual((await ask(deep)).status, 400, "deep");
  const silent = new Request(to, { method: "POST", body: new ReadableStream({}) });
  await rejects(readJson(silent, 50), (error: ApiError) => error.status === 408);
  const cut =
    `POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"mo`;
  // Whoever sends half a body has ten seconds for the other.
  strictEqual(await raw(port, cut, 300), "");
  deepStrictEqual(server.errors, []);
});

Deno.test("guard + an API key: data needs it, pages that hold none do not", async () => {
  await using server = await serving({ apiKey: "correct-horse" });
  const { url } = server;
  const status = async (path: string, authorization?: string) => {
    const response = await fetch(
      url + path,
      authorization === undefined ? {} : { headers: { authorization } },
    );
    await response.body?.cancel();
    return response.status;
  };
  for (const path of ["/v1/models", "/api/runs", "/api/playground"]) {
    strictEqual(await status(path), 401, path);
    strictEqual(await status(path, "Bearer wrong"), 401);
    strictEqual(await status(path, "Bearer correct-horse2"), 401);
    strictEqual(await status(path, "Basic correct-horse"), 401);
    strictEqual(await status(path, "Bearer correct-horse"), 200, path);
  }
  strictEqual(await status("/v1/models?api_key=correct-horse"), 401, "never in an address");
  strictEqual(await status("/"), 200);
});

Deno.test("guard + paths: no request reaches a file that is not one of the server's own", async () => {
  await using server = await serving();
  const { port } = server;
  const targets = [
    "/assets/../deno.json",
    "/assets/%2e%2e/deno.json",
    "/assets/%2e%2e%2fdeno.json",
    "/assets/%252e%252e%252fdeno.json",
    "/assets/..%5cdeno.json",
    "//etc/hostname",
    "/assets//etc/hostname",
    "/assets/style.css%00.js",
    "/assets/__proto__",
    "/assets/constructor",
    "/api/runs/..",
    "/api/runs/%2e%2e",
    "/api/runs/%2fetc",
    "/api/runs/~",
    "/api/runs/C:%5C",
    "/api/runs/CON",
    "/api/runs/" + "a".repeat(5000),
    "/api/runs/%E2%80%AE",
    "/api/runs/%zz",
  ];
  for (const target of targets) {
    const answer = await raw(
      port,
      `GET ${target} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: close\r\n\r\n`,
    );
    ok([400, 404].includes(statusOf(answer)), `${target.slice(0, 40)}: ${answer.slice(0, 30)}`);
    ok(!answer.includes("@wishbone") && !answer.includes("    at "), target);
  }
  deepStrictEqual(server.errors, []);
});

Deno.test("hostsOf and isLoopback + addresses", () => {
  ok(hostsOf("127.0.0.1", 80).has("localhost"), "port 80 is left out by browsers");
  ok(!hostsOf("127.0.0.1", 8007).has("localhost"));
  ok(hostsOf("::", 8007).has("[::]:8007"));
  ok(hostsOf("0.0.0.0", 8007, ["Workshop.local"]).has("workshop.local:8007"));
  for (const name of ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"]) ok(isLoopback(name), name);
  for (const name of ["0.0.0.0", "::", "192.168.1.5", "127.0.0.1.evil", "localhost.evil"]) {
    ok(!isLoopback(name), name);
  }
});
