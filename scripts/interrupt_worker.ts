/**
 * The worker of {@link ./interrupt.ts}: sets the flag at the first Ctrl-C and then stops listening, so that the second has
 * its usual effect.
 *
 * @module
 */
/// <reference lib="deno.worker" />

self.onmessage = ({ data: flag }: MessageEvent<Int32Array>) => {
  const first = () => {
    Atomics.store(flag, 0, 1);
    Deno.removeSignalListener("SIGINT", first);
    const note = "Stopping after this step and saving; Ctrl-C again ends at once";
    // On a terminal it takes the progress bar's line, until the bar is drawn again: a new line would confuse the bar.
    const line = Deno.stderr.isTerminal() ? `\r${note}\x1b[K` : `${note}\n`;
    Deno.stderr.writeSync(new TextEncoder().encode(line));
  };
  Deno.addSignalListener("SIGINT", first);
};
