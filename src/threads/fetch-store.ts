/**
 * Where the fetching thread puts pages: the cache of this host, and memory for what has no room there.
 *
 * Pages that follow each other go out in one write. Once the cache has refused a page it gets no more of them from here: a
 * full disk is not asked again for every page. Once memory has refused a page too, nothing more is taken: what was written and
 * what was not can no longer be told apart.
 */
import { CacheError } from '../cache/cache-error.ts';
import { cacheLayout } from '../cache/cache-layout.ts';
import type { PageCache } from '../cache/page-cache.ts';
import { WriteRanges } from '../linux/file-io.ts';
import { SyscallError } from '../linux/libc.ts';
import { mapAnonymous } from '../linux/memory.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlockLayout, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { NO_CLAIMS, type PageClaims } from '../migration/fetch-plan.ts';
import type { FetchStore } from '../migration/fetcher.ts';
import { bitmapsOf, type FetchedPagesData, TakenWord } from './fetched-pages.ts';

/** Memory that pages without room on disk may take, until they are sent on. */
const MAX_OVERFLOW_PAGES = 4096;

export class CacheStore implements FetchStore {
  readonly available: readonly PageBitmap[];
  readonly #overflow: readonly PageBitmap[];
  readonly #data: FetchedPagesData;
  /** Where each block begins in both files. */
  readonly #pagesAt: readonly number[];
  readonly #bufferAddress: bigint;
  readonly #onFull: (error: Error) => void;
  readonly #zeros = mapAnonymous(TARGET_PAGE_BYTES);
  readonly #ranges = new WriteRanges();
  /** The pages of the ranges, which follow each other in the file. */
  #run: { readonly block: number; readonly page: number; readonly position: number }[] = [];
  /** Written, and not made known yet. */
  #written: { readonly block: number; readonly page: number; readonly isOverflow: boolean }[] = [];
  readonly #cache: PageCache | undefined;
  #isCacheFull: boolean;
  #failure: CacheError | undefined;
  #overflowPages = 0;

  /**
   * @param cache undefined if there is none
   * @param bufferAddress what positions count from
   * @param onFull told once when the cache takes no more
   */
  constructor(
    cache: PageCache | undefined,
    blocks: readonly RamBlockLayout[],
    data: FetchedPagesData,
    bufferAddress: bigint,
    onFull: (error: Error) => void,
  ) {
    this.#cache = cache;
    this.#isCacheFull = cache === undefined;
    this.#data = data;
    this.#pagesAt = cacheLayout(blocks).blocks.map(({ pagesAt }) => pagesAt);
    this.#bufferAddress = bufferAddress;
    this.#onFull = onFull;
    this.available = bitmapsOf(blocks, data.availableWords);
    this.#overflow = bitmapsOf(blocks, data.overflowWords);
  }

  get present(): readonly PageBitmap[] | undefined {
    return this.#cache?.present;
  }

  /** Who cannot put a page into the cache does not claim it: others might wait for it. */
  readonly claims: PageClaims = {
    claim: (block, page) => this.#claims.claim(block, page),
    release: (block, page) => this.#claims.release(block, page),
    isAbandoned: (block, page) => this.#claims.isAbandoned(block, page),
    takeOver: (block, page) => this.#claims.takeOver(block, page),
  };

  get isFull(): boolean {
    if (this.#overflowPages < MAX_OVERFLOW_PAGES) return false;
    const { taken } = this.#data;
    const isFull = () => this.#overflowPages - Atomics.load(taken, TakenWord.COUNT) >= MAX_OVERFLOW_PAGES;
    if (!isFull()) return false;
    Atomics.store(taken, TakenWord.IS_AWAITED, 1);
    return isFull();
  }

  /** @throws {CacheError} if there is no room in memory either; from then on always */
  writePage(block: number, page: number, position: number): void {
    if (this.#failure !== undefined) throw this.#failure;
    const last = this.#run.at(-1);
    const isNext =
      last !== undefined && last.block === block && last.page + 1 === page && !this.#ranges.isFull;
    if (!isNext) this.#writeRun();
    this.#run.push({ block, page, position });
    this.#ranges.add(
      position < 0 ? this.#zeros.address : this.#bufferAddress + BigInt(position),
      TARGET_PAGE_BYTES,
    );
  }

  /** @throws {CacheError} as `writePage` does */
  flush(): void {
    if (this.#failure !== undefined) throw this.#failure;
    this.#writeRun();
    for (const { block, page, isOverflow } of this.#written) {
      const bitmap = isOverflow ? this.#overflow[block] : this.#cache?.present[block];
      bitmap?.setShared(page);
    }
    this.#written.length = 0;
  }

  #writeRun(): void {
    const [first] = this.#run;
    if (first === undefined) return;
    const isOverflow = this.#isCacheFull;
    const fd = isOverflow ? this.#data.overflowFd : this.#data.pagesFd;
    const at = (this.#pagesAt[first.block] as number) + first.page * TARGET_PAGE_BYTES;
    try {
      this.#ranges.writeAll(fd, at);
    } catch (error) {
      this.#ranges.clear();
      if (!(error instanceof SyscallError)) throw error;
      if (isOverflow) {
        const hint =
          error.code === 'EFBIG' ? '; a limit on the length of files ("ulimit -f") holds for it too' : '';
        this.#failure = new CacheError(`Pages cannot be kept in memory: ${error.message}${hint}`, {
          cause: error,
        });
        throw this.#failure;
      }
      this.#isCacheFull = true;
      this.#cache?.claims.releaseAll();
      this.#onFull(error);
      const run = this.#run.splice(0);
      for (const { block, page, position } of run) this.writePage(block, page, position);
      this.#writeRun();
      return;
    }
    for (const { block, page } of this.#run) this.#written.push({ block, page, isOverflow });
    if (isOverflow) this.#overflowPages += this.#run.length;
    this.#run.length = 0;
  }

  get #claims(): PageClaims {
    return (this.#isCacheFull ? undefined : this.#cache?.claims) ?? NO_CLAIMS;
  }
}
