/**
 * Runs a command: where the person stands, what an error looks like, and with what code the process ends.
 *
 * Codes: 0 done; 2 the command cannot begin with what it was given; 1 it failed at work; 130 stopped by Ctrl-C.
 * What a person can put right is one sentence on stderr. Only an error of the program itself shows its stack.
 *
 * @module
 */
import { relative } from "node:path";
import { fileURLToPath } from "node:url";
import { AdapterError } from "../adapters/adapter.ts";
import { FormatError } from "../formats/format_error.ts";
import { HubError } from "../formats/hub.ts";
import { EngineError } from "../kernels/engine.ts";
import { ModelError } from "../rwkv/config.ts";
import { CheckpointError } from "../training/checkpoint_error.ts";
import { OptionError } from "../training/option_error.ts";
import { type Confinement, isConfined, runConfined, serveConfined } from "./confine.ts";
import { fetchWanted, type Wanted } from "./hub.ts";

/** What a command tells of itself while it runs. */
export interface Work {
  /** Set when what was given has been understood and work begins: errors from then on are failures. */
  begun: boolean;
}

/** A command: takes its arguments, gives its exit code. */
export type Command = (args: readonly string[], work: Work) => Promise<number>;

/** What has to be known of a command before it is run. */
export interface Surroundings {
  /** What it names of the Hugging Face Hub: that is fetched first, and then the network is given up. */
  readonly wanted?: (args: readonly string[]) => Wanted | Promise<Wanted>;
  /** Where it writes: it is then run without the right to write anywhere else. Undefined where it will not write, as for `--help`. */
  readonly confine?: (args: readonly string[]) => Confinement | undefined | Promise<Confinement | undefined>;
}

/** Runs a command on this process's arguments, in the folder where the person stands, and ends the process. */
export async function runCommand(command: Command, { wanted, confine }: Surroundings = {}): Promise<void> {
  if (isConfined) return serveConfined((args) => exitCode((work) => command(args, work)));
  const code = await exitCode(async (work) => {
    standWhereCalled();
    const args = [...Deno.args, ...wanted ? (await fetchWanted(await wanted(Deno.args))).flags : []];
    const confinement = await confine?.(args);
    if (!confinement) return await command(args, work);
    work.begun = true;
    return await runConfined(Deno.mainModule, confinement);
  });
  // Workers of the cpu engine may still wait after an error.
  Deno.exit(code);
}

/** Does a command's work and tells how it ended, on stderr and as an exit code. */
async function exitCode(run: (work: Work) => Promise<number>): Promise<number> {
  const work: Work = { begun: false };
  try {
    return await run(work);
  } catch (error) {
    // Whoever reads the output, such as head, has had enough.
    if (error instanceof Deno.errors.BrokenPipe) return 0;
    const sentence = explain(error);
    console.error(sentence ?? error);
    const isInput = INPUT_ERRORS.some((kind) => error instanceof kind);
    return sentence !== undefined && (isInput || !work.begun) && !(error instanceof EngineError) ? 2 : 1;
  }
}

/** `deno task` runs in the repository and says in INIT_CWD where it was called. */
function standWhereCalled(): void {
  if (Deno.permissions.querySync({ name: "env", variable: "INIT_CWD" }).state !== "granted") return;
  const folder = Deno.env.get("INIT_CWD");
  if (folder) Deno.chdir(folder);
}

/** What can only be wrong with what was given. */
const INPUT_ERRORS = [OptionError, AdapterError, ModelError, FormatError, HubError];

/** Errors whose message is a sentence for the person. */
const SENTENCES = [...INPUT_ERRORS, EngineError, CheckpointError];

/** What the engine below JavaScript says in a RangeError, which is never meant for a person. */
const NATIVE_RANGE_ERROR =
  /^(Array buffer|Invalid|Maximum call stack|WebAssembly|byte length|offset|start offset|length)/i;

/** Remedies for what the system says. */
const REMEDIES: readonly (readonly [new (...args: never) => Error, string])[] = [
  [Deno.errors.NotFound, "check the path"],
  [Deno.errors.PermissionDenied, "choose another place or change its permissions"],
  [Deno.errors.NotADirectory, "check the path"],
  [Deno.errors.IsADirectory, "name a file"],
  [Deno.errors.AlreadyExists, "remove it or choose another place"],
];

/** The sentence for an error that a person can put right; undefined for an error of the program. */
export function explain(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const { message } = error;
  if (error instanceof Deno.errors.NotCapable) {
    const needed = /^Requires (.*), run again with (?:the )?(--[\w-]+)/.exec(message);
    if (!needed) return `Deno does not permit this: ${message}`;
    // Devices and the like: nobody is told to allow everything for these.
    const remedy = needed[2] === "--allow-all"
      ? "choose another place"
      : `run through deno task, or with ${needed[2]}`;
    return `Deno does not permit ${needed[1]}: ${remedy}`;
  }
  const system = /^(.*?) \(os error \d+\)(?:: .*?'(.*)')?/s.exec(message);
  if (system) {
    const remedy = REMEDIES.find(([kind]) => error instanceof kind)?.[1];
    // Of a file that was to be renamed, its new name.
    const [, what, named] = system, path = named?.split("' -> '").at(-1);
    return `Cannot use ${path ? `"${path}"` : "a file"}: ${what!.toLowerCase()}${
      remedy ? `, ${remedy}` : ""
    }`;
  }
  const ours = SENTENCES.some((kind) => error instanceof kind) || isFileError(error) ||
    (error.constructor === Error && !("code" in error)) ||
    (error.constructor === RangeError && !NATIVE_RANGE_ERROR.test(message));
  return ours ? message : undefined;
}

function isFileError(error: Error): boolean {
  return error instanceof Deno.errors.NotFound || error instanceof Deno.errors.AlreadyExists;
}

/** A command line that does a task from where the person stands, to be copied. */
export function commandLine(task: string, args: readonly string[] = []): string {
  const from = (file: string) => {
    const path = fileURLToPath(new URL(file, import.meta.url)), shorter = relative(Deno.cwd(), path);
    return shorter.startsWith("..") ? path : shorter;
  };
  const start = Deno.build.os === "windows"
    ? ["deno", "task", "--config", from("../deno.json"), task]
    : ["sh", from(`./${task}.sh`)];
  return [...start, ...args].map(quoted).join(" ");
}

/** A word as a shell reads it. */
function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
