/**
 * One migration as the main thread holds it: its threads, the memory they share, and what they say.
 */
import { MessageChannel, type MessagePort, type Worker } from 'node:worker_threads';
import { closeFd, dupCloexec } from '../linux/fd.ts';
import { giveFreeMemoryBack } from '../linux/malloc.ts';
import { closeEventfd } from '../linux/poll.ts';
import { shutdownBoth } from '../linux/socket-options.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import type { Capabilities } from '../migration/capabilities.ts';
import type { AdoptedGuest } from '../migration/destination.ts';
import type { DeviceSectionName } from '../migration/device-state.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import { RequestTimes } from '../migration/page-requests.ts';
import type { Parameters } from '../migration/parameters.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { TraceEvents, TraceName } from '../telemetry/trace-events.ts';
import {
  closeAbandonedUffd,
  FaultThreadControl,
  type SharedFaultThread,
} from '../threads/fault-thread-control.ts';
import {
  Departure,
  type MigrationNotice,
  type MigrationOrder,
  type SourceThreadData,
} from '../threads/messages.ts';
import { MigrationOrders } from '../threads/migration-orders.ts';
import {
  closeSharedReturnPath,
  createSharedReturnPath,
  openLockOfDead,
  type SharedReturnPath,
} from '../threads/return-path-writer.ts';
import { startDestinationThread, startFaultThread, startSourceThread } from '../threads/start-threads.ts';
import type { Channel } from '../transport/channel.ts';
import { type MigrationFds, openMigrationFds } from './migration-fds.ts';
import { VmError } from './vm.ts';

/** What a migration needs of the virtual machine it moves. */
export interface MigrationHost {
  readonly ramBlocks: readonly RamBlock[];
  readonly machineType: string;
  readonly deviceSection: DeviceSectionName;
  readonly traces: readonly TraceName[];
  /** Gives the machine thread a port to serve, and an eventfd of its own to signal with each reply. */
  attachMachine(port: MessagePort, wakeFd: number): void;
  onStatus(status: MigrationStatus, error: string | undefined): void;
  onPass(pass: number): void;
  /** Source: the migration stopped the guest, or let it run on. */
  onGuest(isRunning: boolean): void;
  /** Destination: the guest is here. */
  onArrived(isRunning: boolean): void;
  /** The migration's threads are gone. */
  onEnded(): void;
  /**
   * Source: its thread has died before the guest could leave. It may stand still for the migration.
   *
   * @param wasRunning whether it ran when the migration stopped it; undefined if that is not known to have come about
   */
  onGuestKept(wasRunning: boolean | undefined): void;
  /** Destination: its thread has died when the guest was told to run, and the source does not know that it has come. */
  onGuestMayRun(): void;
  onTrace(name: TraceName, fields: TraceEvents[TraceName], atMs: number): void;
  onMessage(text: string): void;
}

export interface SourceSettings {
  readonly capabilities: Capabilities;
  readonly parameters: Parameters;
  readonly dirtyTracking: 'async' | 'sync';
}

/** While there are threads more than usual, what compilers have freed is given back so often. */
const TRIM_MS = 100;

type Question =
  | { readonly kind: 'cancel' }
  | { readonly kind: 'start-postcopy' }
  | { readonly kind: 'pause'; readonly why?: string }
  | { readonly kind: 'recover'; readonly fd: number };

/** Threads that die so often die of what they are given. */
const MAX_DEATHS = 3;

const DIED =
  'This migration cannot be recovered any more. A guest that is here waits at a page that has not come, and reads no zeros';
const STOPPED_HERE =
  'The guest had come and may have begun to run: it is stopped here. Let it run on at one side only, with "cont"';
const MAY_RUN_THERE =
  'The destination may run the guest: look there, and continue here with "cont" only if it does not';

/** Starts the migration thread: the first, or one in place of another that has died. */
type StartThread = (
  ends: Pick<SourceThreadData, 'fd' | 'orders' | 'machine' | 'wakeFd' | 'traces'>,
  why: string | undefined,
) => Worker;

export class MigrationThread {
  readonly side: 'source' | 'destination';
  /** Of each block: dirty pages (source) or received pages (destination). */
  readonly bitmapWords: readonly Int32Array[];
  readonly #host: MigrationHost;
  readonly #channel: Channel;
  #orders: MigrationOrders;
  readonly #wakeFd: number;
  #parameters: Parameters | undefined;
  /** Of the channel; the migration thread closes it, unless it dies. A recovery brings another. */
  #fd: number;
  /** Of each thread, when it has ended. */
  readonly #ends: Promise<void>[] = [];
  readonly #faultThread: SharedFaultThread | undefined;
  /** Destination: only a migration that may become a postcopy needs the thread. */
  readonly #startFaultThread: ((isReplacement: boolean) => Worker) | undefined;
  #faultThreadDeaths = 0;
  readonly #returnPath: SharedReturnPath | undefined;
  readonly #startThread: StartThread;
  #deaths = 0;
  /** Of the thread that has died just now. */
  #deathCause: Error | undefined;
  /** Source: what the thread that notes writes has died of, if it has. */
  #trackingError: Error | undefined;
  /** Source: whether the guest may have left (`Departure`). */
  readonly #departure = new Int32Array(new SharedArrayBuffer(4));
  /** Source: the userfaultfd of asynchronous tracking while it is open. */
  readonly #trackingUffd = new Int32Array(new SharedArrayBuffer(4));
  /** Source: whether the guest ran when the migration stopped it; undefined before. */
  #wasGuestRunning: boolean | undefined;
  /** Destination: what is known of the guest, once RUN has come. */
  #guest: AdoptedGuest | undefined;
  #hasArrived = false;
  /** Destination, in precopy: the guest was told to run. */
  #mayRunHere = false;
  #isClosing = false;
  #onExited: () => void = () => {};
  readonly #exited = new Promise<void>((resolve) => {
    this.#onExited = resolve;
  });
  readonly #trimTimer = setInterval(giveFreeMemoryBack, TRIM_MS).unref();
  #isFdClosed = false;
  #status: MigrationStatus = 'none';
  #isGuestElsewhere = false;

  /** @throws {VmError} if there are not enough descriptors; the channel is the caller's then */
  static startSource(host: MigrationHost, channel: Channel, settings: SourceSettings): MigrationThread {
    const fds = openMigrationFds(settings.dirtyTracking === 'sync');
    return new MigrationThread(host, channel, fds, { side: 'source', ...settings });
  }

  /** @throws {VmError} as `startSource` */
  static startDestination(
    host: MigrationHost,
    channel: Channel,
    settings: { readonly staysPaused: boolean; readonly peerTimeoutMs: number },
  ): MigrationThread {
    return new MigrationThread(host, channel, openMigrationFds(true), { side: 'destination', ...settings });
  }

  private constructor(
    host: MigrationHost,
    channel: Channel,
    { wakeFd, machineWakeFd, faultThread }: MigrationFds,
    settings:
      | ({ readonly side: 'source' } & SourceSettings)
      | { readonly side: 'destination'; readonly staysPaused: boolean; readonly peerTimeoutMs: number },
  ) {
    this.side = settings.side;
    this.#host = host;
    this.#channel = channel;
    this.#wakeFd = wakeFd;
    this.#faultThread = faultThread;
    this.bitmapWords = bitmapWords(host.ramBlocks);
    const { hasReturnPath } = channel;
    this.#fd = channel.detach();
    const common = {
      hasReturnPath,
      blocks: host.ramBlocks,
      machineType: host.machineType,
      deviceSection: host.deviceSection,
    };
    if (settings.side === 'source') {
      const { capabilities, parameters } = settings;
      const notedWords = bitmapWords(host.ramBlocks);
      if (faultThread !== undefined) {
        new FaultThreadControl(faultThread).expect();
        this.#watchTracking(
          startFaultThread({
            mode: 'write-protect',
            control: faultThread,
            blocks: host.ramBlocks,
            bitmapWords: notedWords,
          }),
        );
      }
      const writeFaults = this.#faultThread && { control: this.#faultThread, notedWords };
      this.#parameters = parameters;
      this.#startThread = (ends, why) =>
        startSourceThread({
          ...common,
          ...ends,
          capabilities,
          parameters: this.#parameters ?? parameters,
          dirtyWords: this.bitmapWords,
          writeFaults,
          departure: this.#departure,
          trackingUffd: this.#trackingUffd,
          succession: why === undefined ? undefined : { why, hasMoved: this.isGuestElsewhere },
        });
    } else {
      const requestTimes = RequestTimes.allocate(host.ramBlocks);
      const returnPath = createSharedReturnPath(this.#fd);
      this.#returnPath = returnPath;
      const control = faultThread as SharedFaultThread;
      const { ramBlocks: blocks } = host;
      this.#startFaultThread = (isReplacement) =>
        startFaultThread({
          mode: 'missing',
          isReplacement,
          control,
          blocks,
          bitmapWords: this.bitmapWords,
          requestTimes,
          returnPath,
        });
      this.#startThread = (ends, why) =>
        startDestinationThread({
          ...common,
          ...ends,
          receivedWords: this.bitmapWords,
          requestTimes,
          faultThread: control,
          returnPath,
          staysPaused: settings.staysPaused,
          peerTimeoutMs: this.#parameters?.['x-peer-timeout'] ?? settings.peerTimeoutMs,
          succession:
            why === undefined
              ? undefined
              : { why, hasMoved: this.#hasArrived, guest: this.#guest as AdoptedGuest },
        });
    }
    this.#orders = this.#launch(this.#fd, machineWakeFd, undefined);
  }

  /** @param why there was a thread before, and it has died: this one waits for a recovery */
  #launch(fd: number, machineWakeFd: number, why: string | undefined): MigrationOrders {
    const orders = new MessageChannel();
    const machine = new MessageChannel();
    this.#host.attachMachine(machine.port1, machineWakeFd);
    const ends = { fd, orders: orders.port2, machine: machine.port2, wakeFd: this.#wakeFd };
    const worker = this.#startThread({ ...ends, traces: this.#host.traces }, why);
    this.#ends.push(new Promise((resolve) => worker.once('exit', () => resolve())));
    worker.on('error', (error) => {
      this.#deathCause = error;
    });
    worker.once('exit', () => void this.#threadEnded());
    return new MigrationOrders(orders.port1, this.#wakeFd, (notice) => this.#heed(notice));
  }

  /** The guest has run at the destination since it left here: what is here is out of date. */
  get isGuestElsewhere(): boolean {
    return this.#isGuestElsewhere || Atomics.load(this.#departure, 0) === Departure.GONE;
  }

  order(order: MigrationOrder): void {
    if (order.kind === 'set-parameters') this.#parameters = order.parameters;
    this.#orders.order(order);
  }

  /** @throws {VmError} with the engine's reason if it refuses */
  async ask(question: Question): Promise<void> {
    const answer = await this.#orders.ask((id) => ({ ...question, id }));
    if (answer?.kind === 'answer' && answer.error !== undefined) throw new VmError(answer.error);
  }

  /** Breaks the connection of a postcopy off. @throws {VmError} with the engine's reason if it refuses */
  async breakOff(why?: string): Promise<void> {
    await this.ask({ kind: 'pause', ...(why !== undefined && { why }) });
  }

  /**
   * Goes on with a postcopy that is paused, over a new connection.
   *
   * @throws {VmError} with the engine's reason if it refuses; the channel is closed in any case then
   */
  async recover(channel: Channel): Promise<void> {
    if (this.#orders.isOver) {
      channel.close();
      throw new VmError('The thread of this migration has ended: it cannot be recovered');
    }
    const before = { fd: this.#fd, isClosed: this.#isFdClosed };
    this.#fd = channel.detach();
    this.#isFdClosed = false;
    try {
      await this.ask({ kind: 'recover', fd: this.#fd });
    } catch (error) {
      // The thread has closed it, and goes on with what it had.
      this.#fd = before.fd;
      this.#isFdClosed = before.isClosed;
      throw error;
    }
  }

  query(): Promise<MigrationInfo | undefined> {
    return this.#orders.query();
  }

  /**
   * Ends the threads, whatever the state of the migration. Of a guest that lacks pages nothing must be believed after it:
   * it goes on with zeros.
   */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.order({ kind: 'close' });
    await this.#exited;
    await Promise.all(this.#ends);
    // Of a thread that has died it was left open, so that the guest reads no zeros.
    if (this.side === 'destination' && !this.#orders.hasLastInfo && this.#faultThread !== undefined)
      closeAbandonedUffd(this.#faultThread);
  }

  #heed(notice: MigrationNotice): void {
    switch (notice.kind) {
      case 'status':
        this.#status = notice.status;
        this.#isGuestElsewhere = notice.isGuestElsewhere;
        if (this.#trackingError === undefined) this.#host.onStatus(notice.status, notice.error);
        else this.#tellTrackingLost(this.#trackingError);
        return;
      case 'pass':
        this.#host.onPass(notice.pass);
        return;
      case 'guest':
        if (!notice.isRunning) this.#wasGuestRunning = notice.wasRunning;
        this.#host.onGuest(notice.isRunning);
        return;
      case 'run':
        this.#guest = notice;
        return;
      case 'resuming':
        this.#mayRunHere = true;
        return;
      case 'arrived':
        this.#hasArrived = true;
        this.#host.onArrived(notice.isRunning);
        return;
      case 'trace':
        this.#host.onTrace(notice.name, notice.fields, notice.atMs);
        return;
      case 'fault-thread-wanted':
        if (!this.#orders.isOver) this.#addFaultThread(false);
        return;
      case 'channel-closed':
        this.#isFdClosed = true;
        return;
      case 'flushed':
        void this.#awaitPeer();
        return;
    }
  }

  async #awaitPeer(): Promise<void> {
    let error: string | undefined;
    try {
      await this.#channel.finished();
    } catch (cause) {
      error = (cause as Error).message;
    }
    this.order({ kind: 'peer-finished', error });
  }

  /** Destination: the guest waits for the thread that asks for its pages. If it dies by a mistake, another takes its place. */
  #addFaultThread(isReplacement: boolean): void {
    const worker = this.#startFaultThread?.(isReplacement);
    if (worker === undefined) return;
    this.#ends.push(new Promise((resolve) => worker.once('exit', () => resolve())));
    worker.on('error', (error) => {
      if (this.#orders.isOver) return;
      const isLast = ++this.#faultThreadDeaths > MAX_DEATHS;
      const next = isLast
        ? 'the guest waits at missing pages until they are pushed'
        : 'another takes its place';
      this.#host.onMessage(`The thread that asks for missing pages died: ${error.message}; ${next}`);
      if (!isLast) this.#addFaultThread(true);
      else if (this.#faultThread !== undefined) new FaultThreadControl(this.#faultThread).hasDied();
    });
  }

  /** Source: without the thread that notes writes, none can be migrated any more. */
  #watchTracking(worker: Worker): void {
    this.#ends.push(new Promise((resolve) => worker.once('exit', () => resolve())));
    worker.on('error', (error) => this.#trackingDied(error));
    worker.once('exit', () => {
      const isExpected = this.#faultThread === undefined || new FaultThreadControl(this.#faultThread).isGone;
      if (!isExpected) this.#trackingDied(new Error('it ended without a word'));
    });
  }

  #trackingDied(error: Error): void {
    this.#trackingError = error;
    if (this.#faultThread !== undefined) new FaultThreadControl(this.#faultThread).hasDied();
    this.#host.onMessage(`A migration thread died: ${error.message}`);
    if (this.#orders.isOver || this.#status.startsWith('postcopy-')) return;
    // The guest stands at its next write until the migration lets go of its memory.
    this.ask({ kind: 'cancel' }).catch(() => this.#host.onStatus('failed', error.message));
  }

  /** The migration was called off since its writes cannot be tracked: to an operator it has failed. */
  #tellTrackingLost(error: Error): void {
    if (this.#status === 'cancelling') return;
    this.#host.onStatus(this.#status === 'cancelled' ? 'failed' : this.#status, error.message);
  }

  async #threadEnded(): Promise<void> {
    this.#orders.end();
    const lastWord = this.#orders.hasLastInfo ? undefined : new Error('it ended without a word');
    // One thread that dies of the other's death has nothing of its own to say.
    const cause = (lastWord && this.#trackingError) ?? this.#deathCause ?? lastWord;
    this.#deathCause = undefined;
    if (cause === undefined || this.#isClosing) {
      this.#giveBack();
      return;
    }
    const died = `A migration thread died: ${cause.message}`;
    if (this.#status === 'completed') {
      this.#host.onMessage(`${died}, after the end of the migration`);
      this.#giveBack();
      return;
    }
    const canGoOn = this.#canGoOn && ++this.#deaths <= MAX_DEATHS;
    this.#host.onMessage(canGoOn ? `${died}; another takes its place` : died);
    if (canGoOn) await this.#replaceThread(died);
    else this.#tellEnd(cause);
  }

  /** Whether what another thread needs is there: memory, bitmaps, and knowledge of where the guest is. */
  get #canGoOn(): boolean {
    if (this.side === 'destination') return this.#guest !== undefined;
    return Atomics.load(this.#departure, 0) >= Departure.POSTCOPY;
  }

  /** The guest waits meanwhile at the next missing page that it needs; another thread goes on with a recovery. */
  async #replaceThread(why: string): Promise<void> {
    if (this.#returnPath !== undefined) {
      closeSharedReturnPath(this.#returnPath);
      if (!this.#isFdClosed) shutdownBoth(this.#fd);
      await openLockOfDead(this.#returnPath);
    }
    this.#closeFd();
    if (this.#isClosing) {
      this.#giveBack();
      return;
    }
    try {
      this.#orders = this.#launch(-1, dupCloexec(this.#wakeFd), why);
    } catch (error) {
      this.#tellEnd(error as Error); // there are no more descriptors
    }
  }

  #tellEnd(cause: Error): void {
    const hasLeft = Atomics.load(this.#departure, 0) !== Departure.HERE;
    const isPostcopy = this.side === 'source' ? hasLeft : this.#guest !== undefined;
    // Nobody can tell any more whether the destination has run the guest.
    if (isPostcopy && this.side === 'source' && this.#status.startsWith('postcopy-'))
      this.#isGuestElsewhere = true;
    if (isPostcopy && this.#status.startsWith('postcopy-'))
      this.#host.onStatus('postcopy-paused', `${cause.message}. ${DIED}`);
    else if (this.#mayRunHere) this.#host.onStatus('failed', `${cause.message}. ${STOPPED_HERE}`);
    else this.#host.onStatus('failed', hasLeft ? `${cause.message}. ${MAY_RUN_THERE}` : cause.message);
    if (this.#mayRunHere) this.#host.onGuestMayRun();
    this.#giveBack();
    if (this.side === 'source' && !hasLeft) this.#host.onGuestKept(this.#wasGuestRunning);
  }

  #giveBack(): void {
    clearInterval(this.#trimTimer);
    giveFreeMemoryBack();
    closeEventfd(this.#wakeFd);
    if (!this.#orders.hasLastInfo) this.#closeFd();
    if (this.side === 'source') this.#closeTracking();
    this.#host.onEnded();
    this.#onExited();
    if (this.#faultThread === undefined) return;
    // Stopped by the migration thread already, unless that died.
    new FaultThreadControl(this.#faultThread).requestStop();
    // None is terminated: one that is just loading koffi would take the whole process with it.
    const faultThread = this.#faultThread;
    void Promise.all(this.#ends).then(() => {
      // Of a source that has died: a guest that waits to write is woken.
      if (this.side === 'source') closeAbandonedUffd(faultThread);
      closeEventfd(faultThread.wakeFd);
    });
  }

  /** A thread that has died has left it open, and with it no other could track this memory. */
  #closeTracking(): void {
    const uffd = Atomics.exchange(this.#trackingUffd, 0, 0);
    if (uffd !== 0) closeFd(uffd);
  }

  /** The thread that owned the descriptor has died: the peer must hear of it. */
  #closeFd(): void {
    if (this.#returnPath !== undefined) closeSharedReturnPath(this.#returnPath);
    if (!this.#isFdClosed) closeFd(this.#fd);
    this.#isFdClosed = true;
  }
}

function bitmapWords(blocks: readonly RamBlock[]): Int32Array[] {
  return blocks.map(({ lengthBytes }) => PageBitmap.shared(lengthBytes / TARGET_PAGE_BYTES).words);
}
