/**
 * Dirty tracking of a guest that runs in this process, in the two ways the kernel offers.
 *
 *   async   Linux 6.7: the kernel lifts the protection of a written page by itself, a scan finds and protects it again.
 *           The guest pays one fault inside the kernel per page and pass; a scan of clean memory costs next to nothing.
 *   sync    Linux 5.7: a fault thread lifts the protection and notes the page. The guest pays a thread switch per page.
 *
 * Both learn which pages were never touched, so that these are sent as zero pages without being read.
 */
import { PagemapScanner, readPresence } from '../linux/pagemap.ts';
import { RegisterMode, UffdFeature, Userfaultfd } from '../linux/userfaultfd.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { DirtyTracker } from '../migration/source-ports.ts';
import type { FaultThreadControl } from './fault-thread-control.ts';

export class AsyncDirtyTracker implements DirtyTracker {
  readonly #blocks: readonly RamBlock[];
  #uffd: Userfaultfd | undefined;
  #scanner: PagemapScanner | undefined;

  readonly #openUffd: Int32Array;

  /** @param openUffd a shared word: the userfaultfd while it is open, else 0. If this thread dies, somebody must close it */
  constructor(blocks: readonly RamBlock[], openUffd: Int32Array = new Int32Array(1)) {
    this.#blocks = blocks;
    this.#openUffd = openUffd;
  }

  start(touched: readonly PageBitmap[]): void {
    this.#uffd = Userfaultfd.open(UffdFeature.PAGEFAULT_FLAG_WP | UffdFeature.WP_ASYNC);
    Atomics.store(this.#openUffd, 0, this.#uffd.fd);
    this.#scanner = new PagemapScanner();
    for (const { hostAddress, lengthBytes } of this.#blocks) {
      this.#uffd.register(hostAddress, lengthBytes, RegisterMode.WP);
    }
    this.#scan((block, firstPage, pageCount, hasContent) => {
      if (hasContent) touched[block]?.setRange(firstPage, pageCount);
    });
  }

  sync(dirty: readonly PageBitmap[]): void {
    this.#scan((block, firstPage, pageCount) => dirty[block]?.setRange(firstPage, pageCount));
  }

  stop(): void {
    if (this.#uffd === undefined) return;
    for (const { hostAddress, lengthBytes } of this.#blocks) this.#uffd.unregister(hostAddress, lengthBytes);
    Atomics.store(this.#openUffd, 0, 0);
    this.#uffd.close();
    this.#uffd = undefined;
    this.#scanner?.close();
  }

  #scan(onRun: (block: number, firstPage: number, pageCount: number, hasContent: boolean) => void): void {
    this.#blocks.forEach(({ hostAddress, lengthBytes }, block) => {
      this.#scanner?.takeWritten(hostAddress, lengthBytes, (offset, bytes, hasContent) =>
        onRun(block, offset / TARGET_PAGE_BYTES, bytes / TARGET_PAGE_BYTES, hasContent),
      );
    });
  }
}

export class SyncDirtyTracker implements DirtyTracker {
  readonly #blocks: readonly RamBlock[];
  /** What the fault thread notes. */
  readonly #noted: readonly PageBitmap[];
  readonly #faultThread: FaultThreadControl;
  #uffd: Userfaultfd | undefined;

  /** @param noted a bitmap per block, shared with the fault thread */
  constructor(blocks: readonly RamBlock[], noted: readonly PageBitmap[], faultThread: FaultThreadControl) {
    this.#blocks = blocks;
    this.#noted = noted;
    this.#faultThread = faultThread;
  }

  start(touched: readonly PageBitmap[]): void {
    const uffd = Userfaultfd.open(UffdFeature.PAGEFAULT_FLAG_WP);
    this.#uffd = uffd;
    this.#faultThread.serve(uffd.fd);
    this.#blocks.forEach(({ hostAddress, lengthBytes }, block) => {
      // Pages that are not there cannot be protected on these kernels; their first touch is a missing fault instead.
      uffd.register(hostAddress, lengthBytes, RegisterMode.MISSING | RegisterMode.WP);
      uffd.writeProtect(Number(hostAddress), lengthBytes, true);
      readPresence(hostAddress, lengthBytes, (offset, bytes) =>
        touched[block]?.setRange(offset / TARGET_PAGE_BYTES, bytes / TARGET_PAGE_BYTES),
      );
    });
  }

  sync(dirty: readonly PageBitmap[]): void {
    this.#faultThread.lock.hold(() => {
      this.#blocks.forEach(({ hostAddress }, block) => {
        const target = dirty[block] as PageBitmap;
        this.#noted[block]?.takeInto(target);
        target.forEachRun((firstPage, pageCount) =>
          this.#uffd?.writeProtect(
            Number(hostAddress) + firstPage * TARGET_PAGE_BYTES,
            pageCount * TARGET_PAGE_BYTES,
            true,
          ),
        );
      });
    });
  }

  /** The fault thread first: it must not meet a range that is no longer registered. Whoever waits is woken after. */
  stop(): void {
    this.#faultThread.stop();
    if (this.#uffd === undefined) return;
    for (const { hostAddress, lengthBytes } of this.#blocks) this.#uffd.unregister(hostAddress, lengthBytes);
    this.#faultThread.forgetUffd();
    this.#uffd.close();
    this.#uffd = undefined;
  }
}
