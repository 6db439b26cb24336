/**
 * Least privilege for a command that reads files from strangers: the process may read and write anywhere, as files and run folders
 * may be anywhere, so the command is run in a worker that may write in the folders which it was told to, read there and what
 * `readable` says, and nothing else, and the process itself gives up its right to write at all.
 *
 * The process's first thread has nothing else to do meanwhile. It has the GPU's driver loaded while the worker loads its modules,
 * looks whether a device hangs, hears Ctrl-C, and starts the threads of the cpu engine, which are given no rights: a worker that the
 * command started itself would take a second to be up (Deno 2.9).
 *
 * Permissions go by names, and a link in a folder that is written to may lead elsewhere: that is `requireInside`'s to find. The right
 * to load native code is Dawn's: it is given up once the GPU is found, before a file is read.
 *
 * @module
 */
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { EngineError } from "../kernels/engine.ts";
import type { EngineChoice } from "../kernels/engines/choice.ts";
import type { GpuOptions } from "../kernels/engines/choose.ts";
import {
  type Introduction,
  startThreadsBy,
  THREAD_MODULE,
  threadBehind,
  threadFailed,
} from "../kernels/engines/cpu/thread.ts";
import { denoProvider } from "../kernels/engines/webgpu/deno.ts";
import { SMALLER } from "../kernels/engines/webgpu/waiting.ts";
import { flagInterrupts, listenBy } from "./interrupt.ts";
import { readable, realPath } from "./reads.ts";
import { reportWaits, sharedWatch, watchWaits } from "./watchdog.ts";

/** What a confined command is to do, and where it may write. */
export interface Confinement {
  /** The command's arguments, with the places that it would have chosen by itself. */
  readonly args: readonly string[];
  /** Folders, which need not exist yet. */
  readonly folders: readonly string[];
  /** Paths that the person named, to be read; see `readable`. */
  readonly reads: readonly (string | undefined)[];
  /** What it computes on. Default: the processor. */
  readonly engine?: { readonly choice: EngineChoice | undefined } & GpuOptions;
  /** How to go on where the command has to be ended, if it can go on. */
  readonly goOn?: () => string | undefined | Promise<string | undefined>;
  /** Milliseconds that a device may be waited for before the command is ended. */
  readonly patience?: number;
}

/** Longer than engines wait that can see it themselves. */
const PATIENCE = 900_000;

/** What the worker is sent. */
interface Request {
  readonly args: readonly string[];
  readonly engine: Confinement["engine"];
  readonly watch: SharedArrayBuffer;
}

/** What the worker tells the first thread, or asks of it. */
type Message =
  | { readonly kind: "ended"; readonly code: number }
  | { readonly kind: "thread"; readonly name: string; readonly port: MessagePort }
  | { readonly kind: "interrupts"; readonly flag: Int32Array };

/** Whether this is the worker of {@link runConfined}. */
export const isConfined = "DedicatedWorkerGlobalScope" in globalThis;

/** Deno's options of a worker, which its library does not describe: they need `worker-options` in `deno.json`. */
export interface WorkerOptionsWithPermissions extends WorkerOptions {
  deno: { permissions: "none" | Record<string, "inherit" | false | readonly string[]> };
}

/**
 * Runs a script again as a worker that may write in the folders given and nowhere else, and read only these and what was named.
 *
 * @param script its URL; it calls {@link serveConfined}
 * @returns the exit code
 */
export async function runConfined(script: string, confinement: Confinement): Promise<number> {
  const { args, reads, engine = { choice: "cpu" }, goOn, patience = PATIENCE } = confinement;
  const folders = confinement.folders.flatMap((folder) => [resolve(folder), realPath(folder)]);
  const isNative = engine.choice !== "cpu" && engine.choice !== "deno";
  const options: WorkerOptionsWithPermissions = {
    type: "module",
    name: "command",
    deno: {
      permissions: {
        read: [fileURLToPath(script), ...readable(reads), ...folders],
        write: folders,
        env: "inherit",
        net: false,
        ffi: isNative ? "inherit" : false,
        sys: "inherit",
        run: false,
        import: false,
      },
    },
  };
  const worker = new Worker(script, options);
  for (const name of ["write", "ffi"] as const) await Deno.permissions.revoke({ name });
  const watch = sharedWatch();
  return await new Promise((ended, failed) => {
    const stop = watchWaits(watch, patience, async (what) => {
      stop();
      const hint = await goOn?.();
      if (hint !== undefined) console.error(hint);
      const seconds = Math.round(patience / 1000);
      failed(
        new EngineError(
          `Nothing was heard for ${seconds} s while ${what}: the device's queue hangs; ${SMALLER}`,
        ),
      );
    });
    worker.onmessage = ({ data }: MessageEvent<Message>) => {
      if (data.kind === "ended") ended(data.code);
      else if (data.kind === "thread") startThread(data.name, data.port, failed);
      else flagInterrupts(data.flag);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      failed(new Error(`The command failed: ${event.message}`));
    };
    worker.postMessage({ args, engine, watch } satisfies Request);
    if (engine.choice !== "cpu" && engine.choice !== "dawn") loadDriver();
  });
}

/** Has the GPU's driver loaded, which the worker finds there when its modules are. */
function loadDriver(): void {
  denoProvider.gpu().then((gpu) => gpu.requestAdapter()).catch(() => {});
}

/** Starts a thread of the cpu engine, without any permission, behind a port. */
function startThread(name: string, port: MessagePort, failed: (error: Error) => void): void {
  const options: WorkerOptionsWithPermissions = { type: "module", name, deno: { permissions: "none" } };
  const thread = new Worker(THREAD_MODULE, options);
  thread.onerror = (event) => {
    event.preventDefault();
    failed(threadFailed(event.message));
  };
  thread.postMessage({ kind: "port", port } satisfies Introduction, [port]);
}

/** The other side: takes the arguments, runs the command and tells its exit code. */
export function serveConfined(run: (args: readonly string[]) => Promise<number>): void {
  startThreadsBy((name) => {
    const { port1, port2 } = new MessageChannel();
    tell({ kind: "thread", name, port: port2 }, [port2]);
    return threadBehind(port1);
  });
  listenBy((flag) => tell({ kind: "interrupts", flag }));
  addEventListener("message", async (event) => {
    const { args, engine, watch } = (event as MessageEvent<Request>).data;
    reportWaits(watch);
    if (engine) await giveUpNativeCode(engine);
    tell({ kind: "ended", code: await run(args) });
  });
}

/** From the worker to the first thread. */
function tell(message: Message, transfer: Transferable[] = []): void {
  const scope = globalThis as unknown as Pick<Worker, "postMessage">;
  scope.postMessage(message, transfer);
}

/** Loads what an engine needs of native code, if anything, and gives up the right to load more. */
export async function giveUpNativeCode(
  { choice, ...options }: NonNullable<Confinement["engine"]>,
): Promise<void> {
  const { state } = await Deno.permissions.query({ name: "ffi" });
  if (state !== "granted") return;
  const { prepareEngine } = await import("../kernels/engines/choose.ts");
  await prepareEngine(choice, options);
  await Deno.permissions.revoke({ name: "ffi" });
}
