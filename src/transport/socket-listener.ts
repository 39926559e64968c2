/**
 * A listener for connections: `tcp:` and `unix:`.
 *
 * Only who calls `accept()` gets a connection. One that arrives while nobody waits is closed at once, so that a second
 * source, or a stray client, learns that nobody serves it.
 */
import type { Server, Socket } from 'node:net';
import type { Channel } from './channel.ts';
import type { AcceptOptions, Listener } from './listener.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';
import { takeSocket } from './socket-channel.ts';
import { abortFailure, failure, systemFailure, throwIfAborted } from './transport-error.ts';

interface Waiter {
  resolve(channel: Channel): void;
  reject(error: Error): void;
}

export class SocketListener implements Listener {
  readonly address: string;
  readonly #server: Server;
  readonly #uri: MigrationUri;
  readonly #waiters = new Set<Waiter>();
  #isClosed = false;

  /** @param server listening, made with `pauseOnConnect` so that Node reads nothing; owned by the listener */
  constructor(server: Server, uri: MigrationUri) {
    this.address = formatMigrationUri(uri);
    this.#server = server;
    this.#uri = uri;
    server.on('connection', (socket) => this.#hand(socket));
    // accept(2) failed, for want of descriptors for example: whoever waits hears of it.
    server.on('error', (error) => this.#rejectAll(systemFailure('accept', uri, error)));
  }

  async accept({ signal }: AcceptOptions = {}): Promise<Channel> {
    throwIfAborted('accept', this.#uri, signal);
    if (this.#isClosed) throw this.#closedFailure();

    let onAbort = () => {};
    try {
      return await new Promise<Channel>((resolve, reject) => {
        const waiter = { resolve, reject };
        this.#waiters.add(waiter);
        onAbort = () => {
          this.#waiters.delete(waiter);
          reject(abortFailure('accept', this.#uri, signal as AbortSignal));
        };
        signal?.addEventListener('abort', onAbort, { once: true });
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Of a `unix:` listener libuv removes the socket file, before it closes the socket. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#server.close();
    this.#rejectAll(this.#closedFailure());
  }

  #hand(socket: Socket): void {
    const [waiter] = this.#waiters;
    if (waiter === undefined) {
      socket.destroy();
      return;
    }
    this.#waiters.delete(waiter);
    try {
      waiter.resolve(takeSocket(socket, this.#uri));
    } catch (error) {
      waiter.reject(systemFailure('accept', this.#uri, error));
    }
  }

  #rejectAll(error: Error): void {
    for (const waiter of this.#waiters) waiter.reject(error);
    this.#waiters.clear();
  }

  #closedFailure(): Error {
    return failure('accept', this.#uri, 'ECANCELED', 'the listener was closed');
  }
}
