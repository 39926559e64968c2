/**
 * A listener whose connections are protected by TLS.
 *
 * Only a connection that has shaken hands is given to whoever waits. A stranger who says nothing, or something else, costs a
 * descriptor for some seconds, is told of, and keeps nobody from coming.
 */
import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { peek } from '../linux/socket-options.ts';
import type { Channel } from './channel.ts';
import type { AcceptOptions, Listener } from './listener.ts';
import type { MigrationUri } from './parse-uri.ts';
import { notTls } from './raw-stream.ts';
import { DEFAULT_HANDSHAKE_MS, secureChannel, type TlsOptions } from './tls-channel.ts';
import { abortFailure, codeOf, failure, TransportError, throwIfAborted } from './transport-error.ts';

/** How many connections may be looked at, at once; further ones are closed. */
const MAX_LOOKED_AT = 64;
/** How many of them may shake hands at once: each has a thread. */
const MAX_HANDSHAKES = 4;
const HANDSHAKE_RECORD = 0x16;
const FIRST_LOOK_MS = 1;
const LOOK_MS = 20;

interface Waiter {
  resolve(channel: Channel): void;
  reject(error: Error): void;
}

export class TlsListener implements Listener {
  readonly address: string;
  readonly #plain: Listener;
  readonly #uri: MigrationUri;
  readonly #tls: TlsOptions;
  readonly #waiters = new Set<Waiter>();
  /** While somebody waits: ends what looks at connections. */
  #looking: AbortController | undefined;
  #handshakes = 0;
  readonly #queue: (() => void)[] = [];
  #isClosed = false;

  /** @param plain owned by the listener */
  constructor(plain: Listener, uri: MigrationUri, tls: TlsOptions) {
    this.address = plain.address;
    this.#plain = plain;
    this.#uri = uri;
    this.#tls = tls;
  }

  async accept({ signal }: AcceptOptions = {}): Promise<Channel> {
    throwIfAborted('accept', this.#uri, signal);
    if (this.#isClosed) throw this.#closedFailure();
    let waiter: Waiter | undefined;
    let onAbort = () => {};
    try {
      return await new Promise<Channel>((resolve, reject) => {
        waiter = { resolve, reject };
        this.#waiters.add(waiter);
        onAbort = () => reject(abortFailure('accept', this.#uri, signal as AbortSignal));
        signal?.addEventListener('abort', onAbort, { once: true });
        this.#look();
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
      if (waiter !== undefined) this.#waiters.delete(waiter);
      this.#lookNoMore();
    }
  }

  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#plain.close();
    this.#rejectAll(this.#closedFailure());
    this.#lookNoMore();
  }

  #look(): void {
    if (this.#looking !== undefined) return;
    const looking = new AbortController();
    setMaxListeners(0, looking.signal);
    this.#looking = looking;
    for (let count = 0; count < MAX_LOOKED_AT; count++) void this.#lookAtConnections(looking.signal);
  }

  /** Whoever waits again at once keeps those who are shaking hands by then. */
  #lookNoMore(): void {
    setImmediate(() => {
      if (this.#waiters.size > 0) return;
      this.#looking?.abort();
      this.#looking = undefined;
    });
  }

  async #lookAtConnections(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      let plain: Channel;
      try {
        plain = await this.#plain.accept({ signal });
      } catch (error) {
        // Of a listener with one channel, that one is under way.
        if (!signal.aborted && codeOf(error) !== 'EBUSY') this.#rejectAll(error as Error);
        return;
      }
      await this.#secure(plain, signal);
    }
  }

  /** Never throws: what is wrong with a connection is told to the operator. */
  async #secure(plain: Channel, signal: AbortSignal): Promise<void> {
    const { peer } = plain;
    let channel: Channel;
    try {
      await untilTls(plain, this.#tls.handshakeMs ?? DEFAULT_HANDSHAKE_MS, signal);
      channel = await this.#shakeHands(plain, signal);
    } catch (error) {
      plain.close();
      if (signal.aborted) return;
      const text =
        error instanceof TransportError
          ? error.message.replace(/^.*?": (TLS: )?/s, '')
          : (error as Error).message;
      this.#tls.onMessage?.(`a connection from ${peer} was refused: ${text}`);
      if (!/^(tcp|unix):/.test(this.address)) this.#rejectAll(error as Error); // There will be no other.
      return;
    }
    const [waiter] = this.#waiters;
    if (waiter === undefined || signal.aborted) {
      channel.close();
      return;
    }
    this.#waiters.delete(waiter);
    waiter.resolve(channel);
    this.#lookNoMore();
  }

  async #shakeHands(plain: Channel, signal: AbortSignal): Promise<Channel> {
    while (this.#handshakes >= MAX_HANDSHAKES) {
      await new Promise<void>((resolve) => this.#queue.push(resolve));
    }
    this.#handshakes++;
    try {
      return await secureChannel(plain, { tls: this.#tls, action: 'accept', uri: this.#uri, signal });
    } finally {
      this.#handshakes--;
      this.#queue.shift()?.();
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

/** Waits until a connection has begun to shake hands, without taking a byte. @throws in words if it does something else */
async function untilTls({ fd }: Channel, limitMs: number, signal: AbortSignal): Promise<void> {
  const sinceMs = performance.now();
  for (;;) {
    signal.throwIfAborted();
    let bytes: Uint8Array | undefined;
    try {
      bytes = peek(fd, 4);
    } catch (error) {
      throw new Error(`it broke before TLS began (${codeOf(error)})`);
    }
    if (bytes?.length === 0) throw new Error('it was closed before TLS began');
    if (bytes?.[0] === HANDSHAKE_RECORD) return;
    if (bytes !== undefined) throw notTls(bytes);
    const waitedMs = performance.now() - sinceMs;
    if (waitedMs > limitMs) {
      throw new Error(`it said nothing for ${limitMs / 1000} s: TLS begins with the side that connects`);
    }
    await sleep(waitedMs < LOOK_MS ? FIRST_LOOK_MS : LOOK_MS);
  }
}
