/**
 * Many requests on one engine: prompts are read a piece at a time, and everything that is being written moves on by a token a
 * turn, together. So a long prompt holds nobody up for longer than a piece of it takes, and all who write are served equally.
 *
 * @module
 */
import { setImmediate } from "node:timers/promises";
import { sample, type Sampling } from "../../rwkv/generate.ts";
import { LONGEST, type ModelState } from "../../rwkv/session.ts";
import { FairQueue } from "./fair_queue.ts";
import type { Loaded } from "./library.ts";
import { StateCache } from "./state_cache.ts";

/** A text to be written. */
export interface Job {
  /** Name of the model, or of base plus adapter. */
  readonly model: string;
  /** Whose it is: clients take turns. */
  readonly client: string;
  /** Read first; not empty. */
  readonly prompt: Uint32Array;
  /** Tokens to write, at most. */
  readonly maxTokens: number;
  readonly sampling: Sampling;
  /** Taken from a token's logit if it was written before, and as often as it was. */
  readonly penalties: { readonly presence: number; readonly frequency: number };
  /** Numbers in [0, 1), one a token. */
  uniform(): number;
  /** Told each token; returns false when it was enough. */
  onToken(token: number): boolean;
}

/** How a job ended. */
export interface Outcome {
  /** "stop" at the end of the document or when it was enough, "length" at `maxTokens`. */
  readonly reason: "stop" | "length";
  /** Tokens of the prompt that did not need to be read again. */
  readonly cachedTokens: number;
}

/** There are too many requests in line. */
export class BusyError extends Error {
  override readonly name = "BusyError";
}

/** What the scheduler needs of the models. */
export interface Models {
  /** Makes a model ready, or gives the one that is. It stays until it was released as often as it was opened. */
  open(name: string): Promise<Loaded>;
  release(loaded: Loaded): void;
  /** Starts afresh after the engine failed. */
  reset(): void;
}

/** A job on its way. */
interface Sequence {
  readonly job: Job;
  readonly finish: (outcome: Outcome) => void;
  readonly fail: (error: unknown) => void;
  loaded?: Loaded;
  /** Tokens of the prompt that were read. */
  read: number;
  cachedTokens: number;
  /** Where to keep states of the prompt. */
  keepAt: Set<number>;
  state: ModelState | undefined;
  readonly written: number[];
  readonly counts: Map<number, number>;
  /** Whether nobody waits for it any more. */
  ended: boolean;
}

/** Runs jobs, up to `slots` at once. */
export class Scheduler {
  readonly #queue = new FairQueue<Sequence>();
  #reading: Sequence[] = [];
  readonly #rows = new Map<Loaded, (Sequence | undefined)[]>();
  readonly #cache: StateCache;
  #admitted = 0;
  #working = false;

  /**
   * @param options.slots jobs at once
   * @param options.waiting jobs in line, at most
   * @param options.cacheBytes for states of beginnings
   */
  constructor(
    readonly models: Models,
    readonly options: { readonly slots: number; readonly waiting: number; readonly cacheBytes: number },
  ) {
    this.#cache = new StateCache(options.cacheBytes);
  }

  /** Jobs that run and that wait, and bytes of kept states. */
  get load(): { running: number; waiting: number; cacheBytes: number } {
    return { running: this.#admitted, waiting: this.#queue.size, cacheBytes: this.#cache.bytes };
  }

  /**
   * Runs a job to its end.
   * @param signal ends it early: its place is free for others after the turn that is under way
   * @throws BusyError, the signal's reason, or what opening the model throws
   */
  async run(job: Job, signal: AbortSignal): Promise<Outcome> {
    signal.throwIfAborted();
    if (this.#queue.size >= this.options.waiting) {
      throw new BusyError(`${this.#queue.size} requests are in line: try again in a moment`);
    }
    return await new Promise((resolve, reject) => {
      const leave = () => {
        sequence.fail(signal.reason);
        this.#queue.remove(job.client, sequence);
      };
      const settle = <T>(tell: (value: T) => void) => (value: T) => {
        if (sequence.ended) return;
        sequence.ended = true;
        signal.removeEventListener("abort", leave);
        tell(value);
      };
      const sequence: Sequence = {
        job,
        finish: settle(resolve),
        fail: settle(reject),
        read: 0,
        cachedTokens: 0,
        keepAt: new Set(),
        state: undefined,
        written: [],
        counts: new Map(),
        ended: false,
      };
      signal.addEventListener("abort", leave);
      this.#queue.push(job.client, sequence);
      if (!this.#working) this.#work();
    });
  }

  async #work(): Promise<void> {
    this.#working = true;
    while (this.#queue.size || this.#admitted) {
      await this.#admit();
      await this.#readPrompts();
      for (const loaded of [...this.#rows.keys()]) await this.#write(loaded);
      // Requests come and go between turns.
      await setImmediate();
    }
    this.#working = false;
  }

  async #admit(): Promise<void> {
    while (this.#admitted < this.options.slots && this.#queue.size) {
      const sequence = this.#queue.shift()!;
      const { job } = sequence;
      try {
        const loaded = await this.models.open(job.model);
        sequence.loaded = loaded;
        sequence.keepAt = this.#cache.worthKeeping(loaded.key, job.prompt);
        this.#admitted++;
        this.#reading.push(sequence);
      } catch (error) {
        sequence.fail(error);
      }
    }
  }

  /** Reads a piece's worth of the prompts in line, each in turn. */
  async #readPrompts(): Promise<void> {
    for (let left = LONGEST; left > 0 && this.#reading.length;) {
      const sequence = this.#reading.shift()!;
      const { job: { prompt }, loaded } = sequence;
      if (sequence.ended) {
        this.#leave(sequence);
        continue;
      }
      const known = this.#goOnFromKept(sequence);
      if (known) {
        this.#begin(sequence, known);
        continue;
      }
      const ends = [...sequence.keepAt, prompt.length].filter((end) => end > sequence.read);
      const end = Math.min(sequence.read + left, ...ends);
      left -= end - sequence.read;
      try {
        const { session } = loaded!;
        if (sequence.state) session.restore(sequence.state);
        else session.reset();
        const logits = await session.feed(prompt.subarray(sequence.read, end));
        sequence.read = end;
        sequence.state = await session.state();
        const whole = end === prompt.length;
        if (whole || sequence.keepAt.has(end)) {
          const tokens = prompt.slice(0, end), { state } = sequence;
          this.#cache.keep(loaded!.key, { tokens, state, ...(whole ? { logits } : {}) });
        }
        if (whole) this.#begin(sequence, logits);
        else this.#reading.push(sequence);
      } catch (error) {
        this.#broken(error, [sequence]);
      }
    }
  }

  /**
   * Takes over what was read of the same beginning before, or by another just now.
   * @returns the logits after the prompt, where that was read to its end
   */
  #goOnFromKept(sequence: Sequence): Float32Array | undefined {
    const { job: { prompt }, loaded } = sequence;
    const kept = this.#cache.longest(loaded!.key, prompt);
    if (!kept || kept.tokens.length <= sequence.read) return undefined;
    sequence.cachedTokens += kept.tokens.length - sequence.read;
    sequence.read = kept.tokens.length;
    sequence.state = kept.state;
    return sequence.read === prompt.length ? kept.logits : undefined;
  }

  /** A sequence whose prompt was read gets a row, unless its first token was its last. */
  #begin(sequence: Sequence, logits: Float32Array): void {
    const { loaded, state } = sequence;
    if (!sequence.ended) this.#draw(sequence, logits);
    sequence.state = undefined;
    if (sequence.ended) return this.#leave(sequence);
    let rows = this.#rows.get(loaded!);
    if (!rows) this.#rows.set(loaded!, rows = new Array(this.options.slots).fill(undefined));
    const row = rows.indexOf(undefined);
    rows[row] = sequence;
    loaded!.batch.restore(row, state!);
  }

  /** Everything that a model writes moves on by a token. */
  async #write(loaded: Loaded): Promise<void> {
    const rows = this.#rows.get(loaded);
    if (!rows) return;
    try {
      rows.forEach((sequence, row) => {
        if (!sequence?.ended) return;
        rows[row] = undefined;
        this.#leave(sequence);
      });
      await this.#closeUp(loaded, rows);
      const used = rows.findLastIndex((sequence) => sequence) + 1;
      if (!used) {
        this.#rows.delete(loaded);
        return;
      }
      const V = loaded.batch.config.vocabulary;
      const tokens = rows.slice(0, used).map((sequence) => sequence?.written.at(-1) ?? 0);
      const read = rows.slice(0, used).map((sequence) => sequence?.written.length ?? 0);
      const logits = await loaded.batch.step(tokens);
      for (let row = 0; row < used; row++) {
        const sequence = rows[row];
        if (!sequence || sequence.ended) continue;
        this.#draw(sequence, logits.subarray(row * V, (row + 1) * V));
        if (!sequence.ended) continue;
        // Whoever goes on from this answer, as conversations do, need not have it read again.
        const { job: { prompt }, written } = sequence;
        const text = new Uint32Array(prompt.length + read[row]!);
        text.set(prompt);
        text.set(written.slice(0, read[row]), prompt.length);
        this.#cache.keep(loaded.key, { tokens: text, state: await loaded.batch.state(row) });
      }
    } catch (error) {
      this.#broken(error);
    }
  }

  /** Moves rows up where that halves the batch. */
  async #closeUp({ batch }: Loaded, rows: (Sequence | undefined)[]): Promise<void> {
    const size = (n: number) => 2 ** Math.ceil(Math.log2(n));
    const count = rows.filter((sequence) => sequence).length;
    for (;;) {
      const last = rows.findLastIndex((sequence) => sequence), hole = rows.indexOf(undefined);
      if (last < 0 || size(last + 1) === size(count)) return;
      batch.restore(hole, await batch.state(last));
      rows[hole] = rows[last];
      rows[last] = undefined;
    }
  }

  /** Draws a sequence's next token and tells whoever waits for it. */
  #draw(sequence: Sequence, logits: Float32Array): void {
    const { job, written, counts, cachedTokens } = sequence;
    try {
      const token = sample(penalised(logits, sequence), job.sampling, job.uniform());
      if (token === 0) return sequence.finish({ reason: "stop", cachedTokens });
      written.push(token);
      counts.set(token, (counts.get(token) ?? 0) + 1);
      if (!job.onToken(token)) sequence.finish({ reason: "stop", cachedTokens });
      else if (written.length >= job.maxTokens) sequence.finish({ reason: "length", cachedTokens });
    } catch (error) {
      sequence.fail(error);
    }
  }

  #leave(sequence: Sequence): void {
    this.#admitted--;
    this.models.release(sequence.loaded!);
  }

  /** The engine failed: everything on it ends with the error, and the next request starts afresh. */
  #broken(error: unknown, reading: readonly Sequence[] = []): void {
    const sequences = [...reading, ...this.#reading, ...[...this.#rows.values()].flat()];
    this.#rows.clear();
    this.#reading = [];
    for (const sequence of sequences) {
      if (!sequence) continue;
      sequence.fail(error);
      this.#leave(sequence);
      this.#cache.forget(sequence.loaded!.key);
    }
    this.models.reset();
  }
}

function penalised(logits: Float32Array, { job: { penalties }, counts }: Sequence): Float32Array {
  const { presence, frequency } = penalties;
  if (!counts.size || (!presence && !frequency)) return logits;
  const changed = logits.slice();
  for (const [token, count] of counts) changed[token]! -= presence + frequency * count;
  return changed;
}
