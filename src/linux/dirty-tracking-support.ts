/**
 * Can this kernel track dirty pages, and how?
 */
import { SyscallError } from './libc.ts';
import { mapAnonymous } from './memory.ts';
import { PagemapScanner } from './pagemap.ts';
import { RegisterMode, UffdFeature, Userfaultfd } from './userfaultfd.ts';

/** What another moment may have: it says nothing of the kernel. */
const PASSING = ['EMFILE', 'ENFILE', 'ENOMEM'];

/**
 * @returns why not, or undefined if asynchronous write protection and its scan work here (Linux 6.7)
 * @throws {Error} if there are not enough descriptors, or memory, to find out
 */
export function whyNoAsyncDirtyTracking(): SyscallError | undefined {
  return attempt(UffdFeature.PAGEFAULT_FLAG_WP | UffdFeature.WP_ASYNC, true);
}

/**
 * @returns why not, or undefined if write-protect faults work here (Linux 5.7)
 * @throws {Error} as above
 */
export function whyNoSyncDirtyTracking(): SyscallError | undefined {
  return attempt(UffdFeature.PAGEFAULT_FLAG_WP, false);
}

function attempt(features: number, isScanned: boolean): SyscallError | undefined {
  const memory = mapAnonymous(4096);
  let uffd: Userfaultfd | undefined;
  let scanner: PagemapScanner | undefined;
  try {
    uffd = Userfaultfd.open(features);
    uffd.register(memory.address, 4096, RegisterMode.WP);
    if (isScanned) {
      scanner = new PagemapScanner();
      scanner.takeWritten(memory.address, 4096, () => {});
    }
    return undefined;
  } catch (error) {
    if (error instanceof SyscallError && !PASSING.includes(error.code)) return error;
    throw error;
  } finally {
    scanner?.close();
    uffd?.close();
    memory.unmap();
  }
}
