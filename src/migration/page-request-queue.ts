/**
 * Page requests at the source: single pages first, in the order they came, and then ranges.
 *
 * A guest waits for a single page. Ranges are read ahead by a destination that fetches its memory by itself; they give way
 * also when one is half served. Pages that have been sent already are passed over when their turn comes, since they are in
 * the stream. The queue is bounded: a destination has one fault per vCPU under way, not thousands. So are all ranges of a
 * connection together: each is looked through for pages that have not been sent, and takes as long as it is.
 */
import assert from 'node:assert/strict';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { StreamError } from '../wire/stream-error.ts';

/** A peer that asks for more at once than this is not asking for what its guest touches. */
export const MAX_QUEUED_REQUESTS = 65536;

/** All ranges of a connection may name so many times the pages that there are: who reads ahead names each page once. */
export const MAX_RANGE_ROUNDS = 4;

export interface PageRequest {
  readonly block: number;
  /** The next page of the range to send. */
  page: number;
  readonly endPage: number;
  readonly queuedAtMs: number;
  /** More than a guest waits for at once. */
  readonly isRange: boolean;
}

/**
 * The pages that a REQ_PAGES names.
 *
 * @param at stream byte of the return path, for the error
 * @throws {StreamError} `UNKNOWN_BLOCK`, `OUT_OF_RANGE`
 */
export function locateRequest(
  blocks: readonly RamBlockLayout[],
  request: { readonly idstr: string; readonly start: number; readonly lengthBytes: number },
  at: number,
): { block: number; firstPage: number; pageCount: number } {
  const { idstr, start, lengthBytes } = request;
  const refuse = (code: 'UNKNOWN_BLOCK' | 'OUT_OF_RANGE', why: string) => {
    const what = `Cannot serve a request for ${lengthBytes} bytes at ${start} of "${idstr}": ${why}`;
    return new StreamError(code, what, at, 'return path');
  };
  const block = blocks.findIndex((candidate) => candidate.idstr === idstr);
  const blockBytes = blocks[block]?.lengthBytes;
  if (blockBytes === undefined) throw refuse('UNKNOWN_BLOCK', 'there is no such block');
  if (start % TARGET_PAGE_BYTES !== 0 || lengthBytes % TARGET_PAGE_BYTES !== 0 || lengthBytes === 0) {
    throw refuse('OUT_OF_RANGE', `both must be multiples of ${TARGET_PAGE_BYTES}`);
  }
  if (start + lengthBytes > blockBytes) throw refuse('OUT_OF_RANGE', `the block ends at ${blockBytes}`);
  return { block, firstPage: start / TARGET_PAGE_BYTES, pageCount: lengthBytes / TARGET_PAGE_BYTES };
}

/**
 * One more request is to wait.
 *
 * @param waiting how many do
 * @throws {StreamError} `LIMIT`
 */
export function checkWaitingRequests(waiting: number, at: number): void {
  if (waiting < MAX_QUEUED_REQUESTS) return;
  const what = `Too many page requests: at most ${MAX_QUEUED_REQUESTS} may wait`;
  throw new StreamError('LIMIT', what, at, 'return path');
}

/** What the ranges of a connection may name together. */
export class RangeAllowance {
  readonly #mostPages: number;
  #pages = 0;

  /** @param pageCount of all blocks */
  constructor(pageCount: number) {
    this.#mostPages = pageCount * MAX_RANGE_ROUNDS;
  }

  /** There is another connection: what was asked for on the last may be asked for again. */
  renew(): void {
    this.#pages = 0;
  }

  /** @param at stream byte of the return path, for the error. @throws {StreamError} `LIMIT` */
  spend(pageCount: number, at: number): void {
    this.#pages += pageCount;
    if (this.#pages <= this.#mostPages) return;
    const what = `Too many pages are asked for in ranges: at most ${this.#mostPages}, each of them ${MAX_RANGE_ROUNDS} times`;
    throw new StreamError('LIMIT', what, at, 'return path');
  }
}

export class PageRequestQueue {
  readonly #pages = new Queue();
  readonly #ranges = new Queue();

  get length(): number {
    return this.#pages.length + this.#ranges.length;
  }

  get isEmpty(): boolean {
    return this.length === 0;
  }

  /** @param at stream byte of the return path, for the error. @throws {StreamError} `LIMIT` */
  push(block: number, firstPage: number, pageCount: number, nowMs: number, at: number): void {
    checkWaitingRequests(this.length, at);
    const isRange = pageCount > 1;
    const request = { block, page: firstPage, endPage: firstPage + pageCount, queuedAtMs: nowMs, isRange };
    (isRange ? this.#ranges : this.#pages).push(request);
  }

  /** Nobody waits for them any more, or will ask again. */
  clear(): void {
    this.#pages.clear();
    this.#ranges.clear();
  }

  /** The request to serve next; only if there is one. */
  first(): PageRequest {
    return (this.#pages.length > 0 ? this.#pages : this.#ranges).first();
  }

  /** The request that `first` gives is served. */
  removeFirst(): void {
    (this.#pages.length > 0 ? this.#pages : this.#ranges).removeFirst();
  }
}

class Queue {
  #requests: PageRequest[] = [];
  /** Index of the first request that is still to be served; the array is cut now and then rather than shifted. */
  #head = 0;

  get length(): number {
    return this.#requests.length - this.#head;
  }

  push(request: PageRequest): void {
    this.#requests.push(request);
  }

  clear(): void {
    this.#requests.length = 0;
    this.#head = 0;
  }

  first(): PageRequest {
    const request = this.#requests[this.#head];
    assert(request !== undefined);
    return request;
  }

  removeFirst(): void {
    this.#head++;
    if (this.#head === this.#requests.length) {
      this.#requests.length = 0;
      this.#head = 0;
    } else if (this.#head > 1024) {
      this.#requests = this.#requests.slice(this.#head);
      this.#head = 0;
    }
  }
}
