/**
 * A migration from start to end, driven over the monitors of its two sides.
 *
 *   connect ─▶ check ─▶ set ─▶ listen ─▶ migrate ─▶ watch ─▶ settle ─▶ give settings back ─▶ report
 *                                                  │  ▲
 *                  switch, cancel, recover ◀───────┘  │
 *                            └────────────────────────┘
 *
 * Nothing is changed before both sides have been checked. The two machines do the work and would do it without us: if this
 * program ends, the migration goes on.
 */
import { QmpCommandError } from '../qemu/qmp-client.ts';
import { checkMachines, checkStates, checkUnderWay, NotStartedError } from './check-sides.ts';
import { connectSide } from './connect-sides.ts';
import { EXIT_CODES, type Outcome, type Verdict } from './judge-outcome.ts';
import { type MachineIdentity, whatIsDoubtful } from './machine-identity.ts';
import { PostcopySwitch, type SwitchPlan } from './postcopy-switch.ts';
import { howToRecover, recover } from './recovery.ts';
import {
  figuresOf,
  type MigrationReport,
  sideReport,
  type TimelineEntry,
  withoutUndefined,
} from './report.ts';
import { type SettingWishes, SideSettings } from './settings.ts';
import { settle } from './settle.ts';
import { isBeforeSwitch, isEnded, isPostcopy } from './stages.ts';
import { StallWatch } from './stall-watch.ts';
import { StreamPath, type StreamPathOptions } from './stream-path.ts';
import type { MigrateInfo, Side, WatchedMachine } from './watched-machine.ts';

export interface MigrationPlan extends StreamPathOptions {
  /** Monitors: `unix:PATH`, `tcp:HOST:PORT` or a path. */
  readonly source: string;
  readonly destination: string;
  /** Take over a migration that is under way or paused; settings stay as they are. */
  readonly joins: boolean;
  readonly postcopy: SwitchPlan;
  readonly settings: SettingWishes;
  /** Settings stay as they were set for the migration. */
  readonly keepsSettings: boolean;
  /** How long to try to bring a paused migration to life again; 0 is not at all. */
  readonly recoverForMs: number;
  /** How long the source's monitor may owe an answer. */
  readonly monitorTimeoutMs: number;
}

export interface MigrationListener {
  /** Something happened. @param who `source`, `destination`, or what the driver does */
  onLine(who: string, text: string, atMs: number): void;
  /** About how things stand, several times a second while the migration runs. */
  onProgress(status: string, info: MigrateInfo, atMs: number): void;
}

/** How long a source may take to notice that its destination has ended, before it is told. */
const NOTICE_MS = 5000;
/** A monitor that owes an answer for so long is worth a line. */
const SILENT_MS = 5000;
const LEAVE_MS = 1000;
const CANCEL_TIMEOUT_MS = 5000;
const TICK_MS = 100;
/** QEMU's, for a monitor that does not tell. */
const DEFAULT_DOWNTIME_LIMIT_MS = 300;

/** The operator has said stop before it was started. */
class InterruptedError extends Error {}

export class MigrationDriver {
  readonly #plan: MigrationPlan;
  readonly #listener: MigrationListener;
  readonly #timeline: TimelineEntry[] = [];
  readonly #notes: string[] = [];
  readonly #identities: Partial<Record<Side, MachineIdentity>> = {};
  readonly #settings: SideSettings[] = [];
  readonly #silent = new Set<Side>();
  readonly #stall = new StallWatch();
  /** Made in this order; each is there from its step on. */
  #source!: WatchedMachine;
  #destination!: WatchedMachine;
  #path!: StreamPath;
  #switch!: PostcopySwitch;
  #startedAtMs = performance.now();
  #hasGuest = false;
  #wasRunning = false;
  #isStarted = false;
  #hasSwitched = false;
  #cancelledBy: 'operator' | 'driver' | undefined;
  #recoveries = 0;
  #interruptCount = 0;
  #heededInterrupts = 0;
  #destinationGoneAtMs: number | undefined;
  #wake: () => void = () => {};

  constructor(plan: MigrationPlan, listener: MigrationListener) {
    this.#plan = plan;
    this.#listener = listener;
  }

  /** The operator wants it to stop: once cancels it if that can be; twice leaves it alone. */
  interrupt(): void {
    this.#interruptCount++;
    this.#wake();
  }

  /** Never throws for what goes wrong with the migration or a monitor: the report says it. May be called once. */
  async run(): Promise<MigrationReport> {
    try {
      await this.#prepare();
      await (this.#plan.joins ? this.#join() : this.#start());
      return await this.#finish(await this.#watch());
    } catch (error) {
      return await this.#finish(this.#verdictOf(error as Error));
    } finally {
      this.#source?.close();
      this.#destination?.close();
    }
  }

  #verdictOf(error: Error): Verdict {
    if (this.#isStarted) {
      const text = `Internal error, and the migration may go on without this program: ${error.message}`;
      return { outcome: 'unknown', guestAt: 'unknown', text, mayContinue: false };
    }
    const outcome = error instanceof InterruptedError ? 'cancelled' : 'not-started';
    return {
      outcome,
      guestAt: this.#hasGuest ? 'source' : 'unknown',
      text: error.message,
      mayContinue: false,
    };
  }

  // ---- before it starts ------------------------------------------------------------------------------------

  async #prepare(): Promise<void> {
    const { source: sourceAddress, destination: destinationAddress, monitorTimeoutMs } = this.#plan;
    const { machine: source, identity: sourceIdentity } = await connectSide(
      'source',
      sourceAddress,
      monitorTimeoutMs,
      (machine) => (this.#source = machine),
    );
    const { machine: destination, identity: destinationIdentity } = await connectSide(
      'destination',
      destinationAddress,
      monitorTimeoutMs,
      (machine) => (this.#destination = machine),
    );
    this.#identities.source = sourceIdentity;
    this.#identities.destination = destinationIdentity;
    for (const machine of [source, destination]) {
      machine.on('change', () => this.#wake());
      machine.on('status', (status) => this.#enterStatus(machine, status));
    }
    if (this.#plan.joins) checkUnderWay(source);
    else checkStates(source, destination);
    this.#hasGuest = !isPostcopy(source.status);
    this.#wasRunning = source.runState === 'running';
    checkMachines(sourceIdentity, destinationIdentity);
    const doubt = whatIsDoubtful(sourceIdentity, destinationIdentity);
    if (doubt !== undefined) this.#notes.push(doubt);
    this.#heedInterruptBeforeStart();
    this.#path = new StreamPath(source, destination, this.#plan);
    if (!this.#plan.joins) await this.#applySettings();
  }

  async #applySettings(): Promise<void> {
    const wishes = this.#wishes();
    for (const machine of [this.#source, this.#destination]) {
      const settings = await SideSettings.read(machine);
      settings.check(wishes);
      this.#settings.push(settings);
    }
    for (const settings of this.#settings) await settings.apply(wishes);
    this.#planSwitch(this.#settings[0]?.numberOf('downtime-limit', wishes));
  }

  #planSwitch(downtimeLimitMs = DEFAULT_DOWNTIME_LIMIT_MS): void {
    this.#switch = new PostcopySwitch(this.#plan.postcopy, downtimeLimitMs);
  }

  /** What was asked for, and what the driver needs itself; what was asked for wins. */
  #wishes(): SettingWishes {
    const { settings, postcopy } = this.#plan;
    const own = [
      { name: 'events', value: true, isOptional: true },
      { name: 'return-path', value: true, isOptional: true },
      ...(postcopy.kind === 'never' ? [] : [{ name: 'postcopy-ram', value: true }]),
    ];
    return { capabilities: [...own, ...settings.capabilities], parameters: settings.parameters };
  }

  async #start(): Promise<void> {
    const uri = await this.#path.open();
    this.#heedInterruptBeforeStart();
    this.#startedAtMs = performance.now();
    this.#line('migrate', `${this.#plan.source} to ${this.#plan.destination} by ${uri}`);
    this.#isStarted = true;
    try {
      await this.#source.execute('migrate', { uri });
    } catch (error) {
      // A monitor that is lost or silent may have started it: that shows when both sides are watched.
      if (error instanceof QmpCommandError) {
        this.#isStarted = false;
        throw new NotStartedError(`The source refuses to migrate: ${error.message}`, { cause: error });
      }
    }
    this.#beginToWatch();
  }

  async #join(): Promise<void> {
    const [source, destination] = [this.#source, this.#destination];
    const settings = await SideSettings.read(source);
    this.#planSwitch(settings.numberOf('downtime-limit', this.#plan.settings));
    this.#path.join();
    this.#startedAtMs = performance.now() - (source.info['total-time'] ?? 0);
    this.#isStarted = true;
    this.#line('join', `${this.#plan.source} to ${this.#plan.destination}`);
    for (const machine of [source, destination]) this.#enterStatus(machine, machine.status);
    // What was before is not known: a guest that stands still may have run, and may have been handed over.
    if (!this.#wasRunning) this.#wasRunning = this.#hasSwitched = true;
    this.#beginToWatch();
  }

  #beginToWatch(): void {
    // A round is judged by what it begins with: ask at once.
    this.#source.on('pass', () => void this.#source.refresh(TICK_MS));
    this.#source.watch();
    this.#destination.watch();
  }

  // ---- while it runs ---------------------------------------------------------------------------------------

  async #watch(): Promise<Verdict> {
    for (;;) {
      const end = await this.#step();
      if (end !== undefined) return end;
      await this.#untilChange(TICK_MS);
    }
  }

  /** Looks at both sides and does what is due. @returns the end, if there is one */
  async #step(): Promise<Verdict | undefined> {
    const [source, destination] = [this.#source, this.#destination];
    this.#listener.onProgress(source.status, source.info, this.#atMs);
    this.#noteSilence();
    this.#noteStall();
    if (isEnded(source.status) || source.isGone) return await this.#settle();
    if (this.#interruptCount > this.#heededInterrupts) {
      const verdict = await this.#heedInterrupt();
      if (verdict !== undefined) return verdict;
    }
    if (source.silentMs > this.#plan.monitorTimeoutMs) return await this.#settle();
    if (destination.isGone) return await this.#heedLostDestination();
    const isPaused = [source, destination].some(({ status }) => status === 'postcopy-paused');
    if (isPaused) return await this.#recover();
    if (source.status === 'active' && this.#cancelledBy === undefined) await this.#considerSwitch();
    return undefined;
  }

  #enterStatus(machine: WatchedMachine, status: string): void {
    if (!this.#isStarted) return;
    this.#timeline.push({ atMs: Math.round(this.#atMs), side: machine.side, status });
    if (isPostcopy(status)) this.#hasSwitched = true;
    const hint = status === 'pre-switchover' ? ': waits for "migrate-continue" at its monitor' : '';
    this.#line(machine.side, `${status}${hint}`);
  }

  #noteSilence(): void {
    for (const machine of [this.#source, this.#destination]) {
      const isSilent = machine.silentMs > SILENT_MS;
      if (isSilent === this.#silent.has(machine.side)) continue;
      if (isSilent) this.#silent.add(machine.side);
      else this.#silent.delete(machine.side);
      if (!machine.isGone)
        this.#line(machine.side, isSilent ? 'its monitor does not answer' : 'its monitor answers again');
    }
  }

  #noteStall(): void {
    const { status, info } = this.#source;
    if (status !== 'active' && status !== 'postcopy-active') return;
    if (!this.#stall.note(info.ram?.transferred ?? 0, this.#atMs)) return;
    const what = isPostcopy(status)
      ? '"migrate-pause" at the source\'s monitor makes it notice, and then it is recovered'
      : '^C cancels';
    this.#line('stall', `nothing has moved for a while. If the network is dead without saying so: ${what}`);
  }

  async #considerSwitch(): Promise<void> {
    const why = this.#switch.isDue(this.#source.info, this.#atMs);
    if (why === undefined) return;
    this.#line('postcopy', `switch asked for: ${why}`);
    try {
      const refusal = await this.#switch.ask(this.#source, { why, atMs: Math.round(this.#atMs) });
      if (refusal !== undefined && !isEnded(this.#source.status)) {
        this.#notes.push(`The switch to postcopy was refused: ${refusal}`);
        this.#line('postcopy', `refused: ${refusal}`);
      }
    } catch {
      // The source's monitor is lost or silent, which shows elsewhere.
    }
  }

  // ---- cancel ----------------------------------------------------------------------------------------------

  #heedInterruptBeforeStart(): void {
    if (this.#interruptCount > 0) throw new InterruptedError('Interrupted before the migration was started');
  }

  async #heedInterrupt(): Promise<Verdict | undefined> {
    this.#heededInterrupts++;
    if (this.#heededInterrupts > 1) return this.#interrupted();
    const source = this.#source;
    // The state may just have changed, and there are versions of QEMU that cancel in postcopy too, which loses the guest.
    const isKnown = (await source.refresh(CANCEL_TIMEOUT_MS)) || (await source.refresh(CANCEL_TIMEOUT_MS));
    if (isEnded(source.status)) return undefined;
    if (isKnown && isBeforeSwitch(source.status) && this.#switch.asked === undefined && !this.#hasSwitched) {
      this.#line('interrupt', 'the migration is cancelled');
      await this.#cancel('operator');
      return undefined;
    }
    const why = !isKnown
      ? 'the source does not answer'
      : this.#hasSwitched
        ? 'the guest has left the source'
        : 'the switch to postcopy is under way';
    const next = 'Once more (^C) leaves the migration running and ends this program';
    this.#line('interrupt', `it cannot be cancelled: ${why}. ${next}`);
    return undefined;
  }

  async #cancel(by: 'operator' | 'driver'): Promise<void> {
    this.#cancelledBy = by;
    try {
      await this.#source.execute('migrate_cancel', {}, { timeoutMs: CANCEL_TIMEOUT_MS });
    } catch (error) {
      this.#notes.push(`The source has not taken "migrate_cancel": ${(error as Error).message}`);
    }
  }

  #interrupted(): Verdict {
    const isPaused = this.#source.status === 'postcopy-paused';
    const what = isPaused ? 'is paused, and was not recovered' : 'goes on without this program';
    return {
      outcome: isPaused ? 'postcopy-paused' : 'interrupted',
      guestAt: this.#guestAt,
      text: `The migration ("${this.#source.status}") ${what}`,
      mayContinue: false,
    };
  }

  // ---- when something is lost ------------------------------------------------------------------------------

  /** The source notices by itself when its connection breaks; one that does not is told to give up, if that is safe. */
  async #heedLostDestination(): Promise<Verdict | undefined> {
    this.#destinationGoneAtMs ??= performance.now();
    if (performance.now() - this.#destinationGoneAtMs < NOTICE_MS) return undefined;
    if (this.#hasSwitched || this.#switch.asked !== undefined) return await this.#settle();
    if (this.#cancelledBy !== undefined) return undefined;
    this.#line(
      'destination',
      'its process has ended, which the source has not noticed: the migration is cancelled',
    );
    await this.#cancel('driver');
    return undefined;
  }

  /** @returns the end if it cannot be recovered */
  async #recover(): Promise<Verdict | undefined> {
    const [source, destination, path] = [this.#source, this.#destination, this.#path];
    const { recoverForMs } = this.#plan;
    const interruptsBefore = this.#interruptCount;
    const end = await recover({
      source,
      destination,
      limitMs: recoverForMs,
      whyNot: recoverForMs === 0 ? 'it was told not to try (--recover-for 0)' : this.#whyNoRecovery(),
      listenUri: () => path.nextListenUri(),
      connectUri: (listenUri) => path.nextConnectUri(listenUri),
      isInterrupted: () => this.#interruptCount > interruptsBefore,
      onLine: (text) => this.#line('recover', text),
      untilChange: (timeoutMs) => this.#untilChange(Math.max(TICK_MS, timeoutMs)),
    });
    if (end.kind === 'recovered') {
      this.#recoveries++;
      return undefined;
    }
    if (source.isGone || destination.isGone) return await this.#settle();
    if (this.#whyNoRecovery() === undefined) {
      const listenUri = path.nextListenUri();
      this.#notes.push(...howToRecover(listenUri, path.nextConnectUri(listenUri)));
    }
    if (end.kind === 'interrupted') return this.#interrupted();
    const detail = source.info['error-desc'] === undefined ? '' : ` (${source.info['error-desc']})`;
    return {
      outcome: 'postcopy-paused',
      guestAt: this.#guestAt,
      text: `The migration is paused, and was not recovered: ${end.why}${detail}`,
      mayContinue: false,
    };
  }

  #whyNoRecovery(): string | undefined {
    if (!this.#path.canBeOpenedAgain)
      return 'it is not known where the two can meet: give --uri tcp:HOST:PORT';
    const { destination } = this.#identities;
    if (destination === undefined || destination.commands.size === 0) return undefined;
    if (destination.commands.has('migrate-recover')) return undefined;
    return `${destination.program} at the destination cannot do that (it has no "migrate-recover")`;
  }

  // ---- end -------------------------------------------------------------------------------------------------

  #settle(): Promise<Verdict> {
    return settle({
      source: this.#source,
      destination: this.#destination,
      seen: () => ({
        wasRunning: this.#wasRunning,
        hasSwitched: this.#hasSwitched,
        cancelledBy: this.#cancelledBy,
      }),
      onLine: (who, text) => this.#line(who, text),
      untilChange: (timeoutMs) => this.#untilChange(timeoutMs),
    });
  }

  async #finish(verdict: Verdict): Promise<MigrationReport> {
    const { outcome, guestAt, text } = verdict;
    await this.#leavePath(outcome);
    await this.#restoreSettings(outcome);
    const [source, destination] = [this.#source, this.#destination];
    const guest = { source, destination, unknown: undefined }[guestAt];
    const isKnown = guest !== undefined && !guest.isGone && !guest.isSilent;
    return {
      ...(this.#isStarted ? figuresOf(source, destination) : {}),
      ...{ outcome, exitCode: EXIT_CODES[outcome], text, guestAt },
      recoveries: this.#recoveries,
      timeline: this.#timeline,
      notes: this.#notes,
      ...withoutUndefined({
        isGuestRunning: isKnown ? guest.runState === 'running' : undefined,
        uri: this.#path?.connectUri,
        postcopy: this.#switch?.asked,
        source: sideReport(source, this.#identities.source),
        destination: sideReport(destination, this.#identities.destination),
      }),
    };
  }

  /** A destination that still waits listens where it was told to, and another attempt needs that. */
  async #leavePath(outcome: Outcome): Promise<void> {
    const listenUri = this.#path?.listenUri;
    if (listenUri === undefined) {
      this.#path?.remove();
      return;
    }
    const destination = this.#destination;
    const isWaiting = () =>
      !destination.isGone &&
      destination.runState === 'inmigrate' &&
      ['none', 'setup'].includes(destination.status);
    // One that was connected to and left alone ends, or says so, in a moment.
    const endsAtMs = performance.now() + LEAVE_MS;
    while (this.#isStarted && isWaiting() && performance.now() < endsAtMs) await this.#untilChange(TICK_MS);
    if (!isWaiting()) this.#path.remove();
    else if (outcome === 'not-started' || outcome === 'failed') {
      this.#notes.push(`The destination still listens at ${listenUri}, where another attempt finds it`);
    }
  }

  async #restoreSettings(outcome: Outcome): Promise<void> {
    if (this.#plan.keepsSettings) return;
    const changed = this.#settings.filter((settings) => settings.hasChanges);
    if (changed.length === 0) return;
    if (outcome === 'interrupted' || outcome === 'postcopy-paused') {
      this.#notes.push(
        'Capabilities and parameters stay as they were set for the migration, since it has not ended',
      );
      return;
    }
    for (const settings of changed) {
      if (settings.machine.isGone || settings.machine.isSilent) continue;
      const problem = await settings.restore();
      if (problem !== undefined) this.#notes.push(problem);
    }
  }

  // ---- small things ----------------------------------------------------------------------------------------

  /** Since the start of the migration. */
  get #atMs(): number {
    return performance.now() - this.#startedAtMs;
  }

  /** Where the guest is while the migration has not ended. */
  get #guestAt(): 'destination' | 'unknown' {
    const { hasRun, isGone, runState } = this.#destination;
    return hasRun || (!isGone && runState !== 'inmigrate') ? 'destination' : 'unknown';
  }

  #line(who: string, text: string): void {
    this.#listener.onLine(who, text, this.#atMs);
  }

  #untilChange(timeoutMs: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, timeoutMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
