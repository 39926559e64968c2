/**
 * `socketpair(2)`: two connected sockets, one of them for another process.
 */
import { checked, libc } from './libc.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;

const socketpairCall = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)');

/**
 * Both are closed on exec: a child is given one by the list of its standard streams.
 *
 * @throws {SyscallError} `EMFILE`, `ENFILE`
 */
export function socketPair(): [fd: number, peerFd: number] {
  const fds = [0, 0];
  checked(socketpairCall(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 'socketpair');
  return [fds[0] as number, fds[1] as number];
}
