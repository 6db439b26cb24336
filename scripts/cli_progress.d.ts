/**
 * The part of cli-progress that is used; the package has no types of its own.
 *
 * @module
 */

/** Options of a bar. */
export interface BarOptions {
  format: string;
  barsize?: number;
  barCompleteChar?: string;
  barIncompleteChar?: string;
  hideCursor?: boolean;
  fps?: number;
}

/** One bar, on stderr. */
export class SingleBar {
  constructor(options: BarOptions);
  start(total: number, value: number, payload: Readonly<Record<string, string>>): void;
  update(value: number, payload: Readonly<Record<string, string>>): void;
  stop(): void;
}

declare const cliProgress: { SingleBar: typeof SingleBar };
export default cliProgress;
