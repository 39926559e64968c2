/**
 * `socketpair(2)`: two connected sockets, one of them for another process or thread.
 */
import { fstatSync } from 'node:fs';
import { closeFd, dupCloexec } from './fd.ts';
import { checked, libc } from './libc.ts';
import { PollEvent, PollSet } from './poll.ts';

const AF_UNIX = 1;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const MSG_DONTWAIT_NOSIGNAL = 0x40 | 0x4000;

const socketpairCall = libc.func('int socketpair(int domain, int type, int protocol, _Out_ int *fds)');
const sendCall = libc.func('intptr_t send(int fd, const uint8_t *bytes, size_t length, int flags)');

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

/**
 * Lets whoever reads at the other end of a pair find, behind all that was sent, `ECONNRESET` rather than an end.
 *
 * A unix socket that is closed with bytes unread resets its peer. There may be none to leave unread, so one is written
 * through the peer's own descriptor, which must be of this process. A peer that has closed it, or sends no more, is left alone.
 *
 * The caller closes its end at once, in the same turn: nobody may read the byte.
 *
 * @param peerFd the other end as `socketPair` gave it
 * @param peerInode of it then: the number may be that of another file by now
 */
export function resetAtClose(peerFd: number, peerInode: bigint): void {
  let fd: number;
  try {
    fd = dupCloexec(peerFd);
  } catch {
    return; // It is closed.
  }
  try {
    if (fstatSync(fd, { bigint: true }).ino === peerInode)
      sendCall(fd, Buffer.of(0), 1, MSG_DONTWAIT_NOSIGNAL);
  } finally {
    closeFd(fd);
  }
}

/** Whether the other end of the pair is closed, or takes no bytes any more either: more than that it has sent its last. */
export function isPeerGone(fd: number): boolean {
  const polls = new PollSet(1);
  try {
    polls.set(0, fd, 0);
    polls.wait(0);
    return (polls.ready(0) & (PollEvent.HUP | PollEvent.ERR | PollEvent.NVAL)) !== 0;
  } finally {
    polls.close();
  }
}
