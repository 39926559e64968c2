/**
 * The source of a simulated migration: drives the engine as the source thread does, and is its machine.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DEFAULT_CAPABILITIES } from '../../src/migration/capabilities.ts';
import { machineDevices } from '../../src/migration/device-state.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import { SourceMigration } from '../../src/migration/source.ts';
import type { SourceEffects } from '../../src/migration/source-ports.ts';
import type { MigrationStatus } from '../../src/migration/states.ts';
import { NO_TRACE } from '../../src/telemetry/trace-events.ts';
import type { BrokenRule } from './broken-rules.ts';
import { type PageNumbers, SourceGuestMemory } from './guest-memory.ts';
import type { Pipe } from './pipe.ts';
import { type Deed, planParameters, type Scenario } from './scenario.ts';
import type { World } from './world.ts';

export const MACHINE_TYPE = 'simulated-1';
export const DEVICE_SECTION = { idstr: 'simulated', instanceId: 0, versionId: 1 };
/** Until then the guest writes; afterwards precopy must converge. */
const GUEST_TIRES_AT_MS = 500;

/** `fill` needs memory whatever the run: one for all of them. */
const stagingMemory = new Uint8Array(64 * 1024);

export class SourceSide {
  readonly engine: SourceMigration;
  readonly memory: SourceGuestMemory;
  /** What the machine saved. */
  deviceState: Uint8Array | undefined;
  onStatus: (status: MigrationStatus) => void = () => {};
  /** Pages that can be read, where they come from elsewhere. */
  readonly #available: readonly PageBitmap[];
  readonly dirtyBitmaps: readonly PageBitmap[];
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #stream: () => Pipe;
  readonly #staging: Uint8Array;
  #stagedBytes = 0;
  #writtenBytes = 0;
  /** The latest wish to be woken; earlier ones are void. */
  #wakeups = 0;
  #nextValue = 1;
  #machineBusyUntilMs = 0;
  #isStreamClosed = false;

  constructor(
    world: World,
    scenario: Scenario,
    pages: PageNumbers,
    stream: () => Pipe,
    broken: BrokenRule | undefined,
  ) {
    this.#world = world;
    this.#scenario = scenario;
    this.#stream = stream;
    this.#staging = stagingMemory.subarray(0, scenario.stagingBytes);
    this.memory = new SourceGuestMemory(world, pages, (block, page) => {
      if (scenario.fetchMs !== undefined && !this.#available[block]?.isSet(page))
        world.violate('unavailable', `page ${page} of block ${block} is read before it came`);
    });
    for (let page = 0; page < pages.count; page++) if (world.random.chance(0.7)) this.#write(page);
    this.dirtyBitmaps = scenario.blocks.map(
      ({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES),
    );
    const effects = this.#effects();
    this.#available = pages.blocks.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES));
    this.engine = new SourceMigration({
      memory: this.memory,
      dirtyTracker: broken?.dirtyTracker?.(this.memory, world) ?? this.memory,
      dirtyBitmaps: this.dirtyBitmaps,
      machineType: MACHINE_TYPE,
      encodeDevices: machineDevices(DEVICE_SECTION),
      isRecoverable: true,
      capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': scenario.isPostcopyOn },
      parameters: scenario.parameters,
      hasReturnPath: scenario.hasReturnPath,
      ...(scenario.fetchMs !== undefined && { availablePages: this.#available }),
      effects: broken?.sourceEffects?.(effects, world) ?? effects,
      trace: NO_TRACE,
    });
  }

  start(): void {
    if (this.#scenario.isGuestRunning) this.#resume();
    this.engine.start(this.#world.nowMs);
    if (this.#scenario.fetchMs !== undefined) this.#fetchAll(this.#scenario.fetchMs);
    this.#pump();
  }

  /** The return path. */
  receive(bytes: Uint8Array): void {
    this.engine.receive(bytes, this.#world.nowMs);
    this.#pump();
  }

  channelLost(cause: Error | undefined): void {
    if (!this.#scenario.hasReturnPath && cause === undefined) return;
    this.engine.channelLost(cause, this.#world.nowMs);
    this.#pump();
  }

  /** There is a new connection. */
  recover(): void {
    this.#isStreamClosed = false;
    this.#stagedBytes = 0;
    this.#writtenBytes = 0;
    this.engine.recover(this.#world.nowMs);
    this.#pump();
  }

  do(deed: Exclude<Deed, 'cut' | 'pause-destination'>): void {
    const { nowMs } = this.#world;
    try {
      switch (deed) {
        case 'start-postcopy':
          this.engine.startPostcopy();
          break;
        case 'cancel':
          this.engine.cancel(nowMs);
          break;
        case 'pause-source':
          this.engine.pause(nowMs);
          break;
        case 'set-parameters':
          this.engine.setParameters(planParameters(this.#world.random, 50), nowMs);
          break;
        case 'query':
          this.engine.info(nowMs);
      }
      this.#world.note(`operator: ${deed}`);
    } catch (error) {
      if (!(error instanceof MigrationError)) throw error;
      this.#world.note(`operator: ${deed} refused: ${error.message}`);
    }
    this.#pump();
  }

  /** Everything is let through from now on, so that any migration can end. */
  removeLimits(): void {
    const parameters = { ...this.#scenario.parameters, 'max-bandwidth': 0, 'max-postcopy-bandwidth': 0 };
    this.engine.setParameters({ ...parameters, 'downtime-limit': 2_000_000 }, this.#world.nowMs);
    this.#pump();
  }

  // ---- pages from elsewhere --------------------------------------------------------------------------------

  /** Nothing can be sent in precopy; each page comes by and by, one that is asked for soon. */
  #fetchAll(fetchMs: number): void {
    this.engine.startPostcopy();
    this.#available.forEach(({ pageCount }, block) => {
      for (let page = 0; page < pageCount; page++) this.#fetch(block, page, fetchMs);
    });
  }

  #fetch(block: number, page: number, withinMs: number): void {
    this.#world.after(this.#world.random.fraction() * withinMs, () => {
      this.#available[block]?.set(page);
      this.engine.pagesArrived();
      this.#pump();
    });
  }

  // ---- channel ---------------------------------------------------------------------------------------------

  #pump(): void {
    const { nowMs, random } = this.#world;
    const wakeup = ++this.#wakeups;
    if (this.engine.isOver || this.engine.isPaused || this.#isStreamClosed) {
      this.#closeStream();
      return;
    }
    if (this.#writtenBytes === this.#stagedBytes) {
      this.#writtenBytes = 0;
      this.#stagedBytes = this.engine.fill(this.#staging, nowMs);
      if (this.engine.isPaused) {
        this.#closeStream();
        return;
      }
      if (this.#stagedBytes === 0) {
        const wakeAtMs = this.engine.wakeAtMs(nowMs);
        // The clock of a real driver moves on by itself; this one must be pushed.
        if (wakeAtMs < Number.POSITIVE_INFINITY) this.#pumpAt(Math.max(wakeAtMs, nowMs + 0.01), wakeup);
        return;
      }
    }
    const unwrittenBytes = this.#stagedBytes - this.#writtenBytes;
    const count = random.integer(1, Math.min(unwrittenBytes, this.#scenario.mostBytesAtOnce));
    this.#stream().write(this.#staging.slice(this.#writtenBytes, this.#writtenBytes + count));
    this.#writtenBytes += count;
    this.engine.sent(count, nowMs);
    if (this.engine.isFlushed && !this.#scenario.hasReturnPath) {
      this.#closeStream();
      return;
    }
    const roomMs = this.#scenario.sendBufferBytes / this.#scenario.link.bytesPerMs;
    this.#pumpAt(Math.max(nowMs, this.#stream().idleAtMs - roomMs), wakeup);
  }

  #pumpAt(atMs: number, wakeup: number): void {
    this.#world.after(atMs - this.#world.nowMs, () => {
      if (wakeup === this.#wakeups) this.#pump();
    });
  }

  #closeStream(): void {
    if (this.#isStreamClosed) return;
    this.#isStreamClosed = true;
    const { random } = this.#world;
    // Closing with bytes unread resets the connection, and what is under way can be lost.
    if (this.engine.status === 'cancelled' && random.chance(0.3)) this.#stream().break();
    else this.#stream().close();
    if (this.#scenario.hasReturnPath) return;
    this.#world.after(random.skewed(20), () => this.engine.peerFinished(undefined, this.#world.nowMs));
  }

  // ---- machine ---------------------------------------------------------------------------------------------

  #effects(): SourceEffects {
    const { random } = this.#world;
    return {
      pauseGuest: () => this.#answer(() => this.#pause()),
      saveDevices: () => this.#answer(() => this.#save()),
      resumeGuest: () => this.#answer(() => this.#resume()),
      statusChanged: (status, error) => {
        this.#world.note(`source: ${status}${error === undefined ? '' : ` (${error.message})`}`);
        this.onStatus(status);
      },
      pageAwaited: (block, page) => this.#fetch(block, page, 1),
      passBegins: () => {
        if (random.chance(0.1)) this.engine.info(this.#world.nowMs);
      },
    };
  }

  /** The machine does what it is told in the order it is told. */
  #answer(act: () => void): void {
    const { nowMs, random } = this.#world;
    this.#machineBusyUntilMs =
      Math.max(nowMs, this.#machineBusyUntilMs) + random.fraction() * this.#scenario.machineDelayMs;
    this.#world.after(this.#machineBusyUntilMs - nowMs, () => {
      act();
      this.#pump();
    });
  }

  #pause(): void {
    const wasRunning = this.#world.guestAt === 'source';
    this.#world.guestStops('source');
    this.engine.guestPaused(wasRunning);
  }

  #save(): void {
    const { nowMs, random } = this.#world;
    if (this.#world.guestAt === 'source')
      this.#world.violate('order', 'devices are saved while the guest runs');
    if (this.#scenario.failure === 'save') {
      this.#world.note('source: devices cannot be saved');
      this.engine.machineFailed(new Error('cannot save'), nowMs);
      return;
    }
    this.deviceState = new Uint8Array(this.#scenario.deviceStateBytes).fill(random.integer(0, 255));
    this.engine.devicesSaved(this.deviceState, nowMs);
  }

  #resume(): void {
    this.#world.guestRuns('source');
    this.#guestStep();
  }

  #guestStep(): void {
    const { random } = this.#world;
    if (this.#world.nowMs > GUEST_TIRES_AT_MS) return;
    this.#world.after(random.fraction() * 2 * this.#scenario.writeEveryMs, () => {
      if (this.#world.guestAt !== 'source' || this.engine.isOver) return;
      const most = random.chance(0.9) ? this.#scenario.workingSetPages : this.memory.values.length;
      this.#write(random.integer(0, most - 1));
      this.#guestStep();
    });
  }

  #write(page: number): void {
    this.memory.write(page, this.#world.random.chance(0.15) ? 0 : this.#nextValue++);
  }
}
