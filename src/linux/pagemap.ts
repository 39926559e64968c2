/**
 * What the page tables say of a range: which pages are there, and which were written since they were protected.
 *
 * `PAGEMAP_SCAN` (Linux 6.7) finds written pages and protects them again in one step, so no write falls between.
 * `readPresence` works on any kernel and without privileges: frame numbers are hidden from us, presence is not.
 *
 * See the kernel's Documentation/admin-guide/mm/pagemap.rst.
 */
import { closeSync, openSync, readSync } from 'node:fs';
import { Errno, lastErrno, libc, SyscallError } from './libc.ts';
import { type Mapping, mapAnonymous } from './memory.ts';
import { ioctlNumber } from './userfaultfd.ts';

const PAGEMAP_SCAN = ioctlNumber('read-write', 'f'.charCodeAt(0), 16, 96);

const PAGE_BYTES = 4096;

/** Categories of a page, `PAGE_IS_*`. */
export const PageIs = { WRITTEN: 1 << 1, PRESENT: 1 << 3, SWAPPED: 1 << 4, PFNZERO: 1 << 5 } as const;

const PM_SCAN_WP_MATCHING = 1;
const PM_SCAN_CHECK_WPASYNC = 2;

const REGION_BYTES = 24;
const MAX_REGIONS = 8192;
const REGIONS_AT = 4096;

const ioctlCall = libc.func('int ioctl(int fd, uint64_t request, uintptr_t argument)');

/** Scans with `PAGEMAP_SCAN`. Keeps argument memory: use it in one thread. */
export class PagemapScanner {
  readonly #fd = openSync('/proc/self/pagemap', 'r');
  readonly #memory: Mapping = mapAnonymous(REGIONS_AT + MAX_REGIONS * REGION_BYTES);
  readonly #view = new DataView(this.#memory.bytes.buffer);
  #isOpen = true;

  /**
   * Protects every page of a range that was written since it was last protected, and reports these pages as regions.
   * The range must be registered with a userfaultfd that has `WP_ASYNC`; before the first scan every page counts as
   * written, also one that is not there yet.
   *
   * @param onRegion gets start and length in bytes from `address`, and whether the pages hold anything: false for pages
   *   never touched and for the kernel's zero page
   * @throws {SyscallError} `ENOTTY` if the kernel lacks PAGEMAP_SCAN, `EPERM` if the range is not registered so
   */
  takeWritten(
    address: bigint,
    lengthBytes: number,
    onRegion: (offset: number, lengthBytes: number, hasContent: boolean) => void,
  ): void {
    const base = Number(address);
    const end = base + lengthBytes;
    let start = base;
    while (start < end) {
      const count = this.#scan(start, end);
      for (let index = 0; index < count; index++) {
        const at = REGIONS_AT + index * REGION_BYTES;
        const from = this.#getU64(at);
        const categories = this.#getU64(at + 16);
        const isPopulated = (categories & (PageIs.PRESENT | PageIs.SWAPPED)) !== 0;
        onRegion(
          from - base,
          this.#getU64(at + 8) - from,
          isPopulated && (categories & PageIs.PFNZERO) === 0,
        );
      }
      start = this.#getU64(32);
    }
  }

  #scan(start: number, end: number): number {
    const view = this.#view;
    this.#setU64(0, 96);
    this.#setU64(8, PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC);
    this.#setU64(16, start);
    this.#setU64(24, end);
    this.#setU64(32, 0);
    view.setBigUint64(40, this.#memory.address + BigInt(REGIONS_AT), true);
    this.#setU64(48, MAX_REGIONS);
    this.#setU64(56, 0); // no limit of pages
    this.#setU64(64, 0); // nothing inverted
    this.#setU64(72, PageIs.WRITTEN);
    this.#setU64(80, 0);
    this.#setU64(88, PageIs.PRESENT | PageIs.SWAPPED | PageIs.PFNZERO);
    for (;;) {
      const count = ioctlCall(this.#fd, PAGEMAP_SCAN, this.#memory.address);
      if (count !== -1) return count;
      const errno = lastErrno();
      if (errno !== Errno.EINTR) throw new SyscallError('ioctl', errno, 'PAGEMAP_SCAN');
    }
  }

  #setU64(at: number, value: number): void {
    this.#view.setUint32(at, value >>> 0, true);
    this.#view.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  #getU64(at: number): number {
    return this.#view.getUint32(at + 4, true) * 2 ** 32 + this.#view.getUint32(at, true);
  }

  /** May be called twice. */
  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    closeSync(this.#fd);
    this.#memory.unmap();
  }
}

/**
 * Reports the pages of a range that are there, in memory or swapped out, as regions.
 *
 * @param onRegion gets start and length in bytes from `address`
 */
export function readPresence(
  address: bigint,
  lengthBytes: number,
  onRegion: (offset: number, lengthBytes: number) => void,
): void {
  const fd = openSync('/proc/self/pagemap', 'r');
  try {
    const entries = Buffer.alloc(Math.min(lengthBytes / PAGE_BYTES, 65536) * 8);
    let runStart = -1;
    for (let page = 0; page < lengthBytes / PAGE_BYTES; page += entries.length / 8) {
      const count = Math.min(entries.length / 8, lengthBytes / PAGE_BYTES - page);
      const readBytes = readSync(fd, entries, 0, count * 8, (Number(address) / PAGE_BYTES) * 8 + page * 8);
      if (readBytes !== count * 8)
        throw new Error(`/proc/self/pagemap gave ${readBytes} bytes instead of ${count * 8}`);
      for (let index = 0; index < count; index++) {
        const isThere = (entries[index * 8 + 7] as number) >= 0x40; // bit 63 present, bit 62 swapped
        if (isThere && runStart < 0) runStart = page + index;
        if (!isThere && runStart >= 0) {
          onRegion(runStart * PAGE_BYTES, (page + index - runStart) * PAGE_BYTES);
          runStart = -1;
        }
      }
    }
    if (runStart >= 0) onRegion(runStart * PAGE_BYTES, lengthBytes - runStart * PAGE_BYTES);
  } finally {
    closeSync(fd);
  }
}
