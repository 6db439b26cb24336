/**
 * A fixed pool of workers that stays up between steps. The caller is worker 0 and does its own share of every command;
 * the others follow a ticket in shared memory, first spinning, then sleeping.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { Tape } from "./tape.ts";

/** Indexes of the control words. */
export const CONTROL = { ticket: 0, done: 1, tape: 2, offset: 3, failed: 4 } as const;
/** Posted as the tape: leave the loop and read messages. */
export const READ_MESSAGES = -1;
/** Turns of spinning before sleeping: some tens of microseconds. */
export const SPINS = 20_000;

/** What a worker is sent. */
export type WorkerMessage =
  | {
    readonly kind: "start";
    readonly memory: WebAssembly.Memory;
    readonly control: Int32Array;
    readonly worker: number;
  }
  | { readonly kind: "tape"; readonly id: number; readonly tape: Tape }
  | { readonly kind: "drop"; readonly id: number }
  | { readonly kind: "follow" };

/** The workers beside the caller. */
export class Pool {
  #workers: Worker[];
  readonly #control = new Int32Array(new SharedArrayBuffer(Object.keys(CONTROL).length * 4));
  #following = false;
  #tapes = 0;

  /** @param size number of workers, the caller counted */
  constructor(readonly size: number, memory: WebAssembly.Memory) {
    this.#workers = Array.from({ length: size - 1 }, (_, i) => {
      const worker = new Worker(new URL("./worker.ts", import.meta.url), {
        type: "module",
        name: `cpu ${i + 1}`,
      });
      this.#send(worker, { kind: "start", memory, control: this.#control, worker: i + 1 });
      return worker;
    });
  }

  #send(worker: Worker, message: WorkerMessage): void {
    worker.postMessage(message);
  }

  /** Waits until the workers answer, which on the first call is until they are up. */
  async #answers(ask: () => void): Promise<void> {
    const answers = this.#workers.map((worker) =>
      new Promise<void>((resolve, reject) => {
        worker.onmessage = () => resolve();
        worker.onerror = (event) => {
          event.preventDefault();
          reject(new Error(`a worker of the cpu engine failed: ${event.message}`));
        };
      })
    );
    ask();
    await Promise.all(answers);
  }

  /** Gives the workers a tape and sets them to follow. @returns the number to post it by */
  async load(tape: Tape): Promise<number> {
    const id = this.#tapes++;
    this.#interrupt();
    await this.#answers(() => {
      for (const worker of this.#workers) this.#send(worker, { kind: "tape", id, tape });
    });
    this.#follow();
    return id;
  }

  /** Makes the workers forget a tape. */
  drop(id: number): void {
    this.#interrupt();
    for (const worker of this.#workers) this.#send(worker, { kind: "drop", id });
    this.#follow();
  }

  #follow(): void {
    for (const worker of this.#workers) this.#send(worker, { kind: "follow" });
    this.#following = true;
  }

  #interrupt(): void {
    if (this.#following && this.#workers.length) {
      this.post(READ_MESSAGES, 0);
      this.join();
    }
    this.#following = false;
  }

  /** Sets the workers to their shares of a command. The caller then does its own and joins. */
  post(tape: number, offset: number): void {
    if (!this.#workers.length) return;
    this.#control[CONTROL.tape] = tape;
    this.#control[CONTROL.offset] = offset;
    Atomics.store(this.#control, CONTROL.done, 0);
    Atomics.add(this.#control, CONTROL.ticket, 1);
    Atomics.notify(this.#control, CONTROL.ticket);
  }

  /** Waits until every worker is done with the command. @throws EngineError if one has failed at it */
  join(): void {
    const others = this.#workers.length;
    for (let spins = 0; Atomics.load(this.#control, CONTROL.done) < others; spins++) {
      if (spins < SPINS) continue;
      const done = Atomics.load(this.#control, CONTROL.done);
      if (done < others) Atomics.wait(this.#control, CONTROL.done, done, 100);
    }
    const failed = Atomics.exchange(this.#control, CONTROL.failed, 0);
    if (failed) throw new EngineError(`Worker ${failed} of the cpu engine failed at its share of a step`);
  }

  /** Ends the workers. They must not be asleep for it: a sleeping worker cannot be terminated. */
  dispose(): void {
    this.#interrupt();
    this.#workers.forEach((worker) => worker.terminate());
    this.#workers = [];
  }
}
