/**
 * Opens the outgoing end of a migration: what a source writes its stream to.
 *
 * See channel.ts for what is done with it.
 */
import { Socket, type SocketConnectOpts } from 'node:net';
import type { Channel } from './channel.ts';
import { openCommand } from './exec-channel.ts';
import { openFileForWriting } from './file-channel.ts';
import { openGivenFd } from './given-fd-channel.ts';
import { type MigrationUri, parseMigrationUri } from './parse-uri.ts';
import { KEEP_ALIVE_DELAY_MS, takeSocket } from './socket-channel.ts';
import { checkTlsScheme, secureChannel, type TlsOptions } from './tls-channel.ts';
import { abortFailure, failure, systemFailure, TransportError, throwIfAborted } from './transport-error.ts';

export const DEFAULT_CONNECT_TIMEOUT_MS = 30_000;
/** Node turns longer timers, Infinity too, into 1 ms. */
const MAX_TIMER_MS = 2 ** 31 - 1;

export interface ConnectOptions {
  /** Gives up with `ABORT_ERR`. No effect once the channel is there. */
  readonly signal?: AbortSignal | undefined;
  /** Time for names and connections together, after which it fails with `ETIMEDOUT`. Default: 30 seconds. */
  readonly timeoutMs?: number | undefined;
  /** Protects the connection. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
}

/**
 * @throws {UriError} if the text is not a URI
 * @throws {TransportError} `ECONNREFUSED`, `ENOTFOUND`, `ENOENT`, `EACCES`, `EBADF`, `ETIMEDOUT`, `ABORT_ERR`, …
 */
export async function connectChannel(
  target: string | MigrationUri,
  options: ConnectOptions = {},
): Promise<Channel> {
  const { tls, signal } = options;
  const uri = typeof target === 'string' ? parseMigrationUri(target) : target;
  if (tls !== undefined) checkTlsScheme('open', uri);
  const plain = await connectPlain(uri, options);
  return tls === undefined ? plain : await secureChannel(plain, { tls, action: 'open', uri, signal });
}

async function connectPlain(uri: MigrationUri, options: ConnectOptions): Promise<Channel> {
  throwIfAborted('open', uri, options.signal);
  try {
    switch (uri.scheme) {
      case 'tcp':
        if (uri.host === '') throw failure('open', uri, 'EINVAL', 'the host is missing');
        return await connectSocket(uri, { host: uri.host, port: uri.port }, options);
      case 'unix':
        return await connectSocket(uri, { path: uri.path }, options);
      case 'fd':
        return openGivenFd(uri, 'write');
      case 'exec':
        return await openCommand(uri, 'write');
      case 'file':
        return openFileForWriting(uri);
    }
  } catch (error) {
    throw error instanceof TransportError ? error : systemFailure('open', uri, error);
  }
}

function connectSocket(
  uri: MigrationUri,
  address: SocketConnectOpts,
  { signal, timeoutMs = DEFAULT_CONNECT_TIMEOUT_MS }: ConnectOptions,
): Promise<Channel> {
  return new Promise((resolve, reject) => {
    const socket = new Socket();
    const settle = (finish: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
      finish();
    };
    const giveUp = (error: Error) =>
      settle(() => {
        socket.destroy();
        reject(error);
      });

    const onAbort = () => giveUp(abortFailure('open', uri, signal as AbortSignal));
    signal?.addEventListener('abort', onAbort, { once: true });
    const timer = setTimeout(
      () => giveUp(failure('open', uri, 'ETIMEDOUT', `no connection within ${timeoutMs / 1000} s`)),
      Math.min(timeoutMs, MAX_TIMER_MS),
    );

    socket.on('error', giveUp);
    socket.once('connect', () =>
      settle(() => {
        try {
          if (uri.scheme === 'tcp') socket.setNoDelay(true).setKeepAlive(true, KEEP_ALIVE_DELAY_MS);
          resolve(takeSocket(socket, uri));
        } catch (error) {
          reject(error);
        }
      }),
    );
    // Paused from the start, Node never reads from it: every byte is left to the migration thread.
    socket.pause();
    socket.connect(address);
  });
}
