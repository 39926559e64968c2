/**
 * A listener for what has one channel and no connections: `fd:`, `exec:` and `file:`.
 */
import type { Channel } from './channel.ts';
import type { AcceptOptions, Listener } from './listener.ts';
import { formatMigrationUri, type MigrationUri } from './parse-uri.ts';
import { failure, throwIfAborted } from './transport-error.ts';

export class SingleChannelListener implements Listener {
  readonly address: string;
  readonly #uri: MigrationUri;
  readonly #channel: Channel;
  #state: 'open' | 'taken' | 'closed' = 'open';

  /** @param channel owned by the listener until it is accepted */
  constructor(uri: MigrationUri, channel: Channel) {
    this.address = formatMigrationUri(uri);
    this.#uri = uri;
    this.#channel = channel;
  }

  async accept({ signal }: AcceptOptions = {}): Promise<Channel> {
    throwIfAborted('accept', this.#uri, signal);
    if (this.#state === 'closed') {
      throw failure('accept', this.#uri, 'ECANCELED', 'the listener was closed');
    }
    if (this.#state === 'taken') {
      throw failure('accept', this.#uri, 'EBUSY', 'it has one channel, which is taken');
    }
    this.#state = 'taken';
    return this.#channel;
  }

  close(): void {
    if (this.#state === 'open') this.#channel.close();
    this.#state = 'closed';
  }
}
