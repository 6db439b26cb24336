/**
 * Stresses the cpu engine's threads for some minutes: engines of one to seven threads that load programs side by side while memory
 * grows, on this thread and on a worker at once, so that there are more threads than cores.
 *
 *     deno task bench:threads [seconds] [seed]
 *
 * @module
 */
import { type Stress, stressThreads } from "../tests/threads.ts";

const [seconds = 300, seed = 1] =
  ("DedicatedWorkerGlobalScope" in globalThis
    ? new URL(import.meta.url).search.slice(1).split(",")
    : Deno.args).map(Number);
const ends = performance.now() + 1000 * seconds;
const own = () => stressThreads(() => performance.now() > ends, seed);

if ("DedicatedWorkerGlobalScope" in globalThis) {
  (globalThis as unknown as Pick<Worker, "postMessage">).postMessage(await own());
} else {
  const worker = new Worker(new URL(`${import.meta.url}?${seconds},${seed + 1}`), { type: "module" });
  const other = new Promise<Stress>((resolve) => worker.onmessage = ({ data }) => resolve(data));
  const found = await Promise.all([own(), other]);
  worker.terminate();
  for (const [i, { engines, compared, differing }] of found.entries()) {
    const where = i ? "on a worker" : "on the first thread";
    console.log(
      `${where}: ${engines} engines, ${compared} results, ${differing.length} not as with one thread`,
    );
    differing.slice(0, 10).forEach((line) => console.log(`  ${line}`));
  }
  Deno.exit(found.some(({ differing }) => differing.length) ? 1 : 0);
}
