/**
 * Which pages the destination does not have in their latest form, and which comes next.
 *
 * The scan goes round: from where it stands to the end of the last block, which ends a pass, and again from the start.
 * In postcopy it is moved behind each requested page, so that the page's neighbours follow.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { DirtyTracker, SourceMemory } from './source-ports.ts';

export class DirtyPages {
  /** Where the scan stands; `block` equals the block count at the end of a pass. */
  readonly cursor = { block: 0, page: 0 };
  readonly #memory: SourceMemory;
  readonly #tracker: DirtyTracker;
  readonly #dirty: readonly PageBitmap[];
  /** What the tracker reported last; kept to avoid allocation. */
  readonly #fresh: readonly PageBitmap[];
  /** Pages that may hold something; the others are zero and need not be read. */
  readonly #touched: readonly PageBitmap[];
  /** Pages that can be sent; undefined if all can. */
  readonly #available: readonly PageBitmap[] | undefined;
  #count = 0;

  /**
   * @param dirty a clear bitmap per block, perhaps shared with a thread that shows it
   * @param available a bitmap per block in which another thread sets pages as they can be read; all can if not given
   */
  constructor(
    memory: SourceMemory,
    tracker: DirtyTracker,
    dirty: readonly PageBitmap[],
    available?: readonly PageBitmap[],
  ) {
    this.#memory = memory;
    this.#tracker = tracker;
    this.#dirty = dirty;
    this.#available = available;
    this.#fresh = dirty.map(({ pageCount }) => new PageBitmap(pageCount));
    this.#touched = dirty.map(({ pageCount }) => new PageBitmap(pageCount));
  }

  get count(): number {
    return this.#count;
  }

  get remainingBytes(): number {
    return this.#count * TARGET_PAGE_BYTES;
  }

  /** Begins: every page is to be sent once. @param isOnlyTouched pages that are surely zero are known already */
  start(isOnlyTouched = false): void {
    this.#tracker.start(this.#touched);
    this.#dirty.forEach((bitmap, block) => {
      if (isOnlyTouched) bitmap.addAll(this.#touched[block] as PageBitmap);
      else bitmap.setRange(0, bitmap.pageCount);
    });
    this.#recount();
  }

  /** In place of `start`: goes by bitmaps that another has kept before, of a guest that stands still. */
  adopt(): void {
    // Which pages were never touched nobody knows any more: they are looked at.
    for (const touched of this.#touched) touched.setRange(0, touched.pageCount);
    this.#recount();
  }

  /**
   * Takes in what the guest has written since the last time.
   *
   * @returns how many pages that were
   */
  sync(): number {
    for (const bitmap of this.#fresh) bitmap.clearRange(0, bitmap.pageCount);
    this.#tracker.sync(this.#fresh);
    let freshPages = 0;
    this.#fresh.forEach((fresh, block) => {
      freshPages += fresh.count();
      this.#touched[block]?.addAll(fresh);
      this.#dirty[block]?.addAll(fresh);
    });
    this.#recount();
    return freshPages;
  }

  /** @returns the first dirty page of a block at or after `from` and before `end`, or -1 */
  nextDirty(block: number, from: number, end?: number): number {
    return this.#dirty[block]?.nextSet(from, end) ?? -1;
  }

  /** @returns the first dirty page of a block at or after `from` that can be sent now, or -1 */
  nextSendable(block: number, from: number): number {
    const dirty = this.#dirty[block];
    const available = this.#available?.[block];
    if (dirty === undefined) return -1;
    return available === undefined ? dirty.nextSet(from) : dirty.nextSetInBoth(available, from);
  }

  isAvailable(block: number, page: number): boolean {
    return this.#available?.[block]?.isSet(page) ?? true;
  }

  /** The page's present content goes out now: it is clean until it is written again. */
  markSent(block: number, page: number): void {
    this.#dirty[block]?.clear(page);
    this.#count--;
  }

  /** Moves the cursor to the next page that can be sent. @returns false at the end of the pass */
  seek(): boolean {
    const cursor = this.cursor;
    while (cursor.block < this.#dirty.length) {
      const page = this.nextSendable(cursor.block, cursor.page);
      if (page >= 0) {
        cursor.page = page;
        return true;
      }
      cursor.block++;
      cursor.page = 0;
    }
    return false;
  }

  /** Sets the scan to a place; without arguments, to the start. */
  moveTo(block = 0, page = 0): void {
    this.cursor.block = block;
    this.cursor.page = page;
  }

  /** @returns the first dirty page of a block that is set in `other`, or -1 */
  firstDirtyOf(block: number, other: PageBitmap): number {
    return this.#dirty[block]?.nextSetInBoth(other, 0) ?? -1;
  }

  /** What the destination has is known: everything else is to be sent, however often it was before. */
  becomeAllBut(held: readonly PageBitmap[]): void {
    this.#dirty.forEach((bitmap, block) => {
      bitmap.clearRange(0, bitmap.pageCount);
      bitmap.addAll((held[block] as PageBitmap).complement());
    });
    this.moveTo();
    this.#recount();
  }

  isZero(block: number, page: number): boolean {
    if (!(this.#touched[block] as PageBitmap).isSet(page)) return true;
    return this.#memory.isZeroPage(block, page * TARGET_PAGE_BYTES);
  }

  forEachDirtyRun(onRun: (block: number, firstPage: number, pageCount: number) => void): void {
    this.#dirty.forEach((bitmap, block) => {
      bitmap.forEachRun((firstPage, pageCount) => onRun(block, firstPage, pageCount));
    });
  }

  stop(): void {
    this.#tracker.stop();
  }

  #recount(): void {
    this.#count = this.#dirty.reduce((sum, bitmap) => sum + bitmap.count(), 0);
  }
}
