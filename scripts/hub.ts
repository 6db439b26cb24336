/**
 * Files of the Hugging Face Hub that a command line names: what is not here yet is fetched, once its size has been agreed to, in the
 * process's first thread before the command's work begins. The network is given up then, and at once where nothing was named.
 *
 * @module
 */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { PEFT_FILES } from "../adapters/peft/files.ts";
import {
  fetchFromHub,
  HUB_FOLDER,
  HUB_URL,
  HubError,
  type HubFile,
  hubPath,
  isHubName,
  lookUp,
} from "../formats/hub.ts";
import { RandomAccessFile } from "../formats/random_access_file.ts";
import { INDEX_ENDING, readShardIndex } from "../formats/shard_index.ts";
import { WORLD_FILES, WORLD_SIZE } from "../rwkv/tokenizer/choose.ts";
import { flag, OptionError } from "../training/option_error.ts";
import type { WorkerOptionsWithPermissions } from "./confine.ts";
import { type Flags, text, toggle } from "./flags.ts";

/** The flags of every command that takes names of the Hub. */
export const HUB = {
  yes: toggle("agree beforehand to the size of what is fetched from the Hub"),
  hubUrl: text(
    "URL",
    "a mirror of the Hub, such as https://hf-mirror.com; without it HF_ENDPOINT, or the Hub itself. Others than these two need a permission of Deno's",
  ),
};

/** What a command line names of the Hub. */
export interface Wanted {
  /** Names of the Hub. */
  readonly names: readonly string[];
  /** The one among them that is a model to read text with, where no vocabulary was named. */
  readonly model?: string | undefined;
  /** Whether the sizes were agreed to beforehand. */
  readonly yes?: boolean;
  /** Where the Hub is. */
  readonly hubUrl?: string | undefined;
  /** Whether the command listens for others later, so that only the Hub's hosts are given up. */
  readonly listens?: boolean;
}

/** A host for each that the tasks permit; one of a domain stands for all of it. */
const HOSTS = ["huggingface.co", "any.huggingface.co", "any.hf.co", "hf-mirror.com", "any.hf-mirror.com"];

/** A repository that has the World vocabulary, and the SHA-256 of that: whoever answers can give nothing else. */
const WORLD = {
  name: `hf:RWKV/v5-Eagle-7B-HF/${WORLD_FILES[0]}`,
  sha256: "e6dee3d4e31b4d5c40ac99508ac6c701ceef4bed681bf2167ce9a908552bca89",
};

/** Milliseconds between lines of progress. */
const INTERVAL = 5000;

/** What the flags of a command name, from the words that were given for each; nothing where help was asked for. */
export function wantedBy(flags: Flags, said: ReadonlyMap<string, readonly string[]> = new Map()): Wanted {
  const named = Object.entries(flags).flatMap(([option, { filesIn }]) =>
    filesIn ? (said.get(option) ?? []).flatMap(filesIn).filter(isHubName) : []
  );
  const [model] = said.get("loadModel") ?? [];
  const readsText = "vocab" in flags && !said.has("vocab");
  return {
    names: named,
    model: readsText && model !== undefined && isHubName(model) ? model : undefined,
    yes: said.has("yes") && HUB.yes.read(said.get("yes")!.slice()),
    hubUrl: said.get("hubUrl")?.[0],
  };
}

/** What was fetched, or was here. */
export interface Fetched {
  /** All names: those that were wanted, and those of what belongs to them. */
  readonly names: readonly string[];
  /** Flags that then go without saying: the vocabulary of a World model. */
  readonly flags: readonly string[];
}

/**
 * Fetches what is named and not here, and gives up the network in any case.
 * @throws HubError in one sentence where something cannot be had, or was not agreed to
 */
export async function fetchWanted(wanted: Wanted): Promise<Fetched> {
  try {
    const names = await fetchNamed(wanted.names, wanted);
    const vocabulary = wanted.model === undefined ? undefined : await vocabularyFor(wanted.model, wanted);
    return vocabulary === undefined
      ? { names, flags: [] }
      : { names: [...names, vocabulary], flags: [flag("vocab"), vocabulary] };
  } finally {
    await giveUpNetwork(wanted.listens ?? false);
  }
}

/** Fetches what is not here, with what belongs to it. @returns all names */
async function fetchNamed(names: readonly string[], wanted: Omit<Wanted, "names">): Promise<string[]> {
  const all = [...new Set(names)];
  await fetchTogether(all, wanted);
  const others = [...new Set(all.flatMap(companions))].filter((name) => !all.includes(name));
  await fetchTogether(others, wanted);
  return [...all, ...others];
}

/** Asks once for all files that are not here, then fetches them. */
async function fetchTogether(names: readonly string[], wanted: Omit<Wanted, "names">): Promise<void> {
  const missing = names.filter((name) => !existsSync(hubPath(name)));
  if (!missing.length) return;
  const { hubUrl = environment("HF_ENDPOINT") } = wanted, accessToken = environment("HF_TOKEN");
  if (hubUrl !== undefined && !/^https?:$/.test(URL.parse(hubUrl)?.protocol ?? "")) {
    throw new OptionError(`--hub_url must be an address such as https://hf-mirror.com: it is "${hubUrl}"`);
  }
  const places = { hubUrl: hubUrl?.replace(/\/+$/, ""), accessToken };
  const files: HubFile[] = [];
  for (const name of missing) files.push(await lookUp(name, places));
  requireConsent(files, new URL(places.hubUrl ?? HUB_URL).host, wanted.yes ?? false);
  for (const { name } of files) {
    let shown = performance.now();
    await fetchFromHub(name, {
      ...places,
      sha256: name === WORLD.name ? WORLD.sha256 : undefined,
      onProgress: (bytes, all) => {
        if (bytes < all && performance.now() - shown < INTERVAL) return;
        shown = performance.now();
        console.error(`${name}: ${sizeOf(bytes)} of ${sizeOf(all)}`);
      },
    });
  }
}

/** @throws HubError where nobody agrees to what is to be fetched */
function requireConsent(files: readonly HubFile[], host: string, yes: boolean): void {
  const each = files.map(({ name, bytes, have, path }) =>
    `${name} is ${sizeOf(bytes)}${have ? `, of which ${sizeOf(have)} are here` : ""}, and goes to ${path}`
  ).join("; ");
  const rest = `${sizeOf(files.reduce((sum, { bytes, have }) => sum + bytes - have, 0))} from ${host}`;
  if (yes) return console.error(each);
  const names = files.map(({ name }) => name).join(", ");
  if (!Deno.stdin.isTerminal() || !Deno.stderr.isTerminal()) {
    throw new HubError(`${each}: say --yes to fetch ${rest}`);
  }
  // Deno's own confirm asks on stdout, which may be a file.
  Deno.stderr.writeSync(new TextEncoder().encode(`${each}. Fetch ${rest}? [y/N] `));
  const line = new Uint8Array(256), count = Deno.stdin.readSync(line) ?? 0;
  if (!/^\s*y(es)?\s*$/i.test(new TextDecoder().decode(line.subarray(0, count)))) {
    throw new HubError(`Not fetched: ${names}`);
  }
}

/** What belongs to a file: the others of a model in several, the other half of a PEFT adapter. */
function companions(name: string): string[] {
  const folder = name.slice(0, name.lastIndexOf("/")), file = name.slice(folder.length + 1);
  if (file.endsWith(INDEX_ENDING)) {
    using index = new RandomAccessFile(hubPath(name));
    return [...readShardIndex(index).keys()].map((shard) => `${folder}/${shard}`);
  }
  const [config, weights] = PEFT_FILES;
  if (file === config) return [`${folder}/${weights}`];
  return PEFT_FILES.includes(file) ? [`${folder}/${config}`] : [];
}

/** Fetches the World vocabulary for a model that needs it and has none beside it. @returns its name; undefined for another model */
async function vocabularyFor(model: string, wanted: Wanted): Promise<string | undefined> {
  const path = hubPath(model);
  if (WORLD_FILES.some((name) => existsSync(join(dirname(path), name)))) return undefined;
  if (await vocabularyOf(path) < WORLD_SIZE) return undefined;
  await fetchNamed([WORLD.name], wanted);
  return WORLD.name;
}

/** V of a model, 0 where it is none; read by a worker that may do nothing else, as the network is still to be had here. */
async function vocabularyOf(path: string): Promise<number> {
  const options: WorkerOptionsWithPermissions = {
    type: "module",
    deno: {
      permissions: {
        read: [dirname(path)],
        write: false,
        net: false,
        env: false,
        run: false,
        ffi: false,
        sys: false,
        import: false,
      },
    },
  };
  const worker = new Worker(new URL("./vocabulary_worker.ts", import.meta.url), options);
  try {
    return await new Promise((done) => {
      worker.onmessage = ({ data }: MessageEvent<number>) => done(data);
      worker.onerror = (event) => (event.preventDefault(), done(0));
      worker.postMessage(path);
    });
  } finally {
    worker.terminate();
  }
}

/** Gives up what only fetching needed. */
async function giveUpNetwork(listens: boolean): Promise<void> {
  const hosts = listens ? HOSTS : [undefined];
  for (const host of hosts) {
    await Deno.permissions.revoke({ name: "net", ...(host === undefined ? {} : { host }) });
  }
  await Deno.permissions.revoke({ name: "write", path: HUB_FOLDER });
  for (const variable of ["HF_TOKEN", "HF_ENDPOINT"]) {
    await Deno.permissions.revoke({ name: "env", variable });
  }
}

/** A variable of the environment, where it is set and may be read. */
function environment(variable: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable });
  return state === "granted" ? Deno.env.get(variable) || undefined : undefined;
}

function sizeOf(bytes: number): string {
  if (bytes < 1e6) return `${(bytes / 1e3).toFixed(1)} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}
