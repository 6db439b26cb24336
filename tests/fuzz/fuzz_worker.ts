/**
 * Tries cases until it is stopped, and tells of each fault. The file that is being tried lies in the scratch folder, so that
 * whoever watches can keep it where a reader does not come back.
 *
 * @module
 */
/// <reference lib="deno.worker" />
import { countArrays, tryCase, tryPatiently } from "./case.ts";
import { draws } from "./mutate.ts";
import { READERS, useScratch } from "./readers.ts";

/** What the worker is sent. */
export interface FuzzRequest {
  readonly reader: string;
  readonly seed: number;
  readonly scratch: string;
  /** Ends after so many milliseconds, or so many cases. */
  readonly milliseconds: number;
  readonly cases: number;
  /** Counts cases, so that it can be seen whether the reader came back. */
  readonly progress: Int32Array;
}

/** What it answers. */
export type FuzzAnswer =
  | { readonly kind: "fault"; readonly reason: string; readonly bytes: Uint8Array }
  | { readonly kind: "end"; readonly read: number; readonly refused: number };

self.onmessage = async ({ data }: MessageEvent<FuzzRequest>) => {
  const { reader: name, seed, scratch, milliseconds, cases, progress } = data;
  const answer = (message: FuzzAnswer) => self.postMessage(message);
  useScratch(scratch);
  const reader = READERS.find((reader) => reader.name === name)!;
  const corpus = reader.seeds(), draw = draws(seed);
  const counts = { read: 0, refused: 0 };
  countArrays();
  // Half of all changes begin at a whole file: what is broken already is seldom looked at closely.
  const whole: Uint8Array[] = [];
  for (const bytes of corpus) if ((await tryCase(reader, bytes, scratch)).kind === "read") whole.push(bytes);
  const pick = () => whole.length && draw(2) ? whole[draw(whole.length)]! : corpus[draw(corpus.length)]!;
  const end = performance.now() + milliseconds;
  for (let tried = 0; tried < cases && performance.now() < end; tried++) {
    const bytes = reader.change(pick(), pick(), draw);
    Atomics.add(progress, 0, 1);
    const outcome = await tryPatiently(reader, bytes, scratch);
    if (outcome.kind === "fault") answer({ kind: "fault", reason: outcome.reason!, bytes });
    else counts[outcome.kind]++;
    // What was read after a change is a new whole file to change further.
    if (outcome.kind === "read" && bytes.length < 20_000 && whole.length < 2000) whole.push(bytes);
  }
  answer({ kind: "end", ...counts });
};
