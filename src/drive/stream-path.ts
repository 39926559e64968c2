/**
 * The way of the stream: the destination is told to listen, the source learns where to connect, and both again each time that
 * the migration is recovered.
 *
 * Without a URI, and between two monitors on this host, it is a unix socket in a folder that only this user can enter. A
 * socket that was used once is not used again. A URI stays what it was: a tunnel or firewall may know it.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { QmpCommandError } from '../qemu/qmp-client.ts';
import { NotStartedError } from './check-sides.ts';
import { areLocal, connectUriOf, uriOfSocketAddress } from './socket-address.ts';
import type { MigrateInfo, WatchedMachine } from './watched-machine.ts';

export interface StreamPathOptions {
  /** Where the source connects. */
  readonly uri?: string | undefined;
  /** Where the destination listens, if that is not `uri`. */
  readonly listenUri?: string | undefined;
}

export class StreamPath {
  /** Where the destination listens, once it does. */
  listenUri: string | undefined;
  /** Where the source connects. */
  connectUri: string | undefined;
  readonly #source: WatchedMachine;
  readonly #destination: WatchedMachine;
  readonly #options: StreamPathOptions;
  #folder: string | undefined;
  #socketCount = 0;

  constructor(source: WatchedMachine, destination: WatchedMachine, options: StreamPathOptions) {
    this.#source = source;
    this.#destination = destination;
    this.#options = options;
  }

  /**
   * Makes the destination listen, unless it does.
   *
   * @returns where the source shall connect
   * @throws {NotStartedError} if it cannot, or it is not plain where
   */
  async open(): Promise<string> {
    const { uri, listenUri } = this.#options;
    const listening = uriOfSocketAddress(this.#destination.info['socket-address']?.[0]);
    if (listening === undefined) {
      this.listenUri = await this.#listen();
      this.connectUri = listenUri === undefined ? this.#toConnect(this.listenUri) : uri;
    } else {
      if (listenUri !== undefined) {
        throw new NotStartedError(`The destination listens already, at ${listening}: leave --listen-uri out`);
      }
      this.listenUri = listening;
      this.connectUri = uri ?? this.#toConnect(listening);
    }
    return this.connectUri as string;
  }

  /** Takes the way of a migration that is under way, as far as it is known: it matters when that is recovered. */
  join(): void {
    const { uri, listenUri } = this.#options;
    this.connectUri = uri;
    this.listenUri = listenUri ?? uriOfSocketAddress(this.#destination.info['socket-address']?.[0]) ?? uri;
    if (uri === undefined && this.#areLocal) this.#privateSocket();
  }

  /** Whether it is known where to listen and connect again. */
  get canBeOpenedAgain(): boolean {
    return this.#folder !== undefined || (this.connectUri !== undefined && this.listenUri !== undefined);
  }

  /** Where the destination shall listen for a source that connects again. */
  nextListenUri(): string {
    return this.#folder === undefined ? (this.listenUri as string) : this.#freshSocket(this.#folder);
  }

  /** Where the source then connects. */
  nextConnectUri(listenUri: string): string {
    return this.#folder === undefined ? (this.connectUri as string) : listenUri;
  }

  /** Takes the private folder away. Only when no destination listens at a socket in it. */
  remove(): void {
    if (this.#folder !== undefined) rmSync(this.#folder, { recursive: true, force: true });
  }

  async #listen(): Promise<string> {
    const uri = this.#options.listenUri ?? this.#options.uri ?? this.#privateSocket();
    try {
      await this.#destination.execute('migrate-incoming', { uri });
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      throw new NotStartedError(`The destination cannot listen at ${uri}: ${error.message}`, {
        cause: error,
      });
    }
    const info = await this.#destination.execute<MigrateInfo>('query-migrate');
    return uriOfSocketAddress(info['socket-address']?.[0]) ?? uri;
  }

  #toConnect(listening: string): string {
    try {
      return connectUriOf(listening, this.#source.client.address, this.#destination.client.address);
    } catch (error) {
      throw new NotStartedError((error as Error).message, { cause: error });
    }
  }

  get #areLocal(): boolean {
    return areLocal(this.#source.client.address, this.#destination.client.address);
  }

  #privateSocket(): string {
    if (!this.#areLocal) {
      throw new NotStartedError(
        'The destination listens nowhere yet, and the two may be on different hosts: say where with --uri tcp:HOST:PORT',
      );
    }
    this.#folder ??= mkdtempSync(join(tmpdir(), 'postcopy-'));
    return this.#freshSocket(this.#folder);
  }

  #freshSocket(folder: string): string {
    this.#socketCount++;
    return `unix:${folder}/${this.#socketCount}`;
  }
}
