/**
 * Opens the incoming end of a migration: what a destination reads its stream from.
 *
 * `tcp:` and `unix:` wait for connections, each accepted one a channel. The others have one channel, there from the start.
 */
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { createServer, type ListenOptions as SocketOptions } from 'node:net';
import { dirname } from 'node:path';
import { openCommand } from './exec-channel.ts';
import { openFileForReading } from './file-channel.ts';
import { openGivenFd } from './given-fd-channel.ts';
import type { Listener } from './listener.ts';
import { type MigrationUri, parseMigrationUri } from './parse-uri.ts';
import { SingleChannelListener } from './single-channel-listener.ts';
import { KEEP_ALIVE_DELAY_MS } from './socket-channel.ts';
import { SocketListener } from './socket-listener.ts';
import { removeStaleSocket } from './stale-socket.ts';
import { checkTlsScheme, type TlsOptions } from './tls-channel.ts';
import { TlsListener } from './tls-listener.ts';
import { codeOf, failure, systemFailure, TransportError } from './transport-error.ts';

export interface ListenOptions {
  /** Protects the connections; those that do not shake hands are refused. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
}

/**
 * @throws {UriError} if the text is not a URI
 * @throws {TransportError} `EADDRINUSE`, `EADDRNOTAVAIL`, `EACCES`, `ENOENT`, `EBADF`, …
 */
export async function listenChannel(
  target: string | MigrationUri,
  { tls }: ListenOptions = {},
): Promise<Listener> {
  const uri = typeof target === 'string' ? parseMigrationUri(target) : target;
  if (tls !== undefined) checkTlsScheme('listen', uri);
  const plain = await listenPlain(uri);
  return tls === undefined ? plain : new TlsListener(plain, parseMigrationUri(plain.address), tls);
}

async function listenPlain(uri: MigrationUri): Promise<Listener> {
  try {
    switch (uri.scheme) {
      case 'tcp':
        return await listenSocket(uri, { port: uri.port, ...(uri.host !== '' && { host: uri.host }) });
      case 'unix':
        return await listenUnix(uri);
      case 'fd':
        return new SingleChannelListener(uri, openGivenFd(uri, 'read'));
      case 'exec':
        return new SingleChannelListener(uri, await openCommand(uri, 'read'));
      case 'file':
        return new SingleChannelListener(uri, openFileForReading(uri));
    }
  } catch (error) {
    if (error instanceof TransportError) throw error;
    throw systemFailure(uri.scheme === 'tcp' || uri.scheme === 'unix' ? 'listen' : 'open', uri, error);
  }
}

async function listenUnix(uri: MigrationUri & { scheme: 'unix' }): Promise<Listener> {
  try {
    return await listenSocket(uri, { path: uri.path });
  } catch (error) {
    // libuv reports ENOENT of bind(2) as EACCES, as Windows would.
    if (codeOf(error) === 'EACCES' && !existsSync(dirname(uri.path))) {
      throw failure('listen', uri, 'ENOENT', 'no such file or directory', error);
    }
    if (codeOf(error) !== 'EADDRINUSE') throw error;
    const obstacle = await removeStaleSocket(uri.path);
    if (obstacle !== undefined) throw systemFailure('listen', uri, error, obstacle);
    return await listenSocket(uri, { path: uri.path });
  }
}

async function listenSocket(uri: MigrationUri, options: SocketOptions): Promise<Listener> {
  const server = createServer({
    pauseOnConnect: true,
    noDelay: true,
    keepAlive: true,
    keepAliveInitialDelay: KEEP_ALIVE_DELAY_MS,
  });
  server.listen(options);
  await once(server, 'listening');

  const bound = server.address();
  if (bound === null || typeof bound === 'string') return new SocketListener(server, uri);
  return new SocketListener(server, { scheme: 'tcp', host: bound.address, port: bound.port });
}
