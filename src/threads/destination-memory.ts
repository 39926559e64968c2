/**
 * Guest memory at the destination: written in precopy, placed through userfaultfd in postcopy.
 */
import type { SyscallError } from '../linux/libc.ts';
import { Advice, addressOf, madvise, mapAnonymous, viewMemory } from '../linux/memory.ts';
import { readPresence } from '../linux/pagemap.ts';
import { RegisterMode, Userfaultfd } from '../linux/userfaultfd.ts';
import type { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { isZeroPage } from '../memory/zero-page.ts';
import type { DestinationMemory } from '../migration/destination-ports.ts';
import { MigrationError } from '../migration/migration-error.ts';
import type { FaultThreadControl } from './fault-thread-control.ts';

export class MappedDestinationMemory implements DestinationMemory {
  readonly blocks: readonly RamBlock[];
  readonly #addresses: readonly number[];
  readonly #views: readonly Uint8Array[];
  readonly #buffer: Uint8Array;
  readonly #bufferAddress: number;
  readonly #faultThread: FaultThreadControl;
  readonly #makeFaultThread: () => void;
  #uffd: Userfaultfd | undefined;
  #isListening = false;

  /**
   * @param buffer memory off the JavaScript heap, in which positions of pages are given
   * @param makeFaultThread asks for the thread behind `faultThread`; called once postcopy is possible
   * @param isListening memory is listened for already, by the userfaultfd that the fault thread serves: the thread that opened
   *   it has died, and this object is its owner now
   */
  constructor(
    blocks: readonly RamBlock[],
    buffer: Uint8Array,
    faultThread: FaultThreadControl,
    makeFaultThread: () => void,
    isListening = false,
  ) {
    this.blocks = blocks;
    this.#addresses = blocks.map(({ hostAddress }) => Number(hostAddress));
    this.#views = blocks.map(({ hostAddress, lengthBytes }) => viewMemory(hostAddress, lengthBytes));
    this.#buffer = buffer;
    this.#bufferAddress = Number(addressOf(buffer));
    this.#faultThread = faultThread;
    this.#makeFaultThread = makeFaultThread;
    if (isListening) {
      this.#uffd = Userfaultfd.inherit(faultThread.uffd);
      this.#isListening = true;
      return;
    }
    // Precopy fills memory for the first time: a fault for 2 MiB rather than for each page.
    this.#adviseHugePages(Advice.HUGEPAGE);
  }

  /** Opens the userfaultfd that `listen` will use, and tries it; waits for the thread that will read its faults. */
  checkPostcopy(): void {
    const trial = mapAnonymous(TARGET_PAGE_BYTES);
    try {
      this.#uffd = Userfaultfd.open(0);
      this.#uffd.register(trial.address, TARGET_PAGE_BYTES, RegisterMode.MISSING);
      this.#uffd.zeroPage(Number(trial.address), TARGET_PAGE_BYTES);
      this.#uffd.unregister(trial.address, TARGET_PAGE_BYTES);
    } catch (error) {
      throw new MigrationError(
        `Postcopy is not possible on this host: ${(error as Error).message}. It needs userfaultfd(2): Linux 4.11 or ` +
          'later, as any user with Linux 5.11; "postcopy doctor" says more',
        { cause: error },
      );
    } finally {
      trial.unmap();
    }
    this.#faultThread.expect();
    this.#makeFaultThread();
    this.#faultThread.waitUntilReady();
  }

  dropAll(): void {
    for (const { hostAddress, lengthBytes } of this.blocks)
      madvise(hostAddress, lengthBytes, Advice.DONTNEED);
  }

  writePage(block: number, offset: number, position: number): void {
    (this.#views[block] as Uint8Array).set(
      this.#buffer.subarray(position, position + TARGET_PAGE_BYTES),
      offset,
    );
  }

  /** Reading the page is what makes it present; writing it would also cost memory. */
  writeZeroPage(block: number, offset: number): void {
    const view = this.#views[block] as Uint8Array;
    if (!isZeroPage(view, offset)) view.fill(0, offset, offset + TARGET_PAGE_BYTES);
  }

  prepareDiscards(): void {
    this.#adviseHugePages(Advice.NOHUGEPAGE);
  }

  discard(block: number, offset: number, lengthBytes: number): void {
    const { hostAddress } = this.blocks[block] as RamBlock;
    madvise(hostAddress + BigInt(offset), lengthBytes, Advice.DONTNEED);
  }

  listen(): void {
    const uffd = this.#openUffd;
    for (const { hostAddress, lengthBytes } of this.blocks) {
      uffd.register(hostAddress, lengthBytes, RegisterMode.MISSING);
    }
    this.#isListening = true;
    this.#faultThread.serve(uffd.fd);
  }

  placePage(block: number, offset: number, position: number): 'placed' | 'exists' {
    const address = (this.#addresses[block] as number) + offset;
    return this.#openUffd.copy(address, this.#bufferAddress + position, TARGET_PAGE_BYTES);
  }

  placeZeroPage(block: number, offset: number): 'placed' | 'exists' {
    return this.#openUffd.zeroPage((this.#addresses[block] as number) + offset, TARGET_PAGE_BYTES);
  }

  /** The thread that placed pages may have died between placing one and noting it: what is there has come. */
  notePresentPages(received: readonly PageBitmap[]): void {
    this.blocks.forEach(({ hostAddress, lengthBytes }, block) => {
      readPresence(hostAddress, lengthBytes, (offset, regionBytes) =>
        received[block]?.setRange(offset / TARGET_PAGE_BYTES, regionBytes / TARGET_PAGE_BYTES),
      );
    });
  }

  end(): void {
    if (this.#isListening) {
      for (const { hostAddress, lengthBytes } of this.blocks) {
        this.#openUffd.unregister(hostAddress, lengthBytes);
      }
      this.#adviseHugePages(Advice.HUGEPAGE);
    }
    this.close();
  }

  /**
   * Stops the fault thread and closes the userfaultfd. Pages that are still missing become zero pages for whoever touches
   * them: only when the guest is gone, or all pages are there. May be called twice.
   */
  close(): void {
    this.#faultThread.stop();
    this.#faultThread.forgetUffd();
    this.#uffd?.close();
    this.#uffd = undefined;
  }

  #adviseHugePages(advice: typeof Advice.HUGEPAGE | typeof Advice.NOHUGEPAGE): void {
    for (const { hostAddress, lengthBytes } of this.blocks) {
      try {
        madvise(hostAddress, lengthBytes, advice);
      } catch (error) {
        // A kernel without transparent huge pages.
        if ((error as SyscallError).code !== 'EINVAL') throw error;
      }
    }
  }

  get #openUffd(): Userfaultfd {
    if (this.#uffd === undefined) throw new Error('The userfaultfd is not open');
    return this.#uffd;
  }
}
