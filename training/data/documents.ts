/**
 * Reads a data set and turns it into documents of token ids.
 *
 * A plain text file is one document; a record of a jsonl, JSON, CSV or Parquet file is one; a folder gives those of all its files. Every
 * document ends with the tokenizer's end-of-text token, so that a model learns where texts end. Conversations are written out
 * in a prompt format, and only their answers are targets unless something else is asked for. Text is taken as it is written, but
 * that plain text loses its byte order mark and CRLF becomes LF; text that is not valid UTF-8 is refused, never repaired. Nothing is
 * dropped without being counted in the summary.
 *
 * @module
 */
import { type PromptFormat, promptFormat, type Turn } from "../../rwkv/prompt_format.ts";
import type { Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import { answersIn, between, type MaskId, onlyRanges, requireMaskId } from "./answers.ts";
import { readBinidx } from "./binidx.ts";
import { countTargets, encodeDocument, withoutContext } from "./document.ts";
import { type Example, exampleOf } from "./examples.ts";
import { type DataFile, dataFiles, type DataType, pathsOf } from "./files.ts";
import type { Row } from "./read/row.ts";
import { filesOfSplit, recordsOfSplit } from "./splits.ts";
import { readCsv, readParquet } from "./read/tables.ts";
import { readJson, readJsonLines, readText } from "./read/text.ts";

/** What counts as a target; padding never does. */
export type LossMask = "auto" | "none" | "pad" | "qa" | "se";

/** Options of {@linkcode readDocuments}. */
export interface ReadDocumentsOptions {
  /** How files are read; `auto`, the default, goes by their extensions. */
  dataType?: DataType | undefined;
  /** The fields of a record: one of text or messages, two of prompt and answer, or three of instruction, input and output. */
  sftField?: readonly string[] | undefined;
  /** Part of the data set, in Hugging Face's words: a name that files have, and records, as in `train[:1000]`. Default: all. */
  sftSplit?: string | undefined;
  /** How conversations are written; `auto`, the default, is `instruction` for instructions and `chat` for the rest. */
  promptFormat?: string | undefined;
  /**
   * Targets: `auto`, the default, the answers of conversations and all of a text; `none` and `pad` everything; `qa` only answers,
   * in plain text those after `Assistant:` and `Response:`; `se` what follows `maskId.mask1` up to `maskId.mask0`, in any text.
   */
  lossMask?: LossMask | undefined;
  /** The texts of `lossMask` `se`. */
  maskId?: MaskId | undefined;
}

/** What was found in a data set. */
export interface DocumentsSummary {
  /** The file or folder as it was named. */
  path: string;
  /** How its files were read, with commas between where they differ. */
  dataType: string;
  /** Files read. */
  files: number;
  /** Files of a folder that no reader is for. */
  passedOver: readonly string[];
  /** Size of the files in bytes. */
  bytes: number;
  /** The number of documents. */
  documents: number;
  /** Tokens of all documents, with one end-of-text token each. */
  tokens: number;
  /** Tokens that are targets. */
  targets: number;
  /** Records without any target, such as conversations without an answer, which are left out. */
  skipped: number;
  /** Lines of jsonl files that were blank and passed over. */
  blankLines: number;
  /** CRLF line ends of plain text files that became LF. */
  crlf: number;
  /** Turns in which blank lines, which would end a turn, became line ends. */
  normalised: number;
  /** Answers whose reasoning the prompt format has no place for. */
  withoutReasoning: number;
  /** Documents outside of the split that was asked for, which are left out. */
  outsideSplit: number;
  /** Answers in which nothing is said. */
  emptyAnswers: number;
  /** The prompt format that most conversations were written in, or that was named; undefined where there is neither. */
  promptFormat: string | undefined;
}

/** Token ids, one array a document, and what was found. */
export interface Documents {
  /** Each ends with the end-of-text token; words as `document.ts` has them. */
  documents: Uint32Array[];
  /** What was found. */
  summary: DocumentsSummary;
}

const SHOWN_ERRORS = 10;

/**
 * Reads the documents of a file or a folder and encodes them.
 *
 * @throws {Error} one sentence that names the file, and the line where there is one; for a file with several bad records, the
 * first ten of them and a count.
 */
export async function readDocuments(
  path: string,
  tokenizer: Tokenizer,
  options: ReadDocumentsOptions = {},
): Promise<Documents> {
  const found = dataFiles(path, options.dataType), { sftSplit } = options;
  const { files, passedOver } = sftSplit === undefined ? found : filesOfSplit(found, path, sftSplit);
  const reader = new Reader(tokenizer, options);
  for (const file of files) await reader.add(file);
  const { counts } = reader, documents = reader.documentsOf(sftSplit);
  if (documents.length === 0) {
    if (reader.documents.length) {
      throw new Error(`The data file ${path} has no document in --sft_split ${sftSplit}`);
    }
    throw new Error(
      counts.skipped
        ? `None of the ${counts.skipped} documents of ${path} has ${
          options.lossMask === "se" ? `"${options.maskId!.mask1}" with something` : "an answer"
        } to learn: give ${
          options.lossMask === "se" ? "other texts with --mask_id" : "answers"
        }, or --loss_mask none`
        : `The data file ${path} holds no document: give it lines of {"text": "..."}`,
    );
  }
  const size = (file: DataFile) => pathsOf(file).reduce((sum, path) => sum + Deno.statSync(path).size, 0);
  return {
    documents,
    summary: {
      path,
      dataType: [...new Set(files.map(({ type }) => type))].join(", "),
      files: files.length,
      passedOver,
      bytes: files.reduce((sum, file) => sum + size(file), 0),
      documents: documents.length,
      tokens: documents.reduce((sum, document) => sum + document.length, 0),
      targets: documents.reduce((sum, document) => sum + countTargets(document), 0),
      ...counts,
      outsideSplit: reader.documents.length - documents.length,
      promptFormat: reader.promptFormat,
    },
  };
}

/** Readers of files of records. */
const READERS = { jsonl: readJsonLines, json: readJson, csv: readCsv, parquet: readParquet } as const;

/** Whether the assistant says nothing. */
function isEmptyAnswer({ role, content, reasoning }: Turn): boolean {
  return role === "assistant" && content.trim() === "" && reasoning === undefined;
}

/** Collects documents and counts. */
class Reader {
  readonly documents: Uint32Array[] = [];
  /** The number of each document's record, and of all records. */
  readonly #numbers: number[] = [];
  #records = 0;
  readonly counts = {
    skipped: 0,
    blankLines: 0,
    crlf: 0,
    normalised: 0,
    withoutReasoning: 0,
    emptyAnswers: 0,
  };
  readonly #formats = new Map<string, { format: PromptFormat; count: number }>();

  constructor(readonly tokenizer: Tokenizer, readonly options: ReadDocumentsOptions) {
    const { promptFormat: name = "auto" } = options;
    if (name !== "auto") promptFormat(name);
    requireMaskId(options);
  }

  /** The format that most conversations were written in; where there are none, what was said of how the text is written. */
  get promptFormat(): string | undefined {
    const { promptFormat: given = "auto" } = this.options;
    const most = [...this.#formats.values()].sort((a, b) => b.count - a.count)[0]?.format.name;
    return most ?? (given === "auto" ? undefined : given);
  }

  /** The documents of a split; all where none is named. */
  documentsOf(split: string | undefined): Uint32Array[] {
    if (split === undefined) return this.documents;
    const [from, to] = recordsOfSplit(split, this.#records);
    return this.documents.filter((_, i) => this.#numbers[i]! >= from && this.#numbers[i]! < to);
  }

  async add({ path, type }: DataFile): Promise<void> {
    if (type === "utf-8") {
      const { text, crlf } = await readText(path);
      this.counts.crlf += crlf;
      const tokens = this.tokenizer.encodeBytes(text);
      const document = new Uint32Array(tokens.length + 1);
      document.set(tokens);
      document[tokens.length] = this.tokenizer.endOfText;
      this.#keep(this.#masked(document));
    } else if (type === "binidx") {
      for (const document of readBinidx(path, this.tokenizer.vocabularySize)) {
        this.#keep(this.#masked(document));
      }
    } else {
      await this.#addRows(
        path,
        READERS[type](path),
        type === "jsonl" ? "lines" : type === "json" ? "records" : "rows",
      );
    }
  }

  /** Reads on after an error only to count: what a file with errors holds is not used. */
  async #addRows(path: string, rows: AsyncIterable<Row>, unit: string): Promise<void> {
    const errors: string[] = [];
    let failed = 0, count = 0;
    for await (const row of rows) {
      count++;
      try {
        const value = row.read();
        if (value === undefined) this.counts.blankLines++;
        else {
          const example = exampleOf(value, this.options.sftField);
          this.#refuseNul(example);
          if (failed === 0) this.#addExample(example);
        }
      } catch (error) {
        if (++failed <= SHOWN_ERRORS) errors.push(`${row.place}: ${(error as Error).message}`);
      }
    }
    if (failed === 1) throw new Error(errors[0]);
    if (failed > 1) {
      const more = failed > SHOWN_ERRORS ? `\n  and ${failed - SHOWN_ERRORS} more` : "";
      throw new Error(
        `Cannot read ${failed} of the ${count} ${unit} of ${path}:\n  ${errors.join("\n  ")}${more}`,
      );
    }
  }

  #refuseNul(example: Example): void {
    const texts = example.kind === "text" ? [example.text] : example.turns.map(({ content }) => content);
    if (this.tokenizer.name === "bytes" && texts.some((text) => text.includes("\0"))) {
      const what = example.kind === "text" ? '"text"' : "a turn";
      throw new Error(`${what} holds a NUL character, which ends a document for this model`);
    }
  }

  #addExample(example: Example): void {
    const { lossMask = "auto" } = this.options;
    if (example.kind === "text") {
      const document = encodeDocument([{ text: example.text, isAnswer: true }], this.tokenizer);
      this.#keep(this.#masked(document));
      return;
    }
    const { segments, normalised, withoutReasoning } = this.#formatFor(example.kind).render(example.turns);
    const document = encodeDocument(segments, this.tokenizer);
    const learnsAll = lossMask === "none" || lossMask === "pad";
    this.counts.normalised += normalised;
    this.counts.withoutReasoning += withoutReasoning;
    this.counts.emptyAnswers += example.turns.filter(isEmptyAnswer).length;
    const isMasked = lossMask === "se";
    this.#keep(
      learnsAll ? withoutContext(document) : isMasked ? this.#masked(withoutContext(document)) : document,
    );
  }

  /** A text that is written out already, with what is not learnt of it as context. */
  #masked(document: Uint32Array): Uint32Array {
    const { lossMask, maskId } = this.options;
    if (lossMask === "qa") return onlyRanges(document, this.tokenizer, answersIn);
    if (lossMask !== "se") return document;
    return onlyRanges(document, this.tokenizer, (bytes) => between(bytes, maskId!));
  }

  #formatFor(kind: "conversation" | "instruction"): PromptFormat {
    const { promptFormat: given = "auto" } = this.options;
    const name = given !== "auto" ? given : kind === "instruction" ? "instruction" : "chat";
    const known = this.#formats.get(name);
    if (known) known.count++;
    else this.#formats.set(name, { format: promptFormat(name), count: 1 });
    return this.#formats.get(name)!.format;
  }

  /** Keeps a document, unless all of it is context. */
  #keep(document: Uint32Array): void {
    if (document.length > 1 && countTargets(document) === 0) this.counts.skipped++;
    else {
      this.documents.push(document);
      this.#numbers.push(this.#records);
    }
    this.#records++;
  }
}
