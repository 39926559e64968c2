/**
 * Which pages of a snapshot elsewhere are to be asked for next: those that the guest waits for, then an order, then what
 * follows the place where the guest was last seen, and so round all memory.
 *
 * A page with content is in one of four states; a page without is there from the start:
 *
 *   missing ──▶ asked ──▶ available      asked: of the server, in this session
 *      │ ▲        │          ▲
 *      ▼ └────────┘          │           the session was lost
 *   elsewhere ───────────────┘           another process on this host has asked, and will bring it
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import type { PageRun } from './push-order.ts';

/** Who asks for a page, where several processes fetch the same snapshot. */
export interface PageClaims {
  /** @returns false if another process asks for the page, or has brought it */
  claim(block: number, page: number): boolean;
  /** The page that we have claimed will not be brought by us. */
  release(block: number, page: number): void;
  /** Whether nobody will bring the page that another process has claimed. */
  isAbandoned(block: number, page: number): boolean;
  /** @returns whether the page that another process has claimed is ours to ask for now */
  takeOver(block: number, page: number): boolean;
}

/** Claims of the only process. */
export const NO_CLAIMS: PageClaims = {
  claim: () => true,
  release: () => {},
  isAbandoned: () => false,
  takeOver: () => true,
};

export interface FetchPlanOptions {
  /** A bitmap per block of the pages that are not zero. */
  readonly content: readonly PageBitmap[];
  /** A bitmap per block of the pages that are here, shared with whoever reads them; set here as they come. */
  readonly available: readonly PageBitmap[];
  readonly claims: PageClaims;
  /** An order that is known to be good. */
  readonly first: readonly PageRun[];
}

export class FetchPlan {
  readonly #content: readonly PageBitmap[];
  readonly #available: readonly PageBitmap[];
  readonly #claims: PageClaims;
  readonly #first: readonly PageRun[];
  readonly #missing: readonly PageBitmap[];
  readonly #asked: readonly PageBitmap[];
  readonly #elsewhere: readonly PageBitmap[];
  readonly #cursor = { block: 0, page: 0 };
  #run = 0;
  #remainingPages = 0;
  #askedPages = 0;
  #elsewherePages = 0;

  constructor({ content, available, claims, first }: FetchPlanOptions) {
    this.#content = content;
    this.#available = available;
    this.#claims = claims;
    this.#first = first;
    const empty = () => content.map(({ pageCount }) => new PageBitmap(pageCount));
    this.#missing = empty();
    this.#asked = empty();
    this.#elsewhere = empty();
    this.#missing.forEach((missing, block) => {
      const here = (available[block] as PageBitmap).words;
      (content[block] as PageBitmap).words.forEach((word, index) => {
        missing.words[index] = word & ~(here[index] as number);
      });
      this.#remainingPages += missing.count();
    });
  }

  /** Pages with content that are not here. */
  get remainingPages(): number {
    return this.#remainingPages;
  }

  /** Of those, the ones that we have asked for. */
  get askedPages(): number {
    return this.#askedPages;
  }

  /** Of those, the ones that another process has asked for. */
  get elsewherePages(): number {
    return this.#elsewherePages;
  }

  /** The page is not here, and nobody has asked for it. */
  isMissing(block: number, page: number): boolean {
    return this.#missing[block]?.isSet(page) ?? false;
  }

  isAvailable(block: number, page: number): boolean {
    return this.#available[block]?.isSet(page) ?? true;
  }

  /**
   * The guest waits for a page that is not available; what follows it is next.
   *
   * @returns true if the page is asked for, now or before; false if it comes from elsewhere
   */
  demand(block: number, page: number): boolean {
    this.#cursor.block = block;
    this.#cursor.page = page + 1;
    if (this.#missing[block]?.isSet(page)) return this.#claim(block, page);
    return this.#asked[block]?.isSet(page) ?? false;
  }

  /**
   * The next range to ask for; its missing pages are taken for asked from now on. Zero pages within are not sent.
   *
   * @returns how many pages will come of it; undefined if all pages are here, asked for, or asked for elsewhere
   */
  next(maxPages: number): (PageRun & { readonly missingPages: number }) | undefined {
    return this.#nextInOrder(maxPages) ?? this.#nextInMemory(maxPages);
  }

  /** A page comes from the server; `setAvailable` when it can be read. @returns false if it was not asked for */
  take(block: number, page: number): boolean {
    if (!this.#asked[block]?.isSet(page)) return false;
    this.#asked[block]?.clear(page);
    this.#askedPages--;
    return true;
  }

  setAvailable(block: number, page: number): void {
    this.#available[block]?.setShared(page);
    this.#remainingPages--;
  }

  /**
   * Takes in what other processes have brought.
   *
   * @param present a bitmap per block that they set
   */
  takePresent(present: readonly PageBitmap[], onArrived: (block: number, page: number) => void): void {
    for (const bitmaps of [this.#missing, this.#elsewhere]) {
      bitmaps.forEach((bitmap, block) => {
        const there = present[block] as PageBitmap;
        for (let page = bitmap.nextSetInBoth(there, 0); page >= 0; page = bitmap.nextSetInBoth(there, page)) {
          bitmap.clear(page);
          if (bitmaps === this.#elsewhere) this.#elsewherePages--;
          this.setAvailable(block, page);
          onArrived(block, page);
        }
      });
    }
  }

  /** Pages that others have claimed and nobody will bring are missing again. @param areAll also the others' */
  reclaim(areAll: boolean): void {
    this.#elsewhere.forEach((bitmap, block) => {
      for (let page = bitmap.nextSet(0); page >= 0; page = bitmap.nextSet(page + 1)) {
        if (areAll || this.#claims.isAbandoned(block, page)) this.reclaimPage(block, page);
      }
    });
  }

  /** A page that another process has claimed becomes ours to ask for. @returns false if it cannot */
  reclaimPage(block: number, page: number): boolean {
    if (!this.#elsewhere[block]?.isSet(page) || !this.#claims.takeOver(block, page)) return false;
    // It stays claimed: asking for it claims it once more, which must not fail.
    this.#claims.release(block, page);
    this.#elsewhere[block]?.clear(page);
    this.#elsewherePages--;
    this.#missing[block]?.set(page);
    return true;
  }

  /** Nothing more comes of what was asked for: it is missing again, and anyone's to ask for. */
  sessionLost(): void {
    this.#asked.forEach((bitmap, block) => {
      for (let page = bitmap.nextSet(0); page >= 0; page = bitmap.nextSet(page + 1)) {
        bitmap.clear(page);
        this.#missing[block]?.set(page);
        this.#claims.release(block, page);
      }
    });
    this.#askedPages = 0;
  }

  /** @returns whether the missing page is asked for now; else it comes from elsewhere */
  #claim(block: number, page: number): boolean {
    this.#missing[block]?.clear(page);
    const isOurs = this.#claims.claim(block, page);
    (isOurs ? this.#asked : this.#elsewhere)[block]?.set(page);
    if (isOurs) this.#askedPages++;
    else this.#elsewherePages++;
    return isOurs;
  }

  #nextInOrder(maxPages: number): ReturnType<FetchPlan['next']> {
    for (let run = this.#first[this.#run]; run !== undefined; run = this.#first[++this.#run]) {
      const found = this.#take(run.block, run.firstPage, run.firstPage + run.pageCount, maxPages);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  #nextInMemory(maxPages: number): ReturnType<FetchPlan['next']> {
    const cursor = this.#cursor;
    // One round, and the part of the first block that is before the cursor.
    for (let step = 0; step <= this.#missing.length; step++) {
      const found = this.#take(cursor.block, cursor.page, Number.POSITIVE_INFINITY, maxPages);
      if (found !== undefined) {
        cursor.page = found.firstPage + found.pageCount;
        return found;
      }
      cursor.block = (cursor.block + 1) % this.#missing.length;
      cursor.page = 0;
    }
    return undefined;
  }

  /** The first missing page that can be claimed, and what can be asked for together with it. */
  #take(block: number, from: number, limit: number, maxPages: number): ReturnType<FetchPlan['next']> {
    const missing = this.#missing[block];
    const content = this.#content[block];
    if (missing === undefined || content === undefined) return undefined;
    const end = Math.min(limit, missing.pageCount);
    let firstPage = missing.nextSet(from, end);
    while (firstPage >= 0 && !this.#claim(block, firstPage)) firstPage = missing.nextSet(firstPage + 1, end);
    if (firstPage < 0) return undefined;
    let missingPages = 1;
    let endPage = firstPage + 1;
    for (let page = endPage; page < Math.min(end, firstPage + maxPages); page++) {
      if (missing.isSet(page) && this.#claim(block, page)) {
        missingPages++;
        endPage = page + 1;
      } else if (content.isSet(page)) break; // The server would send it, and it is here or comes from elsewhere.
    }
    return { block, firstPage, pageCount: endPage - firstPage, missingPages };
  }
}
