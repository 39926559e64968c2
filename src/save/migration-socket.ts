/**
 * Where the source connects to: a private unix socket, or an address that the operator names.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { listenChannel } from '../transport/listen.ts';
import type { Listener } from '../transport/listener.ts';
import { type MigrationUri, parseMigrationUri } from '../transport/parse-uri.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { SaveError } from './save-error.ts';

export interface SocketWishes {
  /** Where we listen, `tcp:` or `unix:`; a private socket by default. */
  readonly via: string | undefined;
  /** What the source is told, if it reaches us by another address. */
  readonly connect: string | undefined;
  /** Protects the connection, with credentials that the source has too. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
}

const ANY_ADDRESS = ['', '0.0.0.0', '::'];

/** @throws {SaveError} if an address cannot be used; {UriError} if it is none */
export function checkSocketWishes({ via, connect, tls }: SocketWishes): void {
  if (via === undefined) {
    if (connect !== undefined) throw new SaveError('--connect says how --via is reached: give both');
    if (tls !== undefined) throw new SaveError('--tls-creds protects --via: give both');
    return;
  }
  const uri = parseMigrationUri(via);
  if (uri.scheme !== 'tcp' && uri.scheme !== 'unix') {
    throw new SaveError(`--via: must be tcp:HOST:PORT or unix:PATH, got "${via}"`);
  }
  if (connect !== undefined) parseMigrationUri(connect);
  else if (isAnyAddress(uri)) {
    throw new SaveError(
      `--via: "${via}" is every address of this host; say with --connect tcp:HOST:PORT which of them QEMU connects to`,
    );
  }
}

export class MigrationSocket {
  readonly listener: Listener;
  /** What the source is told. */
  readonly connectUri: string;
  readonly isPrivate: boolean;
  readonly #folder: string | undefined;

  /** @throws {TransportError} if the address cannot be listened at */
  static async open({ via, connect, tls }: SocketWishes): Promise<MigrationSocket> {
    if (via !== undefined) return new MigrationSocket(await listenChannel(via, { tls }), connect, undefined);
    const folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
    try {
      return new MigrationSocket(await listenChannel(`unix:${join(folder, 'save')}`), undefined, folder);
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      throw error;
    }
  }

  private constructor(listener: Listener, connect: string | undefined, folder: string | undefined) {
    this.listener = listener;
    this.connectUri = connect ?? listener.address;
    this.isPrivate = folder !== undefined;
    this.#folder = folder;
  }

  /** Nobody can connect any more, and nothing of it is left. May be called twice. */
  close(): void {
    this.listener.close();
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
  }
}

function isAnyAddress(uri: MigrationUri): boolean {
  return uri.scheme === 'tcp' && ANY_ADDRESS.includes(uri.host);
}
