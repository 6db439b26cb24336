/**
 * Ctrl-C, in two stages: the first is a wish that is asked for after every step, the second ends the process at once.
 *
 * A step on the processor keeps the main thread busy for as long as it takes, so a worker listens for the signal: it answers
 * in the middle of a step, and sets a flag in shared memory.
 *
 * @module
 */

/** Whether the person has asked to stop. */
export interface Interrupt extends Disposable {
  readonly requested: boolean;
}

/**
 * Begins to listen. It is not waited for: a worker that another worker starts takes a second to be up (Deno 2.9), and until then a
 * Ctrl-C ends the process, which has nothing to lose yet.
 */
export function listenForInterrupt(): Interrupt {
  const flag = new Int32Array(new SharedArrayBuffer(4));
  const worker = new Worker(new URL("./interrupt_worker.ts", import.meta.url), {
    type: "module",
    name: "interrupt",
  });
  worker.onerror = (event) => {
    event.preventDefault();
    console.error(`Ctrl-C ends the run at once, for it cannot be listened for: ${event.message}`);
  };
  worker.postMessage(flag);
  return {
    get requested() {
      return Atomics.load(flag, 0) === 1;
    },
    [Symbol.dispose]: () => worker.terminate(),
  };
}
