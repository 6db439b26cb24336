/**
 * Watching runs in the browser, and models for it and for programs: `deno task serve`.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { checkFits } from "../adapters/adapter.ts";
import { loadAdapter } from "../mod.ts";
import { createHandler } from "../serve/app.ts";
import { hostsOf, isLoopback } from "../serve/guard.ts";
import { Library } from "../serve/inference/library.ts";
import { Scheduler } from "../serve/inference/scheduler.ts";
import { RunList } from "../serve/runs/run_list.ts";
import { adaptersFor, latestBase } from "../serve/served.ts";
import { EXAMPLE, OptionError } from "../training/options.ts";
import { explain, runCommand, type Work } from "./command.ts";
import { giveUpNativeCode } from "./confine.ts";
import { choice, file, files, helpText, list, parseFlags, saidBy, text, whole } from "./flags.ts";
import { HINTS, hintsFrom } from "./hint_flags.ts";
import { HUB, wantedBy } from "./hub.ts";

const USAGE = `Shows runs in the browser, lets you talk to models, and serves OpenAI's API under /v1.

  deno task serve
  deno task serve --load_model model.pth --adapter runs/mine/adapter.pth --runs runs

Only this machine can reach it, unless --host says otherwise. Adapters of runs with the same base are models as well.
Nothing is loaded before somebody asks for it.`;

const FLAGS = {
  runs: text("DIR", "folder of run folders"),
  loadModel: file("base model; without it, that of the latest run, or the bundled one"),
  adapter: files("adapters of the base, each a model, besides those of runs"),
  ...HINTS,
  vocab: file("World vocabulary; without it, rwkv_vocab_v20230424.txt beside the model"),
  engine: choice(["auto", "webgpu", "cpu"], "what to compute on"),
  threads: whole(
    "threads, where the processor computes; one core is best left for requests",
  ),
  host: text("ADDRESS", "address to listen at; any but this machine's own needs --api_key"),
  port: whole("port to listen at; 0 takes a free one"),
  apiKey: text("KEY", "secret that whoever reads data or asks models has to send"),
  allowHost: list("names under which others reach it, as their Host header has them, without the port"),
  slots: whole("answers that are written at once; each takes memory for a state on every adapter in use"),
  queue: whole("requests that may wait"),
  maxTokens: whole("tokens of an answer, at most"),
  timeout: whole("seconds that a request may take"),
  stateCache: whole("MB of states kept, so that prompts which begin alike are read once"),
  ...HUB,
};

const DEFAULTS = {
  runs: "runs",
  engine: "auto",
  // Threads that wait for each other at every op lose much where one of them has to share its core with the requests.
  threads: Math.max(1, navigator.hardwareConcurrency - 1),
  host: "127.0.0.1",
  port: 8007,
  slots: 32,
  queue: 256,
  maxTokens: 4096,
  timeout: 600,
  stateCache: 256,
} as const;

/** Least and most of each number. */
const RANGES = {
  threads: [1, 1024],
  port: [0, 65535],
  slots: [1, 256],
  queue: [1, 100_000],
  maxTokens: [1, 1_000_000],
  timeout: [1, 86_400],
  stateCache: [0, 1_000_000],
} as const;

/** The command, which serves until it is stopped. @returns the exit code */
export async function main(args: readonly string[], work: Work): Promise<number> {
  const { values, help } = parseFlags(FLAGS, args);
  if (help) {
    const shown = (option: string) => DEFAULTS[option as keyof typeof DEFAULTS]?.toString();
    console.log(helpText(USAGE, { "Flags": FLAGS }, shown));
    return 0;
  }
  const { host, port, apiKey, adapter = [], allowHost = [], vocab, engine, slots, ...rest } = checked({
    ...DEFAULTS,
    ...values,
  });
  const hints = hintsFrom(values);
  if (existsSync(rest.runs) && !Deno.statSync(rest.runs).isDirectory) {
    throw new OptionError(`--runs ${rest.runs} is a file: name the folder that the run folders lie in`);
  }
  await giveUpNativeCode({ choice: engine });
  const runs = new RunList(rest.runs);
  const base = rest.loadModel ?? latestBase(runs) ?? EXAMPLE.model;
  const library = await Library.open({
    base,
    vocab,
    hints,
    engine,
    threads: rest.threads,
    slots,
    adapters: () => adaptersFor(base, adapter, runs),
    onMessage: (message) => console.error(message),
  });
  for (const path of adapter) checkFits(await loadAdapter(path, hints), library.config);
  const scheduler = new Scheduler(library, {
    slots,
    waiting: rest.queue,
    cacheBytes: rest.stateCache * 1e6,
  });
  const hosts = new Set<string>();
  const handler = createHandler({
    policy: { hosts, apiKey },
    library,
    scheduler,
    runs,
    maxTokens: rest.maxTokens,
    timeoutSeconds: rest.timeout,
    onError: (error) => console.error(explain(error) ?? error),
  });
  const server = listen(host, port, handler);
  hostsOf(host, server.addr.port, allowHost).forEach((name) => hosts.add(name));
  work.begun = true;
  const address = isLoopback(host) ? host : "127.0.0.1";
  const shownHost = address.includes(":") && !address.startsWith("[") ? `[${address}]` : address;
  console.log(`Wishbone is at http://${shownHost}:${server.addr.port}/`);
  console.error(`Runs in ${rest.runs}; models: ${library.list().map(({ name }) => name).join(", ")}`);
  if (!isLoopback(host) && !allowHost.length) {
    console.error(
      "Others are answered only under names that --allow_host gives, such as this machine's address: --allow_host 192.168.1.5",
    );
  }
  await server.finished;
  return 0;
}

function listen(hostname: string, port: number, handler: Deno.ServeHandler<Deno.NetAddr>) {
  try {
    return Deno.serve({ hostname: hostname.replace(/^\[(.*)\]$/, "$1"), port, onListen: () => {} }, handler);
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) {
      throw new OptionError(`Port ${port} is in use: choose another with --port, or 0 for a free one`);
    }
    if (error instanceof Deno.errors.AddrNotAvailable || (error as Error).message.includes("lookup")) {
      throw new OptionError(
        `Cannot listen at ${hostname}: it is no address of this machine, so choose another --host`,
      );
    }
    if (error instanceof Deno.errors.NotCapable) {
      throw new OptionError(
        `Deno task serve may listen at this machine's own address and at 0.0.0.0 or ::, which are all its addresses: ` +
          `use one of these instead of --host ${hostname}`,
      );
    }
    if (error instanceof Deno.errors.PermissionDenied) {
      throw new OptionError(`Port ${port} is not for everybody to take: choose one from 1024 on with --port`);
    }
    throw error;
  }
}

/** @throws OptionError where values do not go together */
function checked<T extends { host: string; apiKey?: string } & Record<keyof typeof RANGES, number>>(
  values: T,
): T {
  for (const [name, [least, most]] of Object.entries(RANGES)) {
    const value = values[name as keyof typeof RANGES];
    if (value >= least && value <= most) continue;
    const flag = `--${name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`;
    throw new OptionError(`${flag} must be from ${least} to ${most}: it is ${value}`);
  }
  if (values.apiKey !== undefined && !/^[\x21-\x7e]+$/.test(values.apiKey)) {
    throw new OptionError("--api_key must be made of letters, digits and signs, without blanks");
  }
  if (!isLoopback(values.host) && values.apiKey === undefined) {
    throw new OptionError(
      `At ${values.host} others could reach it, so it needs a secret: add one such as --api_key ${
        crypto.randomUUID().replaceAll("-", "")
      }, or leave out --host`,
    );
  }
  return values;
}

/** What is named of the Hub. What it listens by is kept. */
const wanted = (args: readonly string[]) => ({ ...wantedBy(FLAGS, saidBy(FLAGS, args)), listens: true });

if (import.meta.main) await runCommand(main, { wanted });
