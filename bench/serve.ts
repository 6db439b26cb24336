/**
 * Many clients at one server: `deno task bench:serve [--clients 32] [--seconds 60]`.
 *
 * Starts `serve` with the bundled model on the processor, measures what one streaming client is given, then what many are given
 * together, each with another prompt and seed, asking again as soon as it was answered. Prints tokens a second, failures,
 * waits, and the server's memory over time; fails if a request failed or all together were given under 0.9 of what one was.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const { values } = parseArgs({
  options: {
    clients: { type: "string", default: "32" },
    seconds: { type: "string", default: "60" },
    tokens: { type: "string", default: "128" },
    threads: { type: "string" },
  },
});
const clients = Number(values.clients), seconds = Number(values.seconds), maxTokens = Number(values.tokens);

/** What one alone is measured for. */
const ALONE_SECONDS = Math.min(15, seconds);

const server = new Deno.Command("deno", {
  args: [
    "run",
    "--no-prompt",
    "--allow-read",
    "--allow-net=127.0.0.1",
    "--allow-sys=systemMemoryInfo",
    "--config",
    fileURLToPath(new URL("../deno.json", import.meta.url)),
    fileURLToPath(new URL("../scripts/serve.ts", import.meta.url)),
    "--port",
    "0",
    "--engine",
    "cpu",
    ...(values.threads ? ["--threads", values.threads] : []),
    "--runs",
    fileURLToPath(new URL("./no runs", import.meta.url)),
  ],
  stdin: "null",
  stdout: "piped",
  stderr: "inherit",
}).spawn();

/** The address that the server prints. */
async function address(): Promise<string> {
  let said = "";
  for await (const text of server.stdout.pipeThrough(new TextDecoderStream())) {
    said += text;
    const [url] = /http:\/\/\S+(?=\/\n)/.exec(said) ?? [];
    if (url) return url;
  }
  throw new Error(`The server did not start: ${said}`);
}

/** What was counted. */
interface Counts {
  tokens: number;
  answers: number;
  failed: string[];
  /** Milliseconds to the first token of each answer. */
  first: number[];
}

/** Asks again and again until a time. */
async function client(url: string, name: number, until: number, counts: Counts): Promise<void> {
  for (let i = 0; performance.now() < until; i++) {
    const begun = performance.now();
    try {
      const response = await fetch(`${url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          model: "base",
          prompt: `Chapter ${name}, verse ${i}. `,
          max_tokens: maxTokens,
          seed: 1000 * name + i,
          stream: true,
          stream_options: { include_usage: true },
        }),
      });
      if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
      let text = "", seen = false;
      for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
        if (!seen) counts.first.push(performance.now() - begun);
        seen = true;
        // Usage stands at the end: what came before it need not be kept.
        text = (text + piece).slice(-2000);
      }
      const tokens = /"completion_tokens":(\d+)/.exec(text)?.[1];
      if (!text.endsWith("data: [DONE]\n\n") || tokens === undefined) throw new Error("an answer broke off");
      counts.tokens += Number(tokens);
      counts.answers++;
    } catch (error) {
      counts.failed.push((error as Error).message);
    }
  }
}

/** Lets some clients ask for a while. @returns tokens a second and what was counted */
async function measure(url: string, many: number, forSeconds: number): Promise<Counts & { rate: number }> {
  const counts: Counts = { tokens: 0, answers: 0, failed: [], first: [] };
  const begun = performance.now(), until = begun + forSeconds * 1000;
  await Promise.all(Array.from({ length: many }, (_, i) => client(url, i, until, counts)));
  return { ...counts, rate: counts.tokens / ((performance.now() - begun) / 1000) };
}

/** Megabytes that the server holds, where there is `ps` to tell. */
async function memory(): Promise<number | undefined> {
  try {
    const { stdout } = await new Deno.Command("ps", { args: ["-o", "rss=", "-p", String(server.pid)] })
      .output();
    return Number(new TextDecoder().decode(stdout)) / 1000;
  } catch {
    return undefined;
  }
}

const megabytes = (value: number | undefined) => value === undefined ? "unknown" : `${value.toFixed(0)} MB`;
const median = (numbers: number[]) =>
  numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)] ?? NaN;

try {
  const url = await address();
  await measure(url, 2, 1);
  const one = await measure(url, 1, ALONE_SECONDS);
  console.log(
    `1 client, ${ALONE_SECONDS} s: ${
      one.rate.toFixed(0)
    } tokens/s, ${one.answers} answers, ${one.failed.length} failed, ` +
      `first token after ${median(one.first).toFixed(0)} ms`,
  );
  await measure(url, clients, 2);
  const held: (number | undefined)[] = [];
  const watch = setInterval(async () => held.push(await memory()), 5000);
  const all = await measure(url, clients, seconds);
  clearInterval(watch);
  console.log(
    `${clients} clients, ${seconds} s: ${all.rate.toFixed(0)} tokens/s, ${all.answers} answers, ` +
      `${all.failed.length} failed, first token after ${median(all.first).toFixed(0)} ms`,
  );
  console.log(`Memory every 5 s: ${held.map(megabytes).join(", ")}`);
  const ratio = all.rate / one.rate;
  console.log(`All together are given ${ratio.toFixed(2)} of what one alone is (wanted: 0.9)`);
  [...new Set([...one.failed, ...all.failed])].slice(0, 5).forEach((message) =>
    console.log(`Failed: ${message}`)
  );
  if (ratio < 0.9 || one.failed.length + all.failed.length) Deno.exitCode = 1;
} finally {
  server.kill("SIGKILL");
  await server.status;
}
