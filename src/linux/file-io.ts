/**
 * Files: read at a place, write from many places of memory at once, give room back, rename without replacing.
 *
 * Reads and writes take addresses, so that bytes go between files and memory that was mapped without a
 * copy in between.
 */
import { checked, Errno, lastErrno, libc, SyscallError } from './libc.ts';
import { addressOf } from './memory.ts';

/** The most ranges that one `pwritev(2)` takes. */
export const MAX_WRITE_RANGES = 1024;

const SYNC_FILE_RANGE_WRITE = 2;
const FALLOC_FL_KEEP_SIZE = 1;
const FALLOC_FL_PUNCH_HOLE = 2;
const AT_FDCWD = -100;
const RENAME_NOREPLACE = 1;
const IOVEC_BYTES = 16;

const MFD_CLOEXEC = 1;

const memfdCall = libc.func('int memfd_create(const char *name, unsigned int flags)');
const fdatasyncCall = libc.func('int fdatasync(int fd)');
const preadCall = libc.func('intptr_t pread(int fd, uintptr_t address, size_t length, int64_t offset)');
const syncFileRangeCall = libc.func(
  'int sync_file_range(int fd, int64_t offset, int64_t length, unsigned int flags)',
);
const pwritevCall = libc.func('intptr_t pwritev(int fd, uintptr_t ranges, int count, int64_t offset)');
const fallocateCall = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
const renameat2Call = libc.func(
  'int renameat2(int oldFolder, const char *oldPath, int newFolder, const char *newPath, unsigned int flags)',
);

/**
 * `pread(fd, address, lengthBytes, offset)`, until all is there or the file ends.
 *
 * @returns bytes read, fewer than asked only at the end of the file
 * @throws {SyscallError} `EIO`, `EFAULT`, …
 */
export function preadInto(fd: number, address: bigint | number, lengthBytes: number, offset: number): number {
  const start = BigInt(address);
  let done = 0;
  while (done < lengthBytes) {
    const count = Number(preadCall(fd, start + BigInt(done), lengthBytes - done, offset + done));
    if (count === 0) break;
    if (count > 0) {
      done += count;
      continue;
    }
    const errno = lastErrno();
    if (errno !== Errno.EINTR) throw new SyscallError('pread', errno, String(fd));
  }
  return done;
}

/**
 * Ranges of memory in their order: the array of `struct iovec` that `pwritev(2)` takes. Used again and again, so that
 * nothing is allocated per write.
 */
export class WriteRanges {
  count = 0;
  lengthBytes = 0;
  /** Base and length by turns. Its memory is off the JavaScript heap and does not move. */
  readonly #iovecs = new BigUint64Array(new ArrayBuffer(MAX_WRITE_RANGES * IOVEC_BYTES));
  readonly #address = addressOf(new Uint8Array(this.#iovecs.buffer));

  get isFull(): boolean {
    return this.count === MAX_WRITE_RANGES;
  }

  clear(): void {
    this.count = 0;
    this.lengthBytes = 0;
  }

  /** Adds the range, or lengthens the last one if it ends where this one begins. At most `MAX_WRITE_RANGES`. */
  add(address: bigint, lengthBytes: number): void {
    const last = (this.count - 1) * 2;
    this.lengthBytes += lengthBytes;
    if (last >= 0 && this.#iovecs[last]! + this.#iovecs[last + 1]! === address) {
      this.#iovecs[last + 1]! += BigInt(lengthBytes);
      return;
    }
    if (this.isFull) throw new RangeError(`Cannot write more than ${MAX_WRITE_RANGES} ranges at once`);
    this.#iovecs[last + 2] = address;
    this.#iovecs[last + 3] = BigInt(lengthBytes);
    this.count++;
  }

  /**
   * `pwritev(fd, …, offset)`, until everything stands in the file; the ranges are then used up.
   *
   * @throws {SyscallError} `ENOSPC`, `EFBIG`, `EIO`, …
   */
  writeAll(fd: number, offset: number): void {
    let first = 0;
    for (let at = offset; this.lengthBytes > 0; ) {
      const written = Number(
        pwritevCall(fd, this.#address + BigInt(first * IOVEC_BYTES), this.count - first, at),
      );
      if (written < 0) {
        const errno = lastErrno();
        if (errno === Errno.EINTR) continue;
        throw new SyscallError('pwritev', errno, String(fd));
      }
      at += written;
      this.lengthBytes -= written;
      first = this.#skip(first, BigInt(written));
    }
    this.clear();
  }

  /** Takes off what was written. @returns the first range of which something is left */
  #skip(first: number, writtenBytes: bigint): number {
    let index = first;
    for (let left = writtenBytes; left > 0n; ) {
      const lengthBytes = this.#iovecs[index * 2 + 1]!;
      if (left < lengthBytes) {
        this.#iovecs[index * 2]! += left;
        this.#iovecs[index * 2 + 1] = lengthBytes - left;
        break;
      }
      left -= lengthBytes;
      index++;
    }
    return index;
  }
}

/**
 * `sync_file_range(SYNC_FILE_RANGE_WRITE)` of the whole file, in a thread of Node's pool: what was written goes on its way to
 * the disk, so that less of it is left for `fsync(2)`. Promises nothing: an error shows at the `fsync(2)`.
 *
 * @returns a promise that resolves when all is on its way, which may take as long as the disk is busy
 */
export function startWriteback(fd: number): Promise<void> {
  return new Promise((resolve) => {
    syncFileRangeCall.async(fd, 0, 0, SYNC_FILE_RANGE_WRITE, () => resolve());
  });
}

/**
 * `fallocate(FALLOC_FL_PUNCH_HOLE)`: the range reads as zero and takes no room.
 *
 * @returns false if the file system cannot
 * @throws {SyscallError} `ENOSPC`, `EIO`, …
 */
export function punchHole(fd: number, offset: number, lengthBytes: number): boolean {
  for (;;) {
    const result = fallocateCall(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, lengthBytes);
    if (result === 0) return true;
    const errno = lastErrno();
    if (errno === Errno.EOPNOTSUPP || errno === Errno.ENOSYS) return false;
    if (errno !== Errno.EINTR) throw new SyscallError('fallocate', errno, String(fd));
  }
}

/**
 * `renameat2(RENAME_NOREPLACE)`: gives a file its name unless there is one of that name.
 *
 * @returns false if the file system cannot do that in one step
 * @throws {SyscallError} `EEXIST`, `ENOENT`, …
 */
export function renameNoReplace(oldPath: string, newPath: string): boolean {
  const result = renameat2Call(AT_FDCWD, oldPath, AT_FDCWD, newPath, RENAME_NOREPLACE);
  if (result === 0) return true;
  const errno = lastErrno();
  if (errno === Errno.EINVAL || errno === Errno.ENOSYS) return false;
  checked(result, 'renameat2', newPath);
  return true;
}

/** `memfd_create`: a file in memory, without a name anywhere. @param name for /proc */
export function createMemoryFile(name: string): number {
  return checked(memfdCall(name, MFD_CLOEXEC), 'memfd_create', name);
}

/** `fdatasync(fd)`: what was written to the file survives a crash of the host. */
export function syncFileData(fd: number): void {
  checked(fdatasyncCall(fd), 'fdatasync', String(fd));
}
