/**
 * An order in which postcopy pushes pages: those that a guest is known to touch first.
 *
 * A page that has been sent already, because it was asked for, is passed over. One that cannot be read yet holds the order
 * up until it can: meanwhile pages are pushed as they stand in memory.
 */
import type { DirtyPages } from './dirty-pages.ts';

/** Pages that follow each other in a block. */
export interface PageRun {
  /** Index of the block. */
  readonly block: number;
  readonly firstPage: number;
  readonly pageCount: number;
}

export class PushOrder {
  readonly #runs: readonly PageRun[];
  readonly #pages: DirtyPages;
  #run = 0;
  #index = 0;

  /** @param runs blocks and pages that are not there are passed over: an order is advice */
  constructor(runs: readonly PageRun[], pages: DirtyPages) {
    this.#runs = runs;
    this.#pages = pages;
  }

  /** The page that `seek` came to. */
  get block(): number {
    return this.#runs[this.#run]?.block ?? -1;
  }

  get page(): number {
    return (this.#runs[this.#run]?.firstPage ?? -1) + this.#index;
  }

  /** Goes on to the next page that has not been sent. @returns false at the end of the order, or if it is held up */
  seek(): boolean {
    for (let run = this.#runs[this.#run]; run !== undefined; run = this.#runs[this.#run]) {
      const page = this.#pages.nextDirty(run.block, run.firstPage + this.#index);
      if (page >= 0 && page < run.firstPage + run.pageCount) {
        this.#index = page - run.firstPage;
        return this.#pages.isAvailable(run.block, page);
      }
      this.#run++;
      this.#index = 0;
    }
    return false;
  }
}
