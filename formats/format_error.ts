/**
 * The one error of the readers: a file that is not what it should be.
 *
 * @module
 */

/** A file that is malformed, unsafe or of an unsupported kind. The message is one sentence for the user. */
export class FormatError extends Error {
  /** The class name. */
  override readonly name = "FormatError";
  /** The file at fault. */
  readonly path: string;
  /** What is wrong with it and where, as a clause. */
  readonly reason: string;

  /**
   * Puts the clauses together.
   *
   * @param path the file at fault
   * @param reason what is wrong and where, as a clause: `header is 12 bytes past the end of the file`
   * @param remedy what the user can do, as an imperative clause
   */
  constructor(path: string, reason: string, remedy = "download or save the file again") {
    super(`Cannot read "${path}": ${reason}; ${remedy}`);
    this.path = path;
    this.reason = reason;
  }
}
