/**
 * Channels that are protected by TLS: how each end of a connection reaches the other side, and who is refused, in which words.
 */
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, readSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { after, suite, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { shutdownWrite } from '../../src/linux/socket-options.ts';
import { TlsObjects, type TlsSettings } from '../../src/tls/tls-objects.ts';
import type { TlsEndpoint } from '../../src/tls/x509-credentials.ts';
import type { Channel } from '../../src/transport/channel.ts';
import { connectChannel } from '../../src/transport/connect.ts';
import { listenChannel } from '../../src/transport/listen.ts';
import type { Listener } from '../../src/transport/listener.ts';
import type { TlsOptions } from '../../src/transport/tls-channel.ts';
import { flushTlsChannels } from '../../src/transport/tls-pumps.ts';
import {
  makeCertificate,
  makeRevocationList,
  writeFolder,
  writePskFolder,
  writeX509Folder,
} from '../support/certificates.ts';
import { fill, receive, receiveToEnd, sendAll, until } from './transport-io.ts';

const root = mkdtempSync(join(tmpdir(), 'postcopy-'));
after(() => rmSync(root, { recursive: true }));
const x509 = writeX509Folder(join(root, 'x509'));
const psk = writePskFolder(join(root, 'psk'));
const pem = (name: string) => readFileSync(join(x509, name), 'utf8');

/** What an end needs whose credentials are in `dir`. */
function settingsOf(
  endpoint: TlsEndpoint,
  dir: string,
  more: { object?: object; hostname?: string; identity?: string } = {},
): TlsSettings {
  const objects = new TlsObjects();
  const type = existsSync(join(dir, 'keys.psk')) ? 'tls-creds-psk' : 'tls-creds-x509';
  objects.add({ 'qom-type': type, id: 'tls0', dir, endpoint, ...more.object });
  if (more.identity !== undefined) {
    objects.add({ 'qom-type': 'authz-simple', id: 'auth0', identity: more.identity });
  }
  const names = {
    credentials: 'tls0',
    hostname: more.hostname ?? '',
    authorization: more.identity === undefined ? '' : 'auth0',
  };
  return objects.settings(endpoint, names) as TlsSettings;
}

const SERVER = settingsOf('server', x509);
const CLIENT = settingsOf('client', x509);

/** Messages of both ends. */
interface Ends {
  readonly listener: Listener;
  readonly said: string[];
  keep(channel: Channel): Channel;
  connect(settings?: TlsSettings, options?: Partial<TlsOptions>): Promise<Channel>;
}

async function withListener(
  server: TlsSettings | undefined,
  body: (ends: Ends) => Promise<void>,
  options: Partial<TlsOptions> = {},
): Promise<void> {
  const said: string[] = [];
  const onMessage = (text: string) => void said.push(text);
  const listener = await listenChannel('tcp:127.0.0.1:0', {
    tls: server && { settings: server, onMessage, ...options },
  });
  const channels: Channel[] = [];
  const keep = (channel: Channel) => {
    channels.push(channel);
    return channel;
  };
  try {
    await body({
      listener,
      said,
      keep,
      connect: async (settings = CLIENT, more = {}) =>
        keep(await connectChannel(listener.address, { tls: { settings, onMessage, ...more } })),
    });
  } finally {
    listener.close();
    for (const channel of channels) channel.close();
  }
}

const portOf = (address: string) => Number(address.split(':').at(-1));

/** Node's own TLS as the client of a listener of ours; `raw` is the connection below it. */
async function nodeClient({ address }: Listener): Promise<{ tls: TLSSocket; raw: Socket }> {
  const raw = connect({ port: portOf(address), host: '127.0.0.1', allowHalfOpen: true });
  const tls = connectTls({
    socket: raw,
    ca: pem('ca-cert.pem'),
    cert: pem('client-cert.pem'),
    key: pem('client-key.pem'),
    servername: 'localhost',
  });
  tls.on('error', () => {});
  raw.on('error', () => {});
  await new Promise((resolve) => tls.once('secureConnect', resolve));
  return { tls, raw };
}

/** Reads until something else than bytes comes. @returns the bytes, and the error; undefined is the end */
async function receiveAll(fd: number): Promise<{ bytes: Buffer; code: string | undefined }> {
  const pieces: Buffer[] = [];
  const piece = Buffer.alloc(65536);
  for (;;) {
    try {
      const count = readSync(fd, piece, 0, piece.length, null);
      if (count === 0) return { bytes: Buffer.concat(pieces), code: undefined };
      pieces.push(Buffer.from(piece.subarray(0, count)));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EAGAIN') return { bytes: Buffer.concat(pieces), code };
      await sleep(1);
    }
  }
}

suite('ends of a channel with TLS', () => {
  test('an end with close_notify is an end, behind all that was sent', () =>
    withListener(SERVER, async ({ listener, keep }) => {
      const accepting = listener.accept();
      const { tls } = await nodeClient(listener);
      const channel = keep(await accepting);
      const sent = randomBytes(300_000);
      tls.end(sent);
      const { bytes, code } = await receiveAll(channel.fd);
      assert(bytes.equals(sent));
      assert.equal(code, undefined);
    }));

  for (const [what, cut] of [
    ['an end without close_notify', (raw: Socket) => raw.end()],
    ['a reset', (raw: Socket) => raw.resetAndDestroy()],
  ] as const) {
    test(`${what} is ECONNRESET, behind all that was sent, and is told`, () =>
      withListener(SERVER, async ({ listener, keep, said }) => {
        const accepting = listener.accept();
        const { tls, raw } = await nodeClient(listener);
        const channel = keep(await accepting);
        await sendAll(channel.fd, Buffer.from('something that the engine has written'));
        const sent = randomBytes(300_000);
        tls.write(sent);
        assert((await receive(channel.fd, sent.length)).equals(sent));
        cut(raw);
        assert.deepEqual(await receiveAll(channel.fd), { bytes: Buffer.alloc(0), code: 'ECONNRESET' });
        await until(() => /^TLS with tcp:127\.0\.0\.1:\d+: /.test(said[0] ?? ''), 'why it broke');
      }));
  }

  test('bytes that were on their way when the connection was cut off come first', () =>
    withListener(SERVER, async ({ listener, keep }) => {
      const accepting = listener.accept();
      const { tls, raw } = await nodeClient(listener);
      const channel = keep(await accepting);
      const sent = randomBytes(200_000);
      await new Promise((resolve) => tls.write(sent, resolve));
      raw.end();
      const { bytes, code } = await receiveAll(channel.fd);
      assert(bytes.equals(sent), `${bytes.length} bytes`);
      assert.equal(code, 'ECONNRESET');
    }));

  test('a channel that is closed ends TLS with close_notify, and then the thread', () =>
    withListener(SERVER, async ({ listener }) => {
      const accepting = listener.accept();
      const { tls, raw } = await nodeClient(listener);
      const channel = await accepting;
      await sendAll(channel.fd, Buffer.from('last words'));
      channel.close();
      let hasRawEnded = false;
      raw.once('end', () => {
        hasRawEnded = true;
      });
      let endedBeforeRaw: boolean | undefined;
      const push = tls.push.bind(tls);
      tls.push = (chunk) => {
        if (chunk === null) endedBeforeRaw ??= !hasRawEnded;
        return push(chunk);
      };
      assert.equal((await buffer(tls)).toString(), 'last words');
      assert.equal(endedBeforeRaw, true);
    }));

  test('a channel that only sends no more still receives', () =>
    withListener(SERVER, async ({ listener, keep, connect: connectTo }) => {
      const accepting = listener.accept();
      const source = await connectTo();
      const destination = keep(await accepting);
      await sendAll(source.fd, Buffer.from('question'));
      shutdownWrite(source.fd);
      assert.equal((await receiveToEnd(destination.fd)).toString(), 'question');
      const answer = randomBytes(500_000);
      await Promise.all([sendAll(destination.fd, answer).then(() => destination.close()), sleep(200)]);
      assert((await receiveToEnd(source.fd)).equals(answer));
    }));

  test('who does not read makes the other side wait, with little in between', () =>
    withListener(SERVER, async ({ listener, keep, connect: connectTo }) => {
      const accepting = listener.accept();
      const source = await connectTo();
      const destination = keep(await accepting);
      const chunk = randomBytes(2 ** 20);
      let sentBytes = 0;
      for (let quiet = 0; quiet < 20; ) {
        const more = fill(source.fd, chunk.subarray(sentBytes % chunk.length));
        sentBytes += more;
        quiet = more === 0 ? quiet + 1 : 0;
        await sleep(10);
      }
      // Most of it is in the kernel's buffers of the connection, which are like this without TLS.
      assert(sentBytes < 24 * 2 ** 20, `${sentBytes} bytes are on their way`);
      source.close();
      const { bytes, code } = await receiveAll(destination.fd);
      assert.equal(bytes.length, sentBytes);
      assert.equal(code, undefined);
    }));

  test('flushTlsChannels() lets what was written before the close arrive', () =>
    withListener(SERVER, async ({ listener }) => {
      const accepting = listener.accept();
      const { tls } = await nodeClient(listener);
      const channel = await accepting;
      const sent = randomBytes(150_000);
      await sendAll(channel.fd, sent);
      channel.close();
      const reading = buffer(tls);
      await flushTlsChannels(5000);
      assert((await reading).equals(sent));
    }));

  test('flushTlsChannels() cuts off what nobody has closed', () =>
    withListener(SERVER, async ({ listener, keep }) => {
      const accepting = listener.accept();
      const { tls } = await nodeClient(listener);
      keep(await accepting);
      const ended = new Promise((resolve) => tls.once('end', resolve));
      tls.resume();
      await flushTlsChannels(20_000);
      await ended;
      tls.destroy();
    }));
});

suite('connections that are refused', () => {
  const authority = makeCertificate({ subject: [['CN', 'Authority']], isAuthority: true });
  const other = makeCertificate({ subject: [['CN', 'Other authority']], isAuthority: true });
  const localhost = {
    subject: [['CN', 'localhost']],
    dnsNames: ['localhost'],
    addresses: ['127.0.0.1'],
  } as const;
  const folder = (name: string, files: Record<string, string>) => writeFolder(join(root, name), files);
  const serverFiles = (cert: ReturnType<typeof makeCertificate>) => ({
    'ca-cert.pem': authority.pem,
    'server-cert.pem': cert.pem,
    'server-key.pem': cert.keyPem,
  });
  const clientFiles = (cert: ReturnType<typeof makeCertificate>, ca = authority) => ({
    'ca-cert.pem': ca.pem,
    'client-cert.pem': cert.pem,
    'client-key.pem': cert.keyPem,
  });
  const goodServer = makeCertificate({ ...localhost, issuer: authority, usage: 'server' });
  const goodClient = makeCertificate({ subject: [['CN', 'me']], issuer: authority, usage: 'client' });
  const good = {
    server: settingsOf('server', folder('good-server', serverFiles(goodServer))),
    client: settingsOf('client', folder('good-client', clientFiles(goodClient))),
  };
  const unchecked = { object: { 'sanity-check': 'off' } };
  const revoked = makeCertificate({ subject: [['CN', 'gone']], issuer: authority, usage: 'client' });

  /** What each side says; the client is told at once, or finds its channel cut off. */
  const cases: [
    what: string,
    server: TlsSettings,
    client: TlsSettings,
    client: RegExp | undefined,
    server: RegExp,
  ][] = [
    [
      'a server of an unknown authority',
      settingsOf(
        'server',
        folder('foreign-server', {
          ...serverFiles(makeCertificate({ ...localhost, issuer: other })),
          'ca-cert.pem': other.pem,
        }),
      ),
      good.client,
      /TLS: the server's certificate is signed by an authority that is not in ca-cert\.pem here$/,
      /was refused: the other side closed the connection|does not know the authority/,
    ],
    [
      'a server whose certificate has expired',
      settingsOf(
        'server',
        folder(
          'expired-server',
          serverFiles(makeCertificate({ ...localhost, issuer: authority, fromDays: -9, toDays: -1 })),
        ),
        unchecked,
      ),
      good.client,
      /TLS: the server's certificate has expired$/,
      /was refused: /,
    ],
    [
      'a server by another name',
      good.server,
      { ...good.client, hostname: 'elsewhere.example' },
      /TLS: the server's certificate is of another host: .*tls-hostname names the one expected$/,
      /was refused: /,
    ],
    [
      'a client without a certificate',
      good.server,
      settingsOf('client', folder('no-client', { 'ca-cert.pem': authority.pem })),
      undefined,
      /was refused: the client has no certificate: it needs client-cert\.pem/,
    ],
    [
      'a client of an unknown authority',
      good.server,
      settingsOf(
        'client',
        folder('foreign-client', clientFiles(makeCertificate({ subject: [['CN', 'x']], issuer: other }))),
        unchecked,
      ),
      undefined,
      /was refused: the client's certificate is signed by an authority that is not in ca-cert\.pem here$/,
    ],
    [
      'a client whose certificate has expired',
      good.server,
      settingsOf(
        'client',
        folder(
          'expired-client',
          clientFiles(
            makeCertificate({ subject: [['CN', 'x']], issuer: authority, fromDays: -9, toDays: -1 }),
          ),
        ),
        unchecked,
      ),
      undefined,
      /was refused: the client's certificate has expired$/,
    ],
    [
      'a client whose certificate was revoked',
      settingsOf(
        'server',
        folder('crl-server', {
          ...serverFiles(goodServer),
          'ca-crl.pem': makeRevocationList(authority, [revoked]),
        }),
      ),
      settingsOf('client', folder('revoked-client', clientFiles(revoked))),
      undefined,
      /was refused: the client's certificate was revoked, says ca-crl\.pem$/,
    ],
    [
      'a client that tls-authz does not name',
      settingsOf('server', join(root, 'good-server'), { identity: 'CN=you' }),
      good.client,
      undefined,
      /was refused: "CN=me" may not come, says "auth0"$/,
    ],
    [
      'a client with another pre-shared key',
      settingsOf('server', psk),
      settingsOf('client', writePskFolder(join(root, 'other-psk'), 'ffffffffffffffffffffffffffffffff')),
      /TLS: /,
      /was refused: the pre-shared keys differ: compare the user name and its key in keys\.psk on both hosts$/,
    ],
    [
      'a client that keys.psk does not name',
      settingsOf('server', psk),
      settingsOf('client', folder('eve-psk', { 'keys.psk': 'eve:00ff' }), { object: { username: 'eve' } }),
      /TLS: /,
      /was refused: keys\.psk has no key of the user "eve"$/,
    ],
    [
      'a user of a pre-shared key that tls-authz does not name',
      settingsOf('server', psk, { identity: 'you' }),
      settingsOf('client', psk),
      undefined,
      /was refused: "qemu" may not come, says "auth0"$/,
    ],
    [
      'certificates at one side and a pre-shared key at the other',
      settingsOf('server', psk),
      good.client,
      /TLS: .*both sides have nothing in common/,
      /was refused: both sides have nothing in common/,
    ],
    [
      'a pre-shared key at one side and certificates at the other',
      good.server,
      settingsOf('client', psk),
      /TLS: /,
      /was refused: /,
    ],
  ];

  for (const [what, server, client, clientSays, serverSays] of cases) {
    test(what, () =>
      withListener(server, async ({ listener, said, connect: connectTo, keep }) => {
        const accepting = listener.accept();
        const connecting = connectTo(client);
        if (clientSays !== undefined)
          await assert.rejects(connecting, { name: 'TransportError', message: clientSays });
        else {
          const outcome = await connecting.then(
            ({ fd }) => receiveAll(fd),
            () => ({ code: 'ECONNRESET' }),
          );
          assert.equal(outcome.code, 'ECONNRESET');
        }
        await until(() => said.some((text) => serverSays.test(text)), `${serverSays} in ${said}`);
        // The listener waits on for somebody better.
        const second = connectTo(
          server.credentials.kind === 'tls-creds-psk' ? settingsOf('client', psk) : good.client,
        );
        if (server.authorization === undefined && /^a (client|pre|user)/.test(what)) {
          keep(await accepting);
          await second;
        } else {
          listener.close();
          await assert.rejects(accepting, { code: 'ECANCELED' });
          await second.catch(() => {});
        }
      }),
    );
  }

  test('a client without TLS, and one that speaks something else', () =>
    withListener(SERVER, async ({ listener, said, keep, connect: connectTo }) => {
      const accepting = listener.accept();
      for (const [bytes, words] of [
        [
          'QEVM....',
          /refused: what came is a migration that is not protected: set tls-creds at its source too/,
        ],
        ['GET / HTTP/1.1', /refused: it is not TLS, beginning with 0x47455420/],
      ] as const) {
        const peer = connect({ port: portOf(listener.address), host: '127.0.0.1' });
        peer.on('error', () => {});
        peer.write(bytes);
        await new Promise((resolve) => peer.once('close', resolve));
        assert.match(said.at(-1) ?? '', words);
      }
      await connectTo();
      keep(await accepting);
    }));

  test('silent strangers keep nobody from coming, and are sent away', () =>
    withListener(
      SERVER,
      async ({ listener, said, keep, connect: connectTo }) => {
        const accepting = listener.accept();
        const strangers = Array.from({ length: 20 }, () => {
          const stranger = connect({ port: portOf(listener.address), host: '127.0.0.1' });
          return new Promise((resolve) => stranger.on('error', () => {}).once('close', resolve));
        });
        const again = listener.accept();
        await connectTo();
        keep(await accepting);
        await Promise.all(strangers);
        assert.match(
          said[0] ?? '',
          /refused: it said nothing for 0\.4 s: TLS begins with the side that connects$/,
        );
        await connectTo();
        keep(await again);
      },
      { handshakeMs: 400 },
    ));

  test('a server that says nothing, and one that is no TLS', async () => {
    const answers: (((socket: Socket) => void) | undefined)[] = [
      undefined,
      (socket) => socket.write('SSH-2.0'),
    ];
    const texts = [
      /the handshake of TLS was not done within 0\.2 s/,
      /TLS: it is not TLS, beginning with 0x5353482d$/,
    ];
    for (const [index, answer] of answers.entries()) {
      const server: Server = createServer((socket) => {
        socket.on('error', () => {});
        answer?.(socket);
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as { port: number };
      const connecting = connectChannel(`tcp:127.0.0.1:${port}`, {
        tls: { settings: CLIENT, handshakeMs: index === 0 ? 200 : 5000 },
      });
      await assert.rejects(connecting, { message: texts[index] as RegExp });
      server.close();
    }
  });

  test('a server that shows a certificate instead of knowing the pre-shared key is not believed', async () => {
    const server = createTlsServer({ cert: pem('server-cert.pem'), key: pem('server-key.pem') });
    server.on('tlsClientError', () => {});
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const settings = settingsOf('client', psk);
    await assert.rejects(connectChannel(`tcp:127.0.0.1:${port}`, { tls: { settings } }), {
      name: 'TransportError',
    });
    server.close();
  });

  test('what has no connection to protect, or no name to expect', async () => {
    const tls = { settings: CLIENT };
    await assert.rejects(connectChannel('exec:cat', { tls }), {
      message: /exec: has no connection that TLS could protect/,
    });
    await assert.rejects(listenChannel('file:/x', { tls: { settings: SERVER } }), {
      message: /file: has no connection/,
    });
    const path = join(root, 'sock');
    const listener = await listenChannel(`unix:${path}`);
    await assert.rejects(connectChannel(`unix:${path}`, { tls }), { message: /Say it with tls-hostname$/ });
    listener.close();
  });

  test('verify-peer=off takes a client without a certificate, and any server', async () => {
    const lax = { object: { 'verify-peer': 'off' } };
    const server = settingsOf('server', join(root, 'foreign-server'), lax);
    await withListener(server, async ({ listener, keep, connect: connectTo }) => {
      const accepting = listener.accept();
      const source = await connectTo(settingsOf('client', join(root, 'no-client'), lax));
      await sendAll(source.fd, Buffer.from('hello'));
      assert.equal((await receive(keep(await accepting).fd, 5)).toString(), 'hello');
    });
  });

  test('a unix socket is protected as well, by the name in tls-hostname', async () => {
    const path = join(root, 'tls.sock');
    const listener = await listenChannel(`unix:${path}`, { tls: { settings: SERVER } });
    const accepting = listener.accept();
    const settings = { ...CLIENT, hostname: 'localhost' };
    const source = await connectChannel(`unix:${path}`, { tls: { settings } });
    const destination = await accepting;
    await sendAll(source.fd, Buffer.from('hello'));
    source.close();
    assert.equal((await receiveToEnd(destination.fd)).toString(), 'hello');
    destination.close();
    listener.close();
  });
});
