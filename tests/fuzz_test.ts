/**
 * What fuzzing found stays found: the files in `fixtures/fuzz` are tried again, and each reader is given some hundred changed files
 * of one seed. `deno task fuzz` gives them for as long as is wanted.
 *
 * @module
 */
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { tryPatiently } from "./fuzz/case.ts";
import type { FuzzAnswer, FuzzRequest } from "./fuzz/fuzz_worker.ts";
import { READERS, useScratch } from "./fuzz/readers.ts";
import { newPath } from "./tiny_model.ts";

const FOUND = fileURLToPath(new URL("./fixtures/fuzz/", import.meta.url));
const CASES = 150;

for (const { name } of Deno.readDirSync(FOUND)) {
  const reader = READERS.find((reader) => name.startsWith(`${reader.name}-`));
  Deno.test(`fuzz + ${name}: read, or refused in a sentence`, async () => {
    assert.ok(reader, `the file is named after no reader: ${READERS.map(({ name }) => name).join(", ")}`);
    const scratch = newPath("fuzz");
    Deno.mkdirSync(scratch);
    useScratch(scratch);
    const { kind, reason } = await tryPatiently(reader, Deno.readFileSync(`${FOUND}${name}`), scratch);
    assert.notEqual(kind, "fault", reason);
  });
}

for (const { name: reader } of READERS) {
  Deno.test(`fuzz + ${CASES} changed files for ${reader}: each is read, or refused in a sentence, in bounded memory`, async () => {
    const scratch = newPath("fuzz");
    Deno.mkdirSync(scratch);
    // A worker of its own: arrays are counted there.
    const worker = new Worker(new URL("./fuzz/fuzz_worker.ts", import.meta.url), { type: "module" });
    const faults: string[] = [];
    const counts = await new Promise<{ read: number; refused: number }>((resolve, reject) => {
      worker.onerror = (event) => (event.preventDefault(), reject(new Error(event.message)));
      worker.onmessage = ({ data }: MessageEvent<FuzzAnswer>) => {
        if (data.kind === "end") resolve(data);
        else faults.push(`${data.reason}\n${data.bytes.toBase64()}`);
      };
      const progress = new Int32Array(new SharedArrayBuffer(4));
      worker.postMessage(
        { reader, seed: 1, scratch, milliseconds: Infinity, cases: CASES, progress } satisfies FuzzRequest,
      );
    });
    worker.terminate();
    assert.deepEqual(faults, []);
    assert.equal(counts.read + counts.refused, CASES);
    assert.ok(counts.refused > 0, "changes that leave all files whole try nothing");
  });
}
