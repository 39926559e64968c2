/**
 * A channel that is protected by TLS: a connection, and a thread that stands between it and whoever uses the channel.
 *
 * The descriptor of the channel is one end of a pair of sockets in this process. What is written there is encrypted and sent
 * by the thread (tls-pump.ts), and the other way round, so that nobody who uses a channel need know of TLS.
 */
import { Worker } from 'node:worker_threads';
import { closeFd } from '../linux/fd.ts';
import type { TlsSettings } from '../tls/tls-objects.ts';
import { type Channel, FdChannel } from './channel.ts';
import type { MigrationUri } from './parse-uri.ts';
import { PEER_TIMEOUT_MS } from './socket-channel.ts';
import type { TlsPumpData, TlsPumpNotice } from './tls-messages.ts';
import { keepPump } from './tls-pumps.ts';
import { abortFailure, failure, type TransportAction, throwIfAborted } from './transport-error.ts';

/** A handshake takes some milliseconds, and two or three round trips. */
export const DEFAULT_HANDSHAKE_MS = 10_000;

/** TLS on a connection to be. */
export interface TlsOptions {
  readonly settings: TlsSettings;
  /** How long a handshake may take, and a stranger be silent before it. Default: 10 seconds. */
  readonly handshakeMs?: number | undefined;
  /** A peer that acknowledges nothing for so long is gone; at least 1000. Default: 60 seconds. */
  readonly peerTimeoutMs?: number | undefined;
  /** Told in words when a connection breaks for a reason that its descriptor cannot tell, and when one is refused. */
  readonly onMessage?: ((text: string) => void) | undefined;
}

interface SecureOptions {
  readonly tls: TlsOptions;
  readonly action: TransportAction;
  readonly uri: MigrationUri;
  readonly signal?: AbortSignal | undefined;
}

/** @throws {TransportError} if there is no connection that TLS could protect */
export function checkTlsScheme(action: TransportAction, uri: MigrationUri): void {
  if (uri.scheme !== 'exec' && uri.scheme !== 'file') return;
  const why = `${uri.scheme}: has no connection that TLS could protect: use tcp: or unix:, or clear tls-creds`;
  throw failure(action, uri, 'EINVAL', why);
}

/**
 * Shakes hands over a connection.
 *
 * @param plain closed, whatever comes of it
 * @throws {TransportError} with why not, in words for both ends
 */
export async function secureChannel(plain: Channel, options: SecureOptions): Promise<Channel> {
  const { tls, action, uri, signal } = options;
  const { peer } = plain;
  let fd: number;
  try {
    throwIfAborted(action, uri, signal);
    if (!plain.hasReturnPath) {
      throw failure(
        action,
        uri,
        'EINVAL',
        'TLS needs a connection that carries bytes both ways: use tcp: or unix:',
      );
    }
    checkHostname(options);
    fd = plain.detach();
  } catch (error) {
    plain.close();
    throw error;
  }
  const worker = startPump({
    fd,
    settings: tls.settings,
    hostname: hostnameOf(options),
    handshakeMs: tls.handshakeMs ?? DEFAULT_HANDSHAKE_MS,
    peerTimeoutMs: tls.peerTimeoutMs ?? PEER_TIMEOUT_MS,
  });
  const ours = await handshake(worker, fd, options);
  worker.on('message', (notice: TlsPumpNotice) => {
    if (notice.kind === 'broken') tls.onMessage?.(`TLS with ${peer}: ${notice.text}`);
  });
  return new FdChannel({ fd: ours, hasReturnPath: true, peer });
}

function startPump(data: TlsPumpData): Worker {
  const worker = new Worker(new URL('./tls-pump-thread.js', import.meta.url), {
    workerData: data,
    name: 'tls',
  });
  keepPump(worker);
  return worker;
}

/** @returns the channel's descriptor. @throws {TransportError} when the thread ends or has ended, the connection closed */
async function handshake(
  worker: Worker,
  fd: number,
  { action, uri, signal }: SecureOptions,
): Promise<number> {
  let isTaken = false;
  let onAbort = () => {};
  try {
    return await new Promise<number>((resolve, reject) => {
      onAbort = () => {
        // Not while it is just loading koffi, which would take the whole process with it.
        if (isTaken) void worker.terminate();
        reject(abortFailure(action, uri, signal as AbortSignal));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      worker.on('message', (notice: TlsPumpNotice) => {
        if (notice.kind === 'taken') {
          isTaken = true;
          if (signal?.aborted) void worker.terminate();
        } else if (notice.kind === 'secure') {
          if (signal?.aborted) closeFd(notice.fd);
          else resolve(notice.fd);
        } else if (notice.kind === 'failed') reject(failure(action, uri, notice.code, `TLS: ${notice.text}`));
      });
      worker.once('error', (error) =>
        reject(failure(action, uri, 'UNKNOWN', `TLS: ${error.message}`, error)),
      );
      worker.once('exit', () => {
        if (!isTaken) closeFd(fd);
        reject(failure(action, uri, 'UNKNOWN', 'TLS: its thread ended'));
      });
    });
  } finally {
    signal?.removeEventListener('abort', onAbort);
  }
}

function checkHostname(options: SecureOptions): void {
  const { credentials } = options.tls.settings;
  const isNeeded =
    credentials.endpoint === 'client' && credentials.kind === 'tls-creds-x509' && credentials.verifiesPeer;
  if (!isNeeded || hostnameOf(options) !== undefined) return;
  const why = 'TLS: which name must the certificate of the server have? Say it with tls-hostname';
  throw failure(options.action, options.uri, 'EINVAL', why);
}

/** The name that the server's certificate must have. */
function hostnameOf({ tls, uri }: SecureOptions): string | undefined {
  return tls.settings.hostname ?? (uri.scheme === 'tcp' && uri.host !== '' ? uri.host : undefined);
}
