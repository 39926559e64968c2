/**
 * Options of descriptors that bear on how soon bytes leave, and how safe they are.
 */
import { checked, libc } from './libc.ts';

const IPPROTO_TCP = 6;
const TCP_USER_TIMEOUT = 18;
const TCP_NOTSENT_LOWAT = 25;
const SOL_SOCKET = 1;
const SO_DOMAIN = 39;
const AF_UNIX = 1;

const setsockoptCall = libc.func(
  'int setsockopt(int fd, int level, int option, const int32_t *value, uint32_t length)',
);
const getsockoptCall = libc.func(
  'int getsockopt(int fd, int level, int option, _Out_ int32_t *value, _Inout_ uint32_t *length)',
);
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
 * `TCP_USER_TIMEOUT`: data that is not acknowledged for so long breaks the connection (`ETIMEDOUT`); unset, a network that
 * swallows packets is noticed after a quarter of an hour. Does nothing for other sockets than TCP.
 */
export function setUserTimeout(fd: number, ms: number): void {
  setTcpOption(fd, TCP_USER_TIMEOUT, ms, 'TCP_USER_TIMEOUT');
}

function setTcpOption(fd: number, option: number, value: number, name: string): void {
  const domain = [0];
  checked(getsockoptCall(fd, SOL_SOCKET, SO_DOMAIN, domain, [4]), 'getsockopt', 'SO_DOMAIN');
  if (domain[0] === AF_UNIX) return;
  checked(setsockoptCall(fd, IPPROTO_TCP, option, [value], 4), 'setsockopt', name);
}

/** `fsync(fd)`: what was written to the file survives a crash of the host. */
export function syncFile(fd: number): void {
  checked(fsyncCall(fd), 'fsync', String(fd));
}
