/**
 * Where the last content of each page stands in a stream, by block and page.
 *
 * Pages come several times in a stream; the last one counts, also if it says that the page is zero. Tables are in shared memory,
 * as a snapshot gives them to threads.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES, type WireRamBlock } from '../wire/ram-record.ts';
import type { SnapshotBlockData } from './snapshot.ts';

export class PageIndex {
  readonly #blocks: readonly WireRamBlock[];
  readonly #hasContent: readonly PageBitmap[];
  readonly #offsets: readonly Float64Array[];

  /** @throws {RangeError} if there is no room for the tables */
  constructor(blocks: readonly WireRamBlock[]) {
    this.#blocks = blocks;
    const pageCounts = blocks.map(({ lengthBytes }) => lengthBytes / TARGET_PAGE_BYTES);
    this.#hasContent = pageCounts.map((pageCount) => PageBitmap.shared(pageCount));
    this.#offsets = pageCounts.map((pageCount) => new Float64Array(new SharedArrayBuffer(pageCount * 8)));
  }

  /** @param fileOffset where the 4096 bytes stand */
  content(block: number, page: number, fileOffset: number): void {
    this.#hasContent[block]!.set(page);
    this.#offsets[block]![page] = fileOffset;
  }

  zero(block: number, page: number): void {
    this.#hasContent[block]!.clear(page);
  }

  /** What snapshots make of it. */
  blockData(): SnapshotBlockData[] {
    return this.#blocks.map(({ idstr, lengthBytes, pageSizeBytes }, index) => ({
      idstr,
      lengthBytes,
      pageSizeBytes,
      contentWords: this.#hasContent[index]!.words,
      offsets: this.#offsets[index]!,
    }));
  }
}
