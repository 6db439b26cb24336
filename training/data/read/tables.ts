/**
 * Reads the rows of CSV and Parquet files as records. The packages that understand them are loaded when such a file is met.
 *
 * @module
 */
import { Readable } from "node:stream";
import { quoted } from "../../../formats/text.ts";
import type { Row } from "./row.ts";
import { afterByteOrderMark } from "./text.ts";

/** Columns of a table. */
const MOST_COLUMNS = 1000;
/** Rows that may be broken before a file is given up, and letters of what is said of each. */
const MOST_BROKEN = 100, SHOWN_LENGTH = 200;

/** The rows of a CSV file (TSV by its extension), whose first row names the columns. */
export async function* readCsv(path: string): AsyncGenerator<Row> {
  const { parse } = await import("csv-parse");
  const parser = parse({
    columns: (names: string[]) => {
      const twice = names.find((name, i) => names.length <= MOST_COLUMNS && names.indexOf(name) !== i);
      if (twice === undefined && names.length <= MOST_COLUMNS) return names;
      const what = twice === undefined
        ? `${names.length} columns, and at most ${MOST_COLUMNS} are read`
        : `${quoted(twice)} as the name of two columns`;
      throw new Error(`Cannot read ${path}: it has ${what}`);
    },
    delimiter: delimiterOf(path),
    info: true,
    skip_empty_lines: true,
    skip_records_with_error: true,
    on_skip: (error) => {
      if (!error) return;
      const message = error.message.slice(0, SHOWN_LENGTH);
      broken.push({ place: `${path}:${parser.info.lines}`, message });
      if (broken.length <= MOST_BROKEN) return;
      // Thrown, it ends the parser at once. One quote too many can make a fault of every letter after it.
      const [first] = broken;
      throw new Error(
        `Cannot read ${path}: over ${MOST_BROKEN} rows are not CSV, first ${first!.place} (${
          first!.message
        })`,
      );
    },
  });
  const broken: { place: string; message: string }[] = [];
  const fail = (error: Error) => parser.destroy(error);
  Readable.from(decoded(path)).on("error", fail).pipe(parser);
  for await (const { record, info } of parser) {
    yield { place: `${path}:${info.lines}`, read: () => record };
  }
  for (const { place, message } of broken) {
    yield {
      place,
      read: () => {
        throw new Error(`the row is not CSV (${message})`);
      },
    };
  }
}

/** Bytes in which the first row is looked for. */
const FIRST_ROW = 1 << 16;

/** What stands between the columns: a tab in TSV, and semicolons where the first row has no comma, as spreadsheets in many countries write. */
function delimiterOf(path: string): string {
  if (/\.tsv$/i.test(path)) return "\t";
  using file = Deno.openSync(path);
  const bytes = new Uint8Array(FIRST_ROW), count = file.readSync(bytes) ?? 0;
  const [row = ""] = new TextDecoder("latin1").decode(bytes.subarray(0, count)).replace(/"[^"]*"/g, "").split(
    "\n",
  );
  return row.includes(";") && !row.includes(",") ? ";" : ",";
}

/** The text of a file in pieces. @throws Error in one sentence where it is not UTF-8 */
async function* decoded(path: string): AsyncGenerator<string> {
  const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  using file = await Deno.open(path);
  const buffer = new Uint8Array(1 << 20);
  try {
    for (let first = true, count = await file.read(buffer); count !== null; count = await file.read(buffer)) {
      const bytes = buffer.subarray(0, count);
      yield utf8.decode(first ? afterByteOrderMark(bytes, path) : bytes, { stream: true });
      first = false;
    }
    utf8.decode();
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    throw new Error(`The data file ${path} is not valid UTF-8: save it as UTF-8`);
  }
}

/** What a page may grow to when it is expanded: text seldom shrinks to a twentieth, and small pages may be all alike. */
const FREE_BYTES = 1 << 20, MOST_TIMES = 64;

/** The same for the texts of all rows: one that a dictionary holds may be in each of them. */
const FREE_LETTERS = 1 << 26;

/** Letters of all texts in a value. */
function lettersOf(value: unknown): number {
  if (typeof value === "string") return value.length;
  if (typeof value !== "object" || value === null) return 0;
  return Object.values(value).reduce((sum: number, part) => sum + lettersOf(part), 0);
}

/** The rows of a Parquet file, read a row group at a time. */
export async function* readParquet(path: string): AsyncGenerator<Row> {
  const { parquetMetadataAsync, parquetReadObjects } = await import("hyparquet");
  const { compressors } = await import("hyparquet-compressors");
  const bounded = Object.fromEntries(
    Object.entries(compressors).map(([codec, expand]) => [codec, (input: Uint8Array, length: number) => {
      if (length > FREE_BYTES + MOST_TIMES * input.length) {
        throw new Error(`a page of ${input.length} bytes says that it holds ${length}`);
      }
      return expand!(input, length);
    }]),
  );
  using opened = await Deno.open(path);
  const byteLength = (await opened.stat()).size;
  const file = {
    byteLength,
    // Synchronous, as several pieces are asked for at once and a file has one position.
    slice(start: number, end = byteLength): ArrayBuffer {
      if (!(start >= 0 && start <= byteLength)) throw new Error(`it names byte ${start} of ${byteLength}`);
      const bytes = new Uint8Array(Math.max(0, Math.min(end, byteLength) - start));
      opened.seekSync(start, Deno.SeekMode.Start);
      for (let done = 0; done < bytes.length;) {
        const count = opened.readSync(bytes.subarray(done));
        if (count === null) throw new Error("it ends before its last page");
        done += count;
      }
      return bytes.buffer;
    },
  };
  try {
    const metadata = await parquetMetadataAsync(file);
    const rows = metadata.row_groups.reduce((sum, { num_rows }) => sum + Number(num_rows), 0);
    if (!(rows <= byteLength) || metadata.row_groups.some(({ num_rows }) => num_rows < 0)) {
      throw new Error(`it says that it has ${rows} rows, more than it has bytes`);
    }
    let row = 0, letters = 0;
    for (const group of metadata.row_groups) {
      const rowEnd = row + Number(group.num_rows);
      for (
        const record of await parquetReadObjects({
          file,
          metadata,
          compressors: bounded,
          rowStart: row,
          rowEnd,
        })
      ) {
        letters += lettersOf(record);
        if (letters > FREE_LETTERS + MOST_TIMES * byteLength) {
          throw new Error(
            `its ${byteLength} bytes stand for over ${letters} letters by row ${row + 1}: write it as .jsonl`,
          );
        }
        yield { place: `${path}, row ${++row}`, read: () => record };
      }
    }
  } catch (error) {
    // What the package says of bytes that it did not expect is for nobody.
    const isLost = error instanceof TypeError || error instanceof RangeError;
    throw new Error(
      `Cannot read the Parquet file ${path}: ${
        isLost ? "it is cut off or damaged" : (error as Error).message
      }`,
    );
  }
}
