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
  const weights = Float64Array.from(logits, (x) => Math.exp((x - logits[best]!) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  const order = Uint32Array.from(weights.keys()).sort((a, b) => weights[b]! - weights[a]!);
  let kept = 0, mass = 0;
  while (kept < order.length && (kept === 0 || mass < topP * total)) mass += weights[order[kept++]!]!;
  let left = uniform * mass;
  for (let i = 0; i < kept; i++) {
    left -= weights[order[i]!]!;
    if (left < 0) return order[i]!;
  }
  return order[kept - 1]!;
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
