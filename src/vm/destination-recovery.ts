/**
 * The destination of a postcopy that is interrupted waits for its source: when an operator says so (`migrate_recover`), and
 * with `x-reconnect-ms` by itself.
 *
 * By an operator's word one connection is taken, as in QEMU. By itself it listens from the moment the guest runs here until
 * all of it is here: the source may give up a connection of which this side still thinks that it is there. So whoever
 * connects is looked at first: a source that goes on begins with a command, and takes the place of the connection before.
 * Others are sent away, and cost nothing. `migrate_pause` ends the waiting until the next `migrate_recover`.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { RECOVERY_FIRST_BYTE } from '../migration/held-pages.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { Channel } from '../transport/channel.ts';
import { firstByte } from '../transport/first-byte.ts';
import type { Listener } from '../transport/listener.ts';
import { backOffMs, noReturnPath, type RecoverableMigration, type RecoveryHost } from './recovery-host.ts';
import { VmError } from './vm.ts';

/** A source that goes on says so at once. */
const FIRST_BYTE_MS = 5000;
/** How many may be looked at at once; more are sent away. */
const MAX_STRANGERS = 8;
/** How long after a connection could not be taken the next is. */
const ACCEPT_AGAIN_MS = 1000;

const CAN_GO_ON: readonly MigrationStatus[] = ['postcopy-active', 'postcopy-paused', 'postcopy-recover'];

export class DestinationRecovery {
  readonly #host: RecoveryHost;
  readonly #migration: RecoverableMigration;
  #uri: string;
  #listener: Listener | undefined;
  /** While it listens by itself, or is about to. */
  #waiting: AbortController | undefined;
  /** An operator has broken it off. */
  #isHeld = false;
  #strangers = 0;

  /** @param uri where the source has come to */
  constructor(host: RecoveryHost, migration: RecoverableMigration, uri: string) {
    this.#host = host;
    this.#migration = migration;
    this.#uri = uri;
  }

  /** Where it listens; undefined if it does not. */
  get address(): string | undefined {
    return this.#listener?.address;
  }

  /** `migrate_recover`. @returns the address bound. @throws {VmError} if nothing is interrupted, or it cannot listen there */
  async listen(uri: string): Promise<string> {
    if (this.#host.status !== 'postcopy-paused')
      throw new VmError('Migrate recover can only be run when postcopy is paused.');
    if (/^(exec|file):/.test(uri)) throw noReturnPath(uri);
    this.close();
    const listener = await this.#host.listen(uri).catch((error: Error) => {
      // What it did by itself it goes on with.
      this.heed(this.#host.status);
      throw new VmError(error.message, { cause: error });
    });
    this.#isHeld = false;
    this.#listener = listener;
    this.#uri = listener.address;
    if (this.#host.reconnectMs > 0) this.#waitByItself(listener);
    else void this.#takeOne(listener);
    return listener.address;
  }

  /** `migrate_pause`. @returns whether it has waited for its source */
  hold(): boolean {
    const wasWaiting = this.#listener !== undefined || this.#waiting !== undefined;
    this.#isHeld = true;
    this.close();
    return wasWaiting;
  }

  /** The migration is in this state now, or the parameter has changed. */
  heed(status: MigrationStatus): void {
    const isWanted = this.#host.reconnectMs > 0 && !this.#isHeld && CAN_GO_ON.includes(status);
    if (isWanted && this.#listener === undefined && this.#waiting === undefined) this.#waitByItself();
    else if (!isWanted && this.#waiting !== undefined) this.close();
  }

  /** Nobody is waited for any more. May be called twice. */
  close(): void {
    this.#waiting?.abort();
    this.#waiting = undefined;
    this.#listener?.close();
    this.#listener = undefined;
  }

  // ---- by an operator's word -------------------------------------------------------------------------------

  /** One connection is taken; if it is not the source's, the next needs another `migrate_recover`. */
  async #takeOne(listener: Listener): Promise<void> {
    try {
      await this.#recover(await listener.accept());
    } catch (error) {
      // Closed: another was opened instead, or the machine ends.
      if (this.#listener === listener) this.#tell(error);
    } finally {
      listener.close();
      if (this.#listener === listener) this.#listener = undefined;
      this.heed(this.#host.status);
    }
  }

  async #recover(channel: Channel): Promise<void> {
    if (!channel.hasReturnPath) {
      channel.close();
      throw noReturnPath(channel.peer);
    }
    await this.#migration.recover(channel);
  }

  #tell(error: unknown): void {
    if (!this.#host.isClosed)
      this.#host.message(`The migration is not recovered: ${(error as Error).message}`);
  }

  // ---- by itself -------------------------------------------------------------------------------------------

  /** @param listener undefined: there is none yet */
  #waitByItself(listener?: Listener): void {
    const waiting = new AbortController();
    this.#waiting = waiting;
    void this.#acceptAll(listener, waiting.signal).catch((error) => {
      if (!waiting.signal.aborted) this.#tell(error);
    });
  }

  async #acceptAll(opened: Listener | undefined, signal: AbortSignal): Promise<void> {
    const listener = opened ?? (await this.#open(signal));
    if (listener === undefined) return;
    for (;;) {
      const channel = await this.#acceptNext(listener, signal);
      if (channel === undefined) continue;
      if (this.#strangers === MAX_STRANGERS) channel.close();
      else void this.#look(channel, signal);
    }
  }

  /** @returns undefined after a moment if one could not be taken: there may be no more descriptors for a while */
  async #acceptNext(listener: Listener, signal: AbortSignal): Promise<Channel | undefined> {
    try {
      return await listener.accept({ signal });
    } catch (error) {
      if (signal.aborted || this.#listener !== listener) throw error;
      this.#tell(error);
      await sleep(ACCEPT_AGAIN_MS, undefined, { signal });
      return undefined;
    }
  }

  /** The address may be taken for a while. @returns undefined if nobody is waited for any more */
  async #open(signal: AbortSignal): Promise<Listener | undefined> {
    if (!/^(tcp|unix):/.test(this.#uri)) {
      this.#host.message(
        `The source cannot find its way back to "${this.#uri}" by itself: if the connection breaks, give "migrate_recover" an address`,
      );
      return undefined;
    }
    for (let failures = 0; !signal.aborted; failures++) {
      try {
        const listener = await this.#host.listen(this.#uri);
        if (signal.aborted) {
          listener.close();
          return undefined;
        }
        this.#listener = listener;
        return listener;
      } catch (error) {
        if (failures === 0)
          this.#host.message(
            `The source is not waited for yet: ${(error as Error).message}; it is tried again`,
          );
        await sleep(backOffMs(failures, Math.max(1, this.#host.reconnectMs)), undefined, {
          signal,
          ref: false,
        });
      }
    }
    return undefined;
  }

  /** Whoever begins as the source of a recovery goes on in place of the connection before. */
  async #look(channel: Channel, signal: AbortSignal): Promise<void> {
    this.#strangers++;
    try {
      const first = await firstByte(channel, FIRST_BYTE_MS, signal);
      if (signal.aborted || first !== RECOVERY_FIRST_BYTE) {
        channel.close();
        if (!signal.aborted)
          this.#host.message(
            `a connection from ${channel.peer} was refused: it does not go on with this migration`,
          );
        return;
      }
      // The source has given the old connection up, and nobody told us.
      if (this.#host.status !== 'postcopy-paused')
        await this.#migration.breakOff('the source goes on over another connection').catch(() => {});
      await this.#recover(channel);
    } catch (error) {
      channel.close();
      if (!signal.aborted) this.#tell(error);
    } finally {
      this.#strangers--;
    }
  }
}
