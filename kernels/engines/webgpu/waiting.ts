/**
 * What a device is being waited for, told before the wait: some providers let no timer run until it is over, so that only another
 * thread can see that it never is.
 *
 * @module
 */

/** What to try where a device has not enough memory, or is not quick enough for its driver. */
export const SMALLER = "try --grad_cp 1, a smaller --micro_bsz or --ctx_len, or --engine cpu";

let listener: (what: string) => void = () => {};

/** Says who is told; "" means that nothing is waited for any more. */
export function onWaiting(told: (what: string) => void): void {
  listener = told;
}

/** Tells it. */
export function tellWaiting(what: string): void {
  listener(what);
}
