/**
 * What every reader of records gives.
 *
 * @module
 */

/** One record of a file. */
export interface Row {
  /** Where it is: `notes.jsonl:17`. */
  readonly place: string;
  /** Its content; undefined where there is none, as on a blank line. Throws a clause that follows the place. */
  read(): unknown;
}
