/**
 * Runs what a request asks for and tells its text piece by piece: tokens to characters, stop strings, counts.
 *
 * @module
 */
import { Answer } from "../../rwkv/prompt_format.ts";
import type { Outcome, Scheduler } from "../inference/scheduler.ts";
import { streamDecoder, type Tokenizer } from "../../rwkv/tokenizer/tokenizer.ts";
import { random } from "../../training/data/random.ts";
import type { Wanted } from "./request.ts";

/** Tokens that a request took. */
export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly total_tokens: number;
  /** Of the prompt, those whose state was kept from before. */
  readonly prompt_tokens_details: { readonly cached_tokens: number };
}

/** Told as answers are written. */
export interface AnswerListener {
  /** A piece of an answer; never empty. */
  onText(choice: number, text: string): void;
  onEnd(choice: number, reason: Outcome["reason"]): void;
}

/** What answers are made with. */
export interface Answering {
  readonly scheduler: Scheduler;
  readonly tokenizer: Tokenizer;
}

/**
 * Writes all answers of a request.
 * @param client whose it is, for the queue
 * @throws what {@link Scheduler.run} throws, when one of them fails
 */
export async function answer(
  wanted: Wanted,
  client: string,
  { scheduler, tokenizer }: Answering,
  listener: AnswerListener,
  signal: AbortSignal,
): Promise<Usage> {
  const { prompts, n } = wanted;
  const seed = wanted.seed ?? Math.floor(Math.random() * 2 ** 32);
  // One answer that fails ends the others.
  const failed = new AbortController();
  const either = AbortSignal.any([signal, failed.signal]);
  const counts = await Promise.all(
    prompts.flatMap(({ text, tokens }, p) =>
      Array.from({ length: n }, async (_, i) => {
        const choice = p * n + i;
        const writer = new Writer(wanted, tokenizer, (text) => listener.onText(choice, text));
        if (wanted.echo && text) listener.onText(choice, text);
        // The first answer draws as `deno task generate` does with the same seed.
        const draw = random(seed, choice ? `generate ${choice}` : "generate");
        try {
          const outcome = await scheduler.run({
            model: wanted.model,
            client,
            prompt: tokens,
            maxTokens: wanted.maxTokens,
            sampling: { temperature: wanted.temperature, topP: wanted.topP },
            penalties: { presence: wanted.presence, frequency: wanted.frequency },
            uniform: () => draw.uniform(),
            onToken: (token) => writer.push(token),
          }, either);
          writer.end();
          listener.onEnd(choice, writer.stopped ? "stop" : outcome.reason);
          // A prompt that is answered several times is read, and counted, once.
          return {
            prompt: i ? 0 : tokens.length,
            written: writer.count,
            cached: i ? 0 : outcome.cachedTokens,
          };
        } catch (error) {
          failed.abort(error);
          throw error;
        }
      })
    ),
  );
  const sum = (of: (count: typeof counts[number]) => number) =>
    counts.reduce((total, count) => total + of(count), 0);
  const prompt = sum((count) => count.prompt), written = sum((count) => count.written);
  return {
    prompt_tokens: prompt,
    completion_tokens: written,
    total_tokens: prompt + written,
    prompt_tokens_details: { cached_tokens: sum((count) => count.cached) },
  };
}

/** Tokens of one answer to the text that is shown. */
class Writer {
  count = 0;
  readonly #decoder: ReturnType<typeof streamDecoder>;
  readonly #answer: Answer;
  /** A chat's answer begins behind the blank that follows "Assistant:". */
  #atStart: boolean;

  constructor({ stop, kind, begun }: Wanted, tokenizer: Tokenizer, readonly show: (text: string) => void) {
    this.#decoder = streamDecoder(tokenizer);
    this.#answer = new Answer(stop);
    this.#atStart = kind === "chat";
    this.#show(begun);
  }

  /** Whether a stop string has come. */
  get stopped(): boolean {
    return this.#answer.ended;
  }

  /** @returns whether to go on */
  push(token: number): boolean {
    this.count++;
    this.#show(this.#answer.push(this.#decoder.push(token)));
    return !this.stopped;
  }

  end(): void {
    this.#show(this.#answer.push(this.#decoder.end()) + this.#answer.end());
  }

  #show(text: string): void {
    if (this.#atStart) {
      text = text.trimStart();
      this.#atStart = text === "";
    }
    if (text) this.show(text);
  }
}
