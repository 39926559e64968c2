/**
 * Locks on bytes of a file, `fcntl(2)` with F_OFD_*: between processes, and gone with the process that held them.
 *
 * They belong to the open file, not to the process or the thread, and no byte need be there to be locked.
 */
import { Errno, lastErrno, libc, SyscallError } from './libc.ts';
import { mapAnonymous } from './memory.ts';

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const LockType = { READ: 0, WRITE: 1, UNLOCK: 2 } as const;

const lockCall = libc.func('int fcntl(int fd, int command, uintptr_t lock)');

/** `struct flock`: type and whence (16 bit each), start at 8, length at 16, pid at 24, which must be 0. */
const FLOCK_BYTES = 4096;
const memory = mapAnonymous(FLOCK_BYTES);
const view = new DataView(memory.bytes.buffer);

/**
 * Takes the lock of one byte, or changes the kind of one that is held.
 *
 * @param kind `shared` with other shared ones, for a file open for reading; `exclusive`, for one open for writing
 * @returns false if another open file holds a lock that excludes it
 * @throws {SyscallError} `EBADF`, `ENOLCK`, …
 */
export function tryLockByte(fd: number, offset: number, kind: 'shared' | 'exclusive'): boolean {
  return lock(fd, F_OFD_SETLK, offset, kind === 'shared' ? LockType.READ : LockType.WRITE);
}

export function unlockByte(fd: number, offset: number): void {
  lock(fd, F_OFD_SETLK, offset, LockType.UNLOCK);
}

/** Whether another open file holds a lock of the byte. */
export function isByteLocked(fd: number, offset: number): boolean {
  lock(fd, F_OFD_GETLK, offset, LockType.WRITE);
  return view.getInt16(0, true) !== LockType.UNLOCK;
}

function lock(fd: number, command: number, offset: number, type: number): boolean {
  memory.bytes.fill(0, 0, 32);
  view.setInt16(0, type, true);
  view.setBigInt64(8, BigInt(offset), true);
  view.setBigInt64(16, 1n, true);
  for (;;) {
    if (lockCall(fd, command, Number(memory.address)) !== -1) return true;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN || errno === Errno.EACCES) return false;
    if (errno !== Errno.EINTR) throw new SyscallError('fcntl', errno, `lock of byte ${offset}`);
  }
}
