/**
 * The connections that come to an address, none of them lost; and none at all while it is shut.
 *
 * A listener closes a connection that comes while nobody waits for it. A source may open its second one at any moment after
 * the first, and whether it did is worth knowing: here somebody always waits, and what comes is kept until it is asked for.
 */
import type { Channel } from '../transport/channel.ts';
import { type ListenOptions, listenChannel } from '../transport/listen.ts';
import type { Listener } from '../transport/listener.ts';

/** How many may come at the same moment. */
const WAITERS = 8;
/** How many are kept that nobody has asked for; more are closed. */
export const MAX_KEPT = 64;

export class Arrivals {
  /** The URI really bound. */
  readonly address: string;
  readonly #options: ListenOptions;
  #listener: Listener | undefined;
  readonly #stop = new AbortController();
  readonly #kept: Channel[] = [];
  #error: Error | undefined;
  #wake = () => {};

  /** @throws {UriError} {TransportError} */
  static async open(uri: string, options: ListenOptions = {}): Promise<Arrivals> {
    return new Arrivals(await listenChannel(uri, options), options);
  }

  private constructor(listener: Listener, options: ListenOptions) {
    this.#options = options;
    this.address = listener.address;
    this.#listen(listener);
  }

  /** Whoever connects from now on is refused by the kernel. Of what has one channel from the start, nothing changes. */
  shut(): void {
    if (!/^(tcp|unix):/.test(this.address)) return;
    const listener = this.#listener;
    this.#listener = undefined;
    listener?.close();
  }

  /** Listens again after `shut()`. @throws {TransportError} if the address is taken meanwhile */
  async reopen(): Promise<void> {
    if (this.#listener !== undefined || this.#stop.signal.aborted) return;
    const listener = await listenChannel(this.address, this.#options);
    if (this.#listener !== undefined || this.#stop.signal.aborted) listener.close();
    else this.#listen(listener);
  }

  #listen(listener: Listener): void {
    this.#listener = listener;
    for (let waiter = 0; waiter < WAITERS; waiter++) void this.#wait(listener);
  }

  /**
   * The next connection.
   *
   * @returns undefined once the signal has fired
   * @throws {TransportError} if no more can come
   */
  async next(signal: AbortSignal): Promise<Channel | undefined> {
    for (;;) {
      if (signal.aborted) return undefined;
      const channel = this.#kept.shift();
      if (channel !== undefined) return channel;
      if (this.#error !== undefined) throw this.#error;
      await new Promise<void>((resolve) => {
        const onAbort = () => resolve();
        signal.addEventListener('abort', onAbort, { once: true });
        this.#wake = () => {
          signal.removeEventListener('abort', onAbort);
          resolve();
        };
      });
    }
  }

  /** How many have come that nobody has asked for. */
  get kept(): number {
    return this.#kept.length;
  }

  /** Frees the address, and closes what nobody has asked for. May be called twice. */
  close(): void {
    this.#stop.abort();
    this.#listener?.close();
    for (const channel of this.#kept.splice(0)) channel.close();
  }

  async #wait(listener: Listener): Promise<void> {
    const { signal } = this.#stop;
    try {
      for (;;) {
        const channel = await listener.accept({ signal });
        if (signal.aborted || this.#kept.length === MAX_KEPT) channel.close();
        else this.#kept.push(channel);
        this.#wake();
      }
    } catch (error) {
      if (signal.aborted || listener !== this.#listener) return;
      this.#error = error as Error;
      this.#wake();
    }
  }
}
