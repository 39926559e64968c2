/**
 * Pages that the destination asks for and that cannot be read yet: kept aside until they have come.
 */
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { checkWaitingRequests } from './page-request-queue.ts';

/** Above any block number; a block has fewer than 2³² pages. */
const PAGES_PER_BLOCK = 2 ** 32;

export class AwaitedPages {
  readonly #available: readonly PageBitmap[];
  /** When each was asked for first, by block and page. */
  readonly #askedAtMs = new Map<number, number>();

  /** @param available a bitmap per block in which another thread sets pages as they can be read */
  constructor(available: readonly PageBitmap[]) {
    this.#available = available;
  }

  get count(): number {
    return this.#askedAtMs.size;
  }

  /**
   * @param queued how many requests wait besides, which arrived pages become
   * @param at stream byte of the return path, for the error
   * @returns false if the page can be read; it is not kept then
   * @throws {StreamError} `LIMIT`
   */
  add(block: number, page: number, nowMs: number, queued: number, at: number): boolean {
    if (this.#available[block]?.isSet(page)) return false;
    const key = block * PAGES_PER_BLOCK + page;
    if (this.#askedAtMs.has(key)) return true;
    checkWaitingRequests(this.#askedAtMs.size + queued, at);
    this.#askedAtMs.set(key, nowMs);
    return true;
  }

  /** Takes out the pages that have come, in the order they were asked for. */
  takeArrived(onArrived: (block: number, page: number, askedAtMs: number) => void): void {
    for (const [key, askedAtMs] of this.#askedAtMs) {
      const block = Math.floor(key / PAGES_PER_BLOCK);
      const page = key % PAGES_PER_BLOCK;
      if (!this.#available[block]?.isSet(page)) continue;
      this.#askedAtMs.delete(key);
      onArrived(block, page, askedAtMs);
    }
  }
}
