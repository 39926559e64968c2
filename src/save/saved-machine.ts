/**
 * The machine that is saved, at its monitor: whether it can be, how its migration goes, and what its guest does.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpClient, QmpCommandError, QmpConnectionError, type QmpEvent } from '../qemu/qmp-client.ts';
import { SaveError } from './save-error.ts';

/** Of `query-migrate`, what is looked at. */
export interface SourceInfo {
  readonly status?: string;
  readonly 'error-desc'?: string;
  readonly downtime?: number;
  readonly ram?: { readonly remaining: number; readonly 'dirty-sync-count': number };
}

/** States of a guest that can be saved. */
const SAVABLE = ['running', 'paused'];

const WHY_NOT: Readonly<Record<string, string>> = {
  prelaunch: 'its guest has not started yet: "cont" starts it',
  inmigrate: 'it waits for a migration itself',
  postmigrate:
    'its guest has been saved or moved already: if it runs nowhere else, "cont" lets it go on here',
  'finish-migrate': 'a migration of it is ending',
  'save-vm': 'it is being saved by itself',
  'restore-vm': 'it is being restored by itself',
  suspended: 'its guest sleeps: wake it first ("system_wakeup")',
  'io-error': 'its guest was stopped by an I/O error: mend that, then "cont"',
  shutdown: 'its guest has shut down',
  'guest-panicked': 'its guest has crashed',
  'internal-error': 'it has an internal error',
  watchdog: 'its guest was stopped by its watchdog',
};

const ENDED = ['completed', 'failed', 'cancelled'];
/** How long a migration may take to end once it was told to, or its stream is cut. */
const END_TIMEOUT_MS = 30_000;
const POLL_MS = 5;

/** Whether a migration in this state moves something. */
export function isUnderWay(status: string | undefined): boolean {
  return status !== undefined && status !== 'none' && !ENDED.includes(status);
}

export class SavedMachine {
  readonly client: QmpClient;
  /** Times of QEMU's own clock, in milliseconds. */
  #stoppedAtMs: number | undefined;
  #resumedAtMs: number | undefined;

  /** @throws {SaveError} if there is no talking to the monitor */
  static async connect(address: string): Promise<SavedMachine> {
    try {
      return new SavedMachine(await QmpClient.connect(address));
    } catch (error) {
      if (!(error instanceof QmpConnectionError)) throw error;
      throw new SaveError(error.message, { cause: error });
    }
  }

  private constructor(client: QmpClient) {
    this.client = client;
    client.on('event', (event) => this.#heed(event));
  }

  /** How long the guest stood still, as far as it was seen; undefined if it still does. */
  get pauseMs(): number | undefined {
    if (this.#stoppedAtMs === undefined || this.#resumedAtMs === undefined) return undefined;
    return this.#resumedAtMs - this.#stoppedAtMs;
  }

  /** @returns whether the guest runs. @throws {SaveError} if it cannot be saved as it is */
  async checkSavable(): Promise<boolean> {
    const { status = 'none' } = await this.info();
    if (isUnderWay(status)) {
      throw new SaveError(
        `This machine has a migration under way already ("${status}"); "migrate_cancel" at its monitor ends it`,
      );
    }
    const runState = await this.runState();
    if (!SAVABLE.includes(runState)) {
      const why = WHY_NOT[runState] ?? 'only a guest that is running or paused can be';
      throw new SaveError(`This machine is "${runState}" and cannot be saved: ${why}`);
    }
    return runState === 'running';
  }

  /** Whether its machine type leaves the description out that the end of a stream is known by. */
  async lacksDescription(): Promise<boolean> {
    try {
      const suppressed = await this.client.execute('qom-get', {
        path: '/machine',
        property: 'suppress-vmdesc',
      });
      return suppressed === true;
    } catch (error) {
      if (error instanceof QmpCommandError) return false; // A machine that has no such property.
      throw error;
    }
  }

  async runState(): Promise<string> {
    return (await this.client.execute<{ status: string }>('query-status')).status;
  }

  info(): Promise<SourceInfo> {
    return this.client.execute<SourceInfo>('query-migrate');
  }

  /**
   * Waits until no migration is under way.
   *
   * @param graceMs how long it may take before it is cancelled; Infinity to leave it alone
   * @returns what it ended with, undefined if it does not end
   */
  async untilEnded(graceMs: number): Promise<SourceInfo | undefined> {
    const startedAtMs = performance.now();
    let isCancelled = false;
    for (;;) {
      const info = await this.info();
      if (!isUnderWay(info.status)) return info;
      const elapsedMs = performance.now() - startedAtMs;
      if (elapsedMs > END_TIMEOUT_MS) return undefined;
      if (!isCancelled && elapsedMs >= graceMs) {
        isCancelled = true;
        await this.cancelMigration();
      }
      await sleep(POLL_MS);
    }
  }

  async cancelMigration(): Promise<void> {
    try {
      await this.client.execute('migrate_cancel');
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error; // It ended by itself.
    }
  }

  /**
   * Lets the guest run on after a migration that has ended.
   *
   * @throws {SaveError} if it does not
   */
  async resume(): Promise<void> {
    const deadlineMs = performance.now() + END_TIMEOUT_MS;
    let runState = await this.runState();
    // A migration that fails starts the guest itself, a little after it says that it has failed.
    while (runState === 'finish-migrate' && performance.now() < deadlineMs) {
      await sleep(POLL_MS);
      runState = await this.runState();
    }
    if (runState === 'running') return;
    try {
      await this.client.execute('cont');
      runState = await this.runState();
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      throw new SaveError(`"cont" is refused: ${error.message}`, { cause: error });
    }
    if (runState !== 'running') throw new SaveError(`it is "${runState}" in spite of "cont"`);
  }

  close(): void {
    this.client.close();
  }

  #heed({ event, timestamp }: QmpEvent): void {
    if (timestamp === undefined) return;
    const atMs = timestamp.seconds * 1000 + timestamp.microseconds / 1000;
    if (event === 'STOP') {
      this.#stoppedAtMs = atMs;
      this.#resumedAtMs = undefined;
    } else if (event === 'RESUME') this.#resumedAtMs = atMs;
  }
}
