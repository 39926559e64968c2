import assert from 'node:assert/strict';
import { test } from 'node:test';
import { closeFd } from '../linux/fd.ts';
import { checked, libc } from '../linux/libc.ts';
import type { Channel } from './channel.ts';
import { connectChannel } from './connect.ts';
import { listenChannel } from './listen.ts';
import { UriError } from './parse-uri.ts';

const SOL_SOCKET = 1;
const SO_KEEPALIVE = 9;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const TCP_KEEPIDLE = 4;
const getsockopt = libc.func(
  'int getsockopt(int fd, int level, int name, _Out_ int *value, _Inout_ uint32_t *lengthBytes)',
);

test('connectChannel() and accept() set TCP_NODELAY and keepalive, on a connection without delay', async () => {
  const listener = await listenChannel('tcp:127.0.0.1:0');
  const channels = await Promise.all([listener.accept(), connectChannel(listener.address)]);
  try {
    for (const { fd } of channels) {
      assert.equal(socketOption(fd, IPPROTO_TCP, TCP_NODELAY), 1);
      assert.equal(socketOption(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
      assert.equal(socketOption(fd, IPPROTO_TCP, TCP_KEEPIDLE), 10);
    }
  } finally {
    for (const channel of channels) channel.close();
    listener.close();
  }
});

test('connectChannel() resolves host names', async () => {
  const listener = await listenChannel('tcp:localhost:0');
  const accepting = listener.accept();
  const source = await connectChannel(`tcp:localhost:${listener.address.split(':').at(-1)}`);
  const destination = await accepting;
  try {
    assert.match(source.peer, /^tcp:(127\.0\.0\.1|\[::1\]):\d+$/);
  } finally {
    source.close();
    destination.close();
    listener.close();
  }
});

test('connectChannel() says that a refused tcp connection may lack a destination', async () => {
  const listener = await listenChannel('tcp:127.0.0.1:0');
  listener.close();
  await assert.rejects(connectChannel(listener.address), {
    name: 'TransportError',
    code: 'ECONNREFUSED',
    uri: listener.address,
    message: `Failed to connect to "${listener.address}": connection refused (is a destination listening there?)`,
  });
});

test('connectChannel() names a host that cannot be resolved', async () => {
  await assert.rejects(connectChannel('tcp:no-such-host.invalid:1'), (error: NodeJS.ErrnoException) => {
    assert(['ENOTFOUND', 'EAI_AGAIN'].includes(String(error.code)), error.code);
    assert.match(
      error.message,
      /^Failed to connect to "tcp:no-such-host\.invalid:1": the (host name is not known|name server does not answer)$/,
    );
    return true;
  });
});

test('connectChannel() fails with ETIMEDOUT when nobody answers, and can be aborted until then', async () => {
  const deaf = listenWithoutRoom();
  const channels: Channel[] = [];
  try {
    // The kernel completes connections by itself until the queue is full, then drops what comes.
    const timeouts: unknown[] = [];
    while (timeouts.length === 0) {
      await connectChannel(deaf.address, { timeoutMs: 50 }).then(
        (channel) => channels.push(channel),
        (error) => timeouts.push(error),
      );
    }
    assert.equal((timeouts[0] as NodeJS.ErrnoException).code, 'ETIMEDOUT');
    assert.equal(
      (timeouts[0] as Error).message,
      `Failed to connect to "${deaf.address}": no connection within 0.05 s`,
    );

    const signal = AbortSignal.timeout(50);
    await assert.rejects(
      connectChannel(deaf.address, { signal, timeoutMs: Number.POSITIVE_INFINITY }),
      (error: NodeJS.ErrnoException) => {
        assert.equal(error.code, 'ABORT_ERR');
        assert.equal(error.cause, signal.reason);
        return true;
      },
    );
  } finally {
    for (const channel of channels) channel.close();
    closeFd(deaf.fd);
  }
});

test('connectChannel() refuses a tcp URI without a host', async () => {
  await assert.rejects(connectChannel('tcp::4444'), {
    code: 'EINVAL',
    message: 'Failed to connect to "tcp::4444": the host is missing',
  });
});

test('connectChannel() and listenChannel() reject texts that are no URIs', async () => {
  await assert.rejects(connectChannel('localhost:4444'), UriError);
  await assert.rejects(listenChannel('localhost:4444'), UriError);
});

function socketOption(fd: number, level: number, name: number): number {
  const value = [0];
  checked(getsockopt(fd, level, name, value, [4]), 'getsockopt');
  return value[0] as number;
}

/** A server with a queue of one connection that never accepts any. */
function listenWithoutRoom(): { fd: number; address: string } {
  const AF_INET = 2;
  const SOCK_STREAM_CLOEXEC = 1 | 0o2000000;
  const SOCKADDR_BYTES = 16;
  const fd = checked(libc.func('int socket(int, int, int)')(AF_INET, SOCK_STREAM_CLOEXEC, 0), 'socket');
  // listen(2) on an unbound socket binds it to a free port of every address.
  checked(libc.func('int listen(int, int)')(fd, 0), 'listen');
  const address = Buffer.alloc(SOCKADDR_BYTES);
  const getsockname = libc.func(
    'int getsockname(int, _Out_ uint8_t *address, _Inout_ uint32_t *lengthBytes)',
  );
  checked(getsockname(fd, address, [SOCKADDR_BYTES]), 'getsockname');
  return { fd, address: `tcp:127.0.0.1:${address.readUInt16BE(2)}` };
}
