/**
 * The C library, and how its calls report failure.
 *
 * Every call of this folder goes through `libc` and checks its result at once: `errno` belongs to the thread, and the
 * next call of any kind may overwrite it. Addresses and pointers are passed as `bigint` or safe integers.
 */
import { getSystemErrorName } from 'node:util';
import koffi from 'koffi';

/**
 * koffi sets memory aside for its calls in every thread, and never gives it back, also when the thread ends. Calls of the C
 * library need little of it, and what they read and write lies elsewhere.
 */
koffi.config({ sync_stack_size: 256 * 1024, sync_heap_size: 64 * 1024 });

export const libc = koffi.load(null);

/** A failed system call, shaped like Node's own system errors. */
export class SyscallError extends Error {
  override readonly name = 'SyscallError';
  /** e.g. `EINVAL` */
  readonly code: string;
  /** Negative, as in Node. */
  readonly errno: number;
  readonly syscall: string;

  constructor(syscall: string, errno: number, detail = '') {
    const code = errorName(errno);
    super(`${syscall}${detail && ` ${detail}`}: ${code}`);
    this.code = code;
    this.errno = -errno;
    this.syscall = syscall;
  }
}

function errorName(errno: number): string {
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `errno ${errno}`;
  }
}

/** Error numbers that callers compare with; x86-64 and arm64 agree on these. */
export const Errno = {
  EINTR: 4,
  EAGAIN: 11,
  EACCES: 13,
  EEXIST: 17,
  EINVAL: 22,
  ENOSYS: 38,
  EOPNOTSUPP: 95,
  ETIMEDOUT: 110,
} as const;

/** `errno` of the calling thread's last failed call. */
export function lastErrno(): number {
  return koffi.errno();
}

/** @throws {SyscallError} if `result` is -1 */
export function checked(result: number, syscall: string, detail?: string): number {
  if (result === -1) throw new SyscallError(syscall, koffi.errno(), detail);
  return result;
}
