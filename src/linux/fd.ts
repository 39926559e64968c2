/**
 * File descriptors: duplicate, close, read, write, and what a descriptor is.
 *
 * Reads and writes take addresses, so that a migration thread moves bytes between a socket and memory it has mapped
 * without a copy in between.
 */
import { fstatSync } from 'node:fs';
import { checked, Errno, lastErrno, libc, SyscallError } from './libc.ts';

const F_SETFL = 4;
const F_GETFL = 3;
const F_DUPFD_CLOEXEC = 1030;
const O_NONBLOCK = 0o4000;
const O_CLOEXEC = 0o2000000;

const fcntlCall = libc.func('int fcntl(int fd, int command, int argument)');
const closeCall = libc.func('int close(int fd)');
const pipe2Call = libc.func('int pipe2(_Out_ int *fds, int flags)');
const readCall = libc.func('intptr_t read(int fd, uintptr_t address, size_t length)');
const writevCall = libc.func('intptr_t writev(int fd, uintptr_t iovecs, int count)');
const writeCall = libc.func('intptr_t write(int fd, uintptr_t address, size_t length)');

/** @returns a second descriptor of the same open file, closed on exec */
export function dupCloexec(fd: number): number {
  return checked(fcntlCall(fd, F_DUPFD_CLOEXEC, 0), 'fcntl', `F_DUPFD_CLOEXEC ${fd}`);
}

/** @returns the read end and the write end */
export function pipeCloexec(): [readFd: number, writeFd: number] {
  const fds = [0, 0];
  checked(pipe2Call(fds, O_CLOEXEC), 'pipe2');
  return [fds[0] as number, fds[1] as number];
}

export function setNonblocking(fd: number, isOn: boolean): void {
  const flags = checked(fcntlCall(fd, F_GETFL, 0), 'fcntl', `F_GETFL ${fd}`);
  checked(fcntlCall(fd, F_SETFL, isOn ? flags | O_NONBLOCK : flags & ~O_NONBLOCK), 'fcntl', `F_SETFL ${fd}`);
}

export function closeFd(fd: number): void {
  checked(closeCall(fd), 'close', String(fd));
}

/** @throws `EBADF` if the descriptor is not open */
export function fdKind(fd: number): 'socket' | 'pipe' | 'file' | 'other' {
  const stat = fstatSync(fd);
  if (stat.isSocket()) return 'socket';
  if (stat.isFIFO()) return 'pipe';
  return stat.isFile() ? 'file' : 'other';
}

/** What the calls that read and write return when the descriptor is non-blocking and not ready. */
export const WOULD_BLOCK = -1;

/**
 * `read(fd, address, lengthBytes)`
 *
 * @returns bytes read, 0 at the end of the file, or `WOULD_BLOCK`
 */
export function readInto(fd: number, address: bigint | number, lengthBytes: number): number {
  for (;;) {
    const count = Number(readCall(fd, address, lengthBytes));
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return WOULD_BLOCK;
    if (errno !== Errno.EINTR) throw new SyscallError('read', errno, String(fd));
  }
}

/**
 * `write(fd, address, lengthBytes)`. A peer that has gone gives `EPIPE`: Node ignores SIGPIPE for the whole process.
 *
 * @returns bytes written, perhaps fewer than asked, or `WOULD_BLOCK`
 */
export function writeFrom(fd: number, address: bigint | number, lengthBytes: number): number {
  for (;;) {
    const count = Number(writeCall(fd, address, lengthBytes));
    if (count >= 0) return count;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return WOULD_BLOCK;
    if (errno !== Errno.EINTR) throw new SyscallError('write', errno, String(fd));
  }
}

/** Bytes of a `struct iovec`: address and length, 64 bits each. */
export const IOVEC_BYTES = 16;
/** IOV_MAX: no `writev(2)` takes more pieces. */
export const MAX_IOVECS = 1024;

/**
 * `writev(fd, iovecs, count)`: writes from several places, in order.
 *
 * @param iovecsAddress of the first of `count` iovecs
 * @returns bytes written, perhaps fewer than asked, or `WOULD_BLOCK`
 */
export function gatherFrom(fd: number, iovecsAddress: number, count: number): number {
  for (;;) {
    const written = Number(writevCall(fd, iovecsAddress, count));
    if (written >= 0) return written;
    const errno = lastErrno();
    if (errno === Errno.EAGAIN) return WOULD_BLOCK;
    if (errno !== Errno.EINTR) throw new SyscallError('writev', errno, String(fd));
  }
}
