/**
 * The destination of a simulated migration: drives the engine as the destination thread does, reads faults as the fault
 * thread does, and is the machine: its vCPUs touch pages and wait for those that are missing.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DestinationMigration } from '../../src/migration/destination.ts';
import { PageRequests, RequestTimes } from '../../src/migration/page-requests.ts';
import { NO_TRACE } from '../../src/telemetry/trace-events.ts';
import { encodeRecvBitmap } from '../../src/wire/return-path.ts';
import { ReturnPathDecoder } from '../../src/wire/return-path-decoder.ts';
import type { BrokenRule } from './broken-rules.ts';
import { DestinationGuestMemory, type PageNumbers } from './guest-memory.ts';
import type { Pipe } from './pipe.ts';
import { pageCountOf, type Scenario } from './scenario.ts';
import { DEVICE_SECTION, MACHINE_TYPE, type SourceSide } from './source-side.ts';
import type { World } from './world.ts';

/** How often each vCPU touches a page before it has seen enough. */
const TOUCHES = 40;
const LINGER_MS = 5000;
/** New values the guest writes here differ from all it wrote at the source. */
const FIRST_VALUE = 0x4000_0000;

const streamBuffer = new Uint8Array(32 * 1024);

export class DestinationSide {
  readonly engine: DestinationMigration;
  readonly memory: DestinationGuestMemory;
  /** Requests that were sent. */
  requests = 0;
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #pages: PageNumbers;
  readonly #source: SourceSide;
  readonly #returnPath: () => Pipe;
  readonly #pageRequests: PageRequests;
  /** What the guest's memory must hold, wherever it is: from the moment it runs here. */
  #truth: Float64Array | undefined;
  readonly #requestedAtMs = new Map<number, number>();
  /** Requests for pages may be sent on this connection. */
  #mayRequest = true;
  readonly #waiting = new Map<number, (() => void)[]>();
  #inbox: Uint8Array[] = [];
  #end: { readonly cause: Error | undefined } | undefined;
  #isClosed = false;
  #nextValue = FIRST_VALUE;
  #machineBusyUntilMs = 0;

  constructor(
    world: World,
    scenario: Scenario,
    pages: PageNumbers,
    source: SourceSide,
    returnPath: () => Pipe,
    broken: BrokenRule | undefined,
  ) {
    this.#world = world;
    this.#scenario = scenario;
    this.#pages = pages;
    this.#source = source;
    this.#returnPath = returnPath;
    this.memory = new DestinationGuestMemory(world, pages, streamBuffer);
    this.memory.onPlaced = (page, value) => this.#placed(page, value);
    const received = scenario.blocks.map(
      ({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES),
    );
    const requestTimes = new RequestTimes(scenario.blocks);
    const sendRequest = (message: Uint8Array) => {
      if (this.#mayRequest) this.#send(message);
    };
    this.#pageRequests = new PageRequests(
      scenario.blocks,
      received,
      requestTimes,
      broken?.requestSender?.(sendRequest, world) ?? sendRequest,
    );
    this.engine = new DestinationMigration({
      memory: broken?.destinationMemory?.(this.memory, world) ?? this.memory,
      buffer: streamBuffer,
      receivedBitmaps: received,
      requestTimes,
      machineType: MACHINE_TYPE,
      deviceSection: DEVICE_SECTION,
      hasReturnPath: scenario.hasReturnPath,
      effects: {
        sendReturnPath: (message) => this.#send(this.#falsified(message, broken)),
        requestPagesAgain: () => this.#requestAgain(broken?.askAgain),
        loadDevices: (state) => this.#answer(() => this.#load(state)),
        resumeGuest: (shouldRun) => this.#answer(() => this.#resume(shouldRun)),
        statusChanged: (status, error) =>
          world.note(`destination: ${status}${error === undefined ? '' : ` (${error.message})`}`),
      },
      clock: () => world.nowMs,
      trace: NO_TRACE,
    });
  }

  start(): void {
    this.engine.start(this.#world.nowMs);
  }

  get blockedVcpus(): number {
    let count = 0;
    for (const vcpus of this.#waiting.values()) count += vcpus.length;
    return count;
  }

  /** The first page that does not hold what the guest last saw or wrote in it, or -1. */
  get firstWrongPage(): number {
    const truth = this.#truth ?? Float64Array.from(this.#source.memory.values);
    return truth.findIndex((value, page) => this.memory.values[page] !== value);
  }

  // ---- channel ---------------------------------------------------------------------------------------------

  receive(bytes: Uint8Array): void {
    this.#inbox.push(bytes);
    this.#read();
  }

  /** There is a new connection. */
  recover(): void {
    this.engine.recover(this.#world.nowMs);
    this.#inbox = [];
    this.#end = undefined;
    this.#isClosed = false;
  }

  pause(): void {
    this.engine.pause(this.#world.nowMs);
    this.#read();
  }

  channelEnded(cause: Error | undefined): void {
    this.#end ??= { cause };
    this.#read();
  }

  #send(message: Uint8Array): void {
    if (!this.#isClosed) this.#returnPath().write(message.slice());
  }

  #read(): void {
    const { nowMs, random } = this.#world;
    while (this.#inbox.length > 0 && !this.engine.isOver && !this.engine.isPaused) {
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
    if (this.engine.isPaused) {
      this.#close();
      return;
    }
    if (!this.engine.isOver && this.#end !== undefined && this.engine.free().length > 0)
      this.engine.channelLost(this.#end.cause, nowMs);
    if (this.engine.isPaused) this.#close();
    else if (this.engine.isOver) this.#linger();
  }

  /** Nothing more to say: close, but let the source read our last word. */
  #linger(): void {
    this.#inbox = [];
    if (this.#end !== undefined) this.#close();
    else this.#world.after(LINGER_MS, () => this.#close());
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#mayRequest = false;
    this.#returnPath().close();
  }

  #requestAgain(askAgain = (ask: () => void) => ask()): void {
    this.#mayRequest = true;
    for (const page of this.#requestedAtMs.keys()) this.#requestedAtMs.set(page, this.#world.nowMs);
    askAgain(() => this.#pageRequests.askAgain());
  }

  /** A message as a broken rule has it. */
  #falsified(message: Uint8Array, { heldPages }: BrokenRule = {}): Uint8Array {
    if (heldPages === undefined) return message;
    const [decoded] = new ReturnPathDecoder().push(message);
    if (decoded?.type !== 'recv-bitmap') return message;
    const block = this.#scenario.blocks.findIndex(({ idstr }) => idstr === decoded.idstr);
    const dirty = this.#source.dirtyBitmaps[block] as PageBitmap;
    return encodeRecvBitmap(decoded.idstr, heldPages(dirty).toBytes());
  }

  // ---- machine ---------------------------------------------------------------------------------------------

  /** The machine does what it is told in the order it is told. */
  #answer(act: () => void): void {
    const { nowMs, random } = this.#world;
    this.#machineBusyUntilMs =
      Math.max(nowMs, this.#machineBusyUntilMs) + random.fraction() * this.#scenario.machineDelayMs;
    this.#world.after(this.#machineBusyUntilMs - nowMs, () => {
      act();
      this.#read();
    });
  }

  #load(state: Uint8Array): void {
    const { nowMs } = this.#world;
    const saved = this.#source.deviceState;
    if (saved === undefined || Buffer.compare(saved, state) !== 0)
      this.#world.violate('content', 'the device state that came is not the one that was saved');
    if (this.#scenario.failure === 'load') {
      this.#world.note('destination: devices cannot be loaded');
      this.engine.machineFailed(new Error('cannot load'), nowMs);
    } else this.engine.devicesLoaded(nowMs);
  }

  #resume(shouldRun: boolean): void {
    const { nowMs } = this.#world;
    if (shouldRun !== this.#scenario.isGuestRunning)
      this.#world.violate('order', `the guest must ${shouldRun ? 'stay paused' : 'run'}, as it did before`);
    if (this.#scenario.failure === 'resume') {
      this.#world.note('destination: the guest cannot be resumed');
      this.engine.machineFailed(new Error('cannot resume'), nowMs);
      return;
    }
    if (shouldRun) {
      this.#world.guestRuns('destination');
      this.#checkPresentPages();
      for (let vcpu = 0; vcpu < this.#scenario.vcpus; vcpu++) this.#vcpuStep(TOUCHES);
    }
    this.engine.guestResumed(shouldRun ? { guestDowntimeUs: 1, isExact: true } : undefined, nowMs);
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

  #vcpuStep(touches: number): void {
    if (touches === 0) return;
    const { random } = this.#world;
    const delayMs = random.fraction() * this.#scenario.writeEveryMs;
    const page = random.integer(0, this.#pages.count - 1);
    this.#world.after(delayMs, () => this.#touch(page, () => this.#vcpuStep(touches - 1)));
  }

  #touch(page: number, onTouched: () => void): void {
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
    this.#world.after(this.#world.random.skewed(1), () => this.#fault(page));
  }

  /** The fault thread reads that a vCPU waits. */
  #fault(page: number): void {
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
    }
  }

  #placed(page: number, value: number): void {
    if (value !== this.#source.memory.values[page])
      this.#world.violate('stale page', `page ${page} is placed`);
    const requestedAtMs = this.#requestedAtMs.get(page);
    if (requestedAtMs !== undefined && this.#world.nowMs - requestedAtMs > this.#longestWaitMs)
      this.#world.violate(
        'slow',
        `page ${page} came ${this.#world.nowMs - requestedAtMs} ms after it was asked for`,
      );
    this.#wake(page);
  }

  #wake(page: number): void {
    const waiting = this.#waiting.get(page) ?? [];
    this.#waiting.delete(page);
    for (const retry of waiting) this.#world.after(0.01, retry);
  }

  /** There and back, behind all that can be under way: what was in precopy is out by then, and each page comes once. */
  get #longestWaitMs(): number {
    const { blocks, link, stagingBytes, sendBufferBytes } = this.#scenario;
    const underWayBytes = pageCountOf(blocks) * (TARGET_PAGE_BYTES + 100) + stagingBytes + sendBufferBytes;
    return 2 * link.delayMs + underWayBytes / link.bytesPerMs + 10;
  }
}
