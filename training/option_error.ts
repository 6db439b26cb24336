/**
 * What is said of options that do not fit, and how an option is called where it is typed.
 *
 * @module
 */

/** Options that do not fit each other: one sentence. */
export class OptionError extends Error {
  /** The class of the error. */
  override readonly name = "OptionError";
}

/** The flag of an option: ctxLen is --ctx_len. */
export function flag(option: string): string {
  return `--${option.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)}`;
}
