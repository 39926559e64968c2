/**
 * Page requests at the source, in the order they came.
 *
 * A request names a range; pages of it that have been sent already are passed over when their turn comes, since they
 * are in the stream. The queue is bounded: a destination has one fault per vCPU under way, not thousands.
 */
import assert from 'node:assert/strict';
import { StreamError } from '../wire/stream-error.ts';

/** A peer that asks for more ranges than this at once is not asking for what its guest touches. */
export const MAX_QUEUED_REQUESTS = 65536;

export interface PageRequest {
  readonly block: number;
  /** The next page of the range to send. */
  page: number;
  readonly endPage: number;
  readonly queuedAtMs: number;
}

export class PageRequestQueue {
  #requests: PageRequest[] = [];
  /** Index of the first request that is still to be served; the array is cut now and then rather than shifted. */
  #head = 0;

  get isEmpty(): boolean {
    return this.#head === this.#requests.length;
  }

  /** @param at stream byte of the return path, for the error */
  push(block: number, firstPage: number, pageCount: number, nowMs: number, at: number): void {
    if (this.#requests.length - this.#head >= MAX_QUEUED_REQUESTS) {
      throw new StreamError('LIMIT', `Too many page requests: at most ${MAX_QUEUED_REQUESTS} may wait`, at);
    }
    this.#requests.push({ block, page: firstPage, endPage: firstPage + pageCount, queuedAtMs: nowMs });
  }

  /** The oldest request; only if there is one. */
  first(): PageRequest {
    const request = this.#requests[this.#head];
    assert(request !== undefined);
    return request;
  }

  /** The oldest request is served. */
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
