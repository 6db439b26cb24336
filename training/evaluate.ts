/**
 * How well a model predicts a text: perplexity over the targets of a data set, and how often it gets the last word of a passage
 * right, as LAMBADA asks (Paperno et al., arXiv 1606.06031).
 *
 * @module
 */
import { checkBase } from "../adapters/adapter.ts";
import { type AdapterChoice, adaptersOf, promptFormatOf } from "../adapters/set.ts";
import { attachAll, wireAdapter } from "../adapters/wiring.ts";
import type { Model } from "../rwkv/model.ts";
import { PROMPT_FORMAT } from "../rwkv/prompt_format.ts";
import { Session } from "../rwkv/session.ts";
import { chooseTokenizer } from "../rwkv/tokenizer/choose.ts";
import type { Tokenizer } from "../rwkv/tokenizer/tokenizer.ts";
import { countTargets, isTarget, tokenOf } from "./data/document.ts";
import { readDocuments, type ReadDocumentsOptions } from "./data/documents.ts";

/** What {@link evaluate} measures, and on what. */
export interface EvaluateOptions extends ReadDocumentsOptions {
  /** The data set: what training reads. */
  readonly dataFile: string;
  /** `perplexity`, the default, or `last_word`. */
  readonly metric?: "perplexity" | "last_word";
  /** Adapters to read the model with: one, several in stacking order, or a set's. */
  readonly adapter?: AdapterChoice;
  /** World vocabulary file. Default: beside the model. */
  readonly vocab?: string;
  /** Documents at most, from the first. Default: all. */
  readonly limit?: number;
  /** Told after each document how many are done. */
  readonly onDocument?: (done: number, all: number) => void;
}

/** What {@link evaluate} found. */
export interface Evaluation {
  /** Documents that were read. */
  readonly documents: number;
  /** Documents that were left out: without a target, or for `last_word` of a single word. */
  readonly skipped: number;
  /** Tokens that counted. */
  readonly targets: number;
  /** Mean −log p of a target, in nats. */
  readonly loss: number;
  /** e to the loss. */
  readonly perplexity: number;
  /** Mean −log₂ p for each byte of the targets, which does not depend on the tokenizer. */
  readonly bitsPerByte: number;
  /** For `last_word`: the share of documents of which every token of the last word was the likeliest. */
  readonly accuracy: number | undefined;
}

/**
 * Measures a model on a data set. Each document is read whole, with the state carried from its first token to its last.
 * @throws Error in one sentence where the data set cannot be read or holds nothing to measure
 */
export async function evaluate(model: Model, options: EvaluateOptions): Promise<Evaluation> {
  const { dataFile, metric = "perplexity", vocab, limit = Infinity, onDocument } = options;
  if (!(limit >= 1)) throw new RangeError(`The limit must be at least 1 document: it is ${limit}`);
  const tokenizer = await chooseTokenizer({
    vocabulary: model.config.vocabulary,
    modelPath: model.file.path,
    ...(vocab === undefined ? {} : { vocab }),
  });
  const adapters = adaptersOf(options.adapter);
  const taught = promptFormatOf(adapters) ?? model.file.metadata.get(PROMPT_FORMAT);
  const reading = { ...options, promptFormat: options.promptFormat ?? taught };
  const { documents: all, summary } = await readDocuments(dataFile, tokenizer, reading);
  const documents = all.slice(0, Math.min(limit, all.length));
  for (const adapter of adapters) checkBase(adapter, model.fingerprint, model.file.path);
  using attached = attachAll(adapters, model);
  const session = new Session(
    model.config,
    (graph) => wireAdapter(graph, model, attached),
    model.engine,
  );
  const total = { documents: 0, skipped: summary.skipped, targets: 0, bytes: 0, nats: 0, right: 0 };
  try {
    for (const [i, document] of documents.entries()) {
      session.reset();
      const found = metric === "perplexity"
        ? await scoreDocument(session, document, tokenizer)
        : await scoreLastWord(session, document, tokenizer);
      if (found) {
        total.documents++;
        total.targets += found.targets;
        total.bytes += found.bytes;
        total.nats += found.nats;
        if (found.right) total.right++;
      } else total.skipped++;
      onDocument?.(i + 1, documents.length);
    }
  } finally {
    session.dispose();
  }
  if (total.targets === 0) {
    throw new Error(
      `The text in ${dataFile} has nothing to predict: give documents of at least two ${
        metric === "perplexity" ? "tokens" : "words"
      }`,
    );
  }
  const loss = total.nats / total.targets;
  return {
    documents: total.documents,
    skipped: total.skipped,
    targets: total.targets,
    loss,
    perplexity: Math.exp(loss),
    bitsPerByte: total.nats / Math.LN2 / total.bytes,
    accuracy: metric === "last_word" ? total.right / total.documents : undefined,
  };
}

/** What one document gave. */
interface Score {
  readonly targets: number;
  readonly bytes: number;
  readonly nats: number;
  readonly right?: boolean;
}

async function scoreDocument(
  session: Session,
  document: Uint32Array,
  tokenizer: Tokenizer,
): Promise<Score | undefined> {
  const targets = countTargets(document);
  if (targets === 0) return undefined;
  const tokens = document.map(tokenOf);
  const counts = (i: number) => isTarget(document[i + 1]!);
  const learnt = tokens.filter((_, i) => i > 0 && isTarget(document[i]!));
  const nats = await session.score(tokens, counts);
  // The end-of-text token has a byte in one vocabulary and none in the other: it counts as one.
  const ends = learnt.filter((token) => token === tokenizer.endOfText).length;
  const text = learnt.filter((token) => token !== tokenizer.endOfText);
  return { targets, nats, bytes: tokenizer.decodeBytes(text).length + ends };
}

/**
 * The passage up to its last word is read after an end-of-text token, as a text of its own; the word is right where each of its
 * tokens, its leading blank included, is the likeliest.
 */
async function scoreLastWord(
  session: Session,
  document: Uint32Array,
  tokenizer: Tokenizer,
): Promise<Score | undefined> {
  const ids = Array.from(document, tokenOf);
  if (ids.at(-1) === tokenizer.endOfText) ids.pop();
  const text = tokenizer.decode(ids).trimEnd();
  const at = text.search(/\s+\S+$/);
  if (at <= 0) return undefined;
  const before = text.slice(0, at), word = text.slice(at);
  const target = tokenizer.encode(word);
  let logits = await session.feed([tokenizer.endOfText, ...tokenizer.encode(before)]);
  let nats = 0, right = true;
  for (const [i, token] of target.entries()) {
    nats -= logProbability(logits, token);
    right &&= logits.every((logit) => logit <= logits[token]!);
    if (i + 1 < target.length) logits = await session.feed([token]);
  }
  return { targets: target.length, nats, right, bytes: new TextEncoder().encode(word).length };
}

function logProbability(logits: Float32Array, token: number): number {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const sum = logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0);
  return logits[token]! - largest - Math.log(sum);
}
