/**
 * One reader reads one file, in a process of its own, and says as JSON how it ended, the milliseconds that it took, and by how many
 * bytes the process grew at its largest, garbage and all.
 *
 *     large_probe.ts READER FOLDER
 *
 * The folder holds `file`, and `warm`, which is read first: what is made once counts for nobody.
 *
 * @module
 */
import { READERS, useScratch } from "./readers.ts";

const [name, folder] = Deno.args as [string, string];
const reader = READERS.find((reader) => reader.name === name)!;
useScratch(folder);

/** Reads a file from a folder of its own. */
async function outcome(file: string): Promise<string> {
  const place = Deno.makeTempDirSync({ dir: folder });
  Deno.renameSync(`${folder}/${file}`, `${place}/file`);
  try {
    await reader.read(`${place}/file`);
    return "read";
  } catch (error) {
    return reader.isRefusal(error)
      ? `refused: ${(error as Error).message}`
      : `fault: ${(error as Error).stack}`;
  }
}

await outcome("warm");
(globalThis as { gc?: () => void }).gc?.();
const most = new Int32Array(new SharedArrayBuffer(4));
const watch = new Worker(new URL("./memory_watch.ts", import.meta.url), { type: "module" });
await new Promise((ready) => {
  watch.onmessage = ready;
  watch.postMessage(most);
});
const before = Deno.memoryUsage().rss, began = performance.now();
const ended = await outcome("file");
const milliseconds = performance.now() - began;
const bytes = Math.max(Deno.memoryUsage().rss, 1024 * Atomics.load(most, 0)) - before;
console.log(JSON.stringify({ ended, milliseconds, bytes }));
Deno.exit();
