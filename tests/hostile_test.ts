/**
 * Large files that mean harm: read or refused, and the process that reads them grows by four times the file at most, and tables of a
 * bounded number of entries. `deno task bench:hostile` does the same for larger ones and looks at the time.
 *
 * @module
 */
import assert from "node:assert/strict";
import { LARGE } from "./fuzz/large.ts";
import { faultOf, measureLarge } from "./fuzz/measure_large.ts";
import { newPath } from "./tiny_model.ts";

/** Vocabularies are read up to 4 MiB and configurations up to one; a larger file would be refused at once. */
const BYTES = 4e6, SMALL = 1e6;

/** The kinds that took most when readers were written with less care, and some of each reader. */
const WORST = [
  ...["many empty tensors", "a wide name", "deep lists in a field"],
  ...[
    "a hundred thousand entries",
    "a list of texts",
    "tuples in tuples",
    "one memo again and again",
    "one number repeated",
  ],
  ...["many files", "lists", "a million lines", "one line", "JSON of many tokens", "documents of nothing"],
];

for (const kind of LARGE.filter(({ name }) => WORST.includes(name))) {
  Deno.test({
    name: `${kind.reader} + ${kind.name}: read or refused, in memory of four times the file`,
    ignore: Deno.build.os === "windows",
    async fn() {
      const scratch = newPath("hostile");
      Deno.mkdirSync(scratch);
      const measured = await measureLarge(kind, /config/.test(kind.reader) ? SMALL : BYTES, scratch);
      assert.equal(faultOf(measured), undefined);
    },
  });
}
