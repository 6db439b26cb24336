/**
 * A fixed pool of workers that stays up between steps. The caller is worker 0 and does its own share of every command;
 * the others follow a ticket in shared memory, first spinning, then sleeping.
 *
 * @module
 */
import { EngineError } from "../../engine.ts";
import type { Tape } from "./tape.ts";
import { CONTROL, READ_MESSAGES, SPINS, startThread, type Thread, type ThreadMessage } from "./thread.ts";

/** The workers beside the caller. */
export class Pool {
  #threads: Thread[];
  readonly #control = new Int32Array(new SharedArrayBuffer(Object.keys(CONTROL).length * 4));
  #following = false;
  /** Whether a thread is gone, and would be waited for in vain. */
  #lost = false;
  #answered: Promise<void> = Promise.resolve();
  #tapes = 0;

  /** @param size number of workers, the caller counted */
  constructor(readonly size: number, memory: WebAssembly.Memory) {
    this.#threads = Array.from({ length: size - 1 }, (_, i) => {
      const thread = startThread(`cpu ${i + 1}`);
      thread.send({ kind: "start", memory, control: this.#control, worker: i + 1 });
      return thread;
    });
  }

  #send(message: ThreadMessage): void {
    for (const thread of this.#threads) thread.send(message);
  }

  /**
   * Gives the workers a tape. Meanwhile they may be posted others.
   * @returns the number to post it by
   */
  async load(tape: Tape): Promise<number> {
    const id = this.#tapes++;
    // One after the other: whoever interrupts the workers waits for them without hearing that one could not start.
    const answered = this.#answered.then(() => this.#give(id, tape));
    this.#answered = answered.catch(() => {});
    await answered;
    return id;
  }

  async #give(id: number, tape: Tape): Promise<void> {
    this.#interrupt();
    const answers = this.#threads.map((thread) => new Promise<void>(thread.listen));
    this.#send({ kind: "tape", id, tape });
    this.#follow();
    try {
      await Promise.all(answers);
    } catch (error) {
      this.#lost = true;
      throw error;
    }
  }

  /** Makes the workers forget a tape. */
  drop(id: number): void {
    this.#interrupt();
    this.#send({ kind: "drop", id });
    this.#follow();
  }

  #follow(): void {
    this.#send({ kind: "follow" });
    this.#following = true;
  }

  #interrupt(): void {
    if (this.#following && this.#threads.length) {
      this.post(READ_MESSAGES, 0);
      if (!this.#lost) this.join();
    }
    this.#following = false;
  }

  /** Sets the workers to their shares of a command. The caller then does its own and joins. */
  post(tape: number, offset: number): void {
    if (!this.#threads.length) return;
    this.#control[CONTROL.tape] = tape;
    this.#control[CONTROL.offset] = offset;
    Atomics.store(this.#control, CONTROL.done, 0);
    Atomics.add(this.#control, CONTROL.ticket, 1);
    Atomics.notify(this.#control, CONTROL.ticket);
  }

  /** Waits until every worker is done with the command. @throws EngineError if one has failed at it */
  join(): void {
    const others = this.#threads.length;
    for (let spins = 0; Atomics.load(this.#control, CONTROL.done) < others; spins++) {
      if (spins < SPINS) continue;
      const done = Atomics.load(this.#control, CONTROL.done);
      if (done < others) Atomics.wait(this.#control, CONTROL.done, done, 100);
    }
    const failed = Atomics.exchange(this.#control, CONTROL.failed, 0);
    if (failed) throw new EngineError(`Worker ${failed} of the cpu engine failed at its share of a step`);
  }

  /** Ends the workers. */
  dispose(): void {
    this.#interrupt();
    for (const thread of this.#threads) thread.end();
    this.#threads = [];
  }
}
