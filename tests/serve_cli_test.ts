/**
 * `deno task serve` as a person starts it.
 *
 * @module
 */
import { match, ok, strictEqual } from "node:assert/strict";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { hostsOf } from "../serve/guard.ts";

const CONFIG = fileURLToPath(new URL("../deno.json", import.meta.url));
const folder = Deno.realPathSync(Deno.makeTempDirSync({ prefix: "wishbone serve " }));
Deno.test.afterAll(() => Deno.removeSync(folder, { recursive: true }));

function serve(...args: string[]): Deno.Command {
  return new Deno.Command("deno", {
    args: ["task", "--quiet", "--config", CONFIG, "serve", "--engine", "cpu", ...args],
    cwd: folder,
    env: { NO_COLOR: "1", INIT_CWD: folder },
    stdin: "null",
    stdout: "piped",
    stderr: "piped",
  });
}

/** Runs the command to its end. */
async function ended(...args: string[]): Promise<{ code: number; stderr: string; stdout: string }> {
  const { code, stdout, stderr } = await serve(...args).output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Starts a server, and stops it after `use` of the address that it prints. */
async function started(args: string[], use: (url: string) => Promise<void>): Promise<void> {
  const child = serve("--port", "0", ...args).spawn();
  const errors = new Response(child.stderr).text();
  try {
    let said = "";
    const reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    while (!said.includes("\n")) {
      const { value, done } = await reader.read();
      if (done) throw new Error(await errors);
      said += value;
    }
    match(said, /^Wishbone is at http:\/\/127\.0\.0\.1:\d+\/\n$/);
    await use(/http:\S+(?=\/\n)/.exec(said)![0]);
    await reader.cancel();
  } finally {
    child.kill("SIGINT");
    await child.status;
    await errors;
  }
}

async function json(url: string, options: RequestInit = {}) {
  const response = await fetch(url, options);
  return { status: response.status, body: await response.json() };
}

Deno.test("serve + no flags: prints its address, shows runs that come later, and answers", async () => {
  await started([], async (url) => {
    strictEqual((await json(`${url}/api/runs`)).body.runs.length, 0);
    Deno.mkdirSync(join(folder, "runs", "later"), { recursive: true });
    Deno.writeTextFileSync(join(folder, "runs", "later", "config.json"), "{}");
    strictEqual((await json(`${url}/api/runs`)).body.runs[0].name, "later");
    const page = await fetch(url);
    match(await page.text(), /<title>Runs · Wishbone<\/title>/);
    const { body } = await json(`${url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ model: "base", prompt: "In the beginning ", temperature: 0, max_tokens: 8 }),
    });
    strictEqual(body.choices[0].text, "of the L");
  });
});

Deno.test("serve + another address: needs a key, and then asks for it", async () => {
  const refused = await ended("--host", "0.0.0.0");
  strictEqual(refused.code, 2);
  match(refused.stderr, /--api_key [0-9a-f]{32}/);
  ok(!refused.stderr.includes("    at "));
  await started(
    ["--host", "0.0.0.0", "--api_key", "secret", "--allow_host", "workshop.local"],
    async (url) => {
      strictEqual((await json(`${url}/v1/models`)).status, 401);
      const headers = { authorization: "Bearer secret" };
      strictEqual((await json(`${url}/v1/models`, { headers })).status, 200);
      ok(hostsOf("0.0.0.0", 1, ["workshop.local"]).has("workshop.local:1"));
    },
  );
});

Deno.test("serve + what cannot be: one sentence and code 2", async () => {
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const cases: [string[], RegExp][] = [
    [["--port", String((taken.addr as Deno.NetAddr).port)], /Port \d+ is in use: .*--port/],
    [["--port", "99999"], /--port must be from 0 to 65535: it is 99999/],
    [["--host", "10.1.2.3", "--api_key", "k"], /use one of these instead of --host 10\.1\.2\.3/],
    [["--runs", CONFIG], /deno\.json is a file/],
    [["--slots", "0"], /--slots must be from 1/],
    [["--load_model", "nothing.pth"], /nothing\.pth/],
    [["--adapter", "nothing.pth"], /nothing\.pth/],
    [["--api_key", "two words"], /--api_key/],
    [["--slot", "1"], /did you mean --slots\?/],
  ];
  for (const [args, sentence] of cases) {
    const { code, stderr } = await ended(...args);
    strictEqual(code, 2, `${args}: ${stderr}`);
    match(stderr, sentence);
    strictEqual(stderr.trim().split("\n").length, 1, stderr);
  }
  const { code, stdout } = await ended("--help");
  strictEqual(code, 0);
  match(stdout, /--allow_host/);
});
