/**
 * A virtual machine as the monitor, the command line and a program see it: run it, look at it, move it.
 *
 * Errors that are the caller's carry a text for people: what was refused, why, and what to do. They are `VmError`.
 */
import type { EventEmitter } from 'node:events';
import type { RamBlockLayout } from '../memory/ram-block.ts';
import type { Capabilities, Capability } from '../migration/capabilities.ts';
import type { MigrationInfo } from '../migration/migration-info.ts';
import type { Parameters } from '../migration/parameters.ts';
import type { MigrationStatus } from '../migration/states.ts';
import type { TraceName } from '../telemetry/trace-events.ts';
import type { ObjectProperties } from '../tls/object-properties.ts';

/** QEMU's run states, those that occur here. */
export type RunState =
  | 'prelaunch'
  | 'inmigrate'
  | 'running'
  | 'paused'
  | 'finish-migrate'
  | 'postmigrate'
  | 'internal-error'
  | 'shutdown';

/** A request that cannot be fulfilled, with a text for whoever made it. */
export class VmError extends Error {
  override readonly name: string = 'VmError';
}

export interface VmEvents {
  /** The guest began or ceased to run. */
  runState: [state: RunState];
  migration: [status: MigrationStatus];
  migrationPass: [pass: number];
  /** Bytes of the guest's serial console. */
  serial: [bytes: Uint8Array];
  /** Something an operator should read, e.g. why a migration failed. */
  message: [text: string];
  trace: [name: TraceName, fields: Readonly<Record<string, unknown>>, atMs: number];
}

export interface MigrateOptions {
  /** Recover the postcopy that is paused. Default: false. */
  readonly resume?: boolean;
}

export interface Vm extends EventEmitter<VmEvents> {
  readonly runState: RunState;
  readonly machineType: string;
  readonly ramBlocks: readonly RamBlockLayout[];

  /** Pauses the guest. Fine if it is paused already. */
  stop(): Promise<void>;
  /** Lets the guest run on. @throws {VmError} if its memory or its right to run is elsewhere */
  cont(): Promise<void>;

  readonly capabilities: Capabilities;
  setCapabilities(changes: Partial<Record<Capability, boolean>>): void;
  readonly parameters: Parameters;
  setParameters(changes: Partial<Parameters>): void;
  /** Makes an object that parameters can name: credentials of TLS, or who may come. @throws {ObjectError} */
  addObject(properties: ObjectProperties): void;
  /** @throws {ObjectError} if there is none of that id */
  removeObject(id: string): void;
  readonly objectIds: readonly string[];

  /**
   * Starts moving the guest to `uri`, or goes on with a postcopy that is paused. Resolves when the migration is set up;
   * `migrationEnded` says how it ends.
   */
  migrate(uri: string, options?: MigrateOptions): Promise<void>;
  /** Resolves when the outgoing or incoming migration is over, for good or ill, or paused. */
  migrationEnded(): Promise<MigrationStatus>;
  migrateCancel(): Promise<void>;
  migrateStartPostcopy(): Promise<void>;
  /** Listens at `uri` for a migration; resolves with the address bound. */
  migrateIncoming(uri: string): Promise<string>;
  /** Destination of a postcopy that is paused: listens at `uri` for its source; resolves with the address bound. */
  migrateRecover(uri: string): Promise<string>;
  /** Breaks off the connection of a postcopy, or its recovery: it is paused then. */
  migratePause(): Promise<void>;
  queryMigrate(): Promise<MigrationInfo>;

  /** Writes guest-physical memory to a file, zero pages as holes. Waits for pages that are still missing. */
  saveMemory(offset: number, lengthBytes: number, path: string): Promise<void>;
  /** The migration bitmap of a block as text, 64 pages a line: `.` sent (source) or received (destination), `1` still to be. */
  dumpBitmap(idstr: string): Promise<string>;
  /** Bytes typed at the guest's serial console. */
  sendSerial(bytes: Uint8Array): void;

  /** Switches trace points on or off by name; `*` stands for any characters. @returns the names that matched */
  setTrace(pattern: string, isOn: boolean): readonly TraceName[];
  readonly enabledTraces: ReadonlySet<TraceName>;

  /** Ends the machine and everything that serves it. May be called twice. */
  close(): Promise<void>;
}
