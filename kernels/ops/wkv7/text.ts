/**
 * Statements written once for each of several indexes, so that what they index stays in registers.
 *
 * @module
 */

/** The lines for 0 to `count`. */
export function times(count: number, line: (i: number) => string, between = "\n"): string {
  return Array.from({ length: count }, (_, i) => line(i)).join(between);
}
