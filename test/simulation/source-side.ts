/**
 * The source of simulated migrations: drives the engine as the source thread does, is its machine, and keeps what the
 * monitor tells of both as `VirtualMachine` does: the run state, and which command may be given when.
 */
import { PageBitmap } from '../../src/memory/page-bitmap.ts';
import { TARGET_PAGE_BYTES } from '../../src/memory/ram-block.ts';
import { DEFAULT_CAPABILITIES } from '../../src/migration/capabilities.ts';
import { machineDevices } from '../../src/migration/device-state.ts';
import { MigrationError } from '../../src/migration/migration-error.ts';
import { SourceMigration } from '../../src/migration/source.ts';
import type { SourceEffects } from '../../src/migration/source-ports.ts';
import { isMigrationRunning, isRecovering, type MigrationStatus } from '../../src/migration/states.ts';
import { NO_TRACE } from '../../src/telemetry/trace-events.ts';
import type { BrokenRule } from './broken-rules.ts';
import { type PageNumbers, SourceGuestMemory } from './guest-memory.ts';
import type { End } from './network.ts';
import { SimulatedProcess } from './process.ts';
import type { Scenario } from './scenario.ts';
import type { World } from './world.ts';

export const MACHINE_TYPE = 'simulated-1';
export const DEVICE_SECTION = { idstr: 'simulated', instanceId: 0, versionId: 1 };
/** Until then the guest writes; afterwards precopy must converge. */
const GUEST_TIRES_AFTER_MS = 500;

export type RunState = 'inmigrate' | 'running' | 'paused' | 'finish-migrate' | 'postmigrate';

/** What `info migrate` and `info status` say, as far as an operator goes by it. */
export interface View {
  readonly status: MigrationStatus;
  readonly runState: RunState;
  readonly error: string | undefined;
  /** Changes as long as anything moves. */
  readonly progress: number;
}

/** `fill` needs memory whatever the run: one for all of them. */
const stagingMemory = new Uint8Array(64 * 1024);

export class SourceSide {
  readonly process: SimulatedProcess;
  readonly memory: SourceGuestMemory;
  engine: SourceMigration;
  dirtyBitmaps: readonly PageBitmap[] = [];
  /** What the machine saved. */
  deviceState: Uint8Array | undefined;
  /** Whether the guest ran when the migration stopped it. */
  wasRunning = false;
  status: MigrationStatus = 'none';
  runState: RunState = 'paused';
  /** The last time that the return path said anything, or a recovery began. */
  heardAtMs = 0;
  onStatus: (status: MigrationStatus) => void = () => {};
  readonly #world: World;
  readonly #scenario: Scenario;
  readonly #broken: BrokenRule | undefined;
  #errorText: string | undefined;
  /** Pages that can be read, where they come from elsewhere. */
  #available: readonly PageBitmap[] = [];
  readonly #staging: Uint8Array;
  #end: End | undefined;
  #stagedBytes = 0;
  #writtenBytes = 0;
  /** The latest wish to be woken; earlier ones are void. */
  #wakeups = 0;
  /** Sent and received, of all migrations. */
  #movedBytes = 0;
  #nextValue = 1;
  #machineBusyUntilMs = 0;
  #stops = 0;
  #isMachineRunning = false;
  /** A migration has stopped the guest, or found it stopped: nobody else may let it run before that has ended. */
  #isHeld = false;
  #unanswered = 0;
  /** Counts migrations: what was asked for one is void for the next. */
  #generation = 0;
  #isThreadAlive = false;
  #isGuestElsewhere = false;
  #isConnecting = false;
  #guestStarts = 0;
  #tiresAtMs = 0;

  constructor(world: World, scenario: Scenario, pages: PageNumbers, broken: BrokenRule | undefined) {
    this.#world = world;
    this.#scenario = scenario;
    this.#broken = broken;
    this.process = new SimulatedProcess(world);
    this.#staging = stagingMemory.subarray(0, scenario.stagingBytes);
    this.memory = new SourceGuestMemory(world, pages, (block, page) => {
      if (scenario.fetchMs !== undefined && !this.#available[block]?.isSet(page))
        world.violate('unavailable', `page ${page} of block ${block} is read before it came`);
    });
    for (let page = 0; page < pages.count; page++) if (world.random.chance(0.7)) this.#write(page);
    this.engine = this.#newEngine();
    if (scenario.isGuestRunning) this.#startGuest();
  }

  get view(): View {
    return {
      status: this.status,
      runState: this.runState,
      error: this.#errorText,
      progress: this.#movedBytes,
    };
  }

  get isFlushed(): boolean {
    return this.engine.isFlushed;
  }

  /** The process ends, and its guest with it. */
  kill(isSilent: boolean): void {
    if (!this.process.isAlive) return;
    this.#world.note(`source: the process is killed${isSilent ? ', with its host' : ''}`);
    this.process.kill();
    this.#wakeups++;
    this.#isMachineRunning = false;
    this.#world.placeIsGone('source');
    if (isSilent) this.#end?.vanish();
    else if (this.#world.random.chance(0.5)) this.#end?.abort();
    else this.#end?.close();
    this.#end = undefined;
  }

  /** A mistake of the program ends the migration thread; the machine goes on. */
  threadDies(): void {
    if (!this.#isThreadAlive) return;
    this.#world.note('source: the migration thread dies');
    this.engine.close();
    this.#end?.close();
    this.#end = undefined;
    this.#isThreadAlive = false;
    this.#isConnecting = false;
    const isPostcopy = this.status.startsWith('postcopy-') && this.status !== 'postcopy-device';
    if (isPostcopy) this.#isGuestElsewhere = true;
    // What the machine was told before it still does: only then is it known whether the guest runs.
    this.#order(() => {
      this.#setStatus(isPostcopy ? 'postcopy-paused' : 'failed', 'its thread died: it cannot be recovered');
      this.#threadsEnded();
    });
  }

  /** A stop has not come about yet. */
  get isStopping(): boolean {
    return this.#stops > 0;
  }

  // ---- commands: each throws a MigrationError if it is refused ----------------------------------------------

  /** @param connect what the address leads to, once that is known */
  migrate(): void {
    if (isMigrationRunning(this.status)) throw new MigrationError("There's a migration process in progress");
    if (this.runState === 'postmigrate') throw new MigrationError('The guest has moved away already');
    this.#generation++;
    this.#isThreadAlive = false;
    this.#errorText = undefined;
    this.#isGuestElsewhere = false;
    this.engine = this.#newEngine();
    this.#tiresAtMs = this.#world.nowMs + GUEST_TIRES_AFTER_MS;
    if (this.#isMachineRunning) this.#guestWrites(this.#guestStarts);
    this.#setStatus('setup', undefined);
    this.#isConnecting = true;
  }

  /** `migrate -r` */
  resume(): void {
    if (this.status !== 'postcopy-paused')
      throw new MigrationError('Cannot resume if there is no paused migration');
    if (!this.#isThreadAlive) throw new MigrationError('The thread of this migration has ended');
    this.#isConnecting = true;
    this.#setStatus('postcopy-recover-setup', undefined);
  }

  /** What `migrate` or `resume` has connected to. @returns false if it is not wanted any more */
  connected(end: End): boolean {
    if (!this.#isConnecting || !this.process.isAlive) return false;
    this.#isConnecting = false;
    const isRecovery = this.status === 'postcopy-recover-setup';
    this.#end = end;
    this.#stagedBytes = 0;
    this.#writtenBytes = 0;
    end.onBytes = (bytes) => this.process.run(() => this.#receive(end, bytes));
    end.onEnd = (cause) => this.process.run(() => this.#channelLost(end, cause));
    end.onRoom = () => this.process.run(() => this.#pump());
    this.heardAtMs = this.#world.nowMs;
    if (isRecovery) this.engine.recover(this.#world.nowMs);
    else {
      this.#isThreadAlive = true;
      this.engine.start(this.#world.nowMs);
      if (this.#scenario.fetchMs !== undefined) this.#fetchAll(this.#scenario.fetchMs);
    }
    end.begin();
    this.#pump();
    return true;
  }

  connectFailed(why: string): void {
    if (!this.#isConnecting) return;
    this.#isConnecting = false;
    if (this.status === 'postcopy-recover-setup')
      this.#setStatus('postcopy-paused', `The migration is not recovered: ${why}`);
    else this.#setStatus('failed', why);
  }

  startPostcopy(): void {
    if (!this.#isThreadAlive) throw new MigrationError('Start the migration first');
    this.engine.startPostcopy();
    this.#pump();
  }

  cancel(): void {
    if (this.#isConnecting && !isRecovering(this.status)) {
      this.#isConnecting = false;
      this.#setStatus('cancelling', undefined);
      this.#setStatus('cancelled', undefined);
      return;
    }
    if (!isMigrationRunning(this.status)) return;
    if (!this.#isThreadAlive) throw new MigrationError('Postcopy migration in progress, cannot cancel.');
    if (this.#broken?.cancel !== undefined) this.#broken.cancel(this.engine, this.#world);
    else this.engine.cancel(this.#world.nowMs);
    const { status } = this.engine;
    if (status !== 'cancelled')
      this.#world.violate('cancel', `it was taken, and the migration is "${status}"`);
    this.#pump();
  }

  pause(): void {
    if (this.#isConnecting && isRecovering(this.status)) {
      this.connectFailed('The recovery was broken off');
      return;
    }
    if (!this.#isThreadAlive) throw new MigrationError('There is no migration');
    this.engine.pause(this.#world.nowMs);
    this.#pump();
  }

  setParameters(parameters: Scenario['parameters']): void {
    this.engine.setParameters(parameters, this.#world.nowMs);
    this.#pump();
  }

  stop(): void {
    this.#stops++;
    this.#order(() => {
      this.#stops--;
      if (this.#stopGuest() && this.runState === 'running') this.runState = 'paused';
    });
  }

  cont(): void {
    switch (this.runState) {
      case 'running':
        // A stop that has not come about yet is taken back.
        this.#order(() => !this.#isHeld && this.runState === 'paused' && this.#startGuest());
        return;
      case 'finish-migrate':
        throw new MigrationError('The guest stands still for the migration');
      case 'postmigrate':
        if (this.#isGuestElsewhere) throw new MigrationError('The guest runs at the destination');
        break;
      default:
    }
    if (this.status === 'postcopy-paused') {
      this.#setStatus('failed', undefined);
      this.engine.close();
      this.#isThreadAlive = false;
      this.#isHeld = false;
    }
    this.#order(() => {
      if (this.#isHeld) this.#world.note('source: cont refused: The guest stands still for the migration');
      else this.#startGuest();
    });
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
    const [available, generation] = [this.#available[block], this.#generation];
    this.process.after(this.#world.random.fraction() * withinMs, () => {
      available?.set(page);
      if (generation !== this.#generation) return;
      this.engine.pagesArrived();
      this.#pump();
    });
  }

  // ---- channel ---------------------------------------------------------------------------------------------

  #receive(end: End, bytes: Uint8Array): void {
    if (end !== this.#end) return;
    this.heardAtMs = this.#world.nowMs;
    this.#movedBytes += bytes.length;
    this.engine.receive(bytes, this.#world.nowMs);
    this.#pump();
  }

  #channelLost(end: End, cause: Error | undefined): void {
    if (end !== this.#end || (!this.#scenario.hasReturnPath && cause === undefined)) return;
    this.engine.channelLost(cause, this.#world.nowMs);
    this.#pump();
  }

  #pump(): void {
    const { nowMs, random } = this.#world;
    const wakeup = ++this.#wakeups;
    const end = this.#end;
    if (end === undefined) return;
    if (this.engine.isOver || this.engine.isPaused) {
      this.#closeChannel();
      return;
    }
    if (this.#writtenBytes === this.#stagedBytes) {
      this.#writtenBytes = 0;
      this.#stagedBytes = this.engine.fill(this.#staging, nowMs);
      if (this.engine.isOver || this.engine.isPaused) {
        this.#closeChannel();
        return;
      }
      if (this.#stagedBytes === 0) {
        const wakeAtMs = this.#broken?.wakeAtMs?.(this.engine, nowMs) ?? this.engine.wakeAtMs(nowMs);
        // The clock of a real driver moves on by itself; this one must be pushed.
        if (wakeAtMs < Number.POSITIVE_INFINITY) this.#pumpAt(Math.max(wakeAtMs, nowMs + 0.01), wakeup);
        return;
      }
    }
    // The kernel takes no more for now; `onRoom` says when it does.
    if (end.queuedBytes > this.#scenario.sendBufferBytes) {
      this.engine.checkTime(nowMs);
      if (this.engine.isOver || this.engine.isPaused) this.#closeChannel();
      else if (this.engine.givesUpAtMs < Number.POSITIVE_INFINITY)
        this.#pumpAt(Math.max(this.engine.givesUpAtMs, nowMs + 0.01), wakeup);
      return;
    }
    const unwrittenBytes = this.#stagedBytes - this.#writtenBytes;
    const count = random.integer(1, Math.min(unwrittenBytes, this.#scenario.mostBytesAtOnce));
    if (!end.write(this.#staging.slice(this.#writtenBytes, this.#writtenBytes + count))) {
      this.engine.channelLost(new Error('write: EPIPE'), nowMs);
      this.#pump();
      return;
    }
    this.#writtenBytes += count;
    this.#movedBytes += count;
    this.engine.sent(count, nowMs);
    if (this.engine.isFlushed && !this.#scenario.hasReturnPath) {
      this.#closeChannel();
      const { engine } = this;
      this.process.after(random.skewed(20), () => engine.peerFinished(undefined, this.#world.nowMs));
      return;
    }
    this.#pumpAt(nowMs, wakeup);
  }

  #pumpAt(atMs: number, wakeup: number): void {
    this.process.after(atMs - this.#world.nowMs, () => {
      if (wakeup === this.#wakeups) this.#pump();
    });
  }

  #closeChannel(): void {
    const end = this.#end;
    if (end === undefined) return;
    this.#end = undefined;
    this.#wakeups++;
    // Closing with bytes unread resets the connection, and what is under way can be lost.
    if (this.engine.status === 'cancelled' && this.#world.random.chance(0.3)) end.abort();
    else end.close();
  }

  // ---- migration -------------------------------------------------------------------------------------------

  #newEngine(): SourceMigration {
    const { blocks, fetchMs, isPostcopyOn, parameters, hasReturnPath } = this.#scenario;
    const bitmaps = () => blocks.map(({ lengthBytes }) => new PageBitmap(lengthBytes / TARGET_PAGE_BYTES));
    this.dirtyBitmaps = bitmaps();
    this.#available = bitmaps();
    const effects = this.#effects(this.#generation);
    const broken = this.#broken;
    return new SourceMigration({
      memory: this.memory,
      dirtyTracker: broken?.dirtyTracker?.(this.memory, this.#world) ?? this.memory,
      dirtyBitmaps: this.dirtyBitmaps,
      machineType: MACHINE_TYPE,
      encodeDevices: machineDevices(DEVICE_SECTION),
      isRecoverable: true,
      isPeerWatched: true,
      capabilities: { ...DEFAULT_CAPABILITIES, 'postcopy-ram': isPostcopyOn },
      parameters,
      hasReturnPath,
      ...(fetchMs !== undefined && { availablePages: this.#available }),
      effects: broken?.sourceEffects?.(effects, this.#world) ?? effects,
      trace: NO_TRACE,
    });
  }

  #effects(generation: number): SourceEffects {
    const { random } = this.#world;
    return {
      pauseGuest: () => this.#answer(() => this.#pauseForMigration()),
      saveDevices: () => this.#answer(() => this.#save()),
      // Also when another migration has been begun meanwhile.
      resumeGuest: () => this.#order(() => this.#resumeForMigration()),
      statusChanged: (status, error) => {
        if (generation !== this.#generation) return;
        if (this.engine.isGuestElsewhere) this.#isGuestElsewhere = true;
        this.#setStatus(status, error?.message);
        if (status === 'completed' || status === 'failed' || status === 'cancelled') this.#threadsEndSoon();
      },
      pageAwaited: (block, page) => this.#fetch(block, page, 1),
      passBegins: () => {
        if (random.chance(0.1)) this.engine.info(this.#world.nowMs);
      },
    };
  }

  #setStatus(status: MigrationStatus, error: string | undefined): void {
    if (status === this.status) {
      this.#errorText = error ?? this.#errorText;
      return;
    }
    this.#world.note(`source: ${status}${error === undefined ? '' : ` (${error})`}`);
    this.status = status;
    this.#errorText = error;
    if (['finish-migrate', 'postmigrate', 'paused'].includes(this.runState)) {
      if (status === 'completed' || (status === 'postcopy-paused' && this.#isGuestElsewhere))
        this.runState = 'postmigrate';
      else if (status === 'postcopy-paused') this.runState = 'paused';
      else if (isRecovering(status)) this.runState = 'finish-migrate';
    }
    this.onStatus(status);
    if (this.#broken?.isRunEarly === true && status === 'postcopy-paused' && !this.#isGuestElsewhere)
      this.#order(() => this.#startGuest());
  }

  /** When the machine has answered what it was asked, the thread ends. */
  #threadsEndSoon(): void {
    const generation = this.#generation;
    this.process.after(0, () => {
      // Another migration may have been begun, and have failed, before the thread of this one ended.
      const isOver = generation === this.#generation || !this.#isThreadAlive;
      if (isOver && this.#unanswered === 0) this.#threadsEnded();
    });
  }

  #threadsEnded(): void {
    this.#isThreadAlive = false;
    this.#isHeld = false;
    if (this.runState === 'finish-migrate')
      this.runState = this.status === 'completed' || this.#isGuestElsewhere ? 'postmigrate' : 'paused';
  }

  // ---- machine ---------------------------------------------------------------------------------------------

  /** The machine does what it is told in the order it is told. */
  #order(act: () => void): void {
    const { nowMs, random } = this.#world;
    this.#machineBusyUntilMs =
      Math.max(nowMs, this.#machineBusyUntilMs) + random.fraction() * this.#scenario.machineDelayMs;
    this.process.after(this.#machineBusyUntilMs - nowMs, act);
  }

  #answer(act: () => void): void {
    const generation = this.#generation;
    this.#unanswered++;
    this.#order(() => {
      this.#unanswered--;
      if (generation !== this.#generation) {
        if (!this.#isThreadAlive && this.#unanswered === 0) this.#threadsEnded();
        return;
      }
      act();
      this.#pump();
      if (this.engine.isOver && this.#isThreadAlive) this.#threadsEndSoon();
    });
  }

  #pauseForMigration(): void {
    this.wasRunning = this.#stopGuest();
    this.#isHeld = this.#isThreadAlive;
    // Of a thread that has died meanwhile the guest is left standing, for the operator to let it run on.
    this.runState = this.#isThreadAlive ? 'finish-migrate' : 'paused';
    if (this.#isThreadAlive) this.engine.guestPaused(this.wasRunning);
  }

  #resumeForMigration(): void {
    this.runState = 'running';
    this.#startGuest();
  }

  #save(): void {
    const { nowMs, random } = this.#world;
    if (!this.#isThreadAlive || this.engine.isOver) return;
    if (this.#isMachineRunning) this.#world.violate('order', 'devices are saved while the guest runs');
    if (this.#scenario.failure === 'save' && this.#generation === 1) {
      this.#world.note('source: devices cannot be saved');
      this.engine.machineFailed(new Error('cannot save'), nowMs);
      return;
    }
    this.deviceState = new Uint8Array(this.#scenario.deviceStateBytes).fill(random.integer(0, 255));
    this.engine.devicesSaved(this.deviceState, nowMs);
  }

  #startGuest(): void {
    this.runState = 'running';
    this.#isHeld = false;
    if (this.#isMachineRunning) return;
    this.#isMachineRunning = true;
    this.#world.guestRuns('source');
    this.#guestWrites(++this.#guestStarts);
  }

  /** @returns whether it ran */
  #stopGuest(): boolean {
    if (!this.#isMachineRunning) return false;
    this.#isMachineRunning = false;
    this.#world.guestStops('source');
    return true;
  }

  #guestWrites(start: number): void {
    const { random } = this.#world;
    const { writeEveryMs, workingSetPages } = this.#scenario.guest;
    if (this.#world.nowMs > this.#tiresAtMs || writeEveryMs === Number.POSITIVE_INFINITY) return;
    this.process.after(random.fraction() * 2 * writeEveryMs, () => {
      if (start !== this.#guestStarts || !this.#isMachineRunning) return;
      const most = random.chance(0.9) ? workingSetPages : this.memory.values.length;
      this.#write(random.integer(0, most - 1));
      this.#guestWrites(start);
    });
  }

  #write(page: number): void {
    this.memory.write(page, this.#world.random.chance(0.15) ? 0 : this.#nextValue++);
  }
}
