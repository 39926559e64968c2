/**
 * Guest memory that is being fetched: what a source sends of a snapshot on another host.
 *
 * Only pages that are available are read. Those in order are read ahead as far as they are available; those that went to
 * memory because there was no room on disk are dropped when they are read, since each is sent once.
 */
import { preadInto, punchHole } from '../linux/file-io.ts';
import { type Mapping, mapAnonymous } from '../linux/memory.ts';
import { signalEventfd } from '../linux/poll.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { MigrationError } from '../migration/migration-error.ts';
import type { SourceMemory } from '../migration/source-ports.ts';
import type { SnapshotBlock } from '../snapshot/snapshot.ts';
import { bitmapsOf, type FetchedPagesData, TakenWord } from './fetched-pages.ts';

const READ_AHEAD_PAGES = 64;

export class FetchedMemory implements SourceMemory {
  readonly blocks: readonly SnapshotBlock[];
  /** A bitmap per block of the pages that can be read; they become more. */
  readonly available: readonly PageBitmap[];
  readonly #overflow: readonly PageBitmap[];
  readonly #data: FetchedPagesData;
  readonly #window: Mapping = mapAnonymous(READ_AHEAD_PAGES * TARGET_PAGE_BYTES);
  #windowBlock = -1;
  #windowPage = 0;
  #windowPages = 0;

  constructor(data: FetchedPagesData, blocks: readonly SnapshotBlock[]) {
    this.#data = data;
    this.blocks = blocks;
    this.available = bitmapsOf(blocks, data.availableWords);
    this.#overflow = bitmapsOf(blocks, data.overflowWords);
  }

  /** @throws {MigrationError} if it cannot be read any more */
  copyPage(block: number, offset: number, target: Uint8Array, at: number): void {
    const page = offset / TARGET_PAGE_BYTES;
    if (this.#overflow[block]?.isSet(page)) this.#takeOverflow(block, page);
    else if (!this.#isInWindow(block, page)) this.#readAhead(block, page);
    const from = (page - this.#windowPage) * TARGET_PAGE_BYTES;
    target.set(this.#window.bytes.subarray(from, from + TARGET_PAGE_BYTES), at);
  }

  isZeroPage(block: number, offset: number): boolean {
    return !(this.blocks[block] as SnapshotBlock).hasContent.isSet(offset / TARGET_PAGE_BYTES);
  }

  close(): void {
    this.#window.unmap();
  }

  #isInWindow(block: number, page: number): boolean {
    const end = this.#windowPage + this.#windowPages;
    return block === this.#windowBlock && page >= this.#windowPage && page < end;
  }

  #readAhead(block: number, page: number): void {
    const isNext = block === this.#windowBlock && page === this.#windowPage + this.#windowPages;
    let pages = 1;
    // Whether a page is there must be known before it is read.
    if (isNext) while (pages < READ_AHEAD_PAGES && this.#isOnDisk(block, page + pages)) pages++;
    this.#read(this.#data.pagesFd, block, page, pages);
  }

  #isOnDisk(block: number, page: number): boolean {
    const { hasContent } = this.blocks[block] as SnapshotBlock;
    const isThere =
      page < hasContent.pageCount && hasContent.isSet(page) && this.available[block]?.isSet(page);
    return isThere === true && !this.#overflow[block]?.isSet(page);
  }

  #takeOverflow(block: number, page: number): void {
    const { overflowFd, taken, fetcherWakeFd } = this.#data;
    this.#read(overflowFd, block, page, 1);
    const fileOffset = (this.blocks[block] as SnapshotBlock).fileOffsetOf(page);
    punchHole(overflowFd, fileOffset, TARGET_PAGE_BYTES);
    Atomics.add(taken, TakenWord.COUNT, 1);
    if (Atomics.exchange(taken, TakenWord.IS_AWAITED, 0) === 1) signalEventfd(fetcherWakeFd);
  }

  #read(fd: number, block: number, page: number, pages: number): void {
    const wantedBytes = pages * TARGET_PAGE_BYTES;
    const fileOffset = (this.blocks[block] as SnapshotBlock).fileOffsetOf(page);
    this.#windowPages = 0;
    let readBytes: number;
    try {
      readBytes = preadInto(fd, this.#window.address, wantedBytes, fileOffset);
    } catch (error) {
      const text = `Fetched pages cannot be read: ${(error as Error).message}`;
      throw new MigrationError(text, { cause: error });
    }
    if (readBytes < wantedBytes) {
      throw new MigrationError('Fetched pages cannot be read: somebody has made the cache file shorter');
    }
    this.#windowBlock = block;
    this.#windowPage = page;
    this.#windowPages = pages;
  }
}
