/**
 * Who asks for a page, among the processes of a host: a byte per page, in memory that they share.
 *
 * A process has a number as long as it holds the lock of that number, which the kernel takes from it when it ends in
 * whatever way. So a claim is as good as the process that it names.
 */
import { isByteLocked } from '../linux/file-lock.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import type { PageClaims } from '../migration/fetch-plan.ts';
import { LockByte } from './cache-layout.ts';

const NOBODY = 0;
/** So long a process that was alive is taken to be. */
const ALIVE_MS = 100;

export class CacheClaims implements PageClaims {
  readonly #bytes: Uint8Array;
  readonly #firstPages: readonly number[];
  readonly #present: readonly PageBitmap[];
  readonly #stateFd: number;
  readonly #process: number;
  /** When each other process was last seen to be alive. */
  readonly #aliveAtMs = new Map<number, number>();

  /**
   * @param bytes shared by all processes
   * @param process our number; claims under it that a process before us has left are taken back
   */
  constructor(
    bytes: Uint8Array,
    firstPages: readonly number[],
    present: readonly PageBitmap[],
    stateFd: number,
    process: number,
  ) {
    this.#bytes = bytes;
    this.#firstPages = firstPages;
    this.#present = present;
    this.#stateFd = stateFd;
    this.#process = process;
    this.releaseAll();
  }

  claim(block: number, page: number): boolean {
    const owner = Atomics.compareExchange(this.#bytes, this.#index(block, page), NOBODY, this.#process);
    if (owner !== NOBODY && owner !== this.#process) return false;
    // Who has brought a page may have gone, or lost its connection, right after that.
    return !(this.#present[block] as PageBitmap).isSet(page);
  }

  release(block: number, page: number): void {
    Atomics.compareExchange(this.#bytes, this.#index(block, page), this.#process, NOBODY);
  }

  isAbandoned(block: number, page: number): boolean {
    const owner = Atomics.load(this.#bytes, this.#index(block, page));
    return owner === NOBODY || (owner !== this.#process && !this.#isAlive(owner));
  }

  takeOver(block: number, page: number): boolean {
    const index = this.#index(block, page);
    const owner = Atomics.load(this.#bytes, index);
    if ((this.#present[block] as PageBitmap).isSet(page)) return false;
    return Atomics.compareExchange(this.#bytes, index, owner, this.#process) === owner;
  }

  /** We bring nothing more. */
  releaseAll(): void {
    const bytes = this.#bytes;
    for (
      let index = bytes.indexOf(this.#process);
      index >= 0;
      index = bytes.indexOf(this.#process, index + 1)
    ) {
      Atomics.compareExchange(bytes, index, this.#process, NOBODY);
    }
  }

  #index(block: number, page: number): number {
    return (this.#firstPages[block] as number) + page;
  }

  #isAlive(owner: number): boolean {
    const nowMs = performance.now();
    if (nowMs < (this.#aliveAtMs.get(owner) ?? Number.NEGATIVE_INFINITY) + ALIVE_MS) return true;
    if (!isByteLocked(this.#stateFd, LockByte.FIRST_PROCESS + owner)) return false;
    this.#aliveAtMs.set(owner, nowMs);
    return true;
  }
}
