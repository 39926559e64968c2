/**
 * Fetches the memory of a snapshot from a server, page by page, as a state machine without I/O.
 *
 * Whoever drives it owns the connection and the store that the pages go to. Sessions may come and go: what was under way
 * when one is lost is asked for again in the next, what the guest waits for first.
 *
 *   beginSession, free, received, sessionLost     the connection
 *   setStore                                      answers `identified`, once
 *   demand                                        the guest waits for a page
 *   tick                                          asks for more; due at `wakeAtMs`, and after any other input
 */
import { PageBitmap } from '../memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { BulkWindow } from './bulk-window.ts';
import { FetchPlan, type PageClaims } from './fetch-plan.ts';
import { LatencyRecorder } from './latency-recorder.ts';
import { MigrationError } from './migration-error.ts';
import type { LatencySummary } from './migration-info.ts';
import { type PulledSnapshot, PullSession } from './pull-session.ts';
import type { PageRun } from './push-order.ts';
import { RateLimiter } from './rate-limiter.ts';

/** The shortest and the longest range that is asked for at once. */
const MIN_RANGE_PAGES = 8;
const MAX_RANGE_PAGES = 64;
/** Of the window, a range may be so much: two at least are always under way. */
const RANGE_SHARE = 1 / 4;

/** A server that owes us something and says nothing for so long is taken for lost. */
export const SILENT_MS = 60_000;

/** How often it is looked what other processes have brought, while the guest waits for some of it and while not. */
const DEMAND_POLL_MS = 1;
const BULK_POLL_MS = 20;
/** How often it is looked whether those who promised it are still there. */
const ABANDONED_POLL_MS = 250;
/** So long a promise is trusted: for a page that the guest waits for, and for all others once nothing else is left. */
const DEMAND_PATIENCE_MS = 1000;
const BULK_PATIENCE_MS = 10_000;

/** Above any block number; a block has fewer than 2³² pages. */
const PAGES_PER_BLOCK = 2 ** 32;

/** Where pages go to. */
export interface FetchStore {
  /** A bitmap per block of the pages that are here; the fetcher sets them. */
  readonly available: readonly PageBitmap[];
  readonly claims: PageClaims;
  /** A bitmap per block of what any process on this host has brought; undefined if there can be no other. */
  readonly present: readonly PageBitmap[] | undefined;
  /** Takes a page out of the buffer, at once or at the next `flush`. @param position -1 for a page of zeros */
  writePage(block: number, page: number, position: number): void;
  /** What was taken can be read from now on. */
  flush(): void;
  /** There is no room for pages that nobody waits for. */
  readonly isFull: boolean;
}

export interface FetcherEffects {
  /** The first session knows the snapshot; answered by `setStore`. */
  identified(snapshot: PulledSnapshot): void;
  /** Another session goes on where one was lost. */
  resumed(): void;
  /** More pages are available, or one that was asked for was already. */
  pagesArrived(): void;
  send(message: Uint8Array): void;
}

/** What was fetched, in pages. */
export interface FetchInfo {
  /** With content, in the snapshot. */
  readonly 'content-pages': number;
  /** That were here before. */
  readonly 'cached-pages': number;
  /** That other processes brought meanwhile. */
  readonly 'shared-pages': number;
  /** From the server, because the guest waited for them, and ahead of it. */
  readonly 'demanded-pages': number;
  readonly 'read-ahead-pages': number;
  readonly 'received-bytes': number;
  readonly sessions: number;
  /** From being asked for by the guest's machine until it is here; of pages that were not. */
  readonly 'latency-us'?: LatencySummary;
}

export class Fetcher {
  readonly #buffer: Uint8Array;
  readonly #effects: FetcherEffects;
  readonly #window = new BulkWindow();
  readonly #limiter = new RateLimiter();
  readonly #latency = new LatencyRecorder();
  /** Pages that the guest waits for, and since when; by block and page. */
  readonly #waiting = new Map<number, number>();
  /** Ranges under way: up to which count of pages, and when each was asked for. */
  readonly #ranges: { readonly endPages: number; readonly atMs: number }[] = [];
  /** Pages that were asked for in ranges, and those of them that have come. */
  #rangedPages = 0;
  #arrivedRangedPages = 0;
  #ranged: readonly PageBitmap[] = [];
  #session: PullSession | undefined;
  #snapshot: PulledSnapshot | undefined;
  #store: FetchStore | undefined;
  #plan: FetchPlan | undefined;
  #batch: { readonly block: number; readonly page: number }[] = [];
  #heardAtMs = 0;
  #polledAtMs = 0;
  #abandonedAtMs = 0;
  /** When there was last something to do but to wait for other processes. */
  #patientSinceMs = 0;
  #contentPages = 0;
  #cachedPages = 0;
  #sharedPages = 0;
  #demandedPages = 0;
  #readAheadPages = 0;
  #receivedBytes = 0;
  #sessions = 0;

  /**
   * @param buffer to receive into, at least `MIN_STREAM_BUFFER_BYTES`
   * @param maxBytesPerSecond of what nobody waits for; 0 is no limit
   */
  constructor(buffer: Uint8Array, effects: FetcherEffects, maxBytesPerSecond = 0) {
    this.#buffer = buffer;
    this.#effects = effects;
    this.#limiter.setLimit(maxBytesPerSecond, 0);
  }

  /** Everything is here. */
  get isComplete(): boolean {
    return this.#plan?.remainingPages === 0;
  }

  /** Pages with content that are not here. */
  get remainingPages(): number {
    return this.#plan?.remainingPages ?? 0;
  }

  // ---- connection ------------------------------------------------------------------------------------------

  beginSession(nowMs: number): void {
    this.#heardAtMs = nowMs;
    this.#session = new PullSession(this.#buffer, {
      identified: (snapshot) => this.#identified(snapshot, nowMs),
      page: (block, page, position) => this.#page(block, page, position),
      send: (message) => this.#effects.send(message),
    });
  }

  /** Where to receive. */
  free(): Uint8Array {
    if (this.#session === undefined) throw new Error('there is no session');
    return this.#session.free();
  }

  /**
   * So much was received. The session is over if this throws, as if it were lost.
   *
   * @throws {StreamError} if there is no server of snapshots
   * @throws {MigrationError} if there is, of another snapshot
   */
  received(countBytes: number, nowMs: number): void {
    this.#heardAtMs = nowMs;
    this.#receivedBytes += countBytes;
    try {
      this.#session?.received(countBytes);
    } finally {
      this.#settleBatch(nowMs);
    }
  }

  /** The connection is gone. What other processes know to be asked for by us, they may ask for. */
  sessionLost(): void {
    this.#session = undefined;
    this.#plan?.sessionLost();
    this.#ranges.length = 0;
    for (const bitmap of this.#ranged) bitmap.clearRange(0, bitmap.pageCount);
    this.#arrivedRangedPages = this.#rangedPages;
    this.#window.open(this.#rangedPages * TARGET_PAGE_BYTES);
  }

  /** Tells the server that this is enough. */
  endSession(): void {
    this.#session?.end();
  }

  // ---- pages -----------------------------------------------------------------------------------------------

  /** @param first an order that is known to be good */
  setStore(store: FetchStore, first: readonly PageRun[]): void {
    const { content } = this.#snapshot as PulledSnapshot;
    this.#store = store;
    this.#plan = new FetchPlan({ content, first, available: store.available, claims: store.claims });
    this.#ranged = content.map(({ pageCount }) => new PageBitmap(pageCount));
    this.#contentPages = content.reduce((sum, bitmap) => sum + bitmap.count(), 0);
    this.#cachedPages = this.#contentPages - this.#plan.remainingPages;
  }

  /** The guest waits for a page. */
  demand(block: number, page: number, nowMs: number): void {
    const key = block * PAGES_PER_BLOCK + page;
    if (this.#waiting.has(key)) return;
    this.#waiting.set(key, nowMs);
    this.#askWaiting(block, page);
  }

  tick(nowMs: number): void {
    if (this.#store === undefined || this.#plan === undefined) return;
    if (this.#store.present !== undefined) this.#lookElsewhere(nowMs, this.#store.present, this.#plan);
    if (!this.#session?.isIdentified) return;
    while (this.#window.isOpen && !this.#store.isFull && this.#limiter.available(nowMs) > 0) {
      const range = this.#plan.next(this.#rangePages);
      if (range === undefined) return;
      this.#session.request(range);
      this.#rangedPages += range.missingPages;
      this.#ranged[range.block]?.setRange(range.firstPage, range.pageCount);
      this.#ranges.push({ endPages: this.#rangedPages, atMs: nowMs });
      this.#window.sent(this.#rangedPages * TARGET_PAGE_BYTES);
      this.#limiter.spend(range.missingPages * TARGET_PAGE_BYTES);
    }
  }

  /** When `tick` has something to do without any other input; Infinity if only an input can change that. */
  wakeAtMs(nowMs: number): number {
    const [plan, store] = [this.#plan, this.#store];
    let wakeAtMs = this.#silentAtMs;
    if (plan === undefined || store === undefined) return wakeAtMs;
    if (store.present !== undefined && plan.remainingPages > plan.askedPages) {
      wakeAtMs = Math.min(wakeAtMs, this.#polledAtMs + this.#pollMs);
    }
    const isAsking = this.#session?.isIdentified && this.#window.isOpen && !store.isFull;
    const isMissing = plan.remainingPages > plan.elsewherePages + plan.askedPages;
    if (isAsking && isMissing)
      wakeAtMs = Math.min(wakeAtMs, this.#limiter.readyAtMs(nowMs, TARGET_PAGE_BYTES));
    return wakeAtMs;
  }

  /** The server owes us something and is silent: the session should be given up. */
  isSilent(nowMs: number): boolean {
    return nowMs >= this.#silentAtMs;
  }

  info(): FetchInfo {
    const latency = this.#latency.summary();
    return {
      'content-pages': this.#contentPages,
      'cached-pages': this.#cachedPages,
      'shared-pages': this.#sharedPages,
      'demanded-pages': this.#demandedPages,
      'read-ahead-pages': this.#readAheadPages,
      'received-bytes': this.#receivedBytes,
      sessions: this.#sessions,
      ...(latency !== undefined && { 'latency-us': latency }),
    };
  }

  // ---- session ---------------------------------------------------------------------------------------------

  #identified(snapshot: PulledSnapshot, nowMs: number): void {
    this.#sessions++;
    if (this.#snapshot === undefined) {
      this.#snapshot = snapshot;
      this.#effects.identified(snapshot);
      return;
    }
    if (snapshot.digest !== this.#snapshot.digest) {
      throw new MigrationError(
        'The server has another snapshot now than the one this guest was started from',
      );
    }
    this.#effects.resumed();
    for (const key of this.#waiting.keys()) {
      this.#askWaiting(Math.floor(key / PAGES_PER_BLOCK), key % PAGES_PER_BLOCK);
    }
    this.tick(nowMs);
  }

  #page(block: number, page: number, position: number): boolean {
    if (!this.#plan?.take(block, page)) return false;
    this.#store?.writePage(block, page, position);
    this.#batch.push({ block, page });
    return true;
  }

  /** What came is in the store: only then it is available. */
  #settleBatch(nowMs: number): void {
    if (this.#batch.length === 0 || this.#plan === undefined) return;
    this.#store?.flush();
    for (const { block, page } of this.#batch) {
      this.#plan.setAvailable(block, page);
      if (this.#ranged[block]?.isSet(page)) this.#arrivedRangedPages++;
      this.#ranged[block]?.clear(page);
      if (this.#noLongerWaiting(block, page, nowMs)) this.#demandedPages++;
      else this.#readAheadPages++;
    }
    this.#batch = [];
    this.#settleRanges(nowMs);
    this.#effects.pagesArrived();
  }

  #settleRanges(nowMs: number): void {
    for (let range = this.#ranges[0]; range !== undefined; range = this.#ranges[0]) {
      if (range.endPages > this.#arrivedRangedPages) return;
      this.#ranges.shift();
      this.#window.decoded(range.endPages * TARGET_PAGE_BYTES, nowMs - range.atMs, nowMs);
    }
  }

  /** Asks for a page that the guest waits for, if that is ours to do; also when it is in a range that was asked for. */
  #askWaiting(block: number, page: number): void {
    if (this.#plan === undefined) return;
    if (this.#plan.isAvailable(block, page)) {
      this.#waiting.delete(block * PAGES_PER_BLOCK + page);
      this.#effects.pagesArrived();
    } else if (this.#session?.isIdentified && this.#plan.demand(block, page)) {
      this.#session.request({ block, firstPage: page, pageCount: 1 });
    }
  }

  #noLongerWaiting(block: number, page: number, nowMs: number): boolean {
    const key = block * PAGES_PER_BLOCK + page;
    const sinceMs = this.#waiting.get(key);
    if (sinceMs === undefined) return false;
    this.#waiting.delete(key);
    this.#latency.record((nowMs - sinceMs) * 1000);
    return true;
  }

  get #rangePages(): number {
    const wanted = Math.floor((this.#window.sizeBytes * RANGE_SHARE) / TARGET_PAGE_BYTES);
    return Math.min(MAX_RANGE_PAGES, Math.max(MIN_RANGE_PAGES, wanted));
  }

  get #silentAtMs(): number {
    if (this.#session === undefined) return Number.POSITIVE_INFINITY;
    const isOwed = !this.#session.isIdentified || (this.#plan?.askedPages ?? 0) > 0;
    return isOwed ? this.#heardAtMs + SILENT_MS : Number.POSITIVE_INFINITY;
  }

  // ---- other processes -------------------------------------------------------------------------------------

  get #pollMs(): number {
    const isUrgent = this.#waiting.size > 0 && (this.#plan?.elsewherePages ?? 0) > 0;
    return isUrgent ? DEMAND_POLL_MS : BULK_POLL_MS;
  }

  #lookElsewhere(nowMs: number, present: readonly PageBitmap[], plan: FetchPlan): void {
    if (nowMs < this.#polledAtMs + this.#pollMs) return;
    this.#polledAtMs = nowMs;
    const before = plan.remainingPages;
    plan.takePresent(present, (block, page) => {
      this.#sharedPages++;
      this.#noLongerWaiting(block, page, nowMs);
    });
    const isAllElsewhere = plan.remainingPages > 0 && plan.remainingPages === plan.elsewherePages;
    if (plan.remainingPages < before) this.#effects.pagesArrived();
    if (plan.remainingPages < before || !isAllElsewhere) this.#patientSinceMs = nowMs;
    if (plan.elsewherePages === 0 || nowMs < this.#abandonedAtMs + ABANDONED_POLL_MS) return;
    this.#abandonedAtMs = nowMs;
    plan.reclaim(nowMs >= this.#patientSinceMs + BULK_PATIENCE_MS);
    for (const [key, sinceMs] of this.#waiting) {
      const [block, page] = [Math.floor(key / PAGES_PER_BLOCK), key % PAGES_PER_BLOCK];
      if (nowMs >= sinceMs + DEMAND_PATIENCE_MS) plan.reclaimPage(block, page);
      if (plan.isMissing(block, page)) this.#askWaiting(block, page);
    }
  }
}
