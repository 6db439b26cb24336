/**
 * Least privilege for a command that reads files from strangers: the process may write anywhere, as a run folder may be
 * anywhere, so the command is run in a worker that may write in the folders which it was told to and nowhere else, and the process
 * itself gives up its right to write at all.
 *
 * Permissions go by names, and a link in such a folder may lead elsewhere: that is `requireInside`'s to find.
 *
 * @module
 */
import { resolve } from "node:path";
import { EngineError } from "../kernels/engine.ts";
import { SMALLER } from "../kernels/engines/webgpu/waiting.ts";
import { reportWaits, sharedWatch, watchWaits } from "./watchdog.ts";

/** What a confined command is to do, and where it may write. */
export interface Confinement {
  /** The command's arguments, with the places that it would have chosen by itself. */
  readonly args: readonly string[];
  /** Folders, which need not exist yet. */
  readonly folders: readonly string[];
  /** How to go on where the command has to be ended, if it can go on. */
  readonly goOn?: () => string | undefined;
  /** Milliseconds that a device may be waited for before the command is ended. */
  readonly patience?: number;
}

/** Longer than engines wait that can see it themselves. */
const PATIENCE = 900_000;

/** What the worker is sent. */
interface Request {
  readonly args: readonly string[];
  readonly watch: SharedArrayBuffer;
}

/** Whether this is the worker of {@link runConfined}. */
export const isConfined = "DedicatedWorkerGlobalScope" in globalThis;

/** Deno's options of a worker, which its library does not describe: they need `worker-options` in `deno.json`. */
interface WorkerOptionsWithPermissions extends WorkerOptions {
  deno: { permissions: Record<string, "inherit" | false | readonly string[]> };
}

/**
 * Runs a script again as a worker that may write in the folders given and nowhere else.
 *
 * @param script its URL; it calls {@link serveConfined}
 * @returns the exit code
 */
export async function runConfined(script: string, confinement: Confinement): Promise<number> {
  const { args, folders, goOn, patience = PATIENCE } = confinement;
  const options: WorkerOptionsWithPermissions = {
    type: "module",
    name: "command",
    deno: {
      permissions: {
        read: "inherit",
        write: folders.flatMap((folder) => [resolve(folder), realPath(folder)]),
        env: "inherit",
        net: "inherit",
        ffi: "inherit",
        sys: "inherit",
        run: false,
        import: false,
      },
    },
  };
  const worker = new Worker(script, options);
  await Deno.permissions.revoke({ name: "write" });
  const watch = sharedWatch();
  return await new Promise((ended, failed) => {
    watchWaits(watch, patience, (what) => {
      const hint = goOn?.();
      if (hint !== undefined) console.error(hint);
      const seconds = Math.round(patience / 1000);
      failed(
        new EngineError(
          `Nothing was heard for ${seconds} s while ${what}: the device's queue hangs; ${SMALLER}`,
        ),
      );
    });
    worker.onmessage = ({ data }: MessageEvent<number>) => ended(data);
    worker.onerror = (event) => {
      event.preventDefault();
      failed(new Error(`The command failed: ${event.message}`));
    };
    worker.postMessage({ args, watch } satisfies Request);
  });
}

/** The other side: takes the arguments, runs the command and tells its exit code. */
export function serveConfined(run: (args: readonly string[]) => Promise<number>): void {
  const scope = globalThis as unknown as {
    onmessage: (event: MessageEvent<Request>) => void;
    postMessage: (code: number) => void;
  };
  scope.onmessage = async ({ data: { args, watch } }) => {
    reportWaits(watch);
    scope.postMessage(await run(args));
  };
}

/** Where a path really leads, as far as it exists. */
function realPath(path: string): string {
  const absolute = resolve(path);
  try {
    return Deno.realPathSync(absolute);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const parent = resolve(absolute, "..");
    return parent === absolute
      ? absolute
      : resolve(realPath(parent), absolute.slice(parent.length).replace(/^[\\/]/, ""));
  }
}
