/**
 * A virtual machine with its threads, as the main thread holds it.
 *
 * It starts and ends the threads, connects and listens, and keeps the state that people see. It takes no part in moving
 * pages: while a migration runs, the main thread may be as slow as it likes.
 */
import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { whyNoAsyncDirtyTracking, whyNoSyncDirtyTracking } from '../linux/dirty-tracking-support.ts';
import { systemErrorText } from '../linux/system-error-text.ts';
import { PageBitmap } from '../memory/page-bitmap.ts';
import { type RamBlock, TARGET_PAGE_BYTES } from '../memory/ram-block.ts';
import { type Capabilities, type Capability, DEFAULT_CAPABILITIES } from '../migration/capabilities.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import {
  checkParameter,
  DEFAULT_PARAMETERS,
  type Parameter,
  type Parameters,
} from '../migration/parameters.ts';
import { isMigrationRunning, isRecovering, type MigrationStatus } from '../migration/states.ts';
import type { TraceName } from '../telemetry/trace-events.ts';
import { matchTraceNames } from '../telemetry/trace-names.ts';
import type { MachineThreadData } from '../threads/messages.ts';
import type { ObjectProperties } from '../tls/object-properties.ts';
import type { Channel } from '../transport/channel.ts';
import type { Listener } from '../transport/listener.ts';
import { Connections } from './connections.ts';
import { DestinationRecovery } from './destination-recovery.ts';
import { type MachineNews, MachineWorker } from './machine-worker.ts';
import { MemoryDump } from './memory-dump.ts';
import { type MigrationHost, MigrationThread } from './migration-thread.ts';
import type { RecoveryHost } from './recovery-host.ts';
import { SourceRecovery } from './source-recovery.ts';
import { type MigrateOptions, type RunState, type Vm, VmError, type VmEvents } from './vm.ts';

/** How the guest's writes are noticed while it is migrated; `auto` takes what the kernel has. */
export type DirtyTracking = 'auto' | 'async' | 'sync';

export interface VirtualMachineOptions {
  /** Guest memory in bytes, a multiple of 1 MiB. */
  readonly memoryBytes: number;
  /** A multiboot image or, with a BIOS, a Linux bzImage. */
  readonly kernelPath?: string;
  readonly initrdPath?: string;
  readonly commandLine?: string;
  readonly biosPath?: string;
  readonly vgaBiosPath?: string;
  readonly hardDiskPath?: string;
  readonly cdromPath?: string;
  /** Wait for a migration: at this URI, or at one given to `migrateIncoming` later. */
  readonly incoming?: string | 'defer';
  /** Do not start the guest, nor an incoming one when it has come. */
  readonly isPaused?: boolean;
  readonly dirtyTracking?: DirtyTracking;
}

/** How long `stop` waits; a guest in a page fault cannot stop. */
const STOP_MS = 2000;

const ENDED: readonly MigrationStatus[] = ['completed', 'failed', 'cancelled', 'postcopy-paused'];

export class VirtualMachine extends EventEmitter<VmEvents> implements Vm {
  readonly #options: VirtualMachineOptions;
  /** Replaced when the guest has moved away and another is to come. */
  #machine: MachineWorker;

  #runState: RunState;
  #capabilities: Capabilities = DEFAULT_CAPABILITIES;
  #parameters: Parameters = DEFAULT_PARAMETERS;
  #traces: ReadonlySet<TraceName> = new Set();

  #migration: MigrationThread | undefined;
  #status: MigrationStatus = 'none';
  #error: string | undefined;
  /** Before there is a migration thread: connecting, or listening. */
  #connecting: AbortController | undefined;
  readonly #connections = new Connections((text) => this.emit('message', text));
  #listener: Listener | undefined;
  #hasIncoming = false;
  /** It was made to receive a guest, or its own has moved away and made room for another. */
  #canReceive: boolean;
  #isReplacing = false;
  /** Of the migration that there is, once it is connected. */
  #recovery: SourceRecovery | DestinationRecovery | undefined;
  /** The machine's thread lets whoever asks resume the guest again. */
  #onReleased: () => void = () => {};
  /** Asked for, and still to come about. */
  #isStopping = false;
  /** How often an operator has said "stop". */
  #stops = 0;
  readonly #memoryDumps = new Set<MemoryDump>();
  #isClosed = false;

  /** @throws {VmError} if the machine cannot be made or the address not be listened at */
  static async create(options: VirtualMachineOptions): Promise<VirtualMachine> {
    const { incoming, isPaused } = options;
    const isIncoming = incoming !== undefined;
    const vm = new VirtualMachine(options, await MachineWorker.start(machineData(options, isIncoming)));
    try {
      if (incoming !== undefined && incoming !== 'defer') await vm.migrateIncoming(incoming);
      else if (!isIncoming && isPaused !== true) await vm.cont();
    } catch (error) {
      await vm.close();
      throw error;
    }
    return vm;
  }

  private constructor(options: VirtualMachineOptions, machine: MachineWorker) {
    super();
    this.#options = options;
    this.#machine = this.#watched(machine);
    this.#canReceive = options.incoming !== undefined;
    this.#runState = this.#canReceive ? 'inmigrate' : 'prelaunch';
  }

  get machineType(): string {
    return this.#machine.machineType;
  }

  get ramBlocks(): readonly RamBlock[] {
    return this.#machine.ramBlocks;
  }

  // ---- running ---------------------------------------------------------------------------------------------

  get runState(): RunState {
    return this.#runState;
  }

  async stop(): Promise<void> {
    if (this.#runState === 'inmigrate')
      throw new VmError('The guest has not come yet: there is nothing to stop');
    if (this.#runState === 'shutdown')
      throw new VmError('There is no machine any more that could be stopped');
    this.#isStopping = true;
    this.#stops++;
    const isStopped = this.#machine.client
      .pause()
      .finally(() => {
        this.#isStopping = false;
      })
      .then((wasRunning) => {
        if (wasRunning && this.#runState === 'running') this.#setRunState('paused');
        return true;
      });
    isStopped.catch(() => {}); // Nobody may be waiting any more.
    if (await Promise.race([isStopped, sleep(STOP_MS, false, { ref: false })])) return;
    throw new VmError(
      this.#status === 'postcopy-paused'
        ? 'The guest waits for a page that is only at the source: it stops there, and cannot be stopped otherwise'
        : `The guest has not stopped within ${STOP_MS} ms: it waits for a page, and stops when that has come`,
    );
  }

  async cont(): Promise<void> {
    switch (this.#runState) {
      case 'running':
        // A stop that has not come about yet is taken back as soon as it has; nobody waits for that, as it may be never.
        if (this.#isStopping) this.#resumeLater();
        return;
      case 'inmigrate':
        throw new VmError(
          'The guest has not come yet: it starts by itself when the migration has brought it',
        );
      case 'finish-migrate':
        throw new VmError('The guest stands still for the migration: wait for its end, or cancel it');
      case 'postmigrate':
        if (this.#migration?.isGuestElsewhere) {
          throw new VmError('The guest runs at the destination, and this copy of it is out of date');
        }
        break;
      case 'internal-error':
      case 'shutdown':
        throw new VmError(`The guest cannot run: its state is "${this.#runState}"`);
      case 'paused':
      case 'prelaunch':
        break;
    }
    if (this.#status === 'postcopy-paused' && this.#migration?.side === 'source') {
      // It was not known whether the destination had the guest: whoever says "cont" has looked. It cannot come back from there.
      this.#setStatus('failed', undefined);
      const isReleased = new Promise<void>((resolve) => {
        this.#onReleased = resolve;
      });
      await this.#migration.close();
      await isReleased;
    }
    await this.#machine.client.resume();
    this.#setRunState('running');
  }

  sendSerial(bytes: Uint8Array): void {
    this.#machine.order({ kind: 'serial', bytes });
  }

  // ---- settings --------------------------------------------------------------------------------------------

  get capabilities(): Capabilities {
    return this.#capabilities;
  }

  setCapabilities(changes: Partial<Record<Capability, boolean>>): void {
    if (isMigrationRunning(this.#status) && this.#migration?.side === 'source') {
      throw new VmError("There's a migration process in progress: capabilities cannot be changed now");
    }
    this.#capabilities = { ...this.#capabilities, ...changes };
  }

  get parameters(): Parameters {
    return this.#parameters;
  }

  setParameters(changes: Partial<Parameters>): void {
    for (const [name, value] of Object.entries(changes)) checkParameter(name as Parameter, value);
    this.#parameters = { ...this.#parameters, ...changes };
    this.#migration?.order({ kind: 'set-parameters', parameters: this.#parameters });
    this.#recovery?.heed(this.#status);
  }

  addObject(properties: ObjectProperties): void {
    this.#connections.objects.add(properties);
  }

  removeObject(id: string): void {
    this.#connections.objects.remove(id);
  }

  get objectIds(): readonly string[] {
    return this.#connections.objects.ids;
  }

  setTrace(pattern: string, isOn: boolean): readonly TraceName[] {
    const names = matchTraceNames(pattern);
    const enabled = new Set(this.#traces);
    for (const name of names) {
      if (isOn) enabled.add(name);
      else enabled.delete(name);
    }
    this.#traces = enabled;
    this.#migration?.order({ kind: 'set-traces', names: [...enabled] });
    return names;
  }

  get enabledTraces(): ReadonlySet<TraceName> {
    return this.#traces;
  }

  // ---- migration -------------------------------------------------------------------------------------------

  async migrate(uri: string, { resume = false }: MigrateOptions = {}): Promise<void> {
    if (resume) {
      if (!(this.#recovery instanceof SourceRecovery))
        throw new VmError('Cannot resume if there is no paused migration');
      await this.#recovery.resume(uri);
      return;
    }
    this.#refuseMigration();
    const dirtyTracking = this.#chooseDirtyTracking();
    this.#error = undefined;
    this.#migration = undefined;
    this.#recovery = undefined;
    const connecting = new AbortController();
    this.#connecting = connecting;
    this.#setStatus('setup', undefined);
    let channel: Channel;
    try {
      channel = await this.#connections.connect(uri, this.#parameters, connecting.signal);
      if (connecting.signal.aborted) {
        channel.close();
        throw new VmError(this.#isClosed ? 'The virtual machine is closed' : 'The migration was cancelled');
      }
    } catch (error) {
      // A cancelled one has its status, and the next may be connecting already.
      if (this.#connecting === connecting) this.#setStatus('failed', (error as Error).message);
      throw error instanceof VmError ? error : new VmError((error as Error).message, { cause: error });
    } finally {
      if (this.#connecting === connecting) this.#connecting = undefined;
    }
    if (!channel.hasReturnPath && this.#capabilities['postcopy-ram']) {
      channel.close();
      const why = `Postcopy needs a return path, which "${uri}" has not: use tcp:, unix: or a socket as fd:`;
      this.#setStatus('failed', why);
      throw new VmError(why);
    }
    if (!channel.hasReturnPath && this.#capabilities['x-checksum']) {
      channel.close();
      const why = `Checksums need a return path, which "${uri}" has not: use tcp:, unix: or a socket as fd:`;
      this.#setStatus('failed', why);
      throw new VmError(why);
    }
    try {
      this.#migration = MigrationThread.startSource(this.#migrationHost(), channel, {
        capabilities: this.#capabilities,
        parameters: this.#parameters,
        dirtyTracking,
      });
    } catch (error) {
      channel.close();
      this.#setStatus('failed', (error as Error).message);
      throw error;
    }
    this.#recovery = new SourceRecovery(this.#recoveryHost(), this.#migration, uri);
  }

  async migrateIncoming(uri: string): Promise<string> {
    const hasLeft = this.#runState === 'postmigrate' && this.#status === 'completed';
    if (!this.#canReceive && !hasLeft)
      throw new VmError(
        "'-incoming' was not specified on the command line, and the guest of this machine has not moved away",
      );
    if (this.#isReplacing || (this.#hasIncoming && !hasLeft))
      throw new VmError('The incoming migration has already been started');
    this.#hasIncoming = true;
    try {
      this.#listener = await this.#connections.listen(uri, this.#parameters);
      if (hasLeft) await this.#replaceMachine();
    } catch (error) {
      this.#listener?.close();
      this.#listener = undefined;
      this.#hasIncoming = false;
      throw new VmError((error as Error).message, { cause: error });
    }
    this.#setStatus('setup', undefined);
    void this.#acceptIncoming(this.#listener);
    return this.#listener.address;
  }

  async migrateRecover(uri: string): Promise<string> {
    if (!(this.#recovery instanceof DestinationRecovery))
      throw new VmError('Migrate recover can only be run when postcopy is paused.');
    return await this.#recovery.listen(uri);
  }

  async migratePause(): Promise<void> {
    const isGuestMoved = this.#status.startsWith('postcopy-') && this.#status !== 'postcopy-device';
    const wasTrying = isGuestMoved && (this.#recovery?.hold() ?? false);
    // In `device` the engine knows whether the guest can still be taken back, by a cancel.
    if (['device', 'postcopy-active', 'postcopy-recover'].includes(this.#status)) {
      await this.#migration?.breakOff();
    } else if (!wasTrying) {
      throw new VmError(
        `migrate-pause is only supported in state "postcopy-active" or "postcopy-recover", not in "${this.#status}"`,
      );
    }
  }

  migrationEnded(): Promise<MigrationStatus> {
    if (ENDED.includes(this.#status)) return Promise.resolve(this.#status);
    return new Promise((resolve) => {
      const onStatus = (status: MigrationStatus) => {
        if (!ENDED.includes(status)) return;
        this.off('migration', onStatus);
        resolve(status);
      };
      this.on('migration', onStatus);
    });
  }

  async migrateCancel(): Promise<void> {
    if (this.#connecting !== undefined) {
      this.#connecting.abort();
      this.#connecting = undefined;
      this.#setStatus('cancelling', undefined);
      this.#setStatus('cancelled', undefined);
      return;
    }
    // As in QEMU, cancelling when there is nothing to cancel is no error.
    if (isMigrationRunning(this.#status)) await this.#migration?.ask({ kind: 'cancel' });
  }

  async migrateStartPostcopy(): Promise<void> {
    if (this.#migration?.side !== 'source' || !isMigrationRunning(this.#status)) {
      throw new VmError('Start the migration first: there is none that could switch to postcopy');
    }
    await this.#migration.ask({ kind: 'start-postcopy' });
  }

  async queryMigrate(): Promise<MigrationInfo> {
    const info = await this.#migration?.query();
    const waitsAt =
      this.#listener?.address ??
      (this.#recovery instanceof DestinationRecovery ? this.#recovery.address : undefined);
    const address = waitsAt === undefined ? {} : { 'socket-address': [waitsAt] };
    if (info !== undefined) {
      // Of a recovery that is being tried the engine does not know yet.
      const isWaiting = this.#status === 'postcopy-paused';
      return { ...info, status: this.#status, ...(isWaiting && address) };
    }
    if (this.#status === 'none') return {};
    return {
      status: this.#status,
      ...(this.#error !== undefined && { 'error-desc': this.#error }),
      ...address,
    };
  }

  async dumpBitmap(idstr: string): Promise<string> {
    const block = this.ramBlocks.findIndex((candidate) => candidate.idstr === idstr);
    if (block < 0) {
      const names = this.ramBlocks.map((candidate) => `"${candidate.idstr}"`).join(', ');
      throw new VmError(`There is no RAM block "${idstr}"; there are: ${names}`);
    }
    const words = this.#migration?.bitmapWords[block];
    if (words === undefined) throw new VmError('There is no migration whose bitmap could be shown');
    const bitmap = new PageBitmap((this.ramBlocks[block]?.lengthBytes ?? 0) / TARGET_PAGE_BYTES, words);
    return (this.#migration?.side === 'destination' ? bitmap.complement() : bitmap).toText();
  }

  async saveMemory(offset: number, lengthBytes: number, path: string): Promise<void> {
    const ram = this.ramBlocks[0] as RamBlock;
    if (offset < 0 || lengthBytes <= 0 || offset + lengthBytes > ram.lengthBytes) {
      throw new VmError(
        `Memory from ${offset}, ${lengthBytes} bytes, is not within the ${ram.lengthBytes} bytes of "${ram.idstr}"`,
      );
    }
    const dump = new MemoryDump({ address: ram.hostAddress + BigInt(offset), lengthBytes, path });
    this.#memoryDumps.add(dump);
    await dump.done().finally(() => this.#memoryDumps.delete(dump));
  }

  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#connecting?.abort();
    this.#listener?.close();
    this.#recovery?.close();
    // Nobody waits for the pause: the guest may stand at a page that never comes, until the migration gives up its memory.
    // Whoever uses that memory from another thread ends first, for it goes with the machine's thread.
    void this.#machine.client.pause().catch(() => {});
    this.#machine.abandon(new VmError('The virtual machine is closed'));
    const areDumpsGone = this.#endMemoryDumps();
    await this.#migration?.close();
    await areDumpsGone;
    await this.#machine.close();
    this.#setRunState('shutdown');
  }

  // ---- inside ----------------------------------------------------------------------------------------------

  /** The guest has moved away: what is left of it gives way to a machine that waits for another, or for the same again. */
  async #replaceMachine(): Promise<void> {
    this.#isReplacing = true;
    try {
      const machine = await MachineWorker.start(machineData(this.#options, true));
      if (this.#isClosed) {
        await machine.close();
        throw new VmError('The virtual machine is closed');
      }
      await this.#takeMachine(machine);
    } finally {
      this.#isReplacing = false;
    }
    this.#setRunState('inmigrate');
  }

  async #takeMachine(machine: MachineWorker): Promise<void> {
    const old = this.#machine;
    old.abandon(new VmError('The guest has moved away'));
    // Whoever uses its memory from another thread ends first.
    await this.#endMemoryDumps();
    await this.#migration?.close();
    this.#migration = undefined;
    this.#recovery?.close();
    this.#recovery = undefined;
    this.#machine = this.#watched(machine);
    this.#canReceive = true;
    await old.close();
  }

  #refuseMigration(): void {
    if (isMigrationRunning(this.#status)) {
      const hint =
        this.#status === 'postcopy-paused' ? '. It is interrupted: "migrate -r" goes on with it' : '';
      throw new VmError(`There's a migration process in progress${hint}`);
    }
    switch (this.#runState) {
      case 'inmigrate':
        throw new VmError('Guest is waiting for an incoming migration');
      case 'postmigrate':
        throw new VmError('The guest has moved away already');
      case 'internal-error':
      case 'shutdown':
        throw new VmError(`The guest cannot be migrated: its state is "${this.#runState}"`);
      default:
    }
  }

  async #endMemoryDumps(): Promise<void> {
    await Promise.all([...this.#memoryDumps].map((dump) => dump.close()));
  }

  /** @throws {VmError} if there is none, or no more descriptors to find that out */
  #chooseDirtyTracking(): 'async' | 'sync' {
    try {
      return this.#chooseTracking();
    } catch (error) {
      if (error instanceof VmError) throw error;
      throw new VmError(`The guest's writes cannot be tracked: ${systemErrorText(error)}`, { cause: error });
    }
  }

  #chooseTracking(): 'async' | 'sync' {
    const wanted = this.#options.dirtyTracking ?? 'auto';
    const whyNotAsync = wanted === 'sync' ? undefined : whyNoAsyncDirtyTracking();
    if (wanted !== 'sync' && whyNotAsync === undefined) return 'async';
    const whyNotSync = wanted === 'async' ? undefined : whyNoSyncDirtyTracking();
    if (wanted !== 'async' && whyNotSync === undefined) return 'sync';
    throw new VmError(
      `The guest's writes cannot be tracked on this host (${wanted}): ${(whyNotAsync ?? whyNotSync)?.message}. ` +
        'It needs userfaultfd(2) with write protection: Linux 6.7 (async) or 5.7 (sync)',
    );
  }

  async #acceptIncoming(listener: Listener): Promise<void> {
    let channel: Channel | undefined;
    try {
      channel = await listener.accept();
      listener.close();
      this.#listener = undefined;
      this.#migration = MigrationThread.startDestination(this.#migrationHost(), channel, {
        staysPaused: this.#options.isPaused === true,
        peerTimeoutMs: this.#parameters['x-peer-timeout'],
      });
      this.#recovery = new DestinationRecovery(this.#recoveryHost(), this.#migration, listener.address);
    } catch (error) {
      listener.close();
      channel?.close();
      if (!this.#isClosed) this.#setStatus('failed', (error as Error).message);
    }
  }

  #migrationHost(): MigrationHost {
    return {
      ramBlocks: this.ramBlocks,
      machineType: this.machineType,
      deviceSection: this.#machine.deviceSection,
      traces: [...this.#traces],
      attachMachine: (port, wakeFd) => this.#machine.attach(port, wakeFd),
      onStatus: (status, error) => this.#setStatus(status, error),
      onPass: (pass) => this.emit('migrationPass', pass),
      onGuest: (isRunning) => this.#setRunState(isRunning ? 'running' : 'finish-migrate'),
      onArrived: (isRunning) => this.#setRunState(isRunning ? 'running' : 'paused'),
      onEnded: () => this.#migrationThreadsEnded(),
      onGuestKept: (wasRunning) => void this.#letRunOn(wasRunning ?? this.#runState === 'running'),
      onGuestMayRun: () => void this.#stopArrived(),
      onTrace: (name, fields, atMs) =>
        this.emit('trace', name, fields as Readonly<Record<string, unknown>>, atMs),
      onMessage: (text) => this.emit('message', text),
    };
  }

  /** A guest that still stands where a migration stopped it may run here again, if an operator says so. */
  #migrationThreadsEnded(): void {
    if (!this.#isClosed) this.#machine.order({ kind: 'release' });
    if (this.#runState !== 'finish-migrate') return;
    this.#setRunState(
      this.#status === 'completed' || this.#migration?.isGuestElsewhere ? 'postmigrate' : 'paused',
    );
  }

  /** The source's operator may let the guest run there, since nobody has told it that the guest has come. */
  async #stopArrived(): Promise<void> {
    try {
      await this.#machine.client.pause();
      this.#setRunState('paused');
    } catch (error) {
      this.emit('message', `The guest could not be stopped: ${(error as Error).message}`);
    }
  }

  /** A thread that stopped the guest has died, or one that was about to. */
  async #letRunOn(shouldRun: boolean): Promise<void> {
    if (!shouldRun || this.#isClosed) return;
    const stopsBefore = this.#stops;
    try {
      // What that thread has asked for comes about before.
      await this.#machine.client.pause();
      this.#machine.order({ kind: 'release' });
      if (this.#stops !== stopsBefore) {
        this.#setRunState('paused'); // an operator has said so meanwhile, and found it standing
        return;
      }
      await this.#machine.client.resume();
      this.#setRunState('running');
    } catch (error) {
      this.#setRunState('paused');
      this.emit('message', `The guest could not be let run on: ${(error as Error).message}`);
    }
  }

  #resumeLater(): void {
    this.#machine.client.resume().then(
      () => this.#setRunState('running'),
      () => {}, // It has not stopped, or must not run on: nothing is to be taken back.
    );
  }

  #recoveryHost(): RecoveryHost {
    const vm = this;
    return {
      get status() {
        return vm.#status;
      },
      get reconnectMs() {
        return vm.#parameters['x-reconnect-ms'];
      },
      get isClosed() {
        return vm.#isClosed;
      },
      setStatus: (status, error, isTold) => this.#setStatus(status, error, isTold),
      message: (text) => this.emit('message', text),
      connect: (uri, signal) => this.#connections.connect(uri, this.#parameters, signal),
      listen: (uri) => this.#connections.listen(uri, this.#parameters),
    };
  }

  /** @param isTold whether an operator should read the error now */
  #setStatus(status: MigrationStatus, error: string | undefined, isTold = true): void {
    if (status === this.#status) {
      // Why it is so may be another reason by now: a migration that was to be recovered cannot be any more.
      this.#error = error ?? this.#error;
      return;
    }
    this.#status = status;
    this.#error = error;
    if (this.#migration?.side === 'source') this.#followGuest(status, this.#migration.isGuestElsewhere);
    this.emit('migration', status);
    if (error !== undefined && isTold) this.emit('message', error);
    this.#recovery?.heed(status);
  }

  /** What the state of an outgoing migration says of the guest, which stands still for it here. */
  #followGuest(status: MigrationStatus, isElsewhere: boolean): void {
    const isStanding = ['finish-migrate', 'postmigrate', 'paused'].includes(this.#runState);
    if (!isStanding) return;
    if (status === 'completed' || (status === 'postcopy-paused' && isElsewhere))
      this.#setRunState('postmigrate');
    // An operator may find that it has not run at the destination, and let it run on here; not while that is asked there.
    else if (status === 'postcopy-paused') this.#setRunState('paused');
    else if (isRecovering(status)) this.#setRunState('finish-migrate');
  }

  #setRunState(state: RunState): void {
    if (state === this.#runState) return;
    // A guest that has crashed does not come back, even if the news that it ran comes after that.
    if (this.#runState === 'internal-error' && state !== 'shutdown') return;
    this.#runState = state;
    this.emit('runState', state);
  }

  #watched(machine: MachineWorker): MachineWorker {
    machine.watch({ onNews: (news) => this.#heed(news), onDied: (error) => this.#machineDied(error) });
    return machine;
  }

  #heed(news: MachineNews): void {
    if (news.kind === 'released') this.#onReleased();
    // While it is being closed the guest may run a little on memory that is incomplete: nobody must see that.
    if (this.#isClosed) return;
    if (news.kind === 'serial') this.emit('serial', news.bytes);
    else if (news.kind === 'guest') {
      if (news.event === 'crashed') this.#setRunState('internal-error');
      this.emit('message', news.message);
    }
  }

  #machineDied(error: Error): void {
    if (this.#isClosed || this.#runState === 'shutdown') return;
    this.emit('message', `The machine ended: ${error.message}`);
    this.#setRunState('shutdown');
  }
}

/** What the guest started from is in its memory, which comes from the source. */
function machineData(options: VirtualMachineOptions, isIncoming: boolean): MachineThreadData {
  const {
    incoming: _incoming,
    isPaused: _isPaused,
    dirtyTracking: _dirtyTracking,
    kernelPath,
    initrdPath,
    commandLine,
    ...machine
  } = options;
  return {
    kind: 'v86',
    ...machine,
    ...(!isIncoming && {
      ...(kernelPath !== undefined && { kernel: { path: kernelPath } }),
      ...(initrdPath !== undefined && { initrdPath }),
      ...(commandLine !== undefined && { commandLine }),
    }),
  };
}
