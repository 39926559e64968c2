/**
 * A machine that only remembers what it was asked, for the tests of the monitors.
 */
import { EventEmitter } from 'node:events';
import { type Capabilities, DEFAULT_CAPABILITIES } from '../migration/capabilities.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import { DEFAULT_PARAMETERS, type Parameters } from '../migration/parameters.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { TraceName } from '../telemetry/trace-events.ts';
import { matchTraceNames } from '../telemetry/trace-names.ts';
import type { ObjectProperties } from '../tls/object-properties.ts';
import { type MigrateOptions, type RunState, type Vm, VmError, type VmEvents } from '../vm/vm.ts';

export class FakeVm extends EventEmitter<VmEvents> implements Vm {
  /** Every call that changes something, as text, e.g. `migrate tcp:host:1`. */
  readonly calls: string[] = [];
  runState: RunState = 'running';
  readonly machineType = 'fake';
  readonly ramBlocks = [
    { idstr: 'pc.ram', lengthBytes: 16 << 20, pageSizeBytes: 4096 },
    { idstr: 'vga.vram', lengthBytes: 1 << 20, pageSizeBytes: 4096 },
  ];
  capabilities: Capabilities = DEFAULT_CAPABILITIES;
  parameters: Parameters = DEFAULT_PARAMETERS;
  readonly enabledTraces = new Set<TraceName>();
  info: MigrationInfo = {};
  /** When set, the next call fails with it. */
  failure: Error | undefined;
  readonly #ends: ((status: MigrationStatus) => void)[] = [];

  /** The migration is over. */
  end(status: MigrationStatus): void {
    for (const resolve of this.#ends.splice(0)) resolve(status);
  }

  setRunState(state: RunState): void {
    this.runState = state;
    this.emit('runState', state);
  }

  async stop(): Promise<void> {
    this.#call('stop');
    this.setRunState('paused');
  }

  async cont(): Promise<void> {
    this.#call('cont');
    this.setRunState('running');
  }

  setCapabilities(changes: Partial<Capabilities>): void {
    this.#call(`setCapabilities ${JSON.stringify(changes)}`);
    this.capabilities = { ...this.capabilities, ...changes };
  }

  setParameters(changes: Partial<Parameters>): void {
    this.#call(`setParameters ${JSON.stringify(changes)}`);
    this.parameters = { ...this.parameters, ...changes };
  }

  addObject(properties: ObjectProperties): void {
    this.#call(`addObject ${JSON.stringify(properties)}`);
  }

  removeObject(id: string): void {
    this.#call(`removeObject ${id}`);
  }

  get objectIds(): readonly string[] {
    return ['tls0'];
  }

  async migrate(uri: string, { resume = false }: MigrateOptions = {}): Promise<void> {
    this.#call(`migrate ${resume ? '-r ' : ''}${uri}`);
  }

  migrationEnded(): Promise<MigrationStatus> {
    return new Promise((resolve) => this.#ends.push(resolve));
  }

  async migrateCancel(): Promise<void> {
    this.#call('migrateCancel');
  }

  async migrateStartPostcopy(): Promise<void> {
    this.#call('migrateStartPostcopy');
    if (!this.capabilities['postcopy-ram']) throw new VmError('Enable postcopy first');
  }

  async migrateIncoming(uri: string): Promise<string> {
    this.#call(`migrateIncoming ${uri}`);
    return uri;
  }

  async migrateRecover(uri: string): Promise<string> {
    this.#call(`migrateRecover ${uri}`);
    return uri;
  }

  async migratePause(): Promise<void> {
    this.#call('migratePause');
  }

  async queryMigrate(): Promise<MigrationInfo> {
    return this.info;
  }

  async saveMemory(offset: number, lengthBytes: number, path: string): Promise<void> {
    this.#call(`saveMemory ${offset} ${lengthBytes} ${path}`);
  }

  async dumpBitmap(idstr: string): Promise<string> {
    return `${idstr}\n.1.1\n`;
  }

  sendSerial(bytes: Uint8Array): void {
    this.#call(`sendSerial ${Buffer.from(bytes).toString()}`);
  }

  setTrace(pattern: string, isOn: boolean): readonly TraceName[] {
    const names = matchTraceNames(pattern);
    for (const name of names) {
      if (isOn) this.enabledTraces.add(name);
      else this.enabledTraces.delete(name);
    }
    return names;
  }

  async close(): Promise<void> {
    this.#call('close');
  }

  #call(text: string): void {
    const { failure } = this;
    this.failure = undefined;
    if (failure !== undefined) throw failure;
    this.calls.push(text);
  }
}
