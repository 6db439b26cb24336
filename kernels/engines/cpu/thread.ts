/**
 * What the pool and its threads agree on: the messages that a thread is sent, and the words of shared memory by which it follows.
 *
 * @module
 */
import type { Tape } from "./tape.ts";

/** Indexes of the control words. */
export const CONTROL = { ticket: 0, done: 1, tape: 2, offset: 3, failed: 4 } as const;
/** Posted as the tape: leave the loop and read messages. */
export const READ_MESSAGES = -1;
/** Turns of spinning before sleeping: some tens of microseconds. */
export const SPINS = 20_000;

/** What a thread is sent. It answers each tape with any message. */
export type ThreadMessage =
  | {
    readonly kind: "start";
    readonly memory: WebAssembly.Memory;
    readonly control: Int32Array;
    readonly worker: number;
  }
  | { readonly kind: "tape"; readonly id: number; readonly tape: Tape }
  | { readonly kind: "drop"; readonly id: number }
  | { readonly kind: "follow" }
  | { readonly kind: "end" };

/** What whoever starts a thread for somebody else sends it first: the port on which it then hears and answers. */
export interface Introduction {
  readonly kind: "port";
  readonly port: MessagePort;
}

/** The module of a thread, which needs no permissions. */
export const THREAD_MODULE: URL = new URL("./worker.ts", import.meta.url);

/** A thread, for the pool. */
export interface Thread {
  send(message: ThreadMessage): void;
  /** Tells of the thread's next answer, or of its failure. */
  listen(answered: () => void, failed: (error: Error) => void): void;
  /** Ends it. It must not be asleep for it: a sleeping worker cannot be terminated. */
  end(): void;
}

/** A thread that is a worker of the caller. */
export function startWorker(name: string): Thread {
  const worker = new Worker(THREAD_MODULE, { type: "module", name });
  return {
    send: (message) => worker.postMessage(message),
    listen(answered, failed) {
      worker.onmessage = answered;
      worker.onerror = (event) => {
        event.preventDefault();
        failed(threadFailed(event.message));
      };
    },
    end: () => worker.terminate(),
  };
}

/** A thread that somebody else has started and introduced to the other end of a port, and for whose failure they answer. */
export function threadBehind(port: MessagePort): Thread {
  const send = (message: ThreadMessage) => port.postMessage(message);
  return {
    send,
    listen: (answered) => port.onmessage = answered,
    end: () => send({ kind: "end" }),
  };
}

/** The error of a thread that failed outside of a step. */
export function threadFailed(message: string): Error {
  return new Error(`A worker of the cpu engine failed: ${message}`);
}

let start: (name: string) => Thread = startWorker;

/** Starts a thread. */
export function startThread(name: string): Thread {
  return start(name);
}

/** Has threads started by somebody else: a worker that is started by a worker takes a second to be up (Deno 2.9). */
export function startThreadsBy(starter: (name: string) => Thread): void {
  start = starter;
}
