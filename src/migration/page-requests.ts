/**
 * Page requests at the destination: turns faults of the guest into messages to the source.
 *
 * Runs where faults are read, on a thread of its own, beside the engine that places pages: both share which pages were
 * received and when each was asked for. Each page is asked for once on a connection.
 */
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { ByteWriter } from '../wire/byte-writer.ts';
import { REQ_PAGES_MAX_BYTES, writeReqPages, writeReqPagesId } from '../wire/return-path.ts';

/**
 * When each page was asked for: microseconds modulo 2³², never 0; 0 for pages not asked for. Pages of all blocks in a row.
 */
export class RequestTimes {
  readonly words: Int32Array;
  readonly #firstPages: readonly number[];

  constructor(blocks: readonly RamBlockLayout[], words: Int32Array = RequestTimes.allocate(blocks)) {
    this.words = words;
    let firstPage = 0;
    this.#firstPages = blocks.map(({ lengthBytes }) => {
      firstPage += lengthBytes / TARGET_PAGE_BYTES;
      return firstPage - lengthBytes / TARGET_PAGE_BYTES;
    });
  }

  /** Memory that threads can share. */
  static allocate(blocks: readonly RamBlockLayout[]): Int32Array {
    const pages = blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes / TARGET_PAGE_BYTES, 0);
    return new Int32Array(new SharedArrayBuffer(pages * 4));
  }

  isRequested(block: number, page: number): boolean {
    return Atomics.load(this.words, (this.#firstPages[block] as number) + page) !== 0;
  }

  setRequested(block: number, page: number, nowUs: number): void {
    Atomics.store(this.words, (this.#firstPages[block] as number) + page, (nowUs | 0) === 0 ? 1 : nowUs | 0);
  }

  /** Calls back for every page of a block that was ever asked for. */
  forEachRequested(block: number, pageCount: number, onPage: (page: number) => void): void {
    for (let page = 0; page < pageCount; page++) if (this.isRequested(block, page)) onPage(page);
  }

  /** @returns microseconds since the page was asked for, or -1 if it was not */
  waitedUs(block: number, page: number, nowUs: number): number {
    const requestedAt = Atomics.load(this.words, (this.#firstPages[block] as number) + page);
    return requestedAt === 0 ? -1 : ((nowUs | 0) - requestedAt) >>> 0;
  }
}

/** What became of a fault. */
export type FaultOutcome = 'requested' | 'already-requested' | 'received';

export class PageRequests {
  readonly #blocks: readonly RamBlockLayout[];
  readonly #received: readonly PageBitmap[];
  readonly #times: RequestTimes;
  readonly #send: (message: Uint8Array) => void;
  readonly #buffer = new Uint8Array(REQ_PAGES_MAX_BYTES);
  readonly #writer = new ByteWriter(this.#buffer);
  /** The block that a REQ_PAGES without a name refers to. */
  #namedBlock = -1;

  /** @param send takes a whole message; its memory is used again for the next */
  constructor(
    blocks: readonly RamBlockLayout[],
    received: readonly PageBitmap[],
    times: RequestTimes,
    send: (message: Uint8Array) => void,
  ) {
    this.#blocks = blocks;
    this.#received = received;
    this.#times = times;
    this.#send = send;
  }

  /**
   * The guest touched a page that was missing when it did.
   *
   * @param offset anywhere in the page
   * @returns `received` if the page has come meanwhile: whoever waits may try again
   */
  fault(block: number, offset: number, nowUs: number): FaultOutcome {
    const { pageSizeBytes } = this.#blocks[block] as RamBlockLayout;
    const start = offset - (offset % pageSizeBytes);
    const page = start / TARGET_PAGE_BYTES;
    if ((this.#received[block] as PageBitmap).isSet(page)) return 'received';
    if (this.#times.isRequested(block, page)) return 'already-requested';
    this.#times.setRequested(block, page, nowUs);
    this.#request(block, start);
    return 'requested';
  }

  /**
   * There is a new connection, and what was asked for on the last one will not come: asks again for each page that has not.
   *
   * @returns how many
   */
  askAgain(): number {
    this.#namedBlock = -1;
    let count = 0;
    this.#blocks.forEach(({ lengthBytes }, block) => {
      const received = this.#received[block] as PageBitmap;
      this.#times.forEachRequested(block, lengthBytes / TARGET_PAGE_BYTES, (page) => {
        if (received.isSet(page)) return;
        this.#request(block, page * TARGET_PAGE_BYTES);
        count++;
      });
    });
    return count;
  }

  #request(block: number, start: number): void {
    const { idstr, pageSizeBytes } = this.#blocks[block] as RamBlockLayout;
    this.#writer.position = 0;
    if (block === this.#namedBlock) writeReqPages(this.#writer, start, pageSizeBytes);
    else writeReqPagesId(this.#writer, start, pageSizeBytes, idstr);
    this.#namedBlock = block;
    this.#send(this.#writer.subarray());
  }
}
