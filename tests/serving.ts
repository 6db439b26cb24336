/**
 * A server for tests: the bundled model on the processor, runs in a folder of the test's own, a free port.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { createHandler } from "../serve/app.ts";
import { hostsOf } from "../serve/guard.ts";
import { Library } from "../serve/inference/library.ts";
import { Scheduler } from "../serve/inference/scheduler.ts";
import { RunList } from "../serve/runs/run_list.ts";
import { adaptersFor } from "../serve/served.ts";

/** The bundled model: bytes, so that any text is a prompt. */
export const BASE = fileURLToPath(new URL("../examples/base.safetensors", import.meta.url));

/** What a test server can be told. */
export interface ServingOptions {
  runs?: string;
  base?: string;
  adapters?: readonly string[];
  apiKey?: string;
  slots?: number;
  waiting?: number;
  maxTokens?: number;
  timeoutSeconds?: number;
}

/** A server that runs until it is disposed of. */
export interface Serving extends AsyncDisposable {
  readonly port: number;
  /** `http://127.0.0.1:PORT` */
  readonly url: string;
  readonly library: Library;
  readonly scheduler: Scheduler;
  /** Errors that were nobody's but the server's. */
  readonly errors: unknown[];
}

/** Starts a server. */
export async function serving(options: ServingOptions = {}): Promise<Serving> {
  const { base = BASE, adapters = [], slots = 8, waiting = 64, maxTokens = 512, timeoutSeconds = 60 } =
    options;
  const runs = new RunList(options.runs ?? Deno.makeTempDirSync({ prefix: "wishbone no runs " }));
  const library = await Library.open({
    base,
    engine: "cpu",
    slots,
    adapters: () => adaptersFor(base, adapters, runs),
  });
  const scheduler = new Scheduler(library, { slots, waiting, cacheBytes: 64e6 });
  const hosts = new Set<string>(), errors: unknown[] = [];
  const handler = createHandler({
    policy: { hosts, apiKey: options.apiKey },
    library,
    scheduler,
    runs,
    maxTokens,
    timeoutSeconds,
    onError: (error) => errors.push(error),
  });
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: () => {} }, handler);
  const { port } = server.addr;
  hostsOf("127.0.0.1", port).forEach((host) => hosts.add(host));
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    library,
    scheduler,
    errors,
    async [Symbol.asyncDispose]() {
      await server.shutdown();
      await library.dispose();
      if (options.runs === undefined) Deno.removeSync(runs.root, { recursive: true });
    },
  };
}

/** Posts JSON. */
export function post(url: string, body: unknown, options: RequestInit = {}): Promise<Response> {
  return fetch(url, {
    method: "POST",
    ...options,
    headers: { "content-type": "application/json", ...options.headers },
    body: typeof body === "string" ? body : JSON.stringify(body),
  });
}

/** Sends bytes as they are and gives everything that comes back, until the server closes or `milliseconds` have passed. */
export async function raw(port: number, text: string, milliseconds = 60_000): Promise<string> {
  using connection = await Deno.connect({ hostname: "127.0.0.1", port });
  await connection.write(new TextEncoder().encode(text));
  const decoder = new TextDecoder(), buffer = new Uint8Array(65536);
  let answer = "";
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<null>((resolve) => timer = setTimeout(() => resolve(null), milliseconds));
  try {
    for (;;) {
      const count = await Promise.race([connection.read(buffer), late]);
      if (count === null) break;
      answer += decoder.decode(buffer.subarray(0, count), { stream: true });
      if (isWhole(answer)) break;
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.ConnectionReset)) throw error;
  } finally {
    clearTimeout(timer);
  }
  return answer;
}

/** Whether a response of a known length is there. */
function isWhole(answer: string): boolean {
  const end = answer.indexOf("\r\n\r\n");
  const length = /\r\ncontent-length: (\d+)/i.exec(answer)?.[1];
  return end >= 0 && length !== undefined &&
    new TextEncoder().encode(answer.slice(end + 4)).length >= Number(length);
}

/** Waits for something that comes by itself, on a busy machine perhaps late. @returns whether it came */
export async function comes(isThere: () => boolean | Promise<boolean>): Promise<boolean> {
  const end = performance.now() + 60_000;
  while (!await isThere()) {
    if (performance.now() > end) return false;
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  return true;
}

/** The data of each event of a stream. */
export async function eventsOf(response: Response): Promise<string[]> {
  const text = await response.text();
  return text.split("\n\n").filter((event) => event !== "").map((event) => event.replace(/^data: /, ""));
}
