/**
 * The source of a postcopy that is interrupted finds its destination again: when an operator says so (`migrate -r`), and with
 * `x-reconnect-ms` by itself.
 *
 *   paused ──▶ wait 100 ms, 200 ms, … x-reconnect-ms ──▶ connect to where it was last ──▶ recovered, or paused again
 *
 * `migrate -r` with another address goes there at once, and from then on; `migrate_pause` ends the attempts until the next
 * `migrate -r`. An attempt that fails changes nothing.
 */
import type { MigrationStatus } from '../migration/states.ts';
import { backOffMs, noReturnPath, type RecoverableMigration, type RecoveryHost } from './recovery-host.ts';
import { VmError } from './vm.ts';

export class SourceRecovery {
  readonly #host: RecoveryHost;
  readonly #migration: RecoverableMigration;
  #uri: string;
  /** The attempt under way. */
  #connecting: AbortController | undefined;
  /** The same, if nobody has asked for it: when it is over. */
  #ownAttempt: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  /** An operator has broken it off. */
  #isHeld = false;
  #failures = 0;
  #lastFailure: string | undefined;

  /** @param uri where the destination was reached */
  constructor(host: RecoveryHost, migration: RecoverableMigration, uri: string) {
    this.#host = host;
    this.#migration = migration;
    this.#uri = uri;
  }

  /** `migrate -r`. @throws {VmError} if nothing is interrupted, or it is not recovered so: it stays interrupted */
  async resume(uri: string): Promise<void> {
    if (this.#ownAttempt !== undefined) {
      this.#connecting?.abort();
      await this.#ownAttempt;
    }
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#host.status !== 'postcopy-paused')
      throw new VmError('Cannot resume if there is no paused migration');
    this.#uri = uri;
    this.#isHeld = false;
    this.#failures = 0;
    this.#lastFailure = undefined;
    await this.#attempt(uri);
  }

  /** `migrate_pause`. @returns whether an attempt is broken off by this, or one that was to come */
  hold(): boolean {
    const wasTrying = this.#connecting !== undefined || this.#timer !== undefined;
    this.#isHeld = true;
    this.close();
    return wasTrying;
  }

  /** The migration is in this state now, or the parameter has changed. */
  heed(status: MigrationStatus): void {
    if (status === 'postcopy-active') {
      this.#failures = 0;
      this.#lastFailure = undefined;
    }
    const { reconnectMs, isClosed } = this.#host;
    if (reconnectMs === 0 || this.#isHeld || isClosed || status !== 'postcopy-paused') {
      clearTimeout(this.#timer);
      this.#timer = undefined;
      return;
    }
    if (this.#timer !== undefined || this.#connecting !== undefined) return;
    this.#timer = setTimeout(
      () => {
        this.#timer = undefined;
        this.#ownAttempt = this.#attempt(this.#uri)
          .catch(() => {}) // the state tells
          .finally(() => {
            this.#ownAttempt = undefined;
          });
      },
      backOffMs(this.#failures++, reconnectMs),
    ).unref();
  }

  /** Nothing more is attempted. May be called twice. */
  close(): void {
    this.#connecting?.abort();
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  async #attempt(uri: string): Promise<void> {
    const connecting = new AbortController();
    this.#connecting = connecting;
    this.#host.setStatus('postcopy-recover-setup', undefined);
    try {
      const channel = await this.#host.connect(uri, connecting.signal);
      if (connecting.signal.aborted || !channel.hasReturnPath) {
        channel.close();
        throw connecting.signal.aborted ? new VmError('The recovery was broken off') : noReturnPath(uri);
      }
      await this.#migration.recover(channel);
    } catch (error) {
      const text = `The migration is not recovered: ${(error as Error).message}`;
      // It stays what it was; the same may be tried again. A failure that comes again and again is told once.
      const isTold = text !== this.#lastFailure;
      this.#lastFailure = text;
      this.#connecting = undefined;
      if (!this.#host.isClosed) this.#host.setStatus('postcopy-paused', text, isTold);
      throw new VmError(text, { cause: error });
    } finally {
      this.#connecting = undefined;
      this.heed(this.#host.status);
    }
  }
}
