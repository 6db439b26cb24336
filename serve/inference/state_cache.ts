/**
 * States after beginnings that were read before, so that a prompt which shares one is read from there on.
 *
 * An RWKV state stands for everything before it and has one size, so a beginning of any length costs the same to keep. It can
 * only be gone on from where it was kept; {@link StateCache.worthKeeping} says where that is.
 *
 * @module
 */
import type { ModelState } from "../../rwkv/session.ts";

/** A state after some tokens. */
export interface KeptState {
  /** What was read. */
  readonly tokens: Uint32Array;
  readonly state: ModelState;
  /** After the last token, where the whole text may be asked for again: [V]. */
  readonly logits?: Float32Array;
}

/** Shortest beginning that is worth a state of its own. */
const SHORTEST = 32;

/** States at most, however small they are: every prompt is compared with all of them. */
const MOST_STATES = 2000;

/** Keeps the states that were used last. */
export class StateCache {
  /** By model and tokens, the least recently used first. */
  readonly #entries = new Map<string, KeptState & { readonly model: string }>();
  #bytes = 0;

  /** @param limitBytes of all states together */
  constructor(readonly limitBytes: number) {}

  /** Bytes of all states. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Keeps a state, in place of those that were not used for longest. */
  keep(model: string, entry: KeptState): void {
    const key = keyOf(model, entry.tokens), known = this.#entries.get(key);
    if (known) {
      this.#entries.delete(key);
      this.#bytes -= bytesOf(known);
    }
    const kept = { ...known, ...entry, model };
    if (bytesOf(kept) > this.limitBytes) return;
    this.#entries.set(key, kept);
    this.#bytes += bytesOf(kept);
    for (const [oldest, other] of this.#entries) {
      if (this.#bytes <= this.limitBytes && this.#entries.size <= MOST_STATES) break;
      this.#entries.delete(oldest);
      this.#bytes -= bytesOf(other);
    }
  }

  /** The state after the longest beginning of a prompt; one of the whole prompt counts if it has logits. */
  longest(model: string, prompt: Uint32Array): KeptState | undefined {
    let best: [string, KeptState & { model: string }] | undefined;
    for (const [key, entry] of this.#entries) {
      const { length } = entry.tokens;
      if (entry.model !== model || length <= (best?.[1].tokens.length ?? 0)) continue;
      if (length > prompt.length || (length === prompt.length && !entry.logits)) continue;
      if (shared(entry.tokens, prompt) === length) best = [key, entry];
    }
    if (!best) return undefined;
    this.#entries.delete(best[0]);
    this.#entries.set(...best);
    return best[1];
  }

  /**
   * Where to keep states while a prompt is read: at 32, 64, 128, … tokens, and where it parts from what was read before,
   * for what two prompts have in common a third may have too.
   */
  worthKeeping(model: string, prompt: Uint32Array): Set<number> {
    const places = new Set<number>();
    for (let at = SHORTEST; at < prompt.length; at *= 2) places.add(at);
    let parting = 0;
    for (const entry of this.#entries.values()) {
      if (entry.model === model) parting = Math.max(parting, shared(entry.tokens, prompt));
    }
    if (parting >= SHORTEST && parting < prompt.length) places.add(parting);
    return places;
  }

  /** Forgets a model's states. */
  forget(model: string): void {
    for (const [key, entry] of this.#entries) {
      if (entry.model !== model) continue;
      this.#entries.delete(key);
      this.#bytes -= bytesOf(entry);
    }
  }
}

function bytesOf({ tokens, state, logits }: KeptState): number {
  return tokens.byteLength + state.data.byteLength + (logits?.byteLength ?? 0);
}

function keyOf(model: string, tokens: Uint32Array): string {
  return `${model}\n${tokens.join()}`;
}

/** Number of tokens that two texts begin with in common. */
function shared(a: Uint32Array, b: Uint32Array): number {
  const end = Math.min(a.length, b.length);
  let at = 0;
  while (at < end && a[at] === b[at]) at++;
  return at;
}
