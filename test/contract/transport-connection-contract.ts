/**
 * What transports that wait for connections promise besides the transport contract.
 */
import assert from 'node:assert/strict';
import { connect, type Socket } from 'node:net';
import { buffer } from 'node:stream/consumers';
import { setImmediate as turn } from 'node:timers/promises';
import { connect as connectTls } from 'node:tls';
import type { Channel } from '../../src/transport/channel.ts';
import { type ConnectOptions, connectChannel } from '../../src/transport/connect.ts';
import { listenChannel } from '../../src/transport/listen.ts';
import type { Listener } from '../../src/transport/listener.ts';
import { parseMigrationUri } from '../../src/transport/parse-uri.ts';
import { TransportError } from '../../src/transport/transport-error.ts';
import { type TransportUnderTest, testOf, withAddresses } from './transport-contract.ts';
import { isTransportError, receive, receiveToEnd, sendAll, withChannels } from './transport-io.ts';

export function testConnections(transport: TransportUnderTest): void {
  const listen = (uri: string) => listenChannel(uri, transport.tls?.listen);
  const connectTo = (uri: string, signal?: AbortSignal) =>
    connectChannel(uri, { ...transport.tls?.connect, signal });
  const check = (behaviour: string, body: (listener: Listener) => Promise<void>) =>
    testOf(transport, behaviour, () =>
      withAddresses(transport, async ({ incoming }) => {
        const listener = await listen(incoming);
        try {
          await body(listener);
        } finally {
          listener.close();
        }
      }),
    );

  check('refuses an address in use, and frees it when closed', async (listener) => {
    await assert.rejects(listen(listener.address), (error: unknown) => {
      assert(error instanceof TransportError);
      assert.equal(error.code, 'EADDRINUSE');
      assert.equal(error.uri, listener.address);
      assert.equal(
        error.message,
        `Failed to listen on "${listener.address}": address already in use (is another destination listening there?)`,
      );
      return true;
    });
    listener.close();
    (await listen(listener.address)).close();
  });

  check('leaves a waiting listener alone when its address is asked for again', async (listener) => {
    const accepting = listener.accept();
    await assert.rejects(listen(listener.address), isTransportError('EADDRINUSE'));
    await withChannels(async (keep) => {
      const source = keep(await connectTo(listener.address));
      const destination = keep(await accepting);
      await sendAll(source.fd, Buffer.from('x'));
      assert.equal((await receive(destination.fd, 1)).toString(), 'x');
    });
  });

  check('refuses a connection once the listener is closed', async (listener) => {
    listener.close();
    await assert.rejects(connectTo(listener.address), (error: unknown) => {
      assert(error instanceof TransportError);
      assert(['ECONNREFUSED', 'ENOENT'].includes(error.code), error.code);
      assert(error.message.startsWith(`Failed to connect to "${listener.address}": `), error.message);
      assert(error.message.endsWith(' (is a destination listening there?)'), error.message);
      assert.equal((error.cause as NodeJS.ErrnoException).code, error.code);
      return true;
    });
  });

  check('ends a waiting accept when the listener is closed', async (listener) => {
    const accepting = listener.accept();
    listener.close();
    await assert.rejects(accepting, {
      name: 'TransportError',
      code: 'ECANCELED',
      message: `Failed to accept on "${listener.address}": the listener was closed`,
    });
  });

  check('ends a waiting accept by its signal, and goes on listening', async (listener) => {
    const abort = new AbortController();
    const aborted = listener.accept({ signal: abort.signal });
    const accepting = listener.accept();
    abort.abort();
    await assert.rejects(aborted, isTransportError('ABORT_ERR'));
    await withChannels(async (keep) => {
      keep(await connectTo(listener.address));
      keep(await accepting);
    });
  });

  check('ends a pending connect by its signal', async (listener) => {
    const abort = new AbortController();
    const connecting = connectTo(listener.address, abort.signal);
    abort.abort();
    await assert.rejects(connecting, isTransportError('ABORT_ERR'));
  });

  check('closes a connection nobody waits for, and serves the next one', async (listener) => {
    await withChannels(async (keep) => {
      const accepting = listener.accept();
      const first = keep(await connectTo(listener.address));
      const served = keep(await accepting);

      if (transport.tls === undefined) {
        const second = keep(await connectTo(listener.address));
        assert.equal((await receiveToEnd(second.fd)).length, 0);
      } else await assert.rejects(connectTo(listener.address), isTransportError('ECONNRESET'));

      const acceptingAgain = listener.accept();
      const third = keep(await connectTo(listener.address));
      const servedAgain = keep(await acceptingAgain);
      for (const [from, to] of [
        [first, served],
        [third, servedAgain],
      ] as const) {
        await sendAll(from.fd, Buffer.from('still here'));
        assert.equal((await receive(to.fd, 10)).toString(), 'still here');
      }
    });
  });

  check('serves several waiting accepts in order', async (listener) => {
    await withChannels(async (keep) => {
      const accepting = [listener.accept(), listener.accept()];
      for (const name of ['a', 'b']) {
        const source = keep(await connectTo(listener.address));
        const destination = keep(await (accepting.shift() as Promise<Channel>));
        await sendAll(source.fd, Buffer.from(name));
        assert.equal((await receive(destination.fd, 1)).toString(), name);
      }
    });
  });

  check('keeps accepted channels open when the listener is closed', async (listener) => {
    await withChannels(async (keep) => {
      const accepting = listener.accept();
      const source = keep(await connectTo(listener.address));
      const destination = keep(await accepting);
      listener.close();
      await sendAll(destination.fd, Buffer.from('x'));
      assert.equal((await receive(source.fd, 1)).toString(), 'x');
    });
  });

  check('sees the end of a peer that only stopped sending, and still answers it', (listener) =>
    withChannels(async (keep) => {
      const accepting = listener.accept();
      const peer = connectNode(listener.address, transport.tls?.connect);
      try {
        peer.end('question');
        const destination = keep(await accepting);
        assert.equal((await receiveToEnd(destination.fd)).toString(), 'question');
        await sendAll(destination.fd, Buffer.from('answer'));
        destination.close();
        assert.equal((await buffer(peer)).toString(), 'answer');
      } finally {
        peer.destroy();
      }
    }),
  );

  check('leaves bytes that came before accept was awaited to the channel', async (listener) => {
    await withChannels(async (keep) => {
      const accepting = listener.accept();
      const source = keep(await connectTo(listener.address));
      await sendAll(source.fd, Buffer.from('early'));
      source.close();
      for (let turns = 0; turns < 10; turns++) await turn();
      assert.equal((await receiveToEnd(keep(await accepting).fd)).toString(), 'early');
    });
  });
}

/** A peer that is none of our channels. */
function connectNode(address: string, { tls }: ConnectOptions = {}): Socket {
  const uri = parseMigrationUri(address);
  assert(uri.scheme === 'tcp' || uri.scheme === 'unix');
  const socket = connect({ ...uri, allowHalfOpen: true });
  if (tls === undefined) return socket;
  const { credentials } = tls.settings;
  assert(credentials.kind === 'tls-creds-x509');
  const { authorities: ca, certificate: cert, key } = credentials;
  return connectTls({ socket, ca, cert, key, servername: 'localhost' });
}
