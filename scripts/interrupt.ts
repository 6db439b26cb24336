/**
 * Ctrl-C, in two stages: the first is a wish that is asked for after every step, the second ends the process at once.
 *
 * A step on the processor keeps the command's thread busy for as long as it takes, so another listens for the signal: it answers
 * in the middle of a step, and sets a flag in shared memory.
 *
 * @module
 */

/** Whether the person has asked to stop. */
export interface Interrupt {
  readonly requested: boolean;
}

let listen = flagInterrupts;

/** Has somebody else listen, whose thread is not kept busy. */
export function listenBy(listener: (flag: Int32Array) => void): void {
  listen = listener;
}

/** Begins to listen, for as long as the process lives. */
export function listenForInterrupt(): Interrupt {
  const flag = new Int32Array(new SharedArrayBuffer(4));
  listen(flag);
  return {
    get requested() {
      return Atomics.load(flag, 0) === 1;
    },
  };
}

/**
 * Milliseconds in which further signals are echoes of the first: a terminal signals `deno task` and the command alike, and `deno task`
 * passes on what it is sent, more than once.
 */
const ECHOES = 1000;

/** Sets the flag at the first Ctrl-C and stops listening when its echoes are over, so that the second has its usual effect. */
export function flagInterrupts(flag: Int32Array): void {
  const first = () => {
    if (Atomics.exchange(flag, 0, 1) === 1) return;
    Deno.unrefTimer(setTimeout(() => Deno.removeSignalListener("SIGINT", first), ECHOES));
    const note = "Stopping after this step and saving; Ctrl-C again ends at once";
    // On a terminal it takes the progress bar's line, until the bar is drawn again: a new line would confuse the bar.
    const line = Deno.stderr.isTerminal() ? `\r${note}\x1b[K` : `${note}\n`;
    Deno.stderr.writeSync(new TextEncoder().encode(line));
  };
  Deno.addSignalListener("SIGINT", first);
}
