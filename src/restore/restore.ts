/**
 * Restores a snapshot into a QEMU: the guest runs at once, and its memory comes as it is touched.
 *
 *   open the snapshot ─▶ QEMU waits for a migration ─▶ device state ─▶ the guest runs ─▶ all of its memory is there
 *
 * We are the source of a postcopy migration that has sent nothing in precopy. The snapshot is only read: whatever goes
 * wrong, it can be restored again.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { closeFd, setNonblocking } from '../linux/fd.ts';
import { socketPair } from '../linux/socket-pair.ts';
import { TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { FetchInfo } from '../migration/fetcher.ts';
import type { MigrationStatus } from '../migration/states.ts';
import { describeExit, GUEST_URI, QemuProcess } from '../qemu/qemu-process.ts';

import { QmpCommandError, type QmpEvent } from '../qemu/qmp-client.ts';
import { formatCount } from '../telemetry/format.ts';
import { PageRecording } from '../threads/page-recording.ts';
import { type Channel, FdChannel } from '../transport/channel.ts';
import type { TlsOptions } from '../transport/tls-channel.ts';
import { checkQemu } from './check-qemu.ts';
import type { RemoteSnapshot } from './remote-snapshot.ts';
import { describeSnapshot, type RestoreReport } from './restore-report.ts';
import { ranWhenSaved } from './saved-run-state.ts';
import { type SendableSnapshot, SnapshotSource } from './snapshot-source.ts';
import {
  readTouchOrder,
  type TouchOrder,
  TouchOrderError,
  touchOrderPath,
  writeTouchOrder,
} from './touch-order.ts';

/** While first touches are recorded, nothing is pushed before the guest has asked for nothing for so long. */
const RECORDING_QUIET_MS = 1000;
const EXIT_GRACE_MS = 2000;

export interface RestoreOptions {
  readonly snapshot: SendableSnapshot;
  /** The same, if it is on another host. */
  readonly remote?: RemoteSnapshot | undefined;
  /** Load everything before the guest runs. */
  readonly isFull: boolean;
  /** Whether the guest is to run when it is there; undefined: as it did when it was saved. */
  readonly shouldRun: boolean | undefined;
  /** Write down the order of first touches, for later restores. */
  readonly isRecording: boolean;
  /** Leave out an order that was recorded. */
  readonly ignoresOrder: boolean;
  /** Of what is pushed; 0 is no limit. */
  readonly maxBytesPerSecond: number;
  /** Protects the connection to a machine that waits. Default: nothing does. */
  readonly tls?: TlsOptions | undefined;
  /** Told of each step, in words for an operator. */
  readonly onMessage: (text: string) => void;
  /** Aborted to give up: what has come of the guest by then is lost. */
  readonly signal: AbortSignal;
}

/** The guest could not be brought to where it should be; the text is for the operator. */
export class RestoreError extends Error {
  override readonly name = 'RestoreError';
}

/** A QEMU that was started for it, and how its restore went. */
export interface RestoredQemu {
  readonly qemu: QemuProcess;
  readonly report: RestoreReport;
}

/**
 * Starts QEMU and gives it the guest. Resolves when all memory is there.
 *
 * @param command QEMU and its options: those of the machine that was saved
 * @throws {RestoreError} and has ended QEMU, unless that is a {LostMemoryError} with QEMU in it; {EndedGuestError}
 */
export async function restoreIntoNewQemu(
  command: readonly string[],
  options: RestoreOptions,
): Promise<RestoredQemu> {
  const clock = new RestoreClock();
  const folder = mkdtempSync(join(tmpdir(), 'postcopy-'));
  const [fd, qemuFd] = socketPair();
  setNonblocking(fd, true);
  const channel = new FdChannel({ fd, hasReturnPath: true, peer: 'QEMU' });
  let qemu: QemuProcess | undefined;
  let feeding: Promise<RestoreReport> | undefined;
  try {
    const didRun = ranWhenSaved(options.snapshot.deviceSections);
    const shouldRun = options.shouldRun ?? didRun;
    const wholeCommand = shouldRun ? command : [...command, '-S'];
    const starting = QemuProcess.start(wholeCommand, qemuFd, folder, (event) => clock.heed(event));
    closeFd(qemuFd);
    // QEMU reads nothing before it has been found to be the right one; what comes first waits in the socket.
    const gone = starting.then((started) => untilEnded(started, clock));
    gone.catch(() => {}); // only the race inside is told
    feeding = feed(channel, clock, options, gone);
    feeding.catch(() => {}); // it is awaited below, once QEMU has come up
    qemu = await starting;
    clock.qemuReady();
    await checkQemu(qemu.qmp, options.snapshot);
    await prepare(qemu, options);
    const report = await feeding;
    // At the end of a precopy QEMU heeds what was saved.
    if (options.isFull && shouldRun && !didRun) await qemu.qmp.execute('cont');
    return { qemu, report };
  } catch (error) {
    if (error instanceof LostMemoryError && !options.signal.aborted) error.qemu = qemu;
    else await qemu?.terminate();
    await feeding?.catch(() => {}); // QEMU is gone or has let go: so has the thread that feeds it
    channel.close();
    throw asRestoreError(error);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** @throws {RestoreError} when the process has ended; {EndedGuestError} if that is no failure */
async function untilEnded({ name, exited }: QemuProcess, clock: RestoreClock): Promise<never> {
  const exit = await exited;
  const what = `${name} ended before all memory was there: ${describeExit(exit)}`;
  // A QEMU that does not like what it is given ends with another code.
  if (exit.code === 0 && clock.handedOverMs !== undefined) throw new EndedGuestError(what);
  throw new RestoreError(
    `${what}. Its options must be those of the machine that was saved; its own message is above, if it had one`,
  );
}

/**
 * Gives the guest to whoever waits for a migration at `uri`. Resolves when all memory is there.
 *
 * @throws {RestoreError}
 */
export async function restoreInto(uri: string, options: RestoreOptions): Promise<RestoreReport> {
  let channel: Channel | undefined;
  try {
    const clock = new RestoreClock();
    const { connectChannel } = await import('../transport/connect.ts');
    channel = await connectChannel(uri, { signal: options.signal, tls: options.tls });
    return await feed(channel, clock, options, new Promise<never>(() => {}));
  } catch (error) {
    // Unless a thread has taken it over, which closes it.
    channel?.close();
    throw asRestoreError(error);
  }
}

/** The guest runs at the other end and waits for pages that do not come: ending what it runs in is the operator's. */
export class LostMemoryError extends RestoreError {
  /** Where it runs, if that is a process of ours: it was left as it is. */
  qemu: QemuProcess | undefined;
}

/** The guest has run, and came to its end, or was brought to it at its monitor, before all of its memory was there. */
export class EndedGuestError extends RestoreError {}

async function prepare({ qmp }: QemuProcess, { isFull }: RestoreOptions): Promise<void> {
  const set = (capability: string, state: boolean) =>
    qmp.execute('migrate-set-capabilities', { capabilities: [{ capability, state }] });
  await set('events', true);
  try {
    await set('postcopy-ram', !isFull);
  } catch (error) {
    if (!(error instanceof QmpCommandError)) throw error;
    throw new RestoreError(
      `QEMU cannot fetch memory while its guest runs: ${error.message}. Its user must be allowed to use userfaultfd: root, ` +
        'or anybody with "sysctl vm.unprivileged_userfaultfd=1". With --full everything is loaded first, which needs nothing',
      { cause: error },
    );
  }
  await qmp.execute('migrate-incoming', { uri: GUEST_URI });
}

async function feed(
  channel: Channel,
  clock: RestoreClock,
  options: RestoreOptions,
  ended: Promise<never>,
): Promise<RestoreReport> {
  const { snapshot, remote, isFull, isRecording, maxBytesPerSecond, onMessage, signal } = options;
  const order = isRecording || isFull || options.ignoresOrder ? undefined : recordedOrder(options);
  const recording = isRecording ? PageRecording.allocate(pagesOf(snapshot)) : undefined;
  if (!isFull && !channel.hasReturnPath) {
    channel.close();
    throw new RestoreError(
      `Postcopy needs a connection that carries bytes both ways, which "${channel.peer}" does not: use tcp: or unix:, or load ` +
        'everything first with --full',
    );
  }
  onMessage(describeSnapshot(snapshot));
  const failed = remote?.failed ?? new Promise<never>(() => {});
  if (isFull && remote !== undefined) {
    await Promise.race([remote.complete, failed, notKept(remote), ended, aborted(signal)]);
  }
  const source = new SnapshotSource(snapshot, channel, {
    isFull,
    maxBytesPerSecond,
    pushFirst: order?.runs ?? [],
    quietBeforePushMs: isRecording ? RECORDING_QUIET_MS : 0,
    recording,
  });
  try {
    clock.onRunning = (afterMs) => onMessage(`the guest runs, ${Math.round(afterMs)} ms after the start`);
    let serverError: unknown;
    failed.catch((error) => {
      serverError = error;
    });
    const status = await Promise.race([endOf(source, clock), ended, failed, aborted(signal)]).catch(
      async (error) => {
        if (clock.handedOverMs === undefined || error instanceof EndedGuestError) throw error;
        const state = error === serverError ? `. ${await whatIsMissing(source)}` : '';
        throw new LostMemoryError(`${(error as Error).message}${state}`, { cause: error });
      },
    );
    if (status !== 'completed') {
      // A QEMU that refuses what it is given says why, and ends a moment after it has closed the connection.
      await Promise.race([ended, sleep(EXIT_GRACE_MS)]);
      throw await failure(source, channel, options, clock.handedOverMs !== undefined);
    }
    const info = await source.query();
    if (recording !== undefined) saveOrder(recording, options);
    const fetched = await remote?.info();
    return clock.report(snapshot, info, { isFull, order, recorded: recording?.requests, fetched });
  } finally {
    await source.close();
  }
}

/** All memory together has no other place than the cache. */
async function notKept(remote: RemoteSnapshot): Promise<never> {
  await remote.notKept;
  throw new RestoreError(
    'To load everything first it must be kept, and it is not: give --cache a folder with room, or leave out --full',
  );
}

function endOf(source: SnapshotSource, clock: RestoreClock): Promise<MigrationStatus> {
  return new Promise((resolve) => {
    const onStatus = (status: MigrationStatus) => {
      if (status === 'postcopy-active') clock.handedOver();
      if (!['completed', 'failed', 'postcopy-paused'].includes(status)) return;
      source.off('status', onStatus);
      resolve(status);
    };
    source.on('status', onStatus);
  });
}

/** Why it failed, in words that fit a snapshot: no guest waits at this end. */
async function failure(
  source: SnapshotSource,
  { peer }: Channel,
  { isFull }: RestoreOptions,
  isHandedOver: boolean,
): Promise<RestoreError> {
  const why = source.error ?? 'the thread that sends the snapshot ended';
  if (!isHandedOver) {
    const hint = isFull ? '' : ' It must have postcopy-ram switched on.';
    return new RestoreError(
      `The machine at "${peer}" did not take the guest; its own messages say why.${hint} Here: ${why}`,
    );
  }
  return new LostMemoryError(await whatIsMissing(source, `, since ${reason(source)}`));
}

/** What has become of a guest that runs and gets no more pages, and what to do. */
async function whatIsMissing(source: SnapshotSource, since = ''): Promise<string> {
  const missingBytes = (await source.query())?.ram?.remaining;
  const missing =
    missingBytes === undefined ? '' : `at least ${formatCount(missingBytes / TARGET_PAGE_BYTES)} `;
  return (
    `The guest runs, lacks ${missing}pages and waits at the next of them that it needs${since}. End that machine and ` +
    'restore the snapshot again'
  );
}

/** The engine's own words for a lost connection are about a guest that waits at the source. */
function reason({ status, error }: SnapshotSource): string {
  return status === 'postcopy-paused' || error === undefined ? 'the connection was lost' : error;
}

/** Beside the snapshot, or beside what is kept here of one elsewhere; undefined if nothing is kept. */
function orderPathOf({ snapshot, remote }: RestoreOptions): string | undefined {
  return remote === undefined ? touchOrderPath(snapshot.path) : remote.orderPath;
}

function recordedOrder(options: RestoreOptions): TouchOrder | undefined {
  const { snapshot, onMessage } = options;
  const path = orderPathOf(options);
  try {
    return path === undefined ? undefined : readTouchOrder(path, snapshot);
  } catch (error) {
    if (!(error instanceof TouchOrderError)) throw error;
    onMessage(`${error.message}; it is left out`);
    return undefined;
  }
}

function saveOrder(recording: PageRecording, options: RestoreOptions): void {
  const { snapshot, onMessage } = options;
  const path = orderPathOf(options);
  if (path === undefined) {
    onMessage('the order of first touches is lost: nothing is kept here of a snapshot without a cache');
    return;
  }
  try {
    writeTouchOrder(path, snapshot, { requests: recording.requests, runs: recording.runs() });
    onMessage(`the order of first touches is in "${path}", and is used from now on`);
  } catch (error) {
    if (!(error instanceof TouchOrderError)) throw error;
    onMessage(error.message);
  }
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const onAbort = () => reject(new RestoreError('Interrupted'));
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  });
}

function pagesOf(snapshot: SendableSnapshot): number {
  return snapshot.blocks.reduce((sum, { lengthBytes }) => sum + lengthBytes / TARGET_PAGE_BYTES, 0);
}

function asRestoreError(error: unknown): unknown {
  if (error instanceof RestoreError || !(error instanceof Error)) return error;
  return new RestoreError(error.message, { cause: error });
}

interface ReportedSettings {
  readonly isFull: boolean;
  readonly order: TouchOrder | undefined;
  readonly recorded: number | undefined;
  readonly fetched: FetchInfo | undefined;
}

/** When what happened, in milliseconds since the start of the restore. */
class RestoreClock {
  onRunning: (afterMs: number) => void = () => {};
  handedOverMs: number | undefined;
  readonly #startedAtMs = performance.now();
  #qemuReadyMs: number | undefined;
  #runningMs: number | undefined;

  qemuReady(): void {
    this.#qemuReadyMs = this.#elapsedMs;
  }

  handedOver(): void {
    this.handedOverMs = this.#elapsedMs;
  }

  heed({ event }: QmpEvent): void {
    if (event !== 'RESUME' || this.#runningMs !== undefined) return;
    this.#runningMs = this.#elapsedMs;
    this.onRunning(this.#runningMs);
  }

  report(
    snapshot: SendableSnapshot,
    info: RestoreReport['migration'],
    { isFull, order, recorded, fetched }: ReportedSettings,
  ): RestoreReport {
    return {
      snapshot: snapshot.path,
      'machine-type': snapshot.machineType,
      mode: isFull ? 'full' : 'postcopy',
      'qemu-ready-ms': this.#qemuReadyMs,
      'guest-running-ms': this.#runningMs,
      'all-memory-ms': this.#elapsedMs,
      'recorded-order':
        order === undefined
          ? undefined
          : {
              requests: order.requests,
              pages: order.runs.reduce((sum, { pageCount }) => sum + pageCount, 0),
            },
      'requests-recorded': recorded,
      fetch: fetched,
      migration: info,
    };
  }

  get #elapsedMs(): number {
    return performance.now() - this.#startedAtMs;
  }
}
