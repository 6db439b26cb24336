/**
 * Text from a model: reads a prompt, then draws one token after the other.
 *
 * @module
 */
import type { Session } from "./session.ts";

/** How tokens are drawn. */
export interface Sampling {
  /** Divides the logits; 0 takes the likeliest token every time. */
  readonly temperature: number;
  /** Draws from the fewest likeliest tokens whose probabilities add up to this. */
  readonly topP: number;
}

/**
 * Draws a token (nucleus sampling, Holtzman et al. 2019).
 * @param uniform a number in [0, 1)
 */
export function sample(logits: Float32Array, { temperature, topP }: Sampling, uniform: number): number {
  let best = 0;
  for (let i = 1; i < logits.length; i++) if (logits[i]! > logits[best]!) best = i;
  if (temperature === 0) return best;
  const weights = new Float64Array(logits.length);
  let total = 0;
  for (let i = 0; i < logits.length; i++) {
    total += weights[i] = Math.exp((logits[i]! - logits[best]!) / temperature);
  }
  // Sorting a whole vocabulary takes longer than the model does, and the likeliest few nearly always hold enough.
  for (let least = LEAST_WEIGHT;; least = least ** 2 * LEAST_WEIGHT) {
    const candidates: number[] = [];
    for (let i = 0; i < weights.length; i++) if (!(weights[i]! < least)) candidates.push(i);
    const all = candidates.length === weights.length;
    const chosen = drawFrom(
      candidates.sort((a, b) => weights[b]! - weights[a]!),
      weights,
      { wanted: topP * total, total, all },
      uniform,
    );
    if (chosen !== undefined) return chosen;
  }
}

/** Weight, relative to the likeliest token's, from which tokens are looked at first. */
const LEAST_WEIGHT = 1e-3;

/**
 * Draws from the first of the sorted `order` that weigh `wanted` together.
 * @returns undefined if they are not enough to tell, which can only be where they are not `all`
 */
function drawFrom(
  order: readonly number[],
  weights: Float64Array,
  { wanted, total, all }: { wanted: number; total: number; all: boolean },
  uniform: number,
): number | undefined {
  let kept = 0, mass = 0;
  while (kept < order.length && (kept === 0 || mass < wanted)) mass += weights[order[kept++]!]!;
  // With topP = 1 every token is kept, and what they weigh is known without sorting them.
  const whole = !all && mass < wanted;
  if (whole && wanted < total) return undefined;
  let left = uniform * (whole ? total : mass);
  for (let i = 0; i < kept; i++) {
    left -= weights[order[i]!]!;
    if (left < 0) return order[i]!;
  }
  return whole ? undefined : order[kept - 1]!;
}

/**
 * Yields tokens that follow a prompt, up to `count` of them or until the end of a document (token 0).
 * @param prompt read first; where it is empty, the end-of-document token is
 * @param uniform gives numbers in [0, 1)
 */
export async function* generateTokens(
  session: Session,
  prompt: ArrayLike<number>,
  options: { count: number; sampling: Sampling; uniform: () => number },
): AsyncGenerator<number> {
  let logits = await session.feed(prompt.length ? prompt : [0]);
  for (let i = 0; i < options.count; i++) {
    const token = sample(logits, options.sampling, options.uniform());
    if (token === 0) return;
    yield token;
    if (i + 1 < options.count) logits = await session.feed([token]);
  }
}
