/**
 * Turning a data set into tokens once, for trainings that read it often or elsewhere: as binidx.
 *
 * @module
 */
import { chooseTokenizer } from "../rwkv/tokenizer/choose.ts";
import { writeBinidx } from "./data/binidx.ts";
import { CONTEXT } from "./data/document.ts";
import { type DocumentsSummary, readDocuments, type ReadDocumentsOptions } from "./data/documents.ts";

/** What {@link prepareData} reads and writes. */
export interface PrepareOptions extends ReadDocumentsOptions {
  /** The data set: what training reads. */
  readonly dataFile: string;
  /** V of the model that will learn it, which decides the tokenizer. */
  readonly vocabulary: number;
  /** The model's file, beside which the World vocabulary is looked for. */
  readonly modelPath: string;
  /** World vocabulary file. Default: beside the model. */
  readonly vocab?: string;
  /** Where the tokens go: `<output>.bin` and `<output>.idx`. */
  readonly output: string;
  /** Type of the ids. Default: uint16 where they fit. */
  readonly type?: "uint16" | "int32";
  /** Replace existing files. */
  readonly force?: boolean;
}

/** What {@link prepareData} did. */
export interface Prepared {
  /** What was read. */
  readonly summary: DocumentsSummary;
  /** Name of the tokenizer. */
  readonly tokenizer: string;
  /** Type of the ids. */
  readonly type: "uint16" | "int32";
  /** Whether some tokens were only context, as in conversations, which binidx cannot say. */
  readonly marksLost: boolean;
}

/**
 * Reads a data set, encodes it and writes its tokens.
 * @throws Error in one sentence where it cannot be read, or an output exists and `force` is not set
 */
export async function prepareData(options: PrepareOptions): Promise<Prepared> {
  const { dataFile, vocabulary, modelPath, vocab, output, type: wanted, force } = options;
  const tokenizer = await chooseTokenizer({
    vocabulary,
    modelPath,
    ...(vocab === undefined ? {} : { vocab }),
  });
  const { documents, summary } = await readDocuments(dataFile, tokenizer, options);
  const { type } = writeBinidx(output, documents, { type: wanted, force });
  const marksLost = documents.some((document) => document.some((word) => word >= CONTEXT));
  return { summary, tokenizer: tokenizer.name, type, marksLost };
}
