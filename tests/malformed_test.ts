/**
 * Files that break their format in one point: each is refused in a sentence that names the file and says what is wrong, or is odd but
 * whole. What comes by chance is `fuzz_test.ts`'s.
 *
 * @module
 */
import assert from "node:assert/strict";
import { join } from "node:path";
import { parseWithConfig } from "../scripts/config_file.ts";
import { text, texts, whole } from "../scripts/flags.ts";
import { READERS, useScratch } from "./fuzz/readers.ts";
import { MALFORMED } from "./malformed_cases.ts";
import { newPath } from "./tiny_model.ts";

const folder = newPath("malformed");
Deno.mkdirSync(folder);

for (const [name, cases] of Object.entries(MALFORMED)) {
  const reader = READERS.find((reader) => reader.name === name)!;
  for (const [what, bytes, says] of cases) {
    Deno.test(`${name} + ${what}: ${says ? "refused" : "read"}`, async () => {
      useScratch(folder);
      const place = newPath("case");
      Deno.mkdirSync(place);
      Deno.writeFileSync(join(place, "file"), bytes);
      const reading = async () => await reader.read(join(place, "file"));
      if (!says) return await reading();
      await assert.rejects(reading, (error: Error) => {
        assert.ok(reader.isRefusal(error), error.stack);
        assert.ok(error.message.includes(says), error.message);
        assert.ok(error.message.includes(place) && error.message.length < 1000, error.message);
        return true;
      });
    });
  }
}

const FLAGS = { ctxLen: whole(""), dataFile: text("FILE", ""), sftField: texts("") };
const YAML: readonly (readonly [what: string, content: string, says: RegExp])[] = [
  ["a flag twice", "ctx_len: 1\nctx_len: 2", /:2: the line is not YAML \(Map keys must be unique\)/],
  ["a flag twice, in two spellings", "ctx_len: 1\nctxLen: 2", /:2: ctxLen is given twice/],
  ["an alias", "sft_field: &a [x]\ndata_file: *a", /:2: \*a is an alias/],
  [
    "aliases of aliases",
    "data_file: &a [x, x]\nsft_field: {a: &b [*a, *a], c: [*b, *b]}",
    /:2: \*a is an alias/,
  ],
  ["an alias of nothing", "sft_field: [*u]", /:1: \*u is an alias/],
  [
    "twenty thousand lists in lists",
    `sft_field: ${"[".repeat(20_000)}${"]".repeat(20_000)}`,
    /:1: the line is not YAML/,
  ],
  ["a prototype", "__proto__: 1", /:1: there is no flag "__proto__"/],
  ["a name from every object", "constructor: 1", /:1: there is no flag "constructor"/],
  ["a tag that builds something", "ctx_len: !!js/function 'x'", /:1: the line is not YAML \(Unresolved tag/],
  [
    "a tag that calls something",
    "data_file: !!python/object/apply:os.system ['id']",
    /:1: the line is not YAML/,
  ],
  ["a merge", "<<: {ctx_len: 1}", /:1: there is no flag "<<"/],
  ["null", "ctx_len: null", /:1: ctx_len needs one value/],
  ["two documents", "ctx_len: 1\n---\nctx_len: 2", /:2: the line is not YAML/],
  ["a list", "- a", /:1: write each flag on a line of its own/],
  ["a word", "hello", /:1: write each flag on a line of its own/],
  ["tabs", "\tctx_len: 1", /:1: the line is not YAML \(Tabs/],
  ["infinity", "ctx_len: .inf", /:1: ctx_len must be a whole number/],
  ["a number beyond all", "ctx_len: 1e400", /:1: ctx_len must be a whole number/],
  ["a number of 2^53", "ctx_len: 9007199254740992", /:1: ctx_len must be a whole number/],
  ["an object for a number", "ctx_len: {a: 1}", /:1: ctx_len must be a whole number/],
  ["zeros", "\0\0\0", /:1: write each flag/],
  ["a number for a name", "1: 2", /:1: there is no flag "1"/],
  ["a list for a name", "[a]: 2", /:1: there is no flag/],
  ["a quote that does not end", 'data_file: "a', /:1: the line is not YAML/],
  ["two megabytes", `data_file: ${"x".repeat(2 << 20)}`, /it has \d+ bytes, and at most 1048576 are read/],
];
for (const [what, content, says] of YAML) {
  Deno.test(`parseWithConfig + ${what}: refused`, async () => {
    const path = newPath("config.yaml");
    Deno.writeTextFileSync(path, content);
    await assert.rejects(parseWithConfig(FLAGS, ["--config", path]), (error: Error) => {
      assert.equal(error.name, "OptionError");
      assert.match(error.message, says);
      return error.message.includes(path) && !error.message.includes("\n");
    });
  });
}
