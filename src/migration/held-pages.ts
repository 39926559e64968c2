/**
 * What the destination of an interrupted postcopy says it has: a bitmap of each block, asked for with RECV_BITMAP.
 *
 * Nothing is believed of a part of them: only when all have come are they taken for what is still to be sent. A page that
 * never left this source cannot be at its destination; who claims one is not the destination of this migration.
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { SectionType } from '../wire/sections.ts';
import { StreamError, type StreamErrorCode } from '../wire/stream-error.ts';
import type { DirtyPages } from './dirty-pages.ts';

/** What the stream of a recovery begins with, unlike that of a migration: a command. */
export const RECOVERY_FIRST_BYTE = SectionType.COMMAND;

export class HeldPages {
  readonly #blocks: readonly RamBlockLayout[];
  readonly #pages: DirtyPages;
  readonly #held: (PageBitmap | undefined)[];

  constructor(blocks: readonly RamBlockLayout[], pages: DirtyPages) {
    this.#blocks = blocks;
    this.#pages = pages;
    this.#held = blocks.map(() => undefined);
  }

  /** The bitmap of each block, once all have come. */
  get bitmaps(): readonly PageBitmap[] | undefined {
    return this.#held.every((bitmap) => bitmap !== undefined) ? this.#held : undefined;
  }

  /** Bytes on the wire of a bitmap of the longest block. */
  static maxBytes(blocks: readonly RamBlockLayout[]): number {
    return Math.max(...blocks.map(sizeBytes));
  }

  /**
   * @param at stream byte of the return path, for the error
   * @throws {StreamError} `UNKNOWN_BLOCK`, `BAD_MESSAGE` if it came before, `BAD_LENGTH`, `BAD_VALUE`
   */
  take(idstr: string, bytes: Uint8Array, at: number): void {
    const refuse = (code: StreamErrorCode, why: string) =>
      new StreamError(code, `Cannot recover by the bitmap of "${idstr}": ${why}`, at, 'return path');
    const index = this.#blocks.findIndex((candidate) => candidate.idstr === idstr);
    const block = this.#blocks[index];
    if (block === undefined) throw refuse('UNKNOWN_BLOCK', 'there is no such block');
    if (this.#held[index] !== undefined) throw refuse('BAD_MESSAGE', 'it came twice');
    if (bytes.length !== sizeBytes(block)) {
      throw refuse('BAD_LENGTH', `it must take ${sizeBytes(block)} bytes, got ${bytes.length}`);
    }
    const held = PageBitmap.fromBytes(block.lengthBytes / TARGET_PAGE_BYTES, bytes);
    const page = this.#pages.firstDirtyOf(index, held);
    if (page >= 0) {
      const why = `it has the page at ${page * TARGET_PAGE_BYTES}, which never left here`;
      throw refuse('BAD_VALUE', `${why}; this is the destination of another migration`);
    }
    this.#held[index] = held;
  }
}

/** A bit for each page, in whole words of 8 bytes. */
function sizeBytes({ lengthBytes }: RamBlockLayout): number {
  return Math.ceil(lengthBytes / TARGET_PAGE_BYTES / 64) * 8;
}
