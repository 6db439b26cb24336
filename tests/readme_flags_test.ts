/**
 * What the READMEs name is there: every flag is one of a command's, and both languages have the same figures.
 *
 * @module
 */
import assert from "node:assert/strict";

const read = (path: string) => Deno.readTextFileSync(new URL(`../${path}`, import.meta.url));
const READMES = ["README.md", "README.zh.md"];

/** Flags of other programs that the READMEs call. */
const OTHERS = ["logdir", "help"];

Deno.test("READMEs + every flag that they name: a command has it", () => {
  const scripts = [...Deno.readDirSync(new URL("../scripts", import.meta.url))].filter(({ name }) =>
    name.endsWith(".ts")
  ).map(({ name }) => read(`scripts/${name}`)).join("\n");
  for (const path of READMES) {
    const named = new Set([...read(path).matchAll(/(?<![\w-])--([a-z]\w*)/g)].map(([, name]) => name!));
    // The READMEs show one flag with a slip of the pen, and the error that it gets.
    const unknown = [...named].filter((name) => !OTHERS.includes(name) && name !== "ctx_lenn").filter(
      (name) => {
        const option = name.replace(/_([a-z])/g, (_, letter) => letter.toUpperCase());
        return !new RegExp(`\\b${option}\\b`).test(scripts);
      },
    );
    assert.deepEqual(unknown, [], `${path} names flags that no command has`);
    assert.ok(named.size > 40);
  }
});

Deno.test("READMEs + the tables of memory: the same in both languages", () => {
  const rows = READMES.map((path) => {
    const section = /^## (?:Memory|内存)\n([^]*?)^## /m.exec(read(path))?.[1] ?? "";
    return section.split("\n").filter((line) => /^\| \d\.\dB \|/.test(line));
  });
  assert.equal(rows[0]!.length, 8);
  assert.deepEqual(rows[1], rows[0]);
});
