/**
 * A TCP port at which nobody is ever let in: whoever connects waits, and is neither accepted nor refused.
 */
import { connect, type Socket } from 'node:net';
import type { TestContext } from 'node:test';
import { closeFd } from '../../src/linux/fd.ts';
import { checked, libc } from '../../src/linux/libc.ts';
import { atEnd } from './cleanup.ts';

const AF_INET = 2;
const SOCK_STREAM = 1;
const SOCK_CLOEXEC = 0o2000000;
const ADDRESS_BYTES = 16;
/** The kernel lets one more in than the backlog says. */
const GUESTS = 2;

const socketCall = libc.func('int socket(int domain, int type, int protocol)');
const bindCall = libc.func('int bind(int fd, const uint8_t *address, uint32_t length)');
const listenCall = libc.func('int listen(int fd, int backlog)');
const nameCall = libc.func('int getsockname(int fd, _Out_ uint8_t *address, _Inout_ uint32_t *length)');

/** @returns its address, `tcp:127.0.0.1:PORT` */
export async function startFullListener(t: TestContext): Promise<string> {
  const fd = checked(socketCall(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 'socket');
  atEnd(t, () => closeFd(fd));
  const address = Buffer.alloc(ADDRESS_BYTES);
  address.writeUInt16LE(AF_INET, 0);
  address.set([127, 0, 0, 1], 4);
  checked(bindCall(fd, address, ADDRESS_BYTES), 'bind');
  checked(listenCall(fd, 0), 'listen');
  checked(nameCall(fd, address, [ADDRESS_BYTES]), 'getsockname');
  const port = address.readUInt16BE(2);
  // Once its queue is full, a connection is not even begun.
  const guests: Socket[] = [];
  atEnd(t, () => {
    for (const guest of guests) guest.destroy();
  });
  for (let index = 0; index < GUESTS; index++) {
    const guest = connect(port, '127.0.0.1').on('error', () => {});
    guests.push(guest);
    if (index === 0) await new Promise((resolve) => guest.once('connect', resolve));
  }
  return `tcp:127.0.0.1:${port}`;
}
