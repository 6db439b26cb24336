/**
 * A thread that looks at the process's memory every half a millisecond and keeps the most that it saw, in kilobytes, while another
 * one is too busy to look. (What the system says of a process's largest memory may be that of its parent.)
 *
 * @module
 */
/// <reference lib="deno.worker" />

self.onmessage = ({ data: most }: MessageEvent<Int32Array>) => {
  const pause = new Int32Array(new SharedArrayBuffer(4));
  self.postMessage("ready");
  for (;;) {
    const kilobytes = Math.ceil(Deno.memoryUsage().rss / 1024);
    if (kilobytes > Atomics.load(most, 0)) Atomics.store(most, 0, kilobytes);
    Atomics.wait(pause, 0, 0, 0.5);
  }
};
