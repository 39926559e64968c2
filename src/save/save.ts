/**
 * Saves the guest of a running machine: it migrates to us, and we are a file.
 *
 *   check ─▶ set ─▶ migrate ─▶ receive ─▶ file safe ─▶ SHUT ─▶ the guest goes on, stays or ends ─▶ settings back
 *                      │          │
 *                      └──────────┴─▶ no file, the guest runs on as before, settings back
 *
 * Nobody but the source ever runs the guest, so that it may always be told to go on. Whatever happens, it is as it was
 * before, or as it was asked to be; and there is a whole file, or none.
 *
 * QEMU 7.2 leaves memory write-protected when a save in the background is cancelled or cut off, and its guest then waits for
 * ever at its next write. So such a migration is always let run to its end, also when nothing of it is wanted any more.
 */
import { statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { QmpCommandError, QmpConnectionError } from '../qemu/qmp-client.ts';
import { checkTarget } from '../snapshot/partial-file.ts';
import { SnapshotError } from '../snapshot/snapshot-error.ts';
import type { ReceivedCounts } from '../snapshot/snapshot-receiver.ts';
import type { Channel } from '../transport/channel.ts';
import { TransportError } from '../transport/transport-error.ts';
import { checkSocketWishes, MigrationSocket, type SocketWishes } from './migration-socket.ts';
import { Reception, type SavedNotice } from './reception.ts';
import { SaveError } from './save-error.ts';
import type { GuestAfterwards, SaveReport } from './save-report.ts';
import { isUnderWay, SavedMachine, type SourceInfo } from './saved-machine.ts';
import { SourceSettings } from './source-settings.ts';

export interface SaveOptions {
  /** The monitor: `unix:PATH`, `tcp:HOST:PORT` or a path. */
  readonly qmp: string;
  readonly path: string;
  /** Whether a file that is there may be replaced. */
  readonly overwrite: boolean;
  /** With QEMU's `background-snapshot`: the state of now, while the guest runs on. */
  readonly isBackground: boolean;
  /** What a guest that ran is to do afterwards. After a background save it runs on, unless it is to quit. */
  readonly afterwards: 'run' | 'stay' | 'quit';
  /** Of the stream; 0 is no limit. */
  readonly maxBytesPerSecond: number;
  /** How long QEMU may stop the guest for the last pass; undefined leaves what it has. */
  readonly downtimeLimitMs: number | undefined;
  readonly socket: SocketWishes;
  readonly onProgress: (progress: SaveProgress) => void;
  /** Aborted to give up. */
  readonly signal: AbortSignal;
}

export interface SaveProgress {
  readonly elapsedMs: number;
  readonly counts: ReceivedCounts;
  /** Undefined where the source does not tell. */
  readonly pass: number | undefined;
  readonly remainingBytes: number | undefined;
}

/** A lost connection may be the last act of a source that has ended by itself: what its monitor says explains more. */
const CONNECTION_GRACE_MS = 1000;
const TICK_MS = 100;

/** A source gave up, or the connection to it broke: its monitor may know why. */
class LostSourceError extends SaveError {}

export class Save {
  readonly #options: SaveOptions;
  #machine!: SavedMachine;
  #socket: MigrationSocket | undefined;
  #reception: Reception | undefined;
  #wasRunning = false;
  #startedAtMs = 0;
  /** Of the last look at the source. */
  #info: SourceInfo = {};
  readonly #notes: string[] = [];

  constructor(options: SaveOptions) {
    this.#options = options;
  }

  /** For the end of the process, when nothing can be waited for: leaves no file and no socket. */
  cleanUpNow(): void {
    this.#reception?.removePartialFile();
    this.#socket?.close();
  }

  /**
   * @throws {SaveError} with what became of the guest in its text
   * @throws {SnapshotError} `EXISTS`, `SYSTEM`: the file cannot be written, and nothing was done
   */
  async run(): Promise<SaveReport> {
    const { path, overwrite, isBackground, socket } = this.#options;
    checkSocketWishes(socket);
    checkTarget(path, overwrite);
    // Starting a thread takes longer than all that comes before it has something to do.
    const reception = new Reception({ path, overwrite, mustDrain: isBackground });
    this.#reception = reception;
    try {
      this.#machine = await SavedMachine.connect(this.#options.qmp);
      const settings = await this.#prepare();
      const saved = await this.#receive(reception, settings);
      return await this.#complete(saved, settings);
    } catch (error) {
      throw error instanceof QmpConnectionError || error instanceof TransportError
        ? new SaveError(error.message, { cause: error })
        : error;
    } finally {
      this.#socket?.close();
      this.#machine?.close();
      await reception.abandon(); // Nothing, if it has saved.
    }
  }

  // ---- before ------------------------------------------------------------------------------------------------

  async #prepare(): Promise<SourceSettings> {
    const { isBackground, maxBytesPerSecond, downtimeLimitMs, socket } = this.#options;
    const machine = this.#machine;
    this.#wasRunning = await machine.checkSavable();
    if (isBackground && !this.#wasRunning) {
      throw new SaveError(
        'This guest is paused, and would be started by a save in the background: leave --background out',
      );
    }
    const settings = await SourceSettings.read(machine.client, {
      isBackground,
      hasReturnPath: !(await machine.lacksDescription()),
      maxBytesPerSecond,
      downtimeLimitMs,
      hasTls: socket.tls !== undefined,
    });
    this.#socket = await MigrationSocket.open(socket);
    return settings;
  }

  // ---- the stream --------------------------------------------------------------------------------------------

  /** @returns what was saved. @throws {SaveError} after all was undone */
  async #receive(reception: Reception, settings: SourceSettings): Promise<SavedNotice> {
    try {
      await settings.apply();
      await reception.ready;
      reception.start(await this.#startMigration());
      return await this.#watch(reception);
    } catch (error) {
      const saved = await this.#giveUp(reception);
      // It was whole before anybody could keep it from that.
      if (saved !== undefined) return saved;
      throw await this.#undo(error, settings);
    }
  }

  async #startMigration(): Promise<Channel> {
    const socket = this.#socket as MigrationSocket;
    const given = new AbortController();
    const accepted = socket.listener.accept({ signal: given.signal });
    accepted.catch(() => {}); // whoever gives up does not wait for it
    try {
      this.#heedInterrupt();
      this.#startedAtMs = performance.now();
      await this.#machine.client.execute('migrate', { uri: socket.connectUri });
      return await this.#connected(accepted, socket);
    } catch (error) {
      given.abort();
      void accepted.then((channel) => channel.close()).catch(() => {});
      if (!(error instanceof QmpCommandError)) throw error;
      throw new SaveError(`QEMU refuses to migrate: ${error.message}`, { cause: error });
    } finally {
      socket.close(); // The one that was to come has come, or will not.
    }
  }

  async #connected(accepted: Promise<Channel>, { connectUri, isPrivate }: MigrationSocket): Promise<Channel> {
    for (;;) {
      const channel = await Promise.race([accepted, sleep(TICK_MS / 4)]);
      if (channel !== undefined) return channel;
      // A connection that is on its way would be cut off: in the background it is waited for, and let run to its end.
      if (!this.#options.isBackground) this.#heedInterrupt();
      const { status, 'error-desc': description = 'it does not say why' } = await this.#machine.info();
      if (isUnderWay(status)) continue;
      // It may have come, sent nothing and gone.
      const late = await Promise.race([accepted, sleep(TICK_MS / 4)]);
      if (late !== undefined) return late;
      const hint = isPrivate
        ? ' (if QEMU runs as another user, in a container or on another host, say with --via where it can reach us)'
        : '';
      throw new SaveError(`QEMU cannot migrate to "${connectUri}": ${description}${hint}`);
    }
  }

  async #watch(reception: Reception): Promise<SavedNotice> {
    let isFinishing = false;
    for (;;) {
      const { outcome } = reception;
      if (outcome?.kind === 'saved') return outcome;
      if (outcome?.kind === 'failed') {
        if (outcome.cause === 'file') throw new SaveError(outcome.message);
        if (outcome.cause === 'connection') throw new LostSourceError(outcome.message);
        throw new SaveError(`What QEMU sends cannot be saved: ${outcome.message}`);
      }
      this.#heedInterrupt();
      await this.#look();
      this.#options.onProgress(this.#progress(reception));
      if (reception.isWaiting && !isFinishing) {
        const { status } = this.#info;
        if (status === 'completed') {
          isFinishing = true;
          reception.finish();
        } else if (!isUnderWay(status)) throw new LostSourceError('the source closed it');
      }
      await this.#untilChange(reception);
    }
  }

  /** Asks the source how it goes. A monitor that is lost is no reason to give up a stream that goes on. */
  async #look(): Promise<void> {
    try {
      this.#info = await this.#machine.info();
    } catch (error) {
      if (!(error instanceof QmpConnectionError)) throw error;
      // Without its word it cannot be known that it has completed.
      if (this.#reception?.isWaiting) throw error;
    }
  }

  async #untilChange(reception: Reception): Promise<void> {
    const { signal } = this.#options;
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        reception.off('change', end);
        signal.removeEventListener('abort', end);
        resolve();
      };
      const timer = setTimeout(end, reception.isWaiting ? TICK_MS / 10 : TICK_MS);
      reception.on('change', end);
      signal.addEventListener('abort', end);
      if (signal.aborted || reception.outcome !== undefined) end();
    });
  }

  #heedInterrupt(): void {
    if (this.#options.signal.aborted) throw new SaveError('Interrupted');
  }

  #progress({ counts }: Reception): SaveProgress {
    const { ram } = this.#info;
    return {
      elapsedMs: performance.now() - this.#startedAtMs,
      counts,
      pass: ram?.['dirty-sync-count'],
      remainingBytes: ram?.remaining,
    };
  }

  // ---- when it fails -----------------------------------------------------------------------------------------

  /** Ends the thread. @returns what was saved, if it was too late to give up */
  async #giveUp(reception: Reception): Promise<SavedNotice | undefined> {
    try {
      // Before the connection is cut: a source that is told so calls it cancelled, not failed.
      const { signal, isBackground } = this.#options;
      if (signal.aborted && !isBackground) await this.#machine.cancelMigration();
    } catch (error) {
      if (!(error instanceof QmpConnectionError)) throw error;
    }
    await reception.abandon();
    return reception.saved;
  }

  /** Brings guest and settings back to what they were. @returns the error with what became of the guest */
  async #undo(error: unknown, settings: SourceSettings): Promise<unknown> {
    let reason = error instanceof LostSourceError ? describeLoss(error.message) : reasonOf(error);
    let guest: string;
    try {
      const info = await this.#machine.untilEnded(this.#graceMs(error));
      if (error instanceof LostSourceError) reason = describeLoss(error.message, info);
      guest = await this.#bringGuestBack();
      await settings.giveBack();
    } catch (later) {
      guest = this.#describeUnknownGuest(later);
    }
    return reason === undefined ? error : new SaveError(`${reason}. ${guest}`, { cause: error });
  }

  /** How long a migration may go on after it is known that nothing comes of it. */
  #graceMs(error: unknown): number {
    if (this.#options.isBackground) return Number.POSITIVE_INFINITY;
    return error instanceof LostSourceError ? CONNECTION_GRACE_MS : 0;
  }

  async #bringGuestBack(): Promise<string> {
    if (!this.#wasRunning) return 'The guest is paused, as before';
    try {
      await this.#machine.resume();
      return 'The guest runs on';
    } catch (error) {
      if (!(error instanceof SaveError)) throw error;
      return `The guest does not run on: ${error.message}`;
    }
  }

  #describeUnknownGuest(error: unknown): string {
    if (error instanceof QmpConnectionError) {
      if (error.failure === 'closed')
        return 'QEMU has closed its monitor: it has ended, or it serves somebody else now';
      return `What the guest does is not known: ${error.message}`;
    }
    if (error instanceof QmpCommandError)
      return `The settings of migrations stay as they were set: ${error.message}`;
    throw error;
  }

  // ---- when it is saved --------------------------------------------------------------------------------------

  async #complete(saved: SavedNotice, settings: SourceSettings): Promise<SaveReport> {
    const totalMs = performance.now() - this.#startedAtMs;
    const { path, isBackground, afterwards } = this.#options;
    try {
      this.#info = (await this.#machine.untilEnded(Number.POSITIVE_INFINITY)) ?? this.#info;
      const guest = await this.#settleGuest();
      await this.#giveSettingsBack(settings);
      if (afterwards === 'quit') await this.#quit();
      const { contents, counts, finishMs } = saved;
      const { pauseMs } = this.#machine;
      return {
        snapshot: path,
        'machine-type': contents.machineType,
        mode: isBackground ? 'background' : 'precopy',
        'ram-bytes': contents.ramBytes,
        'content-bytes': contents.contentBytes,
        'device-bytes': contents.deviceBytes,
        'file-bytes': statSync(path).blocks * 512,
        'received-bytes': counts.streamBytes,
        pages: { normal: counts.normalPages, zero: counts.zeroPages, xbzrle: counts.xbzrlePages },
        passes: isBackground ? 1 : this.#info.ram?.['dirty-sync-count'],
        'total-ms': rounded(totalMs),
        'finish-ms': rounded(finishMs),
        'pause-ms': pauseMs === undefined ? undefined : rounded(pauseMs),
        guest: afterwards === 'quit' ? 'ended' : guest,
        notes: this.#notes,
      };
    } catch (error) {
      if (!(error instanceof SaveError || error instanceof QmpConnectionError)) throw error;
      throw new SaveError(`The snapshot "${path}" is whole, but then: ${error.message}`, { cause: error });
    }
  }

  async #settleGuest(): Promise<GuestAfterwards> {
    const { isBackground, afterwards } = this.#options;
    if (this.#wasRunning && (isBackground || afterwards === 'run')) {
      await this.#machine.resume();
      return 'running';
    }
    const isRunning = (await this.#machine.runState()) === 'running';
    if (isRunning && afterwards === 'stay') {
      this.#notes.push(`the guest runs on: its migration is "${this.#info.status}"`);
    }
    return isRunning ? 'running' : 'paused';
  }

  async #giveSettingsBack(settings: SourceSettings): Promise<void> {
    try {
      await settings.giveBack();
    } catch (error) {
      if (!(error instanceof QmpCommandError)) throw error;
      this.#notes.push(`the settings of migrations stay as they were set: ${error.message}`);
    }
  }

  async #quit(): Promise<void> {
    try {
      await this.#machine.client.execute('quit');
    } catch (error) {
      // It may be gone before its answer is.
      if (!(error instanceof QmpConnectionError && error.failure === 'closed')) throw error;
    }
  }
}

/** Why a save has failed, without a full stop; undefined if that is a mistake of ours. */
function reasonOf(error: unknown): string | undefined {
  const isKnown =
    error instanceof SaveError ||
    error instanceof SnapshotError ||
    error instanceof TransportError ||
    error instanceof QmpConnectionError ||
    error instanceof QmpCommandError;
  return isKnown ? error.message : undefined;
}

function describeLoss(reason: string, info?: SourceInfo): string {
  if (info?.status === 'cancelled') return 'The migration was cancelled at the monitor of QEMU';
  const description = info?.['error-desc'];
  if (description !== undefined) return `QEMU has given the migration up: ${description}`;
  return `The connection to QEMU is lost: ${reason}`;
}

/** To a tenth of a millisecond: QEMU's thread and ours wake no more exactly than that. */
function rounded(ms: number): number {
  return Math.round(ms * 10) / 10;
}
