/**
 * Options of descriptors that bear on how soon bytes leave, and how safe they are.
 */
import { checked, Errno, lastErrno, libc, SyscallError } from './libc.ts';

const IPPROTO_TCP = 6;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_USER_TIMEOUT = 18;
const TCP_NOTSENT_LOWAT = 25;
const SOL_SOCKET = 1;
const SO_RCVBUF = 8;
const SO_KEEPALIVE = 9;
const SO_DOMAIN = 39;
const AF_UNIX = 1;
const SHUT_WR = 1;
const SHUT_RDWR = 2;
const ENOTCONN = 107;
/** What the kernel allows. */
const MAX_KEEPALIVE_SECONDS = 32_767;
const MSG_PEEK = 2;
const MSG_DONTWAIT = 64;

const setsockoptCall = libc.func(
  'int setsockopt(int fd, int level, int option, const int32_t *value, uint32_t length)',
);
const getsockoptCall = libc.func(
  'int getsockopt(int fd, int level, int option, _Out_ int32_t *value, _Inout_ uint32_t *length)',
);
const shutdownCall = libc.func('int shutdown(int fd, int how)');
const recvCall = libc.func('intptr_t recv(int fd, _Out_ uint8_t *bytes, size_t length, int flags)');
const fsyncCall = libc.func('int fsync(int fd)');

/**
 * `TCP_NOTSENT_LOWAT`: the kernel takes no more than about this many bytes that it has not put on the wire. Does nothing
 * for other sockets than TCP.
 *
 * @see https://man7.org/linux/man-pages/man7/tcp.7.html
 */
export function setUnsentLowWatermark(fd: number, bytes: number): void {
  setTcpOption(fd, TCP_NOTSENT_LOWAT, bytes, 'TCP_NOTSENT_LOWAT');
}

/**
 * Data that is not acknowledged for so long breaks the connection (`ETIMEDOUT`), and so does a peer that acknowledges nothing
 * while there is no data: it is probed, six times before it is given up. Unset, a network that swallows packets is noticed after
 * a quarter of an hour, or never. Does nothing for other sockets than TCP.
 *
 * `TCP_USER_TIMEOUT`, which also says when probes have failed, and `SO_KEEPALIVE`.
 *
 * @param ms at least 1000
 */
export function setPeerTimeout(fd: number, ms: number): void {
  if (!isTcp(fd)) return;
  setTcpOption(fd, TCP_USER_TIMEOUT, ms, 'TCP_USER_TIMEOUT');
  checked(setsockoptCall(fd, SOL_SOCKET, SO_KEEPALIVE, [1], 4), 'setsockopt', 'SO_KEEPALIVE');
  const seconds = Math.min(MAX_KEEPALIVE_SECONDS, Math.ceil(ms / 1000 / 6));
  setTcpOption(fd, TCP_KEEPIDLE, seconds, 'TCP_KEEPIDLE');
  setTcpOption(fd, TCP_KEEPINTVL, seconds, 'TCP_KEEPINTVL');
}

function setTcpOption(fd: number, option: number, value: number, name: string): void {
  if (isTcp(fd)) checked(setsockoptCall(fd, IPPROTO_TCP, option, [value], 4), 'setsockopt', name);
}

function isTcp(fd: number): boolean {
  const domain = [0];
  checked(getsockoptCall(fd, SOL_SOCKET, SO_DOMAIN, domain, [4]), 'getsockopt', 'SO_DOMAIN');
  return domain[0] !== AF_UNIX;
}

/**
 * `SO_RCVBUF`: how much the kernel takes for us before we read it. Also ends that the kernel chooses by itself.
 *
 * @see https://man7.org/linux/man-pages/man7/socket.7.html
 */
export function setReceiveBuffer(fd: number, bytes: number): void {
  checked(setsockoptCall(fd, SOL_SOCKET, SO_RCVBUF, [bytes], 4), 'setsockopt', 'SO_RCVBUF');
}

/** `shutdown(fd, SHUT_WR)`: the peer reads the end, and may still answer. Of a socket that is not connected any more, nothing. */
export function shutdownWrite(fd: number): void {
  if (Number(shutdownCall(fd, SHUT_WR)) === -1 && lastErrno() !== ENOTCONN) {
    throw new SyscallError('shutdown', lastErrno(), String(fd));
  }
}

/**
 * `shutdown(fd, SHUT_RDWR)`: whoever waits to read or write, in any thread, goes on with an end or an error. Of a socket that
 * is not connected any more, nothing.
 */
export function shutdownBoth(fd: number): void {
  if (Number(shutdownCall(fd, SHUT_RDWR)) === -1 && lastErrno() !== ENOTCONN) {
    throw new SyscallError('shutdown', lastErrno(), String(fd));
  }
}

/** `recv(fd, …, MSG_PEEK)`: the next bytes, which stay there. @returns undefined if none have come yet */
export function peek(fd: number, lengthBytes: number): Uint8Array | undefined {
  const bytes = Buffer.alloc(lengthBytes);
  const count = Number(recvCall(fd, bytes, lengthBytes, MSG_PEEK | MSG_DONTWAIT));
  if (count >= 0) return bytes.subarray(0, count);
  if (lastErrno() === Errno.EAGAIN) return undefined;
  throw new SyscallError('recv', lastErrno(), String(fd));
}

/** `fsync(fd)`: what was written to the file survives a crash of the host. */
export function syncFile(fd: number): void {
  checked(fsyncCall(fd), 'fsync', String(fd));
}
