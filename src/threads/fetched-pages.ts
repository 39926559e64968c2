/**
 * Where fetched pages are, for the thread that brings them and the one that sends them on.
 *
 * Every page has its place in the cache file. What cannot be written there, because the disk is full or there is no cache,
 * goes to a file in memory at the same place, and leaves it as soon as it is sent.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';

/** What the threads share. */
export interface FetchedPagesData {
  /** The cache file, or the file in memory if there is no cache. */
  readonly pagesFd: number;
  readonly overflowFd: number;
  /** Words of a bitmap per block: the pages that can be read. */
  readonly availableWords: readonly Int32Array[];
  /** Words of a bitmap per block: those of them that are in memory. */
  readonly overflowWords: readonly Int32Array[];
  /** How many pages have left memory again, and whether the bringing thread waits for that. */
  readonly taken: Int32Array;
  /** Wakes the bringing thread. */
  readonly fetcherWakeFd: number;
}

/** Index into `taken`. */
export const TakenWord = { COUNT: 0, IS_AWAITED: 1 } as const;

/** Memory for the data, all pages still to come but those without content. */
export function allocateFetchedPages(
  blocks: readonly RamBlockLayout[],
  content: readonly PageBitmap[],
): Pick<FetchedPagesData, 'availableWords' | 'overflowWords' | 'taken'> {
  const empty = () => blocks.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES));
  const available = empty();
  available.forEach(({ words }, block) => {
    words.set((content[block] as PageBitmap).complement().words);
  });
  return {
    availableWords: available.map(({ words }) => words),
    overflowWords: empty().map(({ words }) => words),
    taken: new Int32Array(new SharedArrayBuffer(8)),
  };
}

/** Bitmaps of words that the other thread has made. */
export function bitmapsOf(blocks: readonly RamBlockLayout[], words: readonly Int32Array[]): PageBitmap[] {
  return blocks.map(
    ({ lengthBytes }, block) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES, words[block]),
  );
}
