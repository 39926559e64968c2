/**
 * Drives the source engine over one descriptor: what every thread that sends a guest has in common.
 *
 * It sleeps in poll(2) for the channel, for orders of the main thread and for answers of the machine. Where the guest's
 * memory is, and what stops the guest, the thread says that makes the loop.
 */

import { connectionError } from '../linux/connection-error.ts';
import { closeFd, fdKind, readInto, WOULD_BLOCK } from '../linux/fd.ts';
import { mapAnonymous } from '../linux/memory.ts';
import { drainEventfd, PollEvent, PollSet } from '../linux/poll.ts';
import { CompilerThreads, scheduleThread } from '../linux/scheduling.ts';
import { setPeerTimeout, setUnsentLowWatermark, syncFile } from '../linux/socket-options.ts';
import { SourceMigration, type SourceOptions } from '../migration/source.ts';
import type { SourceEffects } from '../migration/source-ports.ts';
import { monotonicMs } from './clock.ts';
import type { MachinePort } from './machine-client.ts';
import {
  Departure,
  type MachineReply,
  type MigrationNotice,
  type MigrationOrder,
  type SourceLoopData,
} from './messages.ts';
import { PortTrace, takeOrders } from './migration-loop.ts';
import { OutgoingBytes } from './outgoing-bytes.ts';

const RETURN_PATH_BYTES = 64 * 1024;
/** Sent data that the kernel has not put on the wire yet: what the switch, and a requested page, may wait behind. */
const UNSENT_BYTES = 128 * 1024;

/** Who stops the guest and saves its devices; whoever answers also signals the eventfd of the loop. */
export type SourceMachine = Pick<MachinePort, 'post' | 'collect' | 'hasUnanswered'>;

/** What of the engine's options the thread decides. */
export type SourceParts = Omit<
  SourceOptions,
  'capabilities' | 'parameters' | 'hasReturnPath' | 'effects' | 'trace'
> & {
  /** What the engine fills, if its memory puts pages there that are sent from where they are. */
  readonly outgoing?: OutgoingBytes;
};

export class SourceLoop {
  readonly #data: SourceLoopData;
  readonly #machine: SourceMachine;
  readonly #engine: SourceMigration;
  readonly #trace: PortTrace;
  readonly #polls = new PollSet(2);
  readonly #outgoing: OutgoingBytes;
  readonly #incoming = mapAnonymous(RETURN_PATH_BYTES);
  readonly #compilers = new CompilerThreads();
  readonly #kind: ReturnType<typeof fdKind>;
  /** Of the present connection; a recovery brings another. */
  #fd: number;

  #peerTimeoutMs: number;
  /** The engine had nothing to send. */
  #isIdle = false;
  #isFdOpen = true;
  #isClosing = false;

  /** @param requests is told of page requests, before they are served */
  constructor(
    data: SourceLoopData,
    machine: SourceMachine,
    { outgoing = new OutgoingBytes(), ...parts }: SourceParts,
    requests: Pick<SourceEffects, 'pagesRequested' | 'pageAwaited'> = {},
  ) {
    this.#data = data;
    this.#machine = machine;
    this.#outgoing = outgoing;
    this.#trace = new PortTrace(data.orders, data.traces);
    this.#fd = data.fd;
    this.#peerTimeoutMs = data.parameters['x-peer-timeout'];
    this.#kind = data.fd < 0 ? 'socket' : fdKind(data.fd);
    this.#isFdOpen = data.fd >= 0;
    this.#engine = new SourceMigration({
      ...parts,
      capabilities: data.capabilities,
      parameters: data.parameters,
      hasReturnPath: data.hasReturnPath,
      effects: {
        pauseGuest: () => machine.post('pause'),
        saveDevices: () => machine.post('save-devices'),
        resumeGuest: () => machine.post('resume'),
        statusChanged: (status, error) => {
          const { isGuestElsewhere } = this.#engine;
          if (status === 'postcopy-paused') this.#dropChannel();
          // What is pushed from here on may wait; on a host that has both sides, those who place pages go first.
          if (status === 'postcopy-active') {
            scheduleThread({ sliceUs: 10_000, nice: 5 });
            this.#compilers.giveWay(true);
          }
          this.#notify({ kind: 'status', status, error: error?.message, isGuestElsewhere });
        },
        passBegins: (pass) => this.#notify({ kind: 'pass', pass }),
        guestLeaves: () => this.#noteDeparture(),
        ...requests,
      },
      trace: this.#trace,
    });
    if (this.#kind === 'socket' && this.#isFdOpen) this.#setSocketOptions(data.fd);
  }

  /** Returns when the migration is over, or was ordered to close. The descriptor is closed then. */
  run(): void {
    try {
      // Before the guest, while both want the same processor: precopy has to be faster than the guest writes.
      scheduleThread({ sliceUs: 1000, nice: -10 });
      const { succession } = this.#data;
      if (succession === undefined) this.#engine.start(monotonicMs());
      else this.#engine.adopt(new Error(succession.why), succession.hasMoved, monotonicMs());
      while (!this.#isClosing && (!this.#engine.isOver || this.#machine.hasUnanswered)) this.#step();
    } finally {
      // Also if this thread dies: the guest must not wait for it to lift a write protection, nor the peer for more.
      this.#engine.close();
      this.#closeChannel();
      this.#compilers.giveWay(false);
    }
    this.#notify({ kind: 'ended', info: this.#engine.info(monotonicMs()) });
    this.#data.orders.close();
    this.#polls.close();
    this.#outgoing.close();
    this.#incoming.unmap();
  }

  #step(): void {
    takeOrders(this.#data.orders, (order) => this.#obey(order));
    for (let reply = this.#machine.collect(); reply !== undefined; reply = this.#machine.collect())
      this.#takeReply(reply);
    if (this.#isClosing) return;
    // After this thread, or its whole process, has stood still, what has come meanwhile counts.
    if (this.#isFdOpen && this.#data.hasReturnPath && monotonicMs() >= this.#engine.givesUpAtMs) this.#read();
    const isBlocked = this.#isFdOpen && !this.#engine.isOver && !this.#write();
    if (isBlocked) this.#engine.checkTime(monotonicMs());
    if (this.#isFdOpen && this.#engine.isFlushed && !this.#data.hasReturnPath) this.#flush();
    this.#wait(isBlocked);
    if (this.#polls.ready(1) !== 0) {
      drainEventfd(this.#data.wakeFd);
      // That may be what it says.
      this.#engine.pagesArrived();
    }
    if (this.#isFdOpen && this.#data.hasReturnPath && (this.#polls.ready(0) & ~PollEvent.OUT) !== 0)
      this.#read();
  }

  /** @returns false if the channel takes no more for now */
  #write(): boolean {
    if (this.#outgoing.pendingBytes === 0) {
      this.#outgoing.commit(this.#engine.fill(this.#outgoing.buffer, monotonicMs()));
      this.#isIdle = this.#outgoing.pendingBytes === 0;
      if (this.#isIdle) return true;
    }
    try {
      const count = this.#outgoing.writeTo(this.#fd);
      if (count === WOULD_BLOCK) return false;
      this.#engine.sent(count, monotonicMs());
      return true;
    } catch (error) {
      // The destination may have said why before it closed.
      if (this.#data.hasReturnPath) this.#read();
      // Unless that has told already.
      this.#engine.channelLost(connectionError(error), monotonicMs());
      return true;
    }
  }

  #wait(isBlocked: boolean): void {
    const isWatched = this.#isFdOpen && !this.#engine.isOver && (this.#data.hasReturnPath || isBlocked);
    this.#polls.set(
      0,
      isWatched ? this.#fd : -1,
      (this.#data.hasReturnPath ? PollEvent.IN : 0) | (isBlocked ? PollEvent.OUT : 0),
    );
    this.#polls.set(1, this.#data.wakeFd, PollEvent.IN);
    const nowMs = monotonicMs();
    if (this.#engine.isOver) this.#polls.wait(this.#machine.hasUnanswered ? -1 : 0);
    else if (isBlocked) this.#polls.wait(Math.max(0, this.#engine.givesUpAtMs - nowMs));
    else this.#polls.wait(this.#isIdle ? Math.max(0, this.#engine.wakeAtMs(nowMs) - nowMs) : 0);
  }

  #read(): void {
    try {
      for (;;) {
        const count = readInto(this.#fd, this.#incoming.address, RETURN_PATH_BYTES);
        if (count === WOULD_BLOCK) return;
        if (count === 0) {
          this.#engine.channelLost(undefined, monotonicMs());
          return;
        }
        this.#engine.receive(this.#incoming.bytes.subarray(0, count), monotonicMs());
        this.#noteArrival();
        if (count < RETURN_PATH_BYTES || !this.#isFdOpen) return;
      }
    } catch (error) {
      this.#engine.channelLost(connectionError(error), monotonicMs());
    }
  }

  /** All is written: make a file safe, let a command see the end, and wait to hear how that went. */
  #flush(): void {
    try {
      if (this.#kind === 'file') syncFile(this.#fd);
      this.#closeChannel();
      this.#notify({ kind: 'flushed' });
    } catch (error) {
      this.#engine.notSaved(connectionError(error), monotonicMs());
    }
  }

  #obey(order: MigrationOrder): void {
    const nowMs = monotonicMs();
    switch (order.kind) {
      case 'cancel':
        this.#answer(order.id, () => this.#engine.cancel(nowMs));
        return;
      case 'start-postcopy':
        this.#answer(order.id, () => this.#engine.startPostcopy());
        return;
      case 'pause':
        this.#answer(order.id, () => this.#engine.pause(nowMs, order.why));
        return;
      case 'recover':
        this.#answer(order.id, () => this.#recover(order.fd, nowMs));
        return;
      case 'set-parameters':
        this.#peerTimeoutMs = order.parameters['x-peer-timeout'];
        if (this.#kind === 'socket' && this.#isFdOpen) setPeerTimeout(this.#fd, this.#peerTimeoutMs);
        this.#engine.setParameters(order.parameters, nowMs);
        return;
      case 'set-traces':
        this.#trace.setEnabled(order.names);
        return;
      case 'query':
        this.#notify({ kind: 'info', id: order.id, info: this.#engine.info(nowMs) });
        return;
      case 'peer-finished':
        this.#engine.peerFinished(order.error === undefined ? undefined : new Error(order.error), nowMs);
        return;
      case 'close':
        this.#isClosing = true;
        return;
    }
  }

  #answer(id: number, action: () => void): void {
    try {
      action();
      this.#notify({ kind: 'answer', id, error: undefined });
    } catch (error) {
      this.#notify({ kind: 'answer', id, error: (error as Error).message });
    }
  }

  #takeReply(reply: MachineReply): void {
    const nowMs = monotonicMs();
    switch (reply.kind) {
      case 'paused':
        this.#notify({ kind: 'guest', isRunning: false, wasRunning: reply.wasRunning });
        this.#engine.guestPaused(reply.wasRunning);
        return;
      case 'devices-saved':
        this.#engine.devicesSaved(reply.state, nowMs);
        return;
      case 'resumed':
        this.#notify({ kind: 'guest', isRunning: true, wasRunning: true });
        return;
      case 'failed':
        this.#engine.machineFailed(new Error(reply.message), nowMs);
        return;
      case 'devices-loaded':
        return;
    }
  }

  #recover(fd: number, nowMs: number): void {
    if (this.#isFdOpen) {
      closeFd(fd);
      throw new Error('Cannot resume if there is no paused migration');
    }
    this.#fd = fd;
    this.#isFdOpen = true;
    try {
      this.#setSocketOptions(fd);
      this.#engine.recover(nowMs);
    } catch (error) {
      this.#closeChannel();
      throw error;
    }
  }

  /** The connection is lost: nothing of what it was to carry goes out on another. */
  #dropChannel(): void {
    this.#outgoing.clear();
    this.#isIdle = true;
    this.#closeChannel();
  }

  #setSocketOptions(fd: number): void {
    setUnsentLowWatermark(fd, UNSENT_BYTES);
    setPeerTimeout(fd, this.#peerTimeoutMs);
  }

  #closeChannel(): void {
    if (!this.#isFdOpen) return;
    this.#isFdOpen = false;
    closeFd(this.#fd);
    this.#notify({ kind: 'channel-closed' });
  }

  /** Before the bytes are written: if this thread dies, whoever looks must not believe that the guest is here. */
  #noteDeparture(): void {
    const { departure } = this.#data;
    const way = this.#engine.hasPostcopyBegun ? Departure.POSTCOPY : Departure.PRECOPY;
    if (departure !== undefined) Atomics.store(departure, 0, way);
  }

  /** What the destination says may tell that the guest has run there. */
  #noteArrival(): void {
    const { departure } = this.#data;
    if (departure === undefined) return;
    if (this.#engine.isGuestElsewhere) Atomics.store(departure, 0, Departure.GONE);
    else Atomics.compareExchange(departure, 0, Departure.GONE, Departure.POSTCOPY);
  }

  #notify(notice: MigrationNotice): void {
    this.#data.orders.postMessage(notice);
  }
}
