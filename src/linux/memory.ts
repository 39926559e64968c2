/**
 * Memory of this process: map, view, advise.
 */
import koffi from 'koffi';
import { lastErrno, libc, SyscallError } from './libc.ts';

const PROT_READ_WRITE = 3;
const MAP_PRIVATE_ANONYMOUS = 0x22;
const MAP_SHARED = 1;

/** How a range will be used; values of `madvise(2)`. */
export const Advice = {
  /** Drop the pages: the next touch sees zeros, or raises a userfault in a registered range. */
  DONTNEED: 4,
  HUGEPAGE: 14,
  NOHUGEPAGE: 15,
} as const;
export type Advice = (typeof Advice)[keyof typeof Advice];

const mmapCall = libc.func(
  'intptr_t mmap(uintptr_t address, size_t length, int protection, int flags, int fd, int64_t offset)',
);
const munmapCall = libc.func('int munmap(uintptr_t address, size_t length)');
const madviseCall = libc.func('int madvise(uintptr_t address, size_t length, int advice)');

const _SC_PAGESIZE = 30;
const sysconfCall = libc.func('long sysconf(int name)');

/** Size in bytes of the pages that this host's page tables are made of. */
export function hostPageBytes(): number {
  return Number(sysconfCall(_SC_PAGESIZE));
}

/** Mapped memory. */
export interface Mapping {
  readonly address: bigint;
  readonly bytes: Uint8Array;
  /** The bytes must not be used any more. May be called twice. */
  unmap(): void;
}

/** Private anonymous memory, zero, not yet backed by pages. */
export function mapAnonymous(lengthBytes: number): Mapping {
  return map(lengthBytes, MAP_PRIVATE_ANONYMOUS, -1);
}

/**
 * The start of a file as memory, shared with every process that maps it. What is written to a page that has no room on disk
 * yet, or that the file has lost, ends the process with SIGBUS.
 *
 * @param fd open for reading and writing; may be closed afterwards
 */
export function mapShared(fd: number, lengthBytes: number): Mapping {
  return map(lengthBytes, MAP_SHARED, fd);
}

function map(lengthBytes: number, flags: number, fd: number): Mapping {
  const result = BigInt(mmapCall(0, lengthBytes, PROT_READ_WRITE, flags, fd, 0));
  if (result === -1n) throw new SyscallError('mmap', lastErrno(), `${lengthBytes} bytes`);
  let isMapped = true;
  return {
    address: result,
    bytes: viewMemory(result, lengthBytes),
    unmap() {
      if (isMapped && munmapCall(result, lengthBytes) === -1) throw new SyscallError('munmap', lastErrno());
      isMapped = false;
    },
  };
}

/** Memory at an address as bytes; works in other threads than the one that owns the memory. */
export function viewMemory(address: bigint, lengthBytes: number): Uint8Array {
  return new Uint8Array(koffi.view(address, lengthBytes));
}

/** Where the bytes of a typed array stand. Only for memory that does not move: off the JavaScript heap. */
export function addressOf(bytes: Uint8Array): bigint {
  return koffi.address(bytes);
}

/**
 * `madvise(address, lengthBytes, advice)`
 *
 * @param address page-aligned
 * @throws {SyscallError} `EINVAL` if `address` is unaligned or the kernel lacks the advice, `ENOMEM` if unmapped
 * @see https://man7.org/linux/man-pages/man2/madvise.2.html
 */
export function madvise(address: bigint, lengthBytes: number, advice: Advice): void {
  if (madviseCall(address, lengthBytes, advice) === -1) {
    throw new SyscallError(
      'madvise',
      lastErrno(),
      `0x${address.toString(16)}+${lengthBytes} advice ${advice}`,
    );
  }
}
