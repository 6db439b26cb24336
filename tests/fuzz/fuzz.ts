/**
 * Gives every reader changed files for a bounded time: `deno task fuzz [--seconds 60] [--seed 1] [--reader pth]`.
 *
 * A reader may read a file or refuse it in a sentence; anything else is a fault: another error, more than a second, memory over
 * four times the file. Files at fault are kept in `.fuzz/`; with their fix they go to `tests/fixtures/fuzz/`, which the tests try.
 *
 * @module
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { PATIENCE } from "./case.ts";
import type { FuzzAnswer, FuzzRequest } from "./fuzz_worker.ts";
import { nameOf } from "./mutate.ts";
import { READERS } from "./readers.ts";

const FOLDER = fileURLToPath(new URL("../../.fuzz/", import.meta.url));
/** Polls without a new case before a reader is taken to hang: a busy machine has as many seconds. */
const HANG_SECONDS = 10;

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: `${Date.now() % 1_000_000}` },
    reader: { type: "string" },
  },
});
const readers = READERS.filter(({ name }) => values.reader === undefined || name === values.reader);
if (!readers.length) {
  console.error(
    `There is no reader "${values.reader}": there are ${READERS.map(({ name }) => name).join(", ")}`,
  );
  Deno.exit(2);
}

/** The file that is being tried, whatever its reader calls it. */
function caseIn(folder: string): Uint8Array {
  const [{ name }] = [...Deno.readDirSync(folder)] as [Deno.DirEntry];
  return Deno.readFileSync(join(folder, name));
}

/** Fuzzes one reader. */
async function fuzz(reader: string, seed: number, milliseconds: number) {
  const scratch = join(FOLDER, "scratch");
  Deno.mkdirSync(scratch, { recursive: true });
  const progress = new Int32Array(new SharedArrayBuffer(4));
  const faults = new Map<string, Uint8Array>(), places = new Set<string>();
  const worker = new Worker(new URL("./fuzz_worker.ts", import.meta.url), { type: "module" });
  let watch: ReturnType<typeof setInterval> | undefined;
  const counts = await new Promise<{ read: number; refused: number }>((resolve, reject) => {
    let seen = -1, still = 0;
    watch = setInterval(() => {
      const now = Atomics.load(progress, 0);
      still = now === seen ? still + 1 : 0;
      seen = now;
      if (still < HANG_SECONDS) return;
      faults.set("did not come back", caseIn(join(scratch, "case")));
      resolve({ read: 0, refused: 0 });
    }, PATIENCE);
    worker.onerror = (event) => (event.preventDefault(), reject(new Error(event.message)));
    worker.onmessage = ({ data }: MessageEvent<FuzzAnswer>) => {
      if (data.kind === "end") return resolve(data);
      // Where it happened tells faults apart; what was quoted from the file does not.
      const place = /\n\s+at (.*)/.exec(data.reason)?.[1] ?? data.reason.replace(/\d+/g, "n");
      const reason = `${data.reason.split("\n")[0]!.slice(0, 200)} (${place.slice(0, 200)})`;
      if (!places.has(place)) faults.set(reason, data.bytes);
      places.add(place);
    };
    worker.postMessage(
      { reader, seed, scratch, milliseconds, cases: Infinity, progress } satisfies FuzzRequest,
    );
  });
  clearInterval(watch);
  worker.terminate();
  Deno.removeSync(scratch, { recursive: true });
  return { cases: Atomics.load(progress, 0), ...counts, faults };
}

const seed = Number(values.seed);
console.log(`Seed ${seed}, ${values.seconds} s`);
console.log("reader          cases    read  refused  faults");
let faulty = 0;
for (const { name } of readers) {
  const { cases, read, refused, faults } = await fuzz(
    name,
    seed,
    Number(values.seconds) * 1000 / readers.length,
  );
  console.log(
    [name.padEnd(12), ...[cases, read, refused, faults.size].map((n) => `${n}`.padStart(8))].join(""),
  );
  for (const [reason, bytes] of faults) {
    const path = join(FOLDER, `${name}-${nameOf(bytes)}`);
    Deno.writeFileSync(path, bytes);
    console.log(`  ${reason}\n  kept as ${path}`);
  }
  faulty += faults.size;
}
Deno.exit(faulty ? 1 : 0);
