/**
 * Files of the Hugging Face Hub, by names such as `hf:owner/repo/folder/file.pth` or, of another revision, `hf:owner/repo@v1/file.pth`.
 *
 * A file is fetched once, into the folder `models` of this program, and read from there ever after: nothing asks the network about
 * a file that is here. A download that broke off goes on where it was, and what has arrived is compared with the hash that the Hub
 * gives for large files before it gets its name.
 *
 * @module
 */
import { renameSynced } from "./atomic.ts";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** A file of the Hub cannot be had: one sentence. */
export class HubError extends Error {
  /** The class of the error. */
  override readonly name = "HubError";
}

/** Where files of the Hub are kept. */
export const HUB_FOLDER: string = fileURLToPath(new URL("../models", import.meta.url));

/** Where the Hub is. */
export const HUB_URL = "https://huggingface.co";

/** A file's place on the Hub. */
interface HubName {
  readonly repo: string;
  readonly revision: string;
  readonly path: string;
}

/** Whether a name is one of the Hub's. */
export function isHubName(name: string): boolean {
  return name.startsWith("hf:");
}

/** What a download and the note on it are called until it is whole. */
const UNFINISHED = /\.part(\.json)?$/;

/** Takes a name apart. @throws HubError for one that leads anywhere else than into a repository */
function hubName(name: string): HubName {
  const part = "[\\w.-]+";
  const match = new RegExp(`^hf:(${part}/${part}?)(?:@(${part}))?/(${part}(?:/${part})*)$`).exec(name);
  const [, repo = "", revision = "main", path = ""] = match ?? [];
  const parts = [...repo.split("/"), revision, ...path.split("/")];
  if (!match || parts.some((part) => part === "" || part === "." || part === "..")) {
    throw new HubError(`Cannot understand ${name}: write hf:owner/repo/file, or hf:owner/repo@revision/file`);
  }
  if (UNFINISHED.test(path)) {
    throw new HubError(`Cannot use ${name}: files whose names end so are downloads that were cut off`);
  }
  return { repo, revision, path };
}

/** Where a file of the Hub is kept, whether it is here or not. @throws HubError for a name that is none */
export function hubPath(name: string, folder: string = HUB_FOLDER): string {
  const { repo, revision, path } = hubName(name);
  return join(
    folder,
    ...repo.split("/"),
    ...(revision === "main" ? [] : [`@${revision}`]),
    ...path.split("/"),
  );
}

/**
 * The path of a file: itself, or where a file of the Hub is kept.
 * @throws HubError if it was not fetched yet
 */
export function localPath(name: string, folder: string = HUB_FOLDER): string {
  if (!isHubName(name)) return name;
  const path = hubPath(name, folder);
  if (existsSync(path)) return path;
  throw new HubError(
    `${name} is not on this machine yet: fetch it with deno task fetch --load_model ${name}`,
  );
}

/** Where a file of the Hub is to be had, and where it is kept. */
export interface HubPlaces {
  /** For repositories that ask who one is. */
  readonly accessToken?: string | undefined;
  /** Where the file is kept. Default: the folder `models` of this program. */
  readonly folder?: string | undefined;
  /** Where the Hub is. */
  readonly hubUrl?: string | undefined;
}

/** A file of the Hub, before it is fetched. */
export interface HubFile {
  /** Its name on the Hub, as `hf:owner/repo/file`. */
  readonly name: string;
  /** Where it is kept. */
  readonly path: string;
  /** Its size. */
  readonly bytes: number;
  /** What is here already, of an earlier download. */
  readonly have: number;
}

/** How a file is fetched. */
export interface FetchOptions extends HubPlaces {
  /** Asked once the size is known, before anything is fetched: false ends it. */
  readonly confirm?: (file: HubFile) => boolean;
  /** Told what has arrived so far, of all that there is. */
  readonly onProgress?: (bytes: number, all: number) => void;
  /** SHA-256 of the content, where it is known beforehand. */
  readonly sha256?: string | undefined;
}

/**
 * Looks up a file of the Hub, whether it is here or not, and fetches nothing.
 * @throws HubError in one sentence without a network, or without such a file
 */
export async function lookUp(name: string, places: HubPlaces = {}): Promise<HubFile> {
  const { path, bytes, have } = await found(name, places);
  return { name, path, bytes, have };
}

/** What the Hub says of a file, and what is here of it. */
async function found(name: string, { folder = HUB_FOLDER, hubUrl = HUB_URL, accessToken }: HubPlaces) {
  const path = hubPath(name, folder), { repo, revision, path: file } = hubName(name);
  const hub = await import("@huggingface/hub");
  const where = {
    repo: { type: "model", name: repo },
    path: file,
    revision,
    hubUrl,
    ...(accessToken === undefined ? {} : { accessToken }),
  } as const;
  const info = await hub.fileDownloadInfo(where).catch((error) => {
    throw explained(error, name, hubUrl);
  });
  if (!info) throw new HubError(`There is no ${file} in ${repo} at ${revision} on the Hub: check the name`);
  const etag = info.etag.replace(/^W\/|"/g, "");
  const partial = `${path}.part`, note = `${path}.part.json`;
  const have = existsSync(path) ? info.size : haveSoFar(partial, note, etag, info.size);
  // The hosts of the newer protocol are many; the older one serves every file.
  const open = () => hub.downloadFile({ ...where, downloadInfo: info, xet: false });
  return { path, partial, note, etag, bytes: info.size, have, open };
}

/**
 * Fetches a file of the Hub, unless it is here.
 * @returns its path; undefined where it was not confirmed
 * @throws HubError in one sentence without a network, without such a file, or where what arrived is not what was asked for
 */
export async function fetchFromHub(name: string, options: FetchOptions = {}): Promise<string | undefined> {
  const { folder = HUB_FOLDER, hubUrl = HUB_URL, confirm, onProgress, sha256 } = options;
  const path = hubPath(name, folder);
  if (existsSync(path)) return path;
  const { partial, note, etag, bytes, have, open } = await found(name, options);
  if (confirm && !confirm({ name, path, bytes, have })) return undefined;
  Deno.mkdirSync(dirname(path), { recursive: true });
  Deno.writeTextFileSync(note, JSON.stringify({ etag }));
  if (have === 0 || have < bytes) {
    using part = Deno.openSync(partial, { create: true, write: true });
    part.truncateSync(have);
    part.seekSync(have, Deno.SeekMode.Start);
    let arrived = have;
    const brokeOff = (cause?: unknown) =>
      new HubError(
        `The download of ${name} broke off after ${arrived} of ${bytes} bytes: the same command goes on from there`,
        { cause },
      );
    try {
      for await (const piece of (await open())!.slice(have, bytes).stream()) {
        for (let done = 0; done < piece.length;) done += part.writeSync(piece.subarray(done));
        arrived += piece.length;
        // More than was said would fill the disk for as long as it comes.
        if (arrived > bytes) break;
        onProgress?.(arrived, bytes);
      }
    } catch (error) {
      // The client passes on no more than what an error said.
      const said = error instanceof Error ? error.message : String(error);
      if (/^Requires net access/.test(said)) {
        throw explained(new Deno.errors.NotCapable(said), name, hubUrl);
      }
      if (error instanceof Error && "code" in error && error.code === "ENOSPC") throw error;
      throw brokeOff(error);
    }
    part.syncSync();
    if (arrived < bytes) throw brokeOff();
  }
  // Of files in large-file storage the tag is the SHA-256 of the content; of others it is git's.
  const hash = sha256 ?? (/^[0-9a-f]{64}$/.test(etag) ? etag : undefined);
  requireWhole(partial, note, name, bytes, hash);
  renameSynced(partial, path);
  Deno.removeSync(note);
  return path;
}

/** Bytes of an earlier download that can be gone on from: those of the same content. */
function haveSoFar(partial: string, note: string, etag: string, size: number): number {
  try {
    const same = JSON.parse(Deno.readTextFileSync(note))?.etag === etag;
    const have = Deno.statSync(partial).size;
    return same && have <= size ? have : 0;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound || error instanceof SyntaxError) return 0;
    throw error;
  }
}

/** @throws HubError, and forgets what has arrived, if it is not what was asked for */
function requireWhole(
  partial: string,
  note: string,
  name: string,
  size: number,
  sha256: string | undefined,
): void {
  const wrong = (what: string) => {
    Deno.removeSync(partial);
    Deno.removeSync(note);
    return new HubError(`What arrived of ${name} ${what}, so it was removed: fetch it again`);
  };
  const { size: arrived } = Deno.statSync(partial);
  if (arrived !== size) throw wrong(`is ${arrived} bytes and not ${size}`);
  if (sha256 === undefined) return;
  const hash = createHash("sha256"), block = new Uint8Array(1 << 20);
  using file = Deno.openSync(partial);
  for (let count = file.readSync(block); count !== null; count = file.readSync(block)) {
    hash.update(block.subarray(0, count));
  }
  if (hash.digest("hex") !== sha256) throw wrong("does not match its SHA-256");
}

/** What the Hub's client says, as a sentence. */
function explained(error: unknown, name: string, hubUrl: string): Error {
  if (!(error instanceof Error)) return new HubError(`Cannot fetch ${name}: ${error}`);
  const status = (error as { statusCode?: unknown }).statusCode;
  if (status === 401 || status === 403) {
    return new HubError(
      `The Hub does not give out ${name}: check the name, accept its terms there if it has any, or put a token that may read it into HF_TOKEN`,
    );
  }
  if (status === 404) {
    return new HubError(`There is no ${name} on the Hub: check owner, repository and revision`);
  }
  if (status !== undefined) return new HubError(`The Hub answered ${status} for ${name}: try again later`);
  if (error instanceof Deno.errors.NotCapable) {
    const host = /"([^"]*)"/.exec(error.message)?.[1] ?? new URL(hubUrl).host;
    return new HubError(
      `Deno does not permit this command to reach ${host} for ${name}: run it through deno task, or with --allow-net=${host}`,
    );
  }
  const host = new URL(hubUrl).host;
  // What `fetch` throws where nobody answers.
  return error instanceof TypeError
    ? new HubError(
      `Cannot reach ${host} for ${name}: check the network, or give a file that is on this machine`,
      { cause: error },
    )
    : new HubError(
      `What ${host} answers for ${name} is not what the Hub says of a file: check the network and --hub_url`,
      { cause: error },
    );
}
