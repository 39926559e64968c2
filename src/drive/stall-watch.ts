/**
 * Notices that nothing moves any more: a network can be dead without either side being told.
 */

/** Without a byte sent for so long, something is wrong. */
export const STALL_MS = 30_000;

export class StallWatch {
  #transferredBytes: number | undefined;
  #sinceMs = 0;
  #isTold = false;

  /**
   * Takes what has been sent so far.
   *
   * @returns whether nothing has moved for `STALL_MS`; once for each time
   */
  note(transferredBytes: number, atMs: number): boolean {
    if (transferredBytes !== this.#transferredBytes) {
      this.#transferredBytes = transferredBytes;
      this.#sinceMs = atMs;
      this.#isTold = false;
    }
    if (this.#isTold || atMs - this.#sinceMs < STALL_MS) return false;
    this.#isTold = true;
    return true;
  }
}
