/**
 * What the package `postcopy` exports.
 *
 *   VirtualMachine                   a v86 machine with its threads: run it, move it, receive it
 *   SourceMigration and its like     the engine without I/O, around memory and machines of your own
 *   connectChannel, listenChannel    a migration URI as a descriptor
 *   QmpClient                        a client of any QEMU-like monitor
 *   Save, restoreIntoNewQemu         what `postcopy save` and `postcopy restore` do
 *   openSnapshot, SnapshotWriter     snapshot files, page by page
 *   MigrationDriver                  what `postcopy migrate` does
 */
export { EXIT_CODES, type Outcome } from './drive/judge-outcome.ts';
export { MigrationDriver, type MigrationListener, type MigrationPlan } from './drive/migration-driver.ts';
export type { MigrationReport, SideReport, TimelineEntry } from './drive/report.ts';
export type { ParameterValue, SettingWishes, Wish } from './drive/settings.ts';
export type { DeviceSection, Machine } from './machine/machine.ts';
export { PageBitmap } from './memory/page-bitmap.ts';
export { type RamBlock, type RamBlockLayout, TARGET_PAGE_BYTES } from './memory/ram-block.ts';
export {
  CAPABILITIES,
  type Capabilities,
  type Capability,
  capabilityNamed,
} from './migration/capabilities.ts';
export {
  DestinationMigration,
  type DestinationOptions,
  type GuestDowntime,
} from './migration/destination.ts';
export type { DestinationEffects, DestinationMemory } from './migration/destination-ports.ts';
export type { DeviceSectionName } from './migration/device-state.ts';
export { MigrationError } from './migration/migration-error.ts';
export type { LatencySummary, MigrationInfo, MigrationRamInfo } from './migration/migration-info.ts';
export { type FaultOutcome, PageRequests, RequestTimes } from './migration/page-requests.ts';
export {
  checkParameter,
  DEFAULT_PARAMETERS,
  isTextParameter,
  type NumericParameter,
  PARAMETER_NAMES,
  PARAMETERS,
  type Parameter,
  type ParameterInfo,
  type Parameters,
  parameterNamed,
  TEXT_PARAMETERS,
  type TextParameter,
} from './migration/parameters.ts';
export { MIN_FILL_BYTES, SourceMigration, type SourceOptions } from './migration/source.ts';
export type { DirtyTracker, SourceEffects, SourceMemory } from './migration/source-ports.ts';
export {
  DESTINATION_MOVES,
  type MigrationStatus,
  type PostcopyIncomingState,
  SOURCE_MOVES,
} from './migration/states.ts';
export {
  type ExecuteOptions,
  QmpClient,
  type QmpClientOptions,
  QmpCommandError,
  QmpConnectionError,
  type QmpConnectionFailure,
  type QmpEvent,
} from './qemu/qmp-client.ts';
export {
  LostMemoryError,
  type RestoredQemu,
  RestoreError,
  type RestoreOptions,
  restoreInto,
  restoreIntoNewQemu,
} from './restore/restore.ts';
export type { RestoreReport } from './restore/restore-report.ts';
export { Save, type SaveOptions } from './save/save.ts';
export { openSnapshot } from './snapshot/open-snapshot.ts';
export type { Snapshot, SnapshotBlock } from './snapshot/snapshot.ts';
export { SnapshotError, type SnapshotErrorCode } from './snapshot/snapshot-error.ts';
export { SnapshotWriter, type SnapshotWriterOptions } from './snapshot/snapshot-writer.ts';
export { NO_TRACE, type Trace, type TraceEvents, type TraceName } from './telemetry/trace-events.ts';
export { ObjectError, type ObjectProperties } from './tls/object-properties.ts';
export { type TlsNames, TlsObjects, type TlsSettings } from './tls/tls-objects.ts';
export type { Channel } from './transport/channel.ts';
export { connectChannel } from './transport/connect.ts';
export { listenChannel } from './transport/listen.ts';
export type { Listener } from './transport/listener.ts';
export { formatMigrationUri, type MigrationUri, parseMigrationUri, UriError } from './transport/parse-uri.ts';
export { TransportError } from './transport/transport-error.ts';
export { type DirtyTracking, VirtualMachine, type VirtualMachineOptions } from './vm/virtual-machine.ts';
export { type RunState, type Vm, VmError, type VmEvents } from './vm/vm.ts';
export { StreamError, type StreamErrorCode } from './wire/stream-error.ts';
