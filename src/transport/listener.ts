/**
 * The incoming end of a migration before anybody has come: what `listenChannel` gives.
 */
import type { Channel } from './channel.ts';

export interface AcceptOptions {
  /** Stops waiting with `ABORT_ERR`; the listener stays open. */
  readonly signal?: AbortSignal | undefined;
}

export interface Listener {
  /** The URI really bound: with the port when 0 was asked for. */
  readonly address: string;
  /**
   * Waits for the next channel. Several calls may wait at once and are served in order.
   *
   * A connection that arrives while nobody waits is closed at once.
   *
   * @throws {TransportError} `ABORT_ERR`; `ECANCELED` if the listener is closed; `EBUSY` if there was only one channel
   */
  accept(options?: AcceptOptions): Promise<Channel>;
  /** Frees the address and ends every `accept()`; channels handed out stay open. May be called twice. */
  close(): void;
}
