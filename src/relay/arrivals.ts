/**
 * The connections that come to a listener, none of them lost.
 *
 * A listener closes a connection that comes while nobody waits for it. A source may open its second one at any moment after
 * the first, and whether it did is worth knowing: here somebody always waits, and what comes is kept until it is asked for.
 */
import type { Channel } from '../transport/channel.ts';
import type { Listener } from '../transport/listener.ts';

/** How many may come at the same moment. */
const WAITERS = 8;
/** How many are kept that nobody has asked for; more are closed. */
const MAX_KEPT = 64;

export class Arrivals {
  readonly #listener: Listener;
  readonly #stop = new AbortController();
  readonly #kept: Channel[] = [];
  #error: Error | undefined;
  #wake = () => {};

  /** @param listener not owned by this */
  constructor(listener: Listener) {
    this.#listener = listener;
    for (let waiter = 0; waiter < WAITERS; waiter++) void this.#wait();
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
        this.#wake = resolve;
        signal.addEventListener('abort', () => resolve(), { once: true });
      });
    }
  }

  /** Closes what nobody has asked for. May be called twice. */
  close(): void {
    this.#stop.abort();
    for (const channel of this.#kept.splice(0)) channel.close();
  }

  async #wait(): Promise<void> {
    const { signal } = this.#stop;
    try {
      for (;;) {
        const channel = await this.#listener.accept({ signal });
        if (signal.aborted || this.#kept.length === MAX_KEPT) channel.close();
        else this.#kept.push(channel);
        this.#wake();
      }
    } catch (error) {
      if (signal.aborted) return;
      this.#error = error as Error;
      this.#wake();
    }
  }
}
