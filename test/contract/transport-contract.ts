/**
 * What every transport promises, as tests: a transport passes the suite from a description of how to set it up.
 *
 *   testTransport({ name: 'tcp', kind: 'duplex', prepare: async () => ({ incoming: 'tcp:127.0.0.1:0' }) });
 *
 * Descriptors are driven as a migration thread would drive them: non-blocking reads and writes, nothing of Node's streams.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { closeSync, readdirSync, readSync } from 'node:fs';
import { test } from 'node:test';
import type { Channel } from '../../src/transport/channel.ts';
import { type ConnectOptions, connectChannel } from '../../src/transport/connect.ts';
import { type ListenOptions, listenChannel } from '../../src/transport/listen.ts';
import type { Listener } from '../../src/transport/listener.ts';
import { skipUnless } from '../support/requirements.ts';
import {
  fill,
  isTransportError,
  receive,
  receiveToEnd,
  sendAll,
  until,
  withChannels,
} from './transport-io.ts';

/** The two ends of one channel to be. */
export interface Addresses {
  readonly incoming: string;
  /** Default: what the listener says is its address. */
  readonly outgoing?: string;
  /** Takes away what `prepare` made. */
  cleanup?(): void;
}

export interface TransportUnderTest {
  readonly name: string;
  /** `duplex`: both ends send. `pipe`: only the source does. `stored`: the destination reads what the source left. */
  readonly kind: 'duplex' | 'pipe' | 'stored';
  /** Why it cannot be tested on this host. */
  readonly whyNot?: string | undefined;
  /** How both ends are protected; the folder of it is made by the suite. */
  readonly tls?: { readonly listen: ListenOptions; readonly connect: ConnectOptions } | undefined;
  /** How often to open and close in search of leaks. Default: 50. */
  readonly rounds?: number;
  prepare(): Promise<Addresses>;
  /** What `peer` says at each end. */
  readonly sourcePeer: RegExp;
  readonly destinationPeer: RegExp;
}

const MANY = 50;

/** A test of one transport, skipped where the transport cannot be tested. */
export function testOf(transport: TransportUnderTest, behaviour: string, body: () => Promise<void>): void {
  const { name, whyNot } = transport;
  test(`${name} transport ${behaviour}`, async (t) => {
    if (skipUnless(t, name, whyNot === undefined, whyNot ?? '')) await body();
  });
}

export function testTransport(transport: TransportUnderTest): void {
  const { kind } = transport;
  const check = (behaviour: string, body: () => Promise<void>) => testOf(transport, behaviour, body);

  for (const lengthBytes of [1, 4095, 65536, 65537, 4 * 2 ** 20]) {
    check(`carries ${lengthBytes} bytes unchanged, then the end`, () =>
      withEnds(transport, async (source, openDestination) => {
        const sent = randomBytes(lengthBytes);
        const sending = sendAll(source.fd, sent).then(() => source.close());
        if (kind === 'stored') await sending;
        const destination = await openDestination();

        const [received] = await Promise.all([receiveToEnd(destination.fd), sending]);

        assert(received.equals(sent), `${received.length} bytes received, or changed ones`);
        await Promise.all([source.finished(), destination.finished()]);
      }),
    );
  }

  check('keeps the order of many small writes', () =>
    withEnds(transport, async (source, openDestination) => {
      const lines = Array.from({ length: 5000 }, (_, index) => `${index}\n`);
      const send = async () => {
        for (const line of lines) await sendAll(source.fd, Buffer.from(line));
        source.close();
      };
      const sending = send();
      if (kind === 'stored') await sending;
      const destination = await openDestination();

      const [received] = await Promise.all([receiveToEnd(destination.fd), sending]);

      assert.equal(received.toString(), lines.join(''));
    }),
  );

  check('says whether it has a return path, and who the peer is', () =>
    withEnds(transport, async (source, openDestination) => {
      const destination = await openDestination();
      assert.equal(source.hasReturnPath, kind === 'duplex');
      assert.equal(destination.hasReturnPath, kind === 'duplex');
      assert.match(source.peer, transport.sourcePeer);
      assert.match(destination.peer, transport.destinationPeer);
    }),
  );

  check('closes twice without harm, and gives up its descriptor once', () =>
    withEnds(transport, async (source, openDestination) => {
      const destination = await openDestination();
      destination.close();
      destination.close();
      assert.equal(destination.fd, -1);
      assert.throws(() => destination.detach(), { code: 'ERR_ASSERTION' });

      const fd = source.detach();
      try {
        assert.equal(source.fd, -1);
        source.close();
        assert(readdirSync('/proc/self/fd').includes(String(fd)));
      } finally {
        closeSync(fd);
      }
    }),
  );

  check('leaks no descriptor when opened and closed many times', async () => {
    const once = () => withEnds(transport, async (_, openDestination) => void (await openDestination()));
    await once();
    const before = openFds();
    for (let round = 0; round < (transport.rounds ?? MANY); round++) await once();
    await until(() => openFds() <= before, 'descriptors to be closed');
  });

  check('opens nothing once the signal has fired', () =>
    withEnds(transport, async (source, openDestination, listener) => {
      await openDestination();
      const signal = AbortSignal.abort();
      const before = openFds();
      await assert.rejects(connectChannel(source.peer, { signal }), isTransportError('ABORT_ERR'));
      await assert.rejects(listener().accept({ signal }), isTransportError('ABORT_ERR'));
      assert.equal(openFds(), before);
    }),
  );

  check('accepts nothing once the listener is closed', () =>
    withEnds(transport, async (_source, openDestination, listener) => {
      await openDestination();
      listener().close();
      listener().close();
      await assert.rejects(listener().accept(), isTransportError('ECANCELED'));
    }),
  );

  if (kind !== 'stored') {
    check('says EAGAIN to a reader without bytes and to a writer without room, and loses nothing', () =>
      withEnds(transport, async (source, openDestination) => {
        const destination = await openDestination();
        assert.throws(() => readSync(destination.fd, Buffer.alloc(1)), { code: 'EAGAIN' });

        const chunk = randomBytes(2 ** 20);
        const sentBytes = fill(source.fd, chunk);
        source.close();
        const received = await receiveToEnd(destination.fd);

        assert.equal(received.length, sentBytes);
        for (let at = 0; at < received.length; at += chunk.length) {
          const piece = received.subarray(at, at + chunk.length);
          assert(piece.equals(chunk.subarray(0, piece.length)), `bytes changed after ${at}`);
        }
      }),
    );

    check('tells a writer whose reader has gone', () =>
      withEnds(transport, async (source, openDestination) => {
        (await openDestination()).close();
        await assert.rejects(
          async () => {
            for (;;) await sendAll(source.fd, Buffer.alloc(65536));
          },
          (error: NodeJS.ErrnoException) => error.code === 'EPIPE' || error.code === 'ECONNRESET',
        );
      }),
    );
  }

  if (kind === 'duplex') {
    check('carries bytes in both directions at once', () =>
      withEnds(transport, async (source, openDestination) => {
        const destination = await openDestination();
        const [forward, back] = [randomBytes(2 ** 20), randomBytes(2 ** 20)];

        const [, , received, answered] = await Promise.all([
          sendAll(source.fd, forward),
          sendAll(destination.fd, back),
          receive(destination.fd, forward.length),
          receive(source.fd, back.length),
        ]);

        assert(received.equals(forward));
        assert(answered.equals(back));
      }),
    );
  } else {
    check('gives its only channel once', () =>
      withEnds(transport, async (_source, openDestination, listener) => {
        await openDestination();
        await assert.rejects(listener().accept(), isTransportError('EBUSY'));
      }),
    );
  }
}

function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

export async function withAddresses(
  transport: TransportUnderTest,
  body: (addresses: Addresses) => Promise<void>,
): Promise<void> {
  const addresses = await transport.prepare();
  try {
    await body(addresses);
  } finally {
    addresses.cleanup?.();
  }
}

/** Runs `body` with a connected source; the destination of a stored stream is opened only when asked for. */
async function withEnds(
  transport: TransportUnderTest,
  body: (source: Channel, openDestination: () => Promise<Channel>, listener: () => Listener) => Promise<void>,
): Promise<void> {
  await withAddresses(transport, ({ incoming, outgoing }) =>
    withChannels(async (keep) => {
      let listener: Listener | undefined;
      let accepted: Promise<Channel> | undefined;
      const openDestination = async () => {
        listener ??= await listenChannel(incoming, transport.tls?.listen);
        accepted ??= listener.accept().then(keep);
        return accepted;
      };

      try {
        if (transport.kind !== 'stored') {
          listener = await listenChannel(incoming, transport.tls?.listen);
          accepted = listener.accept().then(keep);
        }
        const target = outgoing ?? listener?.address ?? incoming;
        const source = keep(await connectChannel(target, transport.tls?.connect));
        await body(source, openDestination, () => listener as Listener);
      } finally {
        listener?.close();
      }
    }),
  );
}
