/**
 * Counts the pages of a stream by kind, block by block, and the passes over memory that they come in.
 *
 * A source goes through its blocks in the order in which it announced them, and through each from its first page on; so a
 * place before the last one begins another pass. In postcopy pages come as they are asked for, and nothing is a pass.
 *
 * A bit for each page of RAM is all that this keeps.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from '../wire/ram-record.ts';

export const PAGE_KINDS = ['normal', 'zero', 'xbzrle'] as const;
export type PageKind = (typeof PAGE_KINDS)[number];

export interface PageCounts {
  /** Pages with their content. */
  normal: number;
  zero: number;
  /** Deltas to what the page was. */
  xbzrle: number;
  /** How many of all these were of a page that had come before. */
  again: number;
}

/** More is not announced by a machine that exists; the bits of so much take 512 MiB. */
export const MAX_RAM_BYTES = 16 * 2 ** 40;

export function noPages(): PageCounts {
  return { normal: 0, zero: 0, xbzrle: 0, again: 0 };
}

export class PageCensus {
  /** By block, in their order. */
  readonly counts: PageCounts[] = [];
  readonly total: PageCounts = noPages();
  /** Counted as well, whatever the block; for whoever wants a part of the stream. */
  part: PageCounts = noPages();
  /** Passes begun; 0 before the first page. */
  passes = 0;
  isPostcopy = false;
  #blocks: readonly WireRamBlock[] = [];
  #seen: (PageBitmap | undefined)[] = [];
  #lastBlock = 0;
  #lastPage = Number.POSITIVE_INFINITY;

  /** The blocks of the stream, with lengths; those of a recovery that are not known have none and count no page twice. */
  setBlocks(blocks: readonly WireRamBlock[]): void {
    this.#blocks = blocks;
  }

  add(kind: PageKind, blockIndex: number, offset: number): void {
    const page = offset / TARGET_PAGE_BYTES;
    if (this.counts.length <= blockIndex) this.#makeRoom(blockIndex);
    const isAgain = this.#note(blockIndex, page);
    count(this.counts[blockIndex]!, kind, isAgain);
    count(this.total, kind, isAgain);
    count(this.part, kind, isAgain);
    const isBehind =
      blockIndex > this.#lastBlock || (blockIndex === this.#lastBlock && page > this.#lastPage);
    if (!isBehind && !this.isPostcopy) this.passes++;
    this.#lastBlock = blockIndex;
    this.#lastPage = page;
  }

  /** Pages of a block of a mapped-ram file. @param bitmap as it stands in the file: a clear bit is a zero page */
  addMapped(blockIndex: number, bitmap: Uint8Array, pageCount: number): void {
    while (this.counts.length <= blockIndex) this.counts.push(noPages());
    let normal = 0;
    for (let page = 0; page < pageCount; page++) normal += ((bitmap[page >> 3] ?? 0) >> (page & 7)) & 1;
    for (const counts of [this.counts[blockIndex]!, this.total]) {
      counts.normal += normal;
      counts.zero += pageCount - normal;
    }
  }

  #makeRoom(blockIndex: number): void {
    while (this.counts.length <= blockIndex) this.counts.push(noPages());
  }

  /** @returns whether the page had come before */
  #note(blockIndex: number, page: number): boolean {
    const lengthBytes = this.#blocks[blockIndex]?.lengthBytes ?? Number.POSITIVE_INFINITY;
    if (lengthBytes > MAX_RAM_BYTES) return false;
    this.#seen[blockIndex] ??= new PageBitmap(lengthBytes / TARGET_PAGE_BYTES);
    const seen = this.#seen[blockIndex]!;
    const mask = 1 << (page & 31);
    const word = seen.words[page >>> 5]!;
    seen.words[page >>> 5] = word | mask;
    return (word & mask) !== 0;
  }
}

function count(counts: PageCounts, kind: PageKind, isAgain: boolean): void {
  counts[kind]++;
  if (isAgain) counts.again++;
}
