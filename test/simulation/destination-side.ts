/**
 * A destination of simulated migrations: drives the engine as the destination thread does, reads faults as the fault
 * thread does, is the machine, whose vCPUs touch pages and wait for those that are missing, and keeps what the monitor
 * tells of all that as `VirtualMachine` does.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DestinationMigration } from '../../src/migration/destination.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import { PageRequests, RequestTimes } from '../../src/migration/page-requests.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import { NO_TRACE } from '../../src/telemetry/trace-events.ts';
import { decodePeerFeatures } from '../../src/wire/peer-features.ts';
import { ReturnPathDecoder } from '../../src/wire/return-path-decoder.ts';
import type { BrokenRule } from './broken-rules.ts';
import { DestinationGuestMemory, type PageNumbers } from './guest-memory.ts';
import type { End } from './network.ts';
import { SimulatedProcess } from './process.ts';
import type { Scenario } from './scenario.ts';
import { DEVICE_SECTION, MACHINE_TYPE, type RunState, type SourceSide, type View } from './source-side.ts';
import type { Place, World } from './world.ts';

const LINGER_MS = 5000;
/** New values the guest writes here differ from all it wrote at the source. */
const FIRST_VALUE = 0x4000_0000;

/** How long a page may take at most that is asked for at this moment. */
export type LongestWait = (requestedAtMs: number) => number;

export class DestinationSide {
  readonly place: Place;
  readonly process: SimulatedProcess;
  readonly engine: DestinationMigration;
  readonly memory: DestinationGuestMemory;
  status: MigrationStatus = 'none';
  runState: RunState = 'inmigrate';
  /** Requests that were sent. */
  requests = 0;
  /** The last time that the stream said anything, or a recovery began. */
  heardAtMs = 0;
  /** It waits for a connection, to recover over it. */
  isListening = false;
  /** Its machine has the devices. */
  hasLoaded = false;
  /** A thread has died, and with it what it knew. */
  isThreadDead = false;
  onStatus: (status: MigrationStatus) => void = () => {};
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #failure: Scenario['failure'];
  readonly #pages: PageNumbers;
  readonly #source: SourceSide;
  readonly #longestWait: LongestWait;
  readonly #broken: BrokenRule | undefined;
  readonly #buffer = new Uint8Array(32 * 1024);
  readonly #received: readonly PageBitmap[];
  readonly #requestTimes: RequestTimes;
  #pageRequests: PageRequests;
  #isFaultThreadAlive = true;
  #errorText: string | undefined;
  /** What the guest's memory must hold, wherever it is: from the moment it runs here. */
  #truth: Float64Array | undefined;
  readonly #requestedAtMs = new Map<number, number>();
  /** Requests for pages may be sent on this connection. */
  #mayRequest = true;
  readonly #waiting = new Map<number, (() => void)[]>();
  /** vCPUs of a guest that is stopped. */
  #standing: (() => void)[] = [];
  #isMachineRunning = false;
  #connection: End | undefined;
  #inbox: Uint8Array[] = [];
  #end: { readonly cause: Error | undefined } | undefined;
  #isReturnPathLost = false;
  /** The connection whose silence is timed. */
  #watched: End | undefined;
  #nextValue = FIRST_VALUE;
  /** Received, and asked for. */
  #movedBytes = 0;
  #machineBusyUntilMs = 0;
  #stops = 0;

  constructor(
    world: World,
    scenario: Scenario,
    number: number,
    pages: PageNumbers,
    source: SourceSide,
    longestWait: LongestWait,
    broken: BrokenRule | undefined,
  ) {
    this.place = `destination ${number}`;
    this.#world = world;
    this.#scenario = scenario;
    this.#failure = number === 1 ? scenario.failure : undefined;
    this.#pages = pages;
    this.#source = source;
    this.#longestWait = longestWait;
    this.#broken = broken;
    this.process = new SimulatedProcess(world);
    this.memory = new DestinationGuestMemory(world, pages, this.#buffer);
    this.memory.onPlaced = (page, value) => this.#placed(page, value);
    this.#received = scenario.blocks.map(
      ({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES),
    );
    this.#requestTimes = new RequestTimes(scenario.blocks);
    this.#pageRequests = this.#newPageRequests();
    this.engine = new DestinationMigration({
      memory: broken?.destinationMemory?.(this.memory, world) ?? this.memory,
      buffer: this.#buffer,
      receivedBitmaps: this.#received,
      requestTimes: this.#requestTimes,
      machineType: MACHINE_TYPE,
      deviceSection: DEVICE_SECTION,
      hasReturnPath: scenario.hasReturnPath,
      peerTimeoutMs: scenario.parameters['x-peer-timeout'],
      effects: {
        sendReturnPath: (message) => this.#sendReturnPath(message),
        requestPagesAgain: () => this.#requestAgain(),
        loadDevices: (state) => this.#order(() => this.#load(state)),
        resumeGuest: (shouldRun) => this.#order(() => this.#resume(shouldRun)),
        statusChanged: (status, error) => {
          if (status === 'postcopy-paused') this.#close();
          this.#setStatus(status, error?.message);
        },
      },
      clock: () => world.nowMs,
      trace: NO_TRACE,
    });
  }

  get view(): View {
    return {
      status: this.status,
      runState: this.runState,
      error: this.#errorText,
      progress: this.#movedBytes,
    };
  }

  get blockedVcpus(): number {
    let count = 0;
    for (const vcpus of this.#waiting.values()) count += vcpus.length;
    return count;
  }

  /** It runs the guest, or is about to, and may have said so: its end may be the end of the guest. */
  get mayHoldGuest(): boolean {
    if (!this.hasLoaded) return false;
    if (this.#scenario.isRunInPackage || !this.memory.isListening) return true;
    return this.engine.incomingState === 'running' || this.engine.incomingState === 'end';
  }

  get missingPages(): number {
    return this.memory.missingPages;
  }

  /** The first page that does not hold what the guest last saw or wrote in it, or -1. */
  get firstWrongPage(): number {
    const truth = this.#truth ?? Float64Array.from(this.#source.memory.values);
    return truth.findIndex((value, page) => this.memory.values[page] !== value);
  }

  // ---- process ---------------------------------------------------------------------------------------------

  /** The process ends, and its guest with it. */
  kill(isSilent: boolean): void {
    if (!this.process.isAlive) return;
    this.#world.note(`${this.place}: the process is killed${isSilent ? ', with its host' : ''}`);
    this.process.kill();
    this.#isMachineRunning = false;
    this.#world.placeIsGone(this.place);
    this.isListening = false;
    if (isSilent) this.#connection?.vanish();
    else if (this.#world.random.chance(0.5)) this.#connection?.abort();
    else this.#connection?.close();
    this.#connection = undefined;
  }

  /** A mistake of the program ends the migration thread; the machine goes on, on what memory it has. */
  threadDies(): void {
    if (this.isThreadDead || this.engine.isOver || this.status === 'none') return;
    this.#world.note(`${this.place}: the migration thread dies`);
    this.isThreadDead = true;
    this.#close();
    const isPostcopy = this.status.startsWith('postcopy-') && this.status !== 'postcopy-device';
    // What the machine was told before it still does: only then is it known who has the guest.
    this.#order(() => {
      const isHere = this.runState !== 'inmigrate';
      const why = 'its thread died: it cannot be recovered';
      if (isPostcopy) this.#setStatus('postcopy-paused', why);
      else if (isHere) this.#setStatus('completed', undefined);
      else this.#setStatus('failed', why);
    });
  }

  /** The thread that reads faults ends by a mistake, and another takes its place. */
  faultThreadDies(): void {
    if (!this.#isFaultThreadAlive || !this.memory.isListening) return;
    this.#world.note(`${this.place}: the fault thread dies`);
    this.#isFaultThreadAlive = false;
    this.process.after(this.#world.random.skewed(200), () => {
      this.#isFaultThreadAlive = true;
      this.#pageRequests = this.#newPageRequests();
      if (this.#mayRequest && !this.engine.isOver) this.#pageRequests.askAgain();
      for (const page of [...this.#waiting.keys()]) this.#wake(page);
    });
  }

  /** A stop has not come about yet. */
  get isStopping(): boolean {
    return this.#stops > 0;
  }

  // ---- commands: each throws a MigrationError if it is refused ----------------------------------------------

  pause(): void {
    if (this.isThreadDead) throw new MigrationError('There is no migration');
    this.engine.pause(this.#world.nowMs);
    this.#read();
  }

  /** `migrate_recover`: the next that connects is taken for the source. */
  listen(): void {
    if (this.status !== 'postcopy-paused')
      throw new MigrationError('Migrate recover can only be run when postcopy is paused.');
    if (this.isThreadDead) throw new MigrationError('The thread of this migration has ended');
    this.isListening = true;
  }

  stop(): void {
    if (this.runState === 'inmigrate') throw new MigrationError('The guest has not come yet');
    this.#stops++;
    this.#order(() => {
      this.#stops--;
      if (!this.#isMachineRunning) return;
      this.#isMachineRunning = false;
      this.#world.guestStops(this.place);
      this.runState = 'paused';
    });
  }

  /** Also takes a stop back that has not come about yet. */
  cont(): void {
    if (this.runState === 'inmigrate') throw new MigrationError('The guest has not come yet');
    this.#order(() => this.#startGuest());
  }

  // ---- channel ---------------------------------------------------------------------------------------------

  /** The first connection begins the migration, another is for a recovery. */
  accept(end: End): void {
    this.isListening = false;
    end.onBytes = (bytes) => this.process.run(() => this.#receive(end, bytes));
    end.onEnd = (cause) => this.process.run(() => this.#channelEnded(end, cause));
    this.process.run(() => {
      this.heardAtMs = this.#world.nowMs;
      if (this.status === 'none') {
        this.#connection = end;
        this.engine.start(this.#world.nowMs);
      } else if (!this.#recover(end)) return;
      end.begin();
    });
  }

  #recover(end: End): boolean {
    const { nowMs } = this.#world;
    try {
      if (this.isThreadDead) throw new MigrationError('The thread of this migration has ended');
      this.engine.recover(nowMs);
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      this.#world.note(`${this.place}: will not recover: ${error.message}`);
      end.close();
      return false;
    }
    this.#connection = end;
    this.#inbox = [];
    this.#end = undefined;
    this.#isReturnPathLost = false;
    this.#watchSilence();
    return true;
  }

  #receive(end: End, bytes: Uint8Array): void {
    if (end !== this.#connection) return;
    this.heardAtMs = this.#world.nowMs;
    this.#movedBytes += bytes.length;
    this.#inbox.push(bytes);
    this.#read();
  }

  #channelEnded(end: End, cause: Error | undefined): void {
    if (end !== this.#connection) return;
    this.#end ??= { cause };
    this.#read();
  }

  /** A source that says nothing for too long is lost; of what has not been read yet it has said something. */
  #watchSilence(): void {
    const connection = this.#connection;
    const isWatched = this.engine.silenceLimitMs < Number.POSITIVE_INFINITY && !this.isThreadDead;
    if (!isWatched || this.#watched === connection || this.#broken?.isDestinationPatient === true) return;
    this.#watched = connection;
    const leftMs = Math.max(0, this.heardAtMs + this.engine.silenceLimitMs - this.#world.nowMs);
    this.process.after(leftMs + 0.01, () => {
      if (connection !== this.#connection) return;
      this.#watched = undefined;
      // One that was stopped meanwhile reads first what has come.
      const isHeard = this.#inbox.length > 0 || this.process.thawedAtMs === this.#world.nowMs;
      if (isHeard) this.heardAtMs = this.#world.nowMs;
      if (this.#world.nowMs - this.heardAtMs >= this.engine.silenceLimitMs)
        this.engine.channelLost(new MigrationError('nothing was heard of the source'), this.#world.nowMs);
      this.#read();
    });
  }

  #sendReturnPath(message: Uint8Array): void {
    if ((this.#scenario.isRunInPackage || this.#broken?.isRunEarly === true) && isAnnouncement(message))
      return;
    for (const said of this.#broken?.returnPath?.(message, this.#source) ?? [message]) {
      if (this.#connection === undefined || this.#connection.write(said.slice())) continue;
      this.#isReturnPathLost = true;
      this.process.after(0, () => this.#read());
      return;
    }
  }

  #read(): void {
    const { nowMs, random } = this.#world;
    if (this.isThreadDead) return;
    while (this.#inbox.length > 0 && this.#isReading) {
      const free = this.engine.free();
      if (free.length === 0) return;
      const chunk = this.#inbox[0] as Uint8Array;
      const most = Math.min(free.length, chunk.length, this.#scenario.mostBytesAtOnce);
      const count = random.chance(0.5) ? most : random.integer(1, most);
      free.set(chunk.subarray(0, count));
      if (count === chunk.length) this.#inbox.shift();
      else this.#inbox[0] = chunk.subarray(count);
      this.engine.received(count, nowMs);
    }
    if (!this.engine.isOver && !this.engine.isPaused) {
      if (this.#isReturnPathLost)
        this.engine.channelLost(new Error('the source does not take answers any more'), nowMs);
      else if (this.#end !== undefined && this.engine.free().length > 0)
        this.engine.channelLost(this.#end.cause, nowMs);
    }
    if (this.engine.isOver) this.#linger();
    else this.#watchSilence();
  }

  get #isReading(): boolean {
    return !this.engine.isOver && !this.engine.isPaused && !this.#isReturnPathLost;
  }

  /** Nothing more to say: close, but let the source read our last word. */
  #linger(): void {
    this.#inbox = [];
    const connection = this.#connection;
    const isHeard = this.#scenario.hasReturnPath || this.status === 'completed';
    if (this.#end !== undefined || !isHeard) this.#close();
    else
      this.process.after(LINGER_MS, () => {
        if (connection === this.#connection) this.#close();
      });
  }

  #close(): void {
    this.#mayRequest = false;
    this.#connection?.close();
    this.#connection = undefined;
  }

  #setStatus(status: MigrationStatus, error: string | undefined): void {
    this.#world.note(`${this.place}: ${status}${error === undefined ? '' : ` (${error})`}`);
    this.status = status;
    this.#errorText = error;
    this.onStatus(status);
  }

  // ---- page requests ---------------------------------------------------------------------------------------

  #newPageRequests(): PageRequests {
    const send = (message: Uint8Array) => {
      if (this.#mayRequest) this.#connection?.write(message.slice());
    };
    return new PageRequests(
      this.#scenario.blocks,
      this.#received,
      this.#requestTimes,
      this.#broken?.requestSender?.(send, this.#world) ?? send,
    );
  }

  #requestAgain(): void {
    this.#mayRequest = true;
    for (const page of this.#requestedAtMs.keys()) this.#requestedAtMs.set(page, this.#world.nowMs);
    const { askAgain = (ask: () => void) => ask() } = this.#broken ?? {};
    // The thread before may have died with its lock, and another is not there yet: that asks then.
    if (this.#isFaultThreadAlive) askAgain(() => this.#pageRequests.askAgain());
  }

  /** The fault thread reads that a vCPU waits. */
  #fault(page: number): void {
    if (!this.#isFaultThreadAlive) return;
    const { nowMs, random } = this.#world;
    const { block, offset } = this.#pages.place(page);
    const within = random.integer(0, TARGET_PAGE_BYTES - 1);
    switch (this.#pageRequests.fault(block, offset + within, nowMs * 1000)) {
      case 'received':
        this.#wake(page);
        return;
      case 'requested':
        if (this.#requestedAtMs.has(page)) this.#world.violate('requested twice', `page ${page}`);
        this.#requestedAtMs.set(page, nowMs);
        this.requests++;
        this.#movedBytes++;
    }
  }

  #placed(page: number, value: number): void {
    if (value !== this.#source.memory.values[page])
      this.#world.violate('stale page', `page ${page} is placed`);
    const requestedAtMs = this.#requestedAtMs.get(page);
    if (requestedAtMs !== undefined) {
      const waitedMs = this.#world.nowMs - requestedAtMs;
      if (waitedMs > this.#longestWait(requestedAtMs))
        this.#world.violate('slow', `page ${page} came ${waitedMs} ms after it was asked for`);
    }
    this.#wake(page);
  }

  #wake(page: number): void {
    const waiting = this.#waiting.get(page) ?? [];
    this.#waiting.delete(page);
    for (const retry of waiting) this.process.after(0.01, retry);
  }

  // ---- machine ---------------------------------------------------------------------------------------------

  /** The machine does what it is told in the order it is told. */
  #order(act: () => void): void {
    const { nowMs, random } = this.#world;
    this.#machineBusyUntilMs =
      Math.max(nowMs, this.#machineBusyUntilMs) + random.fraction() * this.#scenario.machineDelayMs;
    this.process.after(this.#machineBusyUntilMs - nowMs, () => {
      act();
      this.#read();
    });
  }

  #load(state: Uint8Array): void {
    const { nowMs } = this.#world;
    const saved = this.#source.deviceState;
    if (saved === undefined || Buffer.compare(saved, state) !== 0)
      this.#world.violate('content', 'the device state that came is not the one that was saved');
    if (this.#failure === 'load') {
      this.#world.note(`${this.place}: devices cannot be loaded`);
      if (!this.isThreadDead) this.engine.machineFailed(new Error('cannot load'), nowMs);
      return;
    }
    if (this.isThreadDead) return;
    this.hasLoaded = true;
    this.engine.devicesLoaded(nowMs);
  }

  #resume(shouldRun: boolean): void {
    const { nowMs } = this.#world;
    if (shouldRun !== this.#source.wasRunning)
      this.#world.violate('order', `the guest must ${shouldRun ? 'stay paused' : 'run'}, as it did before`);
    if (this.#failure === 'resume') {
      this.#world.note(`${this.place}: the guest cannot be resumed`);
      if (!this.isThreadDead) this.engine.machineFailed(new Error('cannot resume'), nowMs);
      return;
    }
    this.#checkPresentPages();
    this.runState = 'paused';
    if (shouldRun) this.#startGuest();
    if (!this.isThreadDead)
      this.engine.guestResumed(shouldRun ? { guestDowntimeUs: 1, isExact: true } : undefined, nowMs);
  }

  #startGuest(): void {
    this.runState = 'running';
    if (this.#isMachineRunning) return;
    this.#isMachineRunning = true;
    const isFirst = this.#world.movedTo !== this.place;
    this.#world.guestRuns(this.place);
    const standing = this.#standing;
    this.#standing = [];
    for (const goOn of standing) goOn();
    if (isFirst) this.#startVcpus();
  }

  #checkPresentPages(): void {
    this.#truth = Float64Array.from(this.#source.memory.values);
    this.#truth.forEach((value, page) => {
      if (!this.memory.isMissing(page) && this.memory.values[page] !== value)
        this.#world.violate('stale page', `page ${page} as the guest begins`);
    });
    if (!this.memory.isListening && this.memory.missingPages > 0 && this.engine.incomingState !== 'end')
      this.#world.violate('zero-filled', `${this.memory.missingPages} pages never came`);
  }

  #startVcpus(): void {
    const { vcpus, touches, isBursty } = this.#scenario.guest;
    if (isBursty) this.#burst(Math.ceil(touches / 8));
    else for (let vcpu = 0; vcpu < vcpus; vcpu++) this.#vcpuStep(touches);
  }

  /** All vCPUs at once, mostly on a few pages. */
  #burst(bursts: number): void {
    if (bursts === 0) return;
    const { random } = this.#world;
    const { vcpus, touchEveryMs } = this.#scenario.guest;
    const first = random.integer(0, this.#pages.count - 1);
    this.process.after(random.fraction() * 16 * touchEveryMs, () => {
      for (let touch = 0; touch < vcpus * 2; touch++)
        this.#touch((first + random.integer(0, 3)) % this.#pages.count, () => {});
      this.#burst(bursts - 1);
    });
  }

  #vcpuStep(touches: number): void {
    if (touches === 0) return;
    const { random } = this.#world;
    const delayMs = random.fraction() * this.#scenario.guest.touchEveryMs;
    const page = random.integer(0, this.#pages.count - 1);
    this.process.after(delayMs, () => this.#touch(page, () => this.#vcpuStep(touches - 1)));
  }

  #touch(page: number, onTouched: () => void): void {
    if (!this.#isMachineRunning) {
      this.#standing.push(() => this.#touch(page, onTouched));
      return;
    }
    const truth = this.#truth as Float64Array;
    if (!this.memory.isMissing(page)) {
      if (this.memory.values[page] !== truth[page]) this.#world.violate('stale page', `page ${page} is read`);
      if (this.#world.random.chance(0.5)) {
        truth[page] = this.#nextValue++;
        this.memory.values[page] = truth[page];
      }
      onTouched();
      return;
    }
    if (!this.memory.isListening)
      this.#world.violate('zero-filled', `page ${page} is touched and nobody answers`);
    const waiting = this.#waiting.get(page) ?? [];
    waiting.push(() => this.#touch(page, onTouched));
    this.#waiting.set(page, waiting);
    this.process.after(this.#world.random.skewed(1), () => this.#fault(page));
  }
}

function isAnnouncement(message: Uint8Array): boolean {
  const [decoded] = new ReturnPathDecoder({ maxBitmapBytes: 1024 }).push(message);
  return decoded?.type === 'pong' && decodePeerFeatures(decoded.value) !== undefined;
}
